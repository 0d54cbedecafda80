"""Acting with a window: the policy that holds one between calls, and the vector env that makes them."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.extractors import GRUExtractor
from metagym.types import Array, Bool
from metagym.wrappers.window import THERE, WindowSpace, entries_of, no_windows, on_parts, pushed

__all__ = ["WindowARSPolicy", "WindowActor", "WindowVecEnv", "copy_policy"]


class WindowActor:
    """A policy of windows that is given single observations: its state is the window.

    Args:
        policy: SB3's, over windows.
        space: of windows: (K, D + 1), or a `WindowSpace`.
        exploration_rate: share of uniformly random actions where actions are sampled (DQN), drawn for every row by
            itself from NumPy's global generator.
    """

    def __init__(self, policy: BasePolicy, space: spaces.Box | WindowSpace, exploration_rate: float = 0.0) -> None:
        self.policy, self.space, self.exploration_rate = policy, space, exploration_rate

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Any, ...]]:
        """Actions, and the windows after seeing the observation.

        Args:
            observation: the newest, (D,) or (N, D), or whole windows, (K, D + 1) or (N, K, D + 1); or Dicts and images
                of such. Channels of images may be first or last.
            state: the windows so far, (N, K, D + 1), or a dict of (N, K, ...); None: nothing was seen.
            episode_start: True where a trial starts, (N,).
            deterministic: the most probable action instead of a sampled one.

        Raises:
            ConfigError: if the observation has another shape, or other entries.
        """
        given, is_window, is_single = _checked(observation, self.space)
        if is_window:
            windows = given
        else:
            num_rows = len(next(iter(given.values())) if isinstance(given, dict) else given)
            before = no_windows(num_rows, self.space) if state is None else state[0]
            windows = pushed(before, given, None if episode_start is None else np.asarray(episode_start, np.bool_))
        actions = self._actions(windows, deterministic)
        return (actions.squeeze(axis=0) if is_single else actions), (windows,)

    def _actions(self, windows: Any, deterministic: bool) -> Array:
        space = self.policy.action_space
        if deterministic or self.exploration_rate <= 0 or not isinstance(space, spaces.Discrete):
            chosen: Array = self.policy.predict(windows, None, None, deterministic)[0]
            return chosen
        # SB3 draws once for all rows, and from a generator that seeding the process does not reach.
        num_rows = len(windows[THERE] if isinstance(windows, dict) else windows)
        explores = np.random.rand(num_rows) < self.exploration_rate  # noqa: NPY002
        actions: Array = space.start + np.random.randint(int(space.n), size=num_rows)  # noqa: NPY002
        if not explores.all():
            greedy = ~explores
            seen = on_parts(lambda part: part[greedy], windows)
            actions[greedy] = self.policy.predict(seen, None, None, deterministic)[0]
        return actions


def _checked(observation: Any, space: spaces.Box | WindowSpace) -> tuple[Any, bool, bool]:
    """An observation with an axis of rows, whether it is a whole window, and whether it came without that axis.

    Raises:
        ConfigError: if it is none of this space.
    """
    if isinstance(space, WindowSpace):
        return _checked_entries(observation, space)
    array, shape = np.asarray(observation, np.float32), space.shape
    if array.shape[-2:] == shape:
        return array.reshape(-1, *shape), True, array.ndim == len(shape)
    if array.shape[-1:] == (shape[1] - 1,) and array.ndim <= 2:
        return array.reshape(-1, shape[1] - 1), False, array.ndim == 1
    raise ConfigError(f"an observation has shape ({shape[1] - 1},), or as a window {shape}, not {array.shape}")


def _checked_entries(observation: Any, space: WindowSpace) -> tuple[dict[str, Array], bool, bool]:
    given = entries_of(observation)
    is_window = THERE in given
    wanted = {name: part for name, part in space.items() if is_window or name != THERE}
    if set(given) != set(wanted):
        raise ConfigError(f"an observation has the entries {sorted(wanted)}, not {sorted(given)}")
    rows, is_single = {}, []
    for name, part in wanted.items():
        assert part.shape is not None
        shape = part.shape if is_window else part.shape[1:]
        array = _channels_first(np.asarray(given[name]), shape)
        if array.shape[array.ndim - len(shape) :] != shape or array.ndim > len(shape) + 1:
            raise ConfigError(f"entry {name!r} of an observation has shape {shape}, not {array.shape}")
        rows[name] = array.reshape(-1, *shape).astype(part.dtype, order="C")
        is_single.append(array.ndim == len(shape))
    return rows, is_window, all(is_single)


def _channels_first(array: Array, shape: tuple[int, ...]) -> Array:
    """SB3 trains on channels before pixels where an env has them after: bring them to the front, as it does."""
    if len(shape) < 3 or array.ndim < 3 or array.shape[-3:] == shape[-3:]:
        return array
    moved = np.moveaxis(array, -1, -3)
    return moved if moved.shape[-3:] == shape[-3:] else array


class WindowVecEnv(VecEnvWrapper):
    """SB3's vector env of trials with windows for observations, for learners that store what they see.

    Args:
        venv: of single observations.
        space: of windows.
        after_step: called with the ends of trials (N,) after each step.
    """

    def __init__(self, venv: VecEnv, space: spaces.Box | WindowSpace, after_step: Callable[[Bool], None]) -> None:
        super().__init__(venv, observation_space=space)
        self._space, self._after_step = space, after_step
        self.windows: Any = no_windows(self.num_envs, space)
        self.starts: Bool = np.ones(self.num_envs, np.bool_)

    @override
    def reset(self) -> VecEnvObs:
        self.starts = np.ones(self.num_envs, np.bool_)
        self.windows = pushed(no_windows(self.num_envs, self._space), self.venv.reset())
        return self.windows  # type: ignore[no-any-return]

    @override
    def step_wait(self) -> VecEnvStepReturn:
        observation, rewards, dones, infos = self.venv.step_wait()
        before = self.windows
        for row in np.flatnonzero(dones):
            own = on_parts(lambda part, of=row: part[of : of + 1], before)
            last = on_parts(lambda part: np.asarray(part)[None], infos[row]["terminal_observation"])
            infos[row]["terminal_observation"] = on_parts(lambda part: part[0], pushed(own, last))
        self.windows, self.starts = pushed(before, observation, dones), dones
        self._after_step(dones)
        return self.windows, rewards, dones, infos


class WindowARSPolicy(ARSPolicy):
    """The policy of ARS over a features extractor of one's own; SB3's takes none.

    Args:
        observation_space: of windows.
        action_space: of one env.
        features_extractor_class: what reads windows.
        features_extractor_kwargs: its keywords.
        **kwargs: those of `ARSPolicy`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] = GRUExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._extractor = (features_extractor_class, dict(features_extractor_kwargs or {}))
        super().__init__(observation_space, action_space, **kwargs)

    @override
    def make_features_extractor(self) -> BaseFeaturesExtractor:
        kind, kwargs = self._extractor
        return kind(self.observation_space, **kwargs)


def copy_policy(policy: BasePolicy) -> BasePolicy:
    """A copy of a policy of windows, as it predicts."""
    # What training left in the distributions are tensors of a graph, which cannot be copied.
    for module in policy.modules():
        distribution = vars(module).get("action_dist")
        kept = {} if distribution is None else vars(distribution)
        for name, value in list(kept.items()):
            if isinstance(value, th.Tensor):
                kept[name] = value.detach()
            elif name == "distribution" or isinstance(value, th.distributions.Distribution):
                del kept[name]  # made anew when it is next needed
    copied = copy.deepcopy(policy)
    copied.set_training_mode(False)
    return copied
