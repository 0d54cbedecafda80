"""What a network without memory sees of a trial: the last K observations, and which of them there were."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.engine import RowsVectorEnv
from metagym.engine.autoreset import RowStep
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int
from metagym.wrappers.base import RowsWrapper, TaskWrapper, rows_layers
from metagym.wrappers.flat import OBSERVATION, Kept
from metagym.wrappers.trial import VectorTrial

__all__ = [
    "THERE",
    "VectorWindow",
    "Window",
    "WindowSpace",
    "entries_of",
    "newest",
    "no_windows",
    "on_parts",
    "pushed",
    "put",
    "window_space",
]

THERE = "there"
"""Entry of a window of Dicts that says which places hold an observation, (K,)."""


class WindowSpace(spaces.Dict):
    """The space of windows of observations that stay what they are: entries (K, ...), and which places are filled.

    An entry of shape S becomes a `Box` (K, *S) of the same numbers, floats as float32, images as bytes. `THERE` is
    1 where there is an observation; before it all entries are zero.

    Args:
        row_space: of one observation: a `Dict`, or an image, which is the entry "observation".
        length: K.

    Attributes:
        row_space: likewise.
        length: likewise.
        row_spaces: the spaces of the entries of one observation.

    Raises:
        ConfigError: if an entry is called `THERE`, or is no array of a fixed shape.
    """

    def __init__(self, row_space: spaces.Space[Any], length: int) -> None:
        self.row_space, self.length = row_space, length
        self.row_spaces: dict[str, spaces.Space[Any]] = (
            dict(row_space.spaces) if isinstance(row_space, spaces.Dict) else {OBSERVATION: row_space}
        )
        if THERE in self.row_spaces:
            raise ConfigError(f"observations have an entry {THERE!r} already, which windows need for another purpose")
        stacked = {name: _stacked(name, part, length) for name, part in self.row_spaces.items()}
        super().__init__({**stacked, THERE: spaces.MultiBinary(length)})


def _stacked(name: str, space: spaces.Space[Any], length: int) -> spaces.Box:
    """The space of K values of an entry, of which some may be missing, which are zeros."""
    low: Any
    high: Any
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.Discrete):
        low, high = np.asarray(space.start), np.asarray(space.start + space.n - 1)
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
    else:
        raise ConfigError(
            f"entry {name!r} of an observation is {space}, of which there are no windows; accepted are Box, Discrete, "
            "MultiBinary and MultiDiscrete of one axis (leave it out with gymnasium.wrappers.FilterObservation)"
        )
    dtype: Any = np.float32 if np.issubdtype(low.dtype, np.floating) else low.dtype
    low, high = (np.repeat(bound.astype(dtype)[None], length, 0) for bound in (np.minimum(low, 0), np.maximum(high, 0)))
    return spaces.Box(low, high, dtype=dtype)


def window_space(space: spaces.Space[Any], length: int) -> spaces.Box | WindowSpace:
    """The space of windows of observations.

    Args:
        space: a `Box` of shape (D,), such as that of `RL2Context`; or what that keeps: a `Dict`, or an image.
        length: K.

    Returns:
        Of a flat space a `Box` (K, D + 1), float32: K rows, and a column that says whether a row is there. Missing
        rows are zeros, so the bounds include zero. Of other spaces a `WindowSpace`.

    Raises:
        ConfigError: if the space is none of these, or the length no integer of at least 1.
    """
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
        raise ConfigError(f"a window's length must be an integer of at least 1, got {length!r}")
    if Kept.is_needed(space):
        return WindowSpace(space, int(length))
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ConfigError(
            f"a window needs flat observations, a Box of shape (D,), an image or a Dict, got {space}: use RL2Context"
        )
    low = np.append(np.minimum(space.low.astype(np.float32), 0), np.float32(0))
    high = np.append(np.maximum(space.high.astype(np.float32), 0), np.float32(1))
    return spaces.Box(np.tile(low, (length, 1)), np.tile(high, (length, 1)), dtype=np.float32)


def on_parts(function: Callable[..., Any], *values: Any) -> Any:
    """What a function makes of arrays, or of every entry of dicts of them."""
    if isinstance(values[0], dict):
        return {name: function(*(value[name] for value in values)) for name in values[0]}
    return function(*values)


def put(parts: Any, places: Any, values: Any) -> None:
    """Write into an array at some places, or into every entry of a dict of arrays."""
    on_parts(lambda part, value: part.__setitem__(places, value), parts, values)


def entries_of(observation: Any) -> Mapping[str, Any]:
    """The entries of an observation that is not flat; an image is one."""
    return observation if isinstance(observation, dict) else {OBSERVATION: observation}


def no_windows(num_rows: int, space: spaces.Box | WindowSpace) -> Any:
    """Windows of which nothing is there: (N, K, D + 1), or a dict of (N, K, ...)."""
    if isinstance(space, spaces.Box):
        return np.zeros((num_rows, *space.shape), space.dtype)
    return {name: np.zeros((num_rows, *(part.shape or ())), part.dtype) for name, part in space.items()}


def pushed(windows: Any, observation: Any, starts: Bool | None = None) -> Any:
    """Windows one observation later, in fresh arrays.

    Args:
        windows: those so far, (N, K, D + 1), or a dict of (N, K, ...); they stay as they are.
        observation: the newest, (N, D); for a dict of windows a dict of (N, ...), or images (N, ...).
        starts: rows where it is the first of a trial, and what was before is forgotten, (N,); None: nowhere.

    Returns:
        Windows of the same shape, the newest observation last.
    """
    later = on_parts(lambda part: _moved(part, starts), windows)
    if isinstance(later, dict):
        entries = entries_of(observation)
        for name, part in later.items():
            part[:, -1] = 1 if name == THERE else entries[name]
    else:
        later[:, -1, :-1] = observation
        later[:, -1, -1] = 1.0
    return later


def _moved(windows: Array, starts: Bool | None) -> Array:
    later = np.empty_like(windows)
    later[:, :-1] = windows[:, 1:]
    if starts is not None:
        later[starts] = 0
    return later


def newest(windows: Any, row_space: spaces.Space[Any]) -> Any:
    """The newest observation of windows, (N, D), or what `row_space` says; a copy."""
    if not isinstance(windows, dict):
        return windows[:, -1, :-1].copy()
    entries = {name: part[:, -1].copy() for name, part in windows.items() if name != THERE}
    return entries if isinstance(row_space, spaces.Dict) else entries[OBSERVATION]


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
        self._windows: Any = no_windows(self.num_envs, space)

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
        before = on_parts(lambda part: np.zeros_like(part[rows]), self._windows)
        begun = pushed(before, _joined(self.env.observe_rows(rows)))
        put(self._windows, rows, begun)
        return info

    @override
    def observe_rows(self, rows: Int | None) -> Any:
        if rows is None:
            return on_parts(np.copy, self._windows)
        some = on_parts(lambda part: part[rows], self._windows)
        return _separated(some, len(rows)) if isinstance(some, dict) else some

    @override
    def own_state(self) -> dict[str, Array]:
        if isinstance(self._windows, dict):
            return {f"window/rows/{name}": part for name, part in self._windows.items()}
        return {"window/rows": self._windows}


def _separated(columns: dict[str, Array], num_rows: int) -> Array:
    """Columns (M, ...) as an array of M dicts: so rows envs, and Gymnasium's last observations, have some rows."""
    each = np.empty(num_rows, object)
    each[:] = [{name: part[place] for name, part in columns.items()} for place in range(num_rows)]
    return each


def _joined(observed: Any) -> Any:
    """Likewise back; flat observations and columns stay what they are."""
    if not isinstance(observed, np.ndarray) or observed.dtype != object:
        return observed
    return {name: np.stack([each[name] for each in observed]) for name in observed[0]}


class Window(TaskWrapper):
    """The last K observations of the trial in place of the newest, for networks without a memory of their own.

    The observation is a float32 `Box` (K, D + 1): rows are observations of the env inside, the newest last, and the
    last column is 1 where there is one. Before the trial's K-th observation the first rows are zeros; a new trial
    begins with its first observation alone. Terminal observations are windows as well.

    Of Dicts and images, which `RL2Context` leaves what they are, the observation is a `WindowSpace`: a Dict of the
    entries, each (K, ...), images as bytes, and of "there", (K,), in place of the last column.

    Args:
        env: `RL2Context(Trial(env))`, scalar or vector; the result is of the same kind. Other wrappers may lie
            between, if observations stay flat, Dicts or images.
        length: K.

    Raises:
        ConfigError: if there is no `Trial` inside, of such observations there are no windows, or the length is
            below 1.
    """

    rows_type = VectorWindow

    def __init__(self, env: gym.Env[Any, Any], *, length: int) -> None:
        super().__init__(env, length=length)
        _require_trial(env.has_wrapper_attr("episodes_per_trial"), env)
        self._space = self.observation_space = window_space(env.observation_space, length)
        self.window_length = int(length)
        self._windows: Any = no_windows(1, self._space)

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._windows = no_windows(1, self._space)
        return self._pushed(observation), info

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._pushed(observation), reward, bool(terminated), bool(truncated), info

    def _pushed(self, observation: Any) -> Any:
        self._windows = pushed(self._windows, on_parts(lambda part: np.asarray(part)[None], observation))
        return on_parts(lambda part: part[0].copy(), self._windows)
