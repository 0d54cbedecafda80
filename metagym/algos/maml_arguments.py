"""Arguments of gradient meta-learners: which are accepted, and which learner is inside."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.maml_rows import require_plain_env
from metagym.algos.reptile_env import task_vec_env
from metagym.algos.reptile_inner import check_counts, check_outer, find_learner_class, inner_arguments
from metagym.errors import ConfigError

__all__ = [
    "DEFAULT_TRAJECTORIES",
    "actor_critic_class",
    "check_settings",
    "inner_rates",
    "learner_arguments",
    "step_count",
    "tasks_env",
]

DEFAULT_TRAJECTORIES = 20
_LONGEST_ROLLOUT = 100

_CHOICES: dict[str, tuple[Any, ...]] = {
    "first_order": (False, True),
    "normalize_advantage": (False, True),
    "normalize_actions": (False, True),
    "outer": ("trpo", "ppo"),
    "inner_objective": ("log_likelihood", "likelihood_ratio"),
    "baseline": ("linear", "value_net"),
}
_COUNTS = (
    "n_inner_steps",
    "meta_batch_size",
    "cg_max_steps",
    "sub_sampling_factor",
    "line_search_max_iter",
    "n_epochs",
)
_FRACTION = ("a number in [0, 1]", lambda value: 0 <= value <= 1)
_POSITIVE = ("a positive number", lambda value: value > 0)
_NOT_NEGATIVE = ("a number of at least 0", lambda value: value >= 0)
_NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "gamma": _FRACTION,
    "gae_lambda": _FRACTION,
    "target_kl": _POSITIVE,
    "clip_range": _POSITIVE,
    "ent_coef": _NOT_NEGATIVE,
    "vf_coef": _NOT_NEGATIVE,
    "cg_damping": _NOT_NEGATIVE,
    "line_search_shrinking_factor": ("a number in (0, 1)", lambda value: 0 < value < 1),
}


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse what is out of range.

    Args:
        settings: keywords of a learner, by name.

    Raises:
        ConfigError: if one is; it says which.
    """
    check_outer(settings["learning_rate"], "fresh")
    check_counts(**{name: settings[name] for name in _COUNTS})
    if settings["n_steps"] is not None:
        check_counts(n_steps=settings["n_steps"])
    for name, accepted in _CHOICES.items():
        if settings[name] not in accepted:
            raise ConfigError(f"{name} must be one of {list(accepted)}, got {settings[name]!r}")
    for name, (accepted_text, holds) in _NUMBERS.items():
        _require(name, settings[name], accepted_text, holds)


def _require(name: str, value: Any, accepted: str, holds: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(value):
        raise ConfigError(f"{name} must be {accepted}, got {value!r}")


def inner_rates(given: Any) -> tuple[float, ...]:
    """Sizes of the first steps within a task; the last one is that of all further ones.

    Raises:
        ConfigError: if there is none, or one is not positive.
    """
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    rates = tuple(given) if listed else (given,)
    if not rates:
        raise ConfigError("inner_learning_rate must hold at least one number, got none")
    for rate in rates:
        _require("inner_learning_rate", rate, "a positive number, or a list of those, one for each step",
                 lambda value: value > 0)  # fmt: skip
    return tuple(float(rate) for rate in rates)


def step_count(n_steps: Any, default: int) -> int:
    """How many gradient steps an adaptation takes.

    Raises:
        ConfigError: if it is no integer of at least 0.
    """
    number = default if n_steps is None else n_steps
    if type(number) is not int or number < 0:
        raise ConfigError(f"n_steps must be an integer of at least 0, got {n_steps!r}")
    return number


def actor_critic_class(learner_class: Any) -> type[BaseAlgorithm]:
    """The class of the plain learner inside.

    Raises:
        ConfigError: if it is not an on-policy actor-critic one.
    """
    found = find_learner_class(learner_class)
    if not issubclass(found, OnPolicyAlgorithm):
        raise ConfigError(
            f"{found.__name__} is not actor-critic: steps along the policy gradient need A2C, PPO or TRPO, or a "
            "subclass; Reptile takes any learner"
        )
    return found


def learner_arguments(learner_class: type[BaseAlgorithm], given: Mapping[str, Any], n_envs: int) -> dict[str, Any]:
    """Keywords of the plain learner inside, with rollouts of at most 100 steps a row where none are given.

    Raises:
        ConfigError: if one is not the learner's to have, or unknown.
    """
    longest = max(_LONGEST_ROLLOUT, given.get("n_steps", 1))
    return inner_arguments(learner_class, given, n_envs, n_envs * longest)


def tasks_env(label: str, env: Any, n_envs: int | None, split: str | None, env_kwargs: dict[str, Any] | None) -> VecEnv:
    """The vector env whose rows are trajectories of one task.

    Args:
        label: name of the learner, for messages.
        env: what it was given.
        n_envs: rows; None: 20, or as many as a vector env has.
        split: of the tasks.
        env_kwargs: keywords with an id.

    Raises:
        ConfigError: if it is no env of tasks, or normalises.
    """
    if n_envs is None and isinstance(env, str | gym.Env):
        n_envs = DEFAULT_TRAJECTORIES
    made = task_vec_env(env, n_envs=n_envs, split=split, env_kwargs=env_kwargs, learner=label)
    require_plain_env(made)
    return made
