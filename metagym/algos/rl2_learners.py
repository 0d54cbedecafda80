"""The algorithms that RL² can be built on: one table."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from metagym.algos.keywords import require_keywords
from metagym.errors import ConfigError
from metagym.rollout import TrialRollouts

__all__ = [
    "LEARNERS",
    "Learner",
    "check_keywords",
    "defaults_of",
    "joined",
    "learner_class_of",
    "maker_of",
    "naming_refusals",
    "other_kind",
]


_WINDOW = "metagym.algos.rl2_window:WindowRL2"


class Learner(NamedTuple):
    """An algorithm of SB3 or sb3-contrib, and what RL² makes of it.

    Attributes:
        base: the algorithm; its subclasses are accepted too.
        defaults: keywords that differ from its own.
        batch: whether it has minibatches, a quarter of a rollout by default.
        own_critic: whether the critic has a memory of its own by default.
        made_by: None: it learns from whole trials, and `RL2` joins it. Else ``"module:Class"``, which makes the
            learner in place of `RL2`: called with RL2's arguments (``learner_class`` among them, as a class), and with
            a ``load`` like RL2's for checkpoints whose kind is the name of that class.
    """

    base: type[BaseAlgorithm]
    defaults: Mapping[str, Any]
    batch: bool = False
    own_critic: bool = False
    made_by: str | None = None


LEARNERS: tuple[Learner, ...] = (
    Learner(
        PPO,
        {"n_epochs": 4, "learning_rate": 5e-3, "gamma": 0.97, "gae_lambda": 0.7, "ent_coef": 0.01},
        batch=True,
    ),
    Learner(A2C, {}),
    # The critic cannot move what the actor uses, so it needs its own memory to read the trial with.
    Learner(
        TRPO,
        {"learning_rate": 5e-3, "gamma": 0.97, "gae_lambda": 0.7, "target_kl": 0.03, "cg_max_steps": 10},
        batch=True,
        own_critic=True,
    ),
    *(Learner(base, {}, made_by=_WINDOW) for base in (DQN, QRDQN, SAC, DDPG, TD3, TQC, CrossQ, ARS)),
)


def _find_learner(learner_class: type[Any]) -> Learner | None:
    """The row of an algorithm or of what it is derived from."""
    return next((learner for learner in LEARNERS if issubclass(learner_class, learner.base)), None)


def learner_class_of(given: Any) -> tuple[type[Any], Learner]:
    """An algorithm, given as a class or by its name, and its row.

    Raises:
        ConfigError: if it is none that RL² can be built on.
    """
    names = {learner.base.__name__: learner.base for learner in LEARNERS}
    named: Any = names.get(given) if isinstance(given, str) else given
    learner = _find_learner(named) if isinstance(named, type) and not issubclass(named, TrialRollouts) else None
    if learner is None:
        shown = f"{given.__module__}.{given.__name__}" if isinstance(given, type) else repr(given)
        raise ConfigError(
            f"learner_class must be {', '.join(names)}, a subclass of one of them, or its name; not {shown}."
        )
    return named, learner


def joined(cls: type[Any], learner_class: type[Any], known: Mapping[type[Any], type[Any]]) -> type[Any]:
    """The class that is both `cls`, an RL2, and `learner_class`.

    Args:
        cls: RL2 or a subclass of it.
        learner_class: the algorithm.
        known: RL2 joined with each base of the table.

    Raises:
        ConfigError: if `cls` was joined with another algorithm already, or this one is not RL2's to join.
    """
    if issubclass(cls, learner_class):
        return cls
    found = _find_learner(learner_class)
    if _find_learner(cls) is not None or found is None or found.made_by is not None:
        raise ConfigError(f"{cls.__name__} cannot have {learner_class.__name__} inside; use RL2(learner_class=...).")
    base = known[found.base]
    of_rl2 = (base,) if issubclass(base, cls) else (cls, base)
    bases = of_rl2 if learner_class is found.base else (*of_rl2, learner_class)
    if bases == (base,):
        return base
    if (cls, learner_class) not in _MADE:
        members = {"learner_class": learner_class, "policy_aliases": cls.policy_aliases, "__doc__": cls.__doc__}
        _MADE[cls, learner_class] = type(f"{cls.__name__}{learner_class.__name__}", bases, members)
    return _MADE[cls, learner_class]


_MADE: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def check_keywords(agent: Any, policy: Any, n_envs: Any, privileged: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse what an RL2 cannot be made with.

    Raises:
        ConfigError: if the policy has an unknown name, `n_envs` is no number of rows, `privileged` (whether the critic
            is told the tasks) no bool, or the algorithm lacks a keyword.
    """
    if not isinstance(privileged, bool):
        raise ConfigError(f"privileged_critic must be True or False, not {privileged!r}.")
    if isinstance(policy, str) and policy not in agent.policy_aliases:
        raise ConfigError(f"policy {policy!r} is unknown; accepted are {sorted(agent.policy_aliases)}.")
    if n_envs is not None and (not isinstance(n_envs, int) or n_envs < 1):
        raise ConfigError(f"n_envs must be an integer of at least 1, not {n_envs!r}.")
    require_keywords(agent.learner_class, kwargs)


def defaults_of(
    learner_class: type[Any], given: Mapping[str, Any], *, n_steps: int, n_envs: int, task_size: int
) -> dict[str, Any]:
    """An algorithm's keywords: those given, and RL2's defaults, where these differ from its own.

    Args:
        learner_class: the algorithm.
        given: its keywords.
        n_steps: steps of a rollout in each row.
        n_envs: rows.
        task_size: numbers by which a privileged critic is told the task, else 0. Unless the keywords say otherwise,
            such a critic has a memory of its own.
    """
    learner = _find_learner(learner_class)
    assert learner is not None
    batch = {"batch_size": max(2, n_steps * n_envs // 4)} if learner.batch else {}
    settings = {"n_steps": n_steps, **batch, **learner.defaults, **given}
    if learner.own_critic or task_size:
        chosen = {"share_features_extractor": False, **(given.get("policy_kwargs") or {})}
        settings["policy_kwargs"] = chosen | ({"critic_task_size": task_size} if task_size else {})
    return settings


@contextmanager
def naming_refusals(learner_class: type[Any], env: Any) -> Iterator[None]:
    """Say which learner it was whose constructor refuses an env.

    Raises:
        ConfigError: in place of what SB3 asserts.
    """
    try:
        yield
    except (AssertionError, NotImplementedError) as refusal:
        spaces = "" if env is None else f" observations {env.observation_space} and actions {env.action_space}"
        raise ConfigError(f"{learner_class.__name__} does not support{spaces}: {refusal}") from refusal


def maker_of(learner: Learner) -> Any:
    """The class that makes this learner in place of RL2; None: RL2 does."""
    return None if learner.made_by is None else _at(learner.made_by)


def other_kind(kind: Any) -> Any:
    """The class that loads checkpoints of this kind in place of RL2; None if there is no such class."""
    paths = {learner.made_by for learner in LEARNERS if learner.made_by is not None}
    return next((_at(path) for path in paths if path.partition(":")[2] == kind), None)


def _at(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
