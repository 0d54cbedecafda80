"""Meta-World: a simulated Sawyer arm, fifty kinds of manipulation, behind metagym's task API."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import error, spaces
from typing_extensions import Self, override

from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError, TaskError
from metagym.family import Params, Region
from metagym.foreign.columns import params_type
from metagym.foreign.family import ForeignFamily
from metagym.foreign.meta_world_classes import CLASSES, ML10_TEST, ML10_TRAIN, ML45_TEST, ML45_TRAIN
from metagym.noise import uniforms
from metagym.tasks import content_words
from metagym.types import Array, Bool, Float, Keys

__all__ = ["ML1", "ML10", "ML45", "ClassSplit", "MetaWorld", "SawyerEnv"]

_NAMES = tuple(CLASSES)
_WIDTH = 6
_LOW = np.array([(*kind.low, 0.0, 0.0, 0.0)[:_WIDTH] for kind in CLASSES.values()])
_HIGH = np.array([(*kind.high, 0.0, 0.0, 0.0)[:_WIDTH] for kind in CLASSES.values()])
# A hair above Meta-World's own: an env that found a vector too close would look for another one for ever.
_DISTANCE = np.array([kind.distance + 1e-9 * (kind.distance > 0.0) for kind in CLASSES.values()])
_INFO_KEYS = ("grasp_reward", "grasp_success", "in_place_reward", "near_object", "obj_to_target", "unscaled_reward")
_HORIZON = 500
# metaworld/sawyer_xyz_env.py, `sawyer_observation_space` where the goal is hidden.
_HAND_LOW, _HAND_HIGH = [-0.525, 0.348, -0.0525, -1.0], [0.525, 1.025, 0.7, 1.0]
_FRAME_LOW, _FRAME_HIGH = [*_HAND_LOW, *[-np.inf] * 14], [*_HAND_HIGH, *[np.inf] * 14]


class SawyerEnv(gym.Env[Any, Any]):
    """One class of Meta-World as a plain env: its random vector is set, and nothing else is random.

    Args:
        env_name: such as "reach-v3".
        vector: positions of object and target as the class reads them, (3,) or (6,); see `CLASSES`.
        render_mode: None, "rgb_array", "depth_array" or "human".
        reward_function_version: "v1" or "v2".

    Raises:
        DependencyNotInstalled: if Meta-World, or what it needs, is missing.
        ConfigError: if the installed Meta-World draws its vectors from elsewhere than metaworld 3.1.1.
    """

    def __init__(
        self, env_name: str, vector: Array, *, render_mode: str | None = None, reward_function_version: str = "v2"
    ) -> None:
        try:
            # By name, since mypy need not know the package, which is optional.
            kind = import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS[env_name]
        except ImportError as missing:
            raise _not_installed() from missing
        self._sawyer = kind(render_mode=render_mode, reward_function_version=reward_function_version)
        drawn_from = self._sawyer._random_reset_space
        expected = CLASSES[env_name]
        if not (np.array_equal(drawn_from.low, expected.low) and np.array_equal(drawn_from.high, expected.high)):
            raise ConfigError(f"this version of Meta-World draws {env_name} from {drawn_from}, not as 3.1.1 does")
        self._sawyer._set_task_called, self._sawyer._freeze_rand_vec = True, True
        self.env_name, self.vector, self.render_mode = env_name, np.array(vector, np.float64), render_mode
        self.observation_space, self.action_space = self._sawyer.observation_space, self._sawyer.action_space

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._sawyer._last_rand_vec = self.vector.copy()
        observation, _ = self._sawyer.reset()
        return observation, {}

    @override
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._sawyer.step(action)
        return observation, float(reward), terminated, truncated, info

    @override
    def render(self) -> Any:
        return self._sawyer.render()

    @override
    def close(self) -> None:
        self._sawyer.close()


class ClassSplit(TaskDistribution):
    """Tasks whose training and test parts are classes of envs, by the published lists instead of a hash."""

    @override
    def ood(self) -> Self:
        family: Any = self.family
        raise family.without_ood()

    @override
    def _propose(self, counters: Keys) -> tuple[dict[str, Array], Keys, Bool]:
        family: Any = self.family
        noise = uniforms(counters, family.num_structure_draws)
        structure = family.draw_classes(noise, family.classes_of(self._split))
        return structure, content_words(family.name, structure), family.accept(structure)

    @override
    def __contains__(self, task: object) -> bool:
        family: Any = self.family
        if not TaskDistribution.__contains__(self._derive(_split=None), task):
            return False
        return family.env_name(task) in family.classes_of(self._split)


class MetaWorld(ForeignFamily):
    """What the benchmarks share: tasks are a random vector, and the class of env it is for where there are several.

    Args:
        name: of the family.
        train: names of the classes to train on.
        test: names of those to test on; the same where there is one.
        reward_function_version: "v1" or "v2".

    Raises:
        DependencyNotInstalled: if Meta-World is missing.
        ConfigError: if an argument is not accepted.
    """

    name: str
    episode_length: int = _HORIZON
    has_success: bool = True
    success_key: str | None = "success"
    metadata: ClassVar[Mapping[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 80,
    }

    def __init__(
        self, name: str, train: tuple[str, ...], test: tuple[str, ...], *, reward_function_version: str = "v2"
    ) -> None:
        _require_meta_world()
        if reward_function_version not in {"v1", "v2"}:
            raise ConfigError(f"reward_function_version={reward_function_version!r}; accepted are 'v1' and 'v2'")
        self.name, self.train, self.test = name, train, test
        self._reward_function_version = reward_function_version
        self._codes = sorted({_NAMES.index(one) for one in (*train, *test)})
        self._several = len(self._codes) > 1
        self._width = _WIDTH if self._several else len(CLASSES[train[0]].low)
        self.structural = ("env", "vector") if self._several else ("vector",)
        self.params_type = params_type(self.structural)
        low, high = _LOW[self._codes, : self._width].min(axis=0), _HIGH[self._codes, : self._width].max(axis=0)
        fields: dict[str, spaces.Space[Any]] = {"vector": spaces.Box(low, high, dtype=np.float64)}
        if self._several:
            fields = {"env": spaces.Box(0, len(_NAMES) - 1, (), np.int64), **fields}
        self.task_space = spaces.Dict(list(fields.items()))
        self.num_structure_draws = self._width + self._several
        self.observation_space = spaces.Box(
            np.array([*_FRAME_LOW, *_FRAME_LOW, 0.0, 0.0, 0.0]),
            np.array([*_FRAME_HIGH, *_FRAME_HIGH, 0.0, 0.0, 0.0]),
            dtype=np.float64,
        )
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.info_schema = {key: np.zeros(()) for key in _INFO_KEYS}

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "params_type"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.params_type = params_type(self.structural)

    # --- tasks -------------------------------------------------------------------------------------------------

    def classes_of(self, split: str | None) -> tuple[str, ...]:
        """Names of the classes of a part: "train", "test", or None for all."""
        parts = {"train": self.train, "test": self.test, None: tuple(_NAMES[code] for code in self._codes)}
        return parts[split]

    def env_name(self, task: Mapping[str, Array]) -> str:
        """Name of the class that a task is for."""
        return _NAMES[int(task["env"])] if self._several else self.train[0]

    @override
    def distribution(self, split: str | None = None) -> TaskDistribution:
        kind = ClassSplit if self._several else TaskDistribution
        return kind(self).part(split)

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "ood":
            raise self.without_ood()
        return self.draw_classes(noise, self.classes_of(None))

    def without_ood(self) -> ConfigError:
        """What to raise where an ood region is asked for."""
        return ConfigError(f"{self.name} has no ood region; its splits are 'train' and 'test'")

    def draw_classes(self, noise: Float, names: tuple[str, ...]) -> dict[str, Array]:
        """Propose tasks of these classes, each as probable."""
        codes = np.array([_NAMES.index(name) for name in names])
        env = codes[np.floor(noise[:, -1] * len(codes)).astype(np.int64)]
        low, high = _LOW[env, : self._width], _HIGH[env, : self._width]
        vector = np.minimum(low + noise[:, : self._width] * (high - low), high)
        return {"env": env, "vector": vector} if self._several else {"vector": vector}

    def _env_codes(self, structure: Mapping[str, Array]) -> Array:
        return structure["env"] if self._several else np.full(len(structure["vector"]), self._codes[0])

    @override
    def accept(self, structure: Mapping[str, Array]) -> Bool:
        env, vector = self._env_codes(structure), structure["vector"]
        if self._width < _WIDTH:
            return np.ones(len(vector), np.bool_)
        gap = np.hypot(vector[:, 0] - vector[:, 3], vector[:, 1] - vector[:, 4])
        far: Bool = gap >= _DISTANCE[env]
        return far

    @override
    def check(self, params: Params) -> None:
        columns = params.columns()
        code, vector = int(self._env_codes(columns)[0]), columns["vector"][0]
        if code not in self._codes:
            accepted = ", ".join(f"{one} ({_NAMES[one]})" for one in self._codes)
            raise TaskError(f"env={code} is no class of {self.name}; accepted are {accepted}")
        low, high = _LOW[code, : self._width], _HIGH[code, : self._width]
        if not np.all((low <= vector) & (vector <= high)):
            raise TaskError(
                f"vector={vector.tolist()} is out of range for {_NAMES[code]}; accepted is from {low.tolist()} to "
                f"{high.tolist()}"
            )
        if not self.accept(columns)[0]:
            least = CLASSES[_NAMES[code]].distance
            raise TaskError(f"vector={vector.tolist()}: object and target of {_NAMES[code]} are closer than {least}")

    # --- envs --------------------------------------------------------------------------------------------------

    @override
    def enter(
        self, env: gym.Env[Any, Any] | None, fields: Mapping[str, Array], render_mode: str | None
    ) -> gym.Env[Any, Any]:
        name = self.env_name(fields)
        vector = fields["vector"][: len(CLASSES[name].low)]
        if isinstance(env, SawyerEnv) and env.env_name == name:
            env.vector = np.array(vector, np.float64)
            return env
        if env is not None:
            env.close()
        version = self._reward_function_version
        return SawyerEnv(name, vector, render_mode=render_mode, reward_function_version=version)


def _require_meta_world() -> None:
    # Found, not imported: that takes seconds.
    try:
        found = find_spec("metaworld")
    except ImportError as broken:
        raise _not_installed() from broken
    if found is None or found.origin is None:  # a folder of that name has no origin
        raise _not_installed()


def _not_installed() -> error.DependencyNotInstalled:
    return error.DependencyNotInstalled('Meta-World is missing: pip install "metagym-rl[metaworld]"')


class ML1(MetaWorld):
    """One class of Meta-World with a goal that varies and is not observed.

    Args:
        env_name: one of the fifty, such as "reach-v3".
        reward_function_version: "v1" or "v2".

    Raises:
        DependencyNotInstalled: if Meta-World is missing.
        ConfigError: if an argument is not accepted.
    """

    def __init__(self, *, env_name: str = "reach-v3", reward_function_version: str = "v2") -> None:
        if env_name not in CLASSES:
            raise ConfigError(f"env_name={env_name!r} is no class of Meta-World; accepted are {', '.join(CLASSES)}")
        super().__init__(f"ML1/{env_name}", (env_name,), (env_name,), reward_function_version=reward_function_version)


class ML10(MetaWorld):
    """Ten classes to train on, five others to test on; goals vary and are not observed.

    Args:
        reward_function_version: "v1" or "v2".

    Raises:
        DependencyNotInstalled: if Meta-World is missing.
        ConfigError: if the argument is not accepted.
    """

    def __init__(self, *, reward_function_version: str = "v2") -> None:
        super().__init__("ML10", ML10_TRAIN, ML10_TEST, reward_function_version=reward_function_version)


class ML45(MetaWorld):
    """Forty-five classes to train on, five others to test on; goals vary and are not observed.

    Args:
        reward_function_version: "v1" or "v2".

    Raises:
        DependencyNotInstalled: if Meta-World is missing.
        ConfigError: if the argument is not accepted.
    """

    def __init__(self, *, reward_function_version: str = "v2") -> None:
        super().__init__("ML45", ML45_TRAIN, ML45_TEST, reward_function_version=reward_function_version)
