"""Whether an env that was given a task equals a freshly built one: compared step by step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.foreign.family import ForeignFamily

__all__ = ["check_application"]

Env = gym.Env[Any, Any]


def check_application(family: "ForeignFamily", tasks: Sequence[Task], *, num_steps: int = 64, seed: int = 0) -> None:
    """Go through tasks with one env, and compare it with an env that was built for each.

    Args:
        family: which envs.
        tasks: each is applied to the env that played the one before it.
        num_steps: random steps that are compared for each task.
        seed: of episodes and actions.

    Raises:
        ConfigError: if the trajectories differ, naming the step and the attributes that are not up to date, or if a
            reset overwrites what the task set.
    """
    rng = np.random.default_rng(seed)
    used: Env | None = None
    for task in tasks:
        used = family.enter(used, task, None)
        # Twice, since the second episodes of a task begin where its first ones have left the env.
        for again in (False, True):
            if again and family.applies_always:
                used = family.enter(used, task, None)
            fresh = family.reference(task)
            _refuse_other_spaces(family, fresh)
            seeds = [int(one) for one in rng.integers(2**31, size=num_steps + 2)]
            difference = _first_difference(family, task, used, fresh, seeds)
            fresh.close()
            if difference is not None:
                raise ConfigError(_message(family, task, difference))
        _refuse_overwritten(family, task, used)
    if used is not None:
        used.close()


def _message(family: "ForeignFamily", task: Task, difference: str) -> str:
    fields = ", ".join(f"{name}={value.tolist()}" for name, value in task.items())
    said = f"with {fields} applied, {family.name} differs from a freshly built env: {difference}"
    stale = family.stale(task)
    if not stale:
        derived = "what follows from the task and is no number is not up to date, which construct= prevents, or "
        return (
            f"{said}; {derived if family.applies_always else ''}what one episode leaves behind reaches the next, which "
            "rebuild=True prevents, or the env is not deterministic under its seed, which check=False accepts"
        )
    return f"{said}; not up to date are {'; '.join(stale)}: compute them again in refresh="


def _first_difference(family: "ForeignFamily", task: Task, used: Env, fresh: Env, seeds: list[int]) -> str | None:
    used.action_space.seed(seeds[0])
    starts, restart = seeds[1:], True
    for number, seed in enumerate(starts):
        if restart:
            first = [env.reset(seed=family.reset_seed(task, seed))[0] for env in (used, fresh)]
            if not np.array_equal(*first):
                return f"a reset observes {_short(first[0])}, and would {_short(first[1])}"
        action = used.action_space.sample()
        left, right = used.step(action), fresh.step(action)
        for what, one, other in zip(("observation", "reward", "terminated", "truncated"), left, right, strict=False):
            if not np.array_equal(one, other):
                return f"at step {number + 1} its {what} is {_short(one)}, and would be {_short(other)}"
        restart = bool(left[2] or left[3])
    return None


def _refuse_other_spaces(family: "ForeignFamily", env: Env) -> None:
    for what, name in (("observes", "observation_space"), ("acts in", "action_space")):
        if getattr(env, name) != getattr(family, name):
            raise ConfigError(
                f"with another task, a freshly built {family.name} {what} {getattr(env, name)}, "
                f"and not {getattr(family, name)}: the tasks of a family share their spaces; check=False goes on with "
                "the latter"
            )


def _refuse_overwritten(family: "ForeignFamily", task: Task, env: Env) -> None:
    overwritten = family.overwritten(env, task)
    if overwritten:
        raise ConfigError(
            f"{family.name} writes over {', '.join(overwritten)} by itself, in a reset or a step, so that the task is "
            "lost: pass it to the constructor instead (construct=)"
        )


def _short(value: Any) -> str:
    array: Array = np.asarray(value)
    return str(array.tolist() if array.size <= 8 else f"{array.ravel()[:8].tolist()}...")
