"""One env of somebody else's, and what led it to where it stands."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import error, spaces

from metagym.errors import ConfigError
from metagym.types import Array, Float

if TYPE_CHECKING:
    from metagym.foreign.family import ForeignFamily

__all__ = ["World", "accept", "fit_info", "seed_of"]

_NUM_SEEDS = 2**31


def seed_of(noise: Float) -> int:
    """The seed of an episode from the uniform (1,) that the row's stream dealt to its reset."""
    return int(noise[0] * _NUM_SEEDS)


def fit_info(schema: Mapping[str, Array], info: Mapping[str, Any]) -> dict[str, Array]:
    """The values of a schema's keys, each of its dtype and shape; zeros where the env gives none, or another shape.

    Raises:
        ConfigError: if a value would lose what it says: a float where a whole number was seen before.
    """
    return {key: _fit(key, zero, info[key]) if key in info else zero.copy() for key, zero in schema.items()}


def _fit(key: str, zero: Array, value: Any) -> Array:
    try:
        given: Array = np.asarray(value)
    except ValueError:  # ragged
        return zero.copy()
    if given.shape != zero.shape or given.dtype.kind not in "biuf":
        return zero.copy()
    if given.dtype.kind == "f" and zero.dtype.kind != "f":
        raise ConfigError(f"info[{key!r}] is {value!r}, and was a whole number before: pass infos={{{key!r}: 0.0}}")
    return np.array(given, zero.dtype)


def accept(space: spaces.Space[Any], action: Any) -> Any:
    """An action as an env takes it: numbers of a `Box` clipped into it, others as they are.

    Args:
        space: of actions; of one env, or of N that are batched, unless it is `Discrete`.
        action: of one env, or of N.

    Raises:
        ConfigError: if it is not in the space.
    """
    if isinstance(space, spaces.Discrete):
        return np.int64(action)  # what the space samples; Gymnasium checks it in less time than Python's
    if isinstance(space, spaces.Box):
        return np.minimum(np.maximum(action, space.low), space.high).astype(space.dtype, copy=False)
    array: Array = np.asarray(action)
    if isinstance(space, spaces.MultiBinary) and np.isin(array, (0, 1)).all():
        array = array.astype(space.dtype)  # Stable-Baselines3 samples floats
    if array.dtype.kind not in "iub" or not space.contains(array.astype(space.dtype)):
        raise ConfigError(f"action must be in {space}, got {action!r}")
    return array.astype(space.dtype)


class World:
    """A foreign env that is given a task and a seed at the start of every episode.

    An episode is a function of the task, the seed and the actions. They are kept, so that an episode can be taken up
    again by playing them once more: simulators offer no other way to store where they stand.

    Args:
        family: which envs these are.
        render_mode: of the env.

    Attributes:
        env: the env, None before the first episode.
        observation: the last one, of the dtype of the space.
        truncated: whether the env itself cut the episode at the last step.
        success: whether the task was solved at the last step.
        info: what the env reported last, as arrays of the family's `info_schema`.
    """

    def __init__(self, family: "ForeignFamily", render_mode: str | None) -> None:
        self._family, self._render_mode = family, render_mode
        self._schema, self._success_key = family.info_schema, family.success_key
        # Kept, since spaces look them up anew every time.
        space = family.observation_space
        self._dtype, self._shape, self._is_discrete = space.dtype, space.shape, isinstance(space, spaces.Discrete)
        self.env: gym.Env[Any, Any] | None = None
        self._task_id: int | None = None
        self.seed = -1
        self.actions: list[Any] = []
        self.observation: Any = None
        self.truncated = self.success = False
        self.info = fit_info(self._schema, {})

    def begin(self, fields: Mapping[str, Array], task_id: int, seed: int) -> Any:
        """Start an episode of a task; returns the first observation."""
        family = self._family
        if self.env is None or task_id != self._task_id or family.applies_always:
            self._task_id = None  # until it is applied
            self.env = family.enter(self.env, fields, self._render_mode)
            self._task_id = task_id
        observation, info = self.env.reset(seed=family.reset_seed(fields, seed))
        self.seed, self.actions = seed, []
        self.truncated = self.success = False
        self.info = fit_info(self._schema, info)
        self.observation = self._observe(observation)
        return self.observation

    def step(self, action: Any) -> tuple[float, bool]:
        """One step with an action that `accept` returned; returns reward and termination."""
        if self.env is None:
            raise error.ResetNeeded("call reset() before step()")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(action)
        self.truncated = bool(truncated)
        if self._schema:
            self.info = fit_info(self._schema, info)
        if self._success_key is not None:
            self.success = bool(info.get(self._success_key, False))
        self.observation = self._observe(observation)
        return float(reward), bool(terminated)

    def _observe(self, observation: Any) -> Any:
        # Copied: some envs write into the array they returned.
        array = np.array(observation, self._dtype)
        if array.shape != self._shape:
            space = self._family.observation_space
            raise ConfigError(f"{self._family.name} observed shape {array.shape}; its space is {space}")
        return np.int64(array) if self._is_discrete else array

    def render(self) -> Any:
        """What the env draws, in its own way."""
        if self.env is None:
            raise error.ResetNeeded("call reset() before render()")
        return self.env.render()

    def close(self) -> None:
        """Close the env; the next episode opens another."""
        if self.env is not None:
            self.env.close()
        self.env, self._task_id = None, None
