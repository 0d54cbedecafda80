"""What RL² with a window is made with: learners, their keywords, and defaults."""

import copy
from collections.abc import Mapping
from typing import Any

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from metagym.algos.keywords import require_keywords
from metagym.algos.rl2_env import TrialSource
from metagym.errors import ConfigError
from metagym.nets.extractors import EXTRACTORS, GRUExtractor, WindowExtractor

__all__ = ["BY_NAME", "ON_POLICY", "POLICIES", "check_arguments", "default_window", "with_extractor"]

LONGEST_DEFAULT = 32
POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
"""Names of the same policy: what reads an observation follows from its space."""
ON_POLICY: tuple[type[BaseAlgorithm], ...] = (PPO, A2C, TRPO)
_LEARNERS: tuple[type[BaseAlgorithm], ...] = (DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ, ARS, *ON_POLICY)
BY_NAME = {kind.__name__: kind for kind in _LEARNERS}


def check_arguments(
    learner_class: type[BaseAlgorithm], policy: Any, window: Any, n_envs: Any, kwargs: Mapping[str, Any]
) -> None:
    """Refuse what a learner with a window cannot be made with.

    Raises:
        ConfigError: if the policy has another name, a number is below 1, or the algorithm lacks a keyword.
    """
    if isinstance(policy, str) and policy not in POLICIES:
        raise ConfigError(f"policy {policy!r} is not accepted; accepted are {sorted(POLICIES)} and policy classes.")
    for name, value in (("window", window), ("n_envs", n_envs)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{name} must be an integer of at least 1, not {value!r}.")
    require_keywords(learner_class, kwargs)


def default_window(source: TrialSource) -> int:
    """As long as a trial, within limits."""
    steps = source.steps_per_trial
    if steps is None and source.family is not None and source.episodes_per_trial is not None:
        steps = source.episodes_per_trial * source.family.episode_length
    return min(steps or LONGEST_DEFAULT, LONGEST_DEFAULT)


def with_extractor(learner_class: type[BaseAlgorithm], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of the policy, with the class of the extractor for its name.

    Raises:
        ConfigError: if the name is unknown, or a class is given as well.
    """
    kwargs = copy.deepcopy(dict(given or {}))
    name = kwargs.pop("extractor", None)
    if name is not None and "features_extractor_class" in kwargs:
        raise ConfigError(f"give extractor={name!r} or features_extractor_class, not both.")
    if name is not None and name not in EXTRACTORS:
        raise ConfigError(f"extractor {name!r} is unknown; accepted are {sorted(EXTRACTORS)}.")
    kind = kwargs.setdefault("features_extractor_class", EXTRACTORS[name or "gru"])
    added: dict[str, Any] = {}
    if issubclass(learner_class, TRPO) and issubclass(kind, GRUExtractor):
        added["twice_differentiable"] = True
    if not kwargs.get("normalize_images", True) and issubclass(kind, WindowExtractor):
        added["normalize_images"] = False  # SB3 does not see that there are images in windows
    if added:
        kwargs["features_extractor_kwargs"] = added | dict(kwargs.get("features_extractor_kwargs") or {})
    return kwargs
