"""What a training run is asked to do, and what can be trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space

from metagym.algos.keywords import keywords_of
from metagym.algos.reptile_inner import OWN_ARGUMENTS, find_learner_class
from metagym.algos.rl2_learners import learner_class_of, maker_of
from metagym.errors import CheckpointError, ConfigError
from metagym.files import replacing
from metagym.registry import make_family

__all__ = ["ALGOS", "RunConfig", "accepted_keywords", "learner_type", "named_class", "replace_timesteps"]

ALGOS = {
    "rl2": "metagym.algos.rl2:RL2",
    "reptile": "metagym.algos.reptile:Reptile",
    "maml": "metagym.algos.maml:MAML",
    "fomaml": "metagym.algos.maml:FOMAML",
    "promp": "metagym.algos.maml_promp:ProMP",
    "emaml": "metagym.algos.maml_emaml:EMAML",
    "meta-sgd": "metagym.algos.maml_meta_sgd:MetaSGD",
    "probabilistic-maml": "metagym.algos.maml_probabilistic:ProbabilisticMAML",
    "joint-training": "metagym.algos.joint_training:JointTraining",
    "from-scratch": "metagym.algos.from_scratch:FromScratch",
    "revealed-task": "metagym.algos.revealed_task:RevealedTask",
}
"""What can be trained, by the name that the command line gives it."""
# What a configuration names itself, or the constructors add.
_NO_SETTINGS = frozenset({
    "self", "policy", "env", "env_kwargs", "split", "seed", "device", "learner_class", "learner_kwargs",
    "_init_setup_model",
})  # fmt: skip
# Keywords whose values are classes, and where the names that JSON can hold are looked up.
_CLASSES = {
    "activation_fn": ("torch.nn",),
    "features_extractor_class": ("stable_baselines3.common.torch_layers", "metagym.nets"),
    "optimizer_class": ("torch.optim",),
    "replay_buffer_class": ("metagym.replay", "stable_baselines3", "stable_baselines3.common.buffers"),
}


def learner_type(algo: str) -> Any:
    """The learner class that a name of `ALGOS` stands for.

    Raises:
        ConfigError: if the name is unknown.
    """
    if algo not in ALGOS:
        raise ConfigError(f"algorithm {algo!r} is unknown; accepted are {', '.join(sorted(ALGOS))}")
    return named_class(ALGOS[algo])


def named_class(path: str) -> Any:
    """What ``"module:Class"`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def accepted_keywords(algo: str, learner: str | None = None) -> tuple[list[str], list[str] | None]:
    """Keywords of an algorithm itself, and of the learner inside it; None: that one takes any.

    Args:
        algo: a name of `ALGOS`.
        learner: name of the learner inside, an algorithm of SB3 or sb3-contrib; None: PPO.

    Raises:
        ConfigError: if a name is unknown.
    """
    outer = learner_type(algo)
    if algo == "rl2":
        inside, row = learner_class_of(learner or "PPO")
        outer = maker_of(row) or outer
    else:
        inside = _inside(learner or "PPO")
    own, inner = set(keywords_of(outer).names) - _NO_SETTINGS, set(keywords_of(inside).names) - _NO_SETTINGS
    shared = inner & (OWN_ARGUMENTS | {"stats_window_size"})
    if algo == "rl2":
        # What it takes besides is its learner's.
        own = _named(outer) | shared
    return sorted(own), None if keywords_of(inside).open else sorted(inner - shared)


def _inside(learner: Any) -> type[BaseAlgorithm]:
    try:
        return find_learner_class(learner)
    except ConfigError as unknown:
        modules = (stable_baselines3, sb3_contrib)
        kinds = {name for module in modules for name, kind in vars(module).items() if _is_learner(kind)}
        raise ConfigError(f"learner {learner!r} is unknown; accepted are {', '.join(sorted(kinds))}") from unknown


def _is_learner(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseAlgorithm)


def _named(kind: Any) -> set[str]:
    parameters = signature(kind.__init__).parameters.values()
    return {one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD} - _NO_SETTINGS


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a training run is asked to do; written to the run's folder.

    Attributes:
        algo: a name of `ALGOS`.
        env_id: id of a family.
        total_timesteps: environment steps.
        env_kwargs: keywords of the family.
        learner: name of the learner inside, an algorithm of SB3 or sb3-contrib ("SAC"); None: PPO.
        settings: keywords of the algorithm, JSON-able (``{"episodes_per_trial": 5}``). Classes are named
            (``{"policy_kwargs": {"activation_fn": "ReLU"}}``).
        learner_settings: keywords of the learner inside (``{"learning_rate": 0.001}``). With "rl2", which *is* that
            learner, they may be among `settings` too.
        policy: name of the policy; None: the learner's that suits the observations.
        split: part of the distribution that training tasks come from.
        seed: of everything random.
        device: torch device.
        tensorboard: also log for TensorBoard, into the folder.
    """

    algo: str
    env_id: str
    total_timesteps: int
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    learner: str | None = None
    learner_settings: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    split: str | None = "train"
    seed: int = 0
    device: str = "auto"
    tensorboard: bool = False

    def build(self) -> Any:
        """A new learner.

        Raises:
            ConfigError: if a setting is out of range or unknown.
        """
        if isinstance(self.total_timesteps, bool) or self.total_timesteps < 1:
            raise ConfigError(f"timesteps must be at least 1, got {self.total_timesteps}")
        common = {"env_kwargs": self.env_kwargs, "split": self.split, "seed": self.seed, "device": self.device}
        kind = learner_type(self.algo)
        try:
            family = make_family(self.env_id, **self.env_kwargs)  # names a wrong id better than a learner can
            settings = self._keywords()
            return kind(self._policy(family.observation_space), self.env_id, **common, **settings)
        except TypeError as error:
            raise ConfigError(f"the learner or the family does not take these settings: {error}") from error

    def _keywords(self) -> dict[str, Any]:
        """The constructor's, after making sure that it has them."""
        settings, inner = dict(self.settings), dict(self.learner_settings)
        named: Any = settings.pop("learner_class", None) if self.learner is None else self.learner
        if "learner_class" in settings:
            raise ConfigError(f"the learner is named twice: {self.learner!r} and {settings['learner_class']!r}")
        own_names, inner_names = accepted_keywords(self.algo, named)
        label = f"{learner_type(self.algo).__name__} with {named or 'PPO'}"
        if self.algo == "rl2":
            inner |= {name: settings.pop(name) for name in settings.keys() - set(own_names)}
            _check_names(inner, inner_names, f"{label} takes {own_names} itself and, of the learner, ")
            return _with_classes({**settings, **inner} | ({} if named is None else {"learner_class": named}))
        inner = {**settings.pop("learner_kwargs", {}), **inner}
        if inside := sorted(settings.keys() & set(inner_names or ()) - set(own_names)):
            raise ConfigError(
                f"{inside} are keywords of {named or 'PPO'}, the learner inside: give them as --learner-set "
                "(learner_settings)"
            )
        _check_names(settings, own_names, f"{label} takes ")
        _check_names(inner, inner_names, f"{named or 'PPO'}, the learner inside, takes ")
        return _with_classes({**settings, "learner_class": named or "PPO", "learner_kwargs": inner})

    def _policy(self, observed: spaces.Space[Any]) -> str:
        if self.policy is not None or self.algo == "rl2":
            return self.policy or "MlpPolicy"  # RL2 reads any space by that name
        reader = "MultiInput" if isinstance(observed, spaces.Dict) else "Cnn" if is_image_space(observed) else "Mlp"
        if self.algo == "revealed-task":
            reader = "Mlp"  # it sees one flat vector
        aliases = find_learner_class(self.learner or self.settings.get("learner_class", "PPO")).policy_aliases
        return next((name for name in sorted(aliases, key=len) if name.startswith(reader)), f"{reader}Policy")

    def write(self, out: Path) -> None:
        """Write ``config.json``."""
        with replacing(out / "config.json") as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, out: Path) -> "RunConfig":
        """Read ``config.json``.

        Raises:
            CheckpointError: if the folder holds no run, or its configuration is damaged.
        """
        path = out / "config.json"
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise CheckpointError(f"{out} holds no run to resume: there is no config.json") from error
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _check_names(given: Mapping[str, Any], accepted: list[str] | None, takes: str) -> None:
    if unknown := sorted(given.keys() - set(given if accepted is None else accepted)):
        raise ConfigError(f"unknown {unknown}: {takes}{accepted}")


def _with_classes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with classes in the place of their names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found[name] = _with_classes(value)
        elif name in _CLASSES and isinstance(value, str):
            found[name] = _class_named(name, value)
        else:
            found[name] = value
    return found


def _class_named(keyword: str, value: str) -> type[Any]:
    for module in _CLASSES[keyword]:
        kind = getattr(import_module(module), value, None)
        if isinstance(kind, type):
            return kind
    raise ConfigError(f"{keyword}={value!r} names no class of {' or '.join(_CLASSES[keyword])}")


def replace_timesteps(config: RunConfig, total_timesteps: int) -> RunConfig:
    """The same run with another number of steps."""
    return replace(config, total_timesteps=total_timesteps)
