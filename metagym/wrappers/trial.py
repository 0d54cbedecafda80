"""Trials: several episodes of one task, joined to what the agent sees as one."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import error
from typing_extensions import override

from metagym.engine import RowsVectorEnv
from metagym.engine.autoreset import RowStep
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int
from metagym.wrappers.base import RowsWrapper, TaskWrapper, rows_layers

__all__ = ["Trial", "TrialClock", "VectorTrial"]

_AT_RESET = {
    "episode_start": True,
    "episode_end": False,
    "trial_episode": 0,
    "last_episode_return": 0.0,
    "last_episode_length": 0,
}


class TrialClock:
    """Counts the steps and episodes of the trials of N rows, and says when trials end.

    The arithmetic holds for arrays and for Python's numbers alike: a single row is counted in numbers, which is an
    order of magnitude faster than in arrays of one.

    Args:
        num_rows: N, or None for one row in numbers.
        episodes_per_trial: E, or None.
        steps_per_trial: T, or None.

    Raises:
        ConfigError: unless exactly one of the two is an integer of at least 1 and the other None.
    """

    def __init__(self, num_rows: int | None, episodes_per_trial: int | None, steps_per_trial: int | None) -> None:
        if (episodes_per_trial is None) == (steps_per_trial is None):
            raise ConfigError(
                "a trial needs one of episodes_per_trial and steps_per_trial, "
                f"got episodes_per_trial={episodes_per_trial!r} and steps_per_trial={steps_per_trial!r}"
            )
        self.num_episodes = _count("episodes_per_trial", episodes_per_trial)
        self.num_steps = _count("steps_per_trial", steps_per_trial)
        self._last_episode = (self.num_episodes or 0) - 1
        self.episode: Any = 0 if num_rows is None else np.zeros(num_rows, np.int64)
        self.steps: Any = 0 if num_rows is None else np.zeros(num_rows, np.int64)
        self.episode_steps: Any = 0 if num_rows is None else np.zeros(num_rows, np.int64)
        self.episode_return: Any = 0.0 if num_rows is None else np.zeros(num_rows)

    def columns(self) -> dict[str, Array]:
        """Name to array, (N,); the arrays themselves, not copies."""
        return {name: getattr(self, name) for name in ("episode", "steps", "episode_steps", "episode_return")}

    def reset(self, rows: Int | None) -> dict[str, Any]:
        """Start trials in `rows`; returns their infos, (M,). None for the one row in numbers."""
        if rows is None:
            self.episode = self.steps = self.episode_steps = 0
            self.episode_return = 0.0
            return dict(_AT_RESET)
        for column in self.columns().values():
            column[rows] = 0
        return {name: np.full(len(rows), value) for name, value in _AT_RESET.items()}

    def step(self, reward: Any, ended: Any) -> tuple[Any, dict[str, Any]]:
        """Count one step of all rows. A trial that is over stays so until it is reset.

        Args:
            reward: of the step, (N,).
            ended: whether the episode ended by itself, terminated or truncated, (N,).

        Returns:
            Whether the trial is over, (N,), and infos (N,). Where `episode_start`, the caller has to start the next
            episode of the same task.
        """
        self.steps = self.steps + 1
        if self.num_steps is not None:
            over = self.steps >= self.num_steps
        else:
            over = ended & (self.episode >= self._last_episode)
        closed = ended | over
        episode_return, episode_steps = self.episode_return + reward, self.episode_steps + 1
        info = {
            "episode_start": closed != over,
            "episode_end": closed,
            "trial_episode": self.episode,
            "last_episode_return": episode_return * closed + 0.0,  # no -0.0
            "last_episode_length": episode_steps * closed,
        }
        self.episode = self.episode + closed
        self.episode_return = episode_return - info["last_episode_return"]
        self.episode_steps = episode_steps - info["last_episode_length"]
        return over, info


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _refuse_trials(found: bool, env: Any) -> None:
    if found:
        raise ConfigError(f"{env} consists of trials already; it cannot be wrapped in a second Trial")


class VectorTrial(RowsWrapper):
    """`Trial` over metagym's vector env; call it by that name."""

    own_attributes = ("episodes_per_trial", "steps_per_trial")

    def __init__(
        self, env: RowsVectorEnv, *, episodes_per_trial: int | None = None, steps_per_trial: int | None = None
    ) -> None:
        super().__init__(env)
        self._clock = TrialClock(self.num_envs, episodes_per_trial, steps_per_trial)
        self.episodes_per_trial, self.steps_per_trial = self._clock.num_episodes, self._clock.num_steps
        _refuse_trials(any(isinstance(layer, VectorTrial) for layer in rows_layers(env)), env)

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        reward, terminated, truncated, info = self.env.step_rows(actions, active)
        over, marks = self._clock.step(reward, terminated | truncated)
        # Rows that are not active are over, so that they are not among these.
        again = np.flatnonzero(marks["episode_start"])
        if again.size:
            self.env.reset_rows(again, repeat_task=True)
        return reward, over, np.zeros(self.num_envs, np.bool_), {**info, **marks}

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        info = self.env.reset_rows(rows, tasks=tasks, repeat_task=repeat_task)
        return {**info, **self._clock.reset(rows)}

    @override
    def own_state(self) -> dict[str, Array]:
        return {f"trial/{name}": column for name, column in self._clock.columns().items()}


class Trial(TaskWrapper):
    """Joins episodes of one task to a trial: a number of episodes, or as many as fit into a number of steps.

    Ends of episodes are handled inside `step`: the observation returned then is the first of the next episode, of the
    same task, and neither terminated nor truncated is set. The trial ends with terminated (its budget is part of the
    problem) and with the last observation of its last episode; after `steps_per_trial` steps that episode is cut.
    The next `reset` starts a trial of another task, unless one is set.

    Besides those of the env, infos have at `reset` and at every step:

    | Key | Type | Meaning |
    |---|---|---|
    | `episode_start` | bool | the observation returned is the first of an episode |
    | `episode_end` | bool | this step ended an episode, by itself or with the trial |
    | `trial_episode` | int | index of the episode this step belonged to, 0 at `reset` |
    | `last_episode_return` | float | sum of rewards of the episode that this step ended, else 0 |
    | `last_episode_length` | int | steps of the episode that this step ended, else 0 |

    A `TimeLimit` inside truncates episodes; outside, trials.

    Args:
        env: an env with tasks, or metagym's vector env; the result is of the same kind.
        episodes_per_trial: E.
        steps_per_trial: T.

    Raises:
        ConfigError: unless exactly one of the two is given, an integer of at least 1; if the env has no tasks, or
            consists of trials already.
    """

    rows_type = VectorTrial

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        episodes_per_trial: int | None = None,
        steps_per_trial: int | None = None,
    ) -> None:
        super().__init__(env, episodes_per_trial=episodes_per_trial, steps_per_trial=steps_per_trial)
        self._clock = TrialClock(None, episodes_per_trial, steps_per_trial)
        self.episodes_per_trial, self.steps_per_trial = self._clock.num_episodes, self._clock.num_steps
        self._is_over = True
        _refuse_trials(env.has_wrapper_attr("episodes_per_trial"), env)

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._is_over = False
        return observation, {**info, **self._clock.reset(None)}

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._is_over:
            raise error.ResetNeeded("the trial is over, or none was started: call reset() before step()")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._is_over, marks = self._clock.step(float(reward), bool(terminated or truncated))
        if marks["episode_start"]:
            observation, _ = self.env.reset(options={"repeat_task": True})
        return observation, reward, self._is_over, False, {**info, **marks}
