"""What a network without memory sees of a trial: the last K observations, and which of them there were."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from typing_extensions import override

from metagym.engine import RowsVectorEnv
from metagym.engine.autoreset import RowStep
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int
from metagym.wrappers.base import RowsWrapper, TaskWrapper, rows_layers
from metagym.wrappers.trial import VectorTrial

__all__ = ["VectorWindow", "Window", "no_windows", "pushed", "window_space"]

Windows = NDArray[np.float32]


def window_space(space: spaces.Space[Any], length: int) -> spaces.Box:
    """The space of windows of a flat space: K rows of it, (D,), and a column that says whether a row is there.

    Args:
        space: a `Box` of shape (D,), such as that of `RL2Context`.
        length: K.

    Returns:
        A `Box` (K, D + 1), float32. Missing rows are zeros, so the bounds include zero.

    Raises:
        ConfigError: if the space is no flat `Box`, or the length no integer of at least 1.
    """
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
        raise ConfigError(f"a window's length must be an integer of at least 1, got {length!r}")
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"a window needs flat observations, a Box of shape (D,), got {space}: use RL2Context")
    low = np.append(np.minimum(space.low.astype(np.float32), 0), np.float32(0))
    high = np.append(np.maximum(space.high.astype(np.float32), 0), np.float32(1))
    return spaces.Box(np.tile(low, (length, 1)), np.tile(high, (length, 1)), dtype=np.float32)


def no_windows(num_rows: int, space: spaces.Box) -> Windows:
    """Windows (N, K, D + 1) of which nothing is there."""
    return np.zeros((num_rows, *space.shape), np.float32)


def pushed(windows: Windows, observation: Array, starts: Bool | None = None) -> Windows:
    """Windows one observation later, in a fresh array.

    Args:
        windows: those so far, (N, K, D + 1); they stay as they are.
        observation: the newest, (N, D).
        starts: rows where it is the first of a trial, and what was before is forgotten, (N,); None: nowhere.

    Returns:
        (N, K, D + 1), the newest last.
    """
    later = np.empty_like(windows)
    later[:, :-1] = windows[:, 1:]
    if starts is not None:
        later[starts] = 0.0
    later[:, -1, :-1] = observation
    later[:, -1, -1] = 1.0
    return later


def _require_trial(is_trial: bool, env: Any) -> None:
    if not is_trial:
        raise ConfigError(
            f"Window needs trials, and {env} has none: wrap it in Trial and RL2Context first, "
            "Window(RL2Context(Trial(env, episodes_per_trial=...)), length=...)"
        )


class VectorWindow(RowsWrapper):
    """`Window` over metagym's vector env; call it by that name."""

    own_attributes = ("window_length",)

    def __init__(self, env: RowsVectorEnv, *, length: int) -> None:
        super().__init__(env)
        _require_trial(any(isinstance(layer, VectorTrial) for layer in rows_layers(env)), env)
        space = window_space(env.single_observation_space, length)
        super().__init__(env, space)
        self.window_length = int(length)
        self._windows = no_windows(self.num_envs, space)

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        step: RowStep = self.env.step_rows(actions, active)
        self._windows = pushed(self._windows, self.env.observe_rows(None))
        return step

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        info = super().reset_rows(rows, tasks=tasks, repeat_task=repeat_task)
        self._windows[rows] = 0.0
        self._windows[rows] = pushed(self._windows[rows], self.env.observe_rows(rows))
        return info

    @override
    def observe_rows(self, rows: Int | None) -> Array:
        return self._windows.copy() if rows is None else self._windows[rows]

    @override
    def own_state(self) -> dict[str, Array]:
        return {"window/rows": self._windows}


class Window(TaskWrapper):
    """The last K observations of the trial in place of the newest, for networks without a memory of their own.

    The observation is a float32 `Box` (K, D + 1): rows are observations of the env inside, the newest last, and the
    last column is 1 where there is one. Before the trial's K-th observation the first rows are zeros; a new trial
    begins with its first observation alone. Terminal observations are windows as well.

    Args:
        env: `RL2Context(Trial(env))`, scalar or vector; the result is of the same kind. Other wrappers may lie
            between, if observations stay flat.
        length: K.

    Raises:
        ConfigError: if there is no `Trial` inside, observations are not flat, or the length is below 1.
    """

    rows_type = VectorWindow

    def __init__(self, env: gym.Env[Any, Any], *, length: int) -> None:
        super().__init__(env, length=length)
        _require_trial(env.has_wrapper_attr("episodes_per_trial"), env)
        self._space = self.observation_space = window_space(env.observation_space, length)
        self.window_length = int(length)
        self._windows = no_windows(1, self._space)

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._windows = no_windows(1, self._space)
        return self._pushed(observation), info

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._pushed(observation), reward, bool(terminated), bool(truncated), info

    def _pushed(self, observation: Array) -> Windows:
        self._windows = pushed(self._windows, observation[None])
        window: Windows = self._windows[0].copy()
        return window
