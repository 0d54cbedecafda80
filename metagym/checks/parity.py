"""A vector env beside Gymnasium's `SyncVectorEnv` of scalar envs: everything they return agrees to the last bit."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from metagym.checks.laws import require, require_same
from metagym.tasks import Task
from metagym.types import Array, Bool
from metagym.vector_tasks import set_tasks

__all__ = ["Pair", "disturb", "require_parity"]


class Pair:
    """A vector env and `SyncVectorEnv` of as many scalar envs, driven alike and compared at every call.

    Args:
        vector_env: the env under test.
        make_scalar: makes one of the scalar envs.

    Attributes:
        pins: the task set for each row, or None.
        finished: rows that wait for a reset, in DISABLED mode.

    Raises:
        ContractError: as every method does, where the two differ.
    """

    def __init__(self, vector_env: Any, make_scalar: Callable[[], gym.Env[Any, Any]]) -> None:
        self.actual, self.mode = vector_env, vector_env.autoreset_mode
        self.num_envs: int = vector_env.num_envs
        self.expected = SyncVectorEnv([make_scalar] * self.num_envs, autoreset_mode=self.mode)
        self.pins: list[Task | None] = [None] * self.num_envs
        self.finished: Bool = np.zeros(self.num_envs, np.bool_)
        for name in ("single_observation_space", "observation_space", "single_action_space", "action_space"):
            mine, theirs = getattr(self.actual, name), getattr(self.expected, name)
            require(mine == theirs, f"{name} of the vector env", mine, f"{theirs}, as of the scalar envs")
        mine, theirs = (env.metadata["autoreset_mode"] for env in (self.actual, self.expected))
        require(mine == theirs, "metadata['autoreset_mode']", mine, repr(theirs))

    def reset(self, *, seed: Any = None, **options: Any) -> Any:
        """Reset both; ``tasks`` are set and unset again on the scalar envs, which know no such option."""
        tasks = options.get("tasks")
        if tasks is not None:
            chosen = [pin if task is None else task for task, pin in zip(tasks, self.pins, strict=True)]
            set_tasks(self.expected, chosen)
        plain = {key: value for key, value in options.items() if key != "tasks"}
        expected = self.expected.reset(seed=seed, options=plain or None)
        if tasks is not None:
            set_tasks(self.expected, self.pins)
        given = dict(options)
        actual = self.actual.reset(seed=seed, options=given or None)
        require(set(given) == set(options), "options after reset", sorted(given), f"{sorted(options)}, as before")
        require_same(actual, expected, "reset()")
        self.finished &= ~options.get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._require_tasks()
        return actual

    def step(self, actions: Array) -> Any:
        """Step both."""
        expected, actual = self.expected.step(actions), self.actual.step(actions)
        require_same(actual, expected, "step()")
        observation, _, terminated, truncated, _ = actual
        space = self.actual.observation_space
        if observation not in space:
            require(False, "observations", observation, f"elements of {space}")
        if self.mode is AutoresetMode.DISABLED:
            self.finished = terminated | truncated
        self._require_tasks()
        return actual

    def set_tasks(self, tasks: Sequence[Task | None]) -> None:
        """Pin tasks on both; None unpins a row."""
        self.pins = list(tasks)
        set_tasks(self.actual, self.pins)
        set_tasks(self.expected, self.pins)

    def sample_tasks(self) -> tuple[Task, ...]:
        """One task a row, from the scalar envs."""
        tasks: tuple[Task, ...] = self.expected.call("sample_task")
        return tasks

    def _require_tasks(self) -> None:
        actual, expected = self.actual.get_attr("task"), self.expected.get_attr("task")
        if actual != expected:
            require(False, "the tasks being played", actual, repr(expected))


def require_parity(
    vector_env: Any, make_scalar: Callable[[], gym.Env[Any, Any]], *, num_steps: int = 150, seed: int = 0
) -> int:
    """Drive both through steps, seeds, partial resets and tasks of single rows in a random order.

    Args:
        vector_env: the env under test.
        make_scalar: makes one of the scalar envs.
        num_steps: steps of all rows.
        seed: of the script.

    Returns:
        How often a row finished.

    Raises:
        ContractError: where the two differ.
    """
    pair, rng = Pair(vector_env, make_scalar), np.random.default_rng(seed)
    pair.actual.action_space.seed(seed)
    pair.reset(seed=seed)
    num_finished = 0
    for _ in range(num_steps):
        num_finished += _step(pair, rng)
        if rng.random() < 0.1:
            disturb(pair, rng)
    for kind in rng.permutation(_NUM_KINDS):  # whatever the dice may have left out
        disturb(pair, rng, kind)
        num_finished += _step(pair, rng)
    return num_finished


def _step(pair: Pair, rng: np.random.Generator) -> int:
    if pair.finished.any():
        pair.reset(reset_mask=pair.finished | (rng.random(pair.num_envs) < 0.2))
    *_, terminated, truncated, _ = pair.step(pair.actual.action_space.sample())
    return int((terminated | truncated).sum())


_NUM_KINDS = 10


def disturb(pair: Pair, rng: np.random.Generator, kind: int | None = None) -> None:
    """Do one thing other than a step: that of a number, or any."""
    num_envs = pair.num_envs
    some = rng.random(num_envs) < 0.5
    some[rng.integers(num_envs)] = True
    tasks = [task if rng.random() < 0.7 else None for task in pair.sample_tasks()]
    seeds = [int(value) if rng.random() < 0.7 else None for value in rng.integers(0, 2**31, num_envs)]
    acts: list[Callable[[], Any]] = [
        lambda: pair.reset(reset_mask=some),
        lambda: pair.reset(reset_mask=some, seed=seeds),
        lambda: pair.reset(seed=seeds),
        pair.reset,
        lambda: pair.reset(tasks=tasks),
        lambda: pair.reset(tasks=tasks, reset_mask=some),
        lambda: pair.reset(task=pair.sample_tasks()[0], reset_mask=some),
        lambda: pair.reset(repeat_task=True, reset_mask=some),
        lambda: pair.set_tasks(tasks),
        lambda: pair.set_tasks([None] * num_envs),
    ]
    acts[int(rng.integers(_NUM_KINDS)) if kind is None else kind]()
