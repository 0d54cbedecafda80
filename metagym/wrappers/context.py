"""What an RL² agent sees: the observation, its last action, its last reward, and whether an episode begins."""

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
from metagym.types import Array, Bool, Float, Int
from metagym.wrappers.base import RowsWrapper, TaskWrapper, rows_layers
from metagym.wrappers.flat import Flat, Kept, flat_box
from metagym.wrappers.trial import VectorTrial

__all__ = ["CONTEXT", "ContextMemory", "RL2Context", "VectorRL2Context"]

CONTEXT = "context"
"""Entry of a Dict that holds the last action, the last reward and the boundary flag."""
_ROW = np.zeros(1, np.int64)


class ContextMemory:
    """The last action, the last reward and the boundary flag of N rows.

    Args:
        num_rows: N.
        observation_space: of one row.
        action_space: of one row.
        reward_scale: what rewards are multiplied with.

    Attributes:
        space: of one row's extended observation: flat; where observations are a Dict or an image, a Dict.
        features: last action (one-hot or vector), last reward, boundary; (N, A + 2) float32.

    Raises:
        ConfigError: if a space cannot be flattened, or the scale is no positive finite number.
    """

    def __init__(
        self,
        num_rows: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        reward_scale: float,
    ) -> None:
        if isinstance(reward_scale, bool) or not isinstance(reward_scale, int | float | np.number):
            raise ConfigError(f"reward_scale must be a number, got {reward_scale!r}")
        if not 0.0 < reward_scale < np.inf:
            raise ConfigError(f"reward_scale must be positive and finite, got {reward_scale!r}")
        kept = Kept.is_needed(observation_space)
        self._observation: Flat | Kept = (Kept if kept else Flat)(observation_space)
        self._action = Flat(action_space)
        self.reward_scale = float(reward_scale)
        # Zeros stand for "no action yet", so that they belong to the space even where no action is zero.
        action_low, action_high = np.minimum(self._action.low, 0), np.maximum(self._action.high, 0)
        added = ((action_low, action_high), ([-np.inf], [np.inf]), ([0], [1]))
        self.space: spaces.Space[Any]
        if isinstance(self._observation, Kept):
            self.space = self._observation.with_entry(CONTEXT, flat_box(*added))
        else:
            self.space = flat_box((self._observation.low, self._observation.high), *added)
        self.features: NDArray[np.float32] = np.zeros((num_rows, self._action.width + 2), np.float32)

    def clear(self, rows: Int) -> None:
        """Begin trials in `rows`: no action, no reward, a boundary."""
        self.features[rows, :-1] = 0.0
        self.features[rows, -1] = 1.0

    def store(self, action: Array, reward: Float, boundary: Bool) -> None:
        """Remember one step of all rows.

        Args:
            action: (N, ...); those of a `Box` are clipped into it.
            reward: (N,).
            boundary: whether the observation that follows is the first of an episode, (N,).
        """
        actions = self.features[:, :-2]
        actions[...] = 0.0
        self._action.write(action, actions)
        if isinstance(self._action.space, spaces.Box):
            np.clip(actions, self._action.low, self._action.high, out=actions)
        self.features[:, -2] = reward * self.reward_scale
        self.features[:, -1] = boundary

    def extend(self, observation: Any, rows: Int | None) -> Any:
        """Extended observations of all rows or of some, from their observations (M, ...).

        Returns:
            (M, D + A + 2), or a dict of (M, ...).
        """
        features = self.features if rows is None else self.features[rows]
        if isinstance(self._observation, Kept):
            return {**self._observation.entries(observation), CONTEXT: features.copy()}
        width = self._observation.width
        extended = np.zeros((len(features), width + features.shape[1]), np.float32)
        self._observation.write(observation, extended[:, :width])
        extended[:, width:] = features
        return extended


def _require_trial(is_trial: bool, env: Any) -> None:
    if not is_trial:
        raise ConfigError(
            f"RL2Context needs trials, and {env} has none: wrap it in Trial first, "
            "RL2Context(Trial(env, episodes_per_trial=...))"
        )


class VectorRL2Context(RowsWrapper):
    """`RL2Context` over metagym's vector env; call it by that name."""

    def __init__(self, env: RowsVectorEnv, *, reward_scale: float = 1.0) -> None:
        super().__init__(env)
        _require_trial(any(isinstance(layer, VectorTrial) for layer in rows_layers(env)), env)
        memory = ContextMemory(self.num_envs, env.single_observation_space, env.single_action_space, reward_scale)
        super().__init__(env, memory.space)
        self._memory = memory

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        reward, terminated, truncated, info = self.env.step_rows(actions, active)
        self._memory.store(actions, reward, info["episode_start"])
        return reward, terminated, truncated, info

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        self._memory.clear(rows)
        return super().reset_rows(rows, tasks=tasks, repeat_task=repeat_task)

    @override
    def observe_rows(self, rows: Int | None) -> Array:
        extended: Any = self._memory.extend(self.env.observe_rows(rows), rows)
        if rows is None or not isinstance(extended, dict):
            return extended  # type: ignore[no-any-return]
        # Some rows of a Dict are an array of dicts, one for each: so Gymnasium wants last observations.
        each = np.empty(len(rows), object)
        each[:] = [{key: part[place] for key, part in extended.items()} for place in range(len(rows))]
        return each

    @override
    def own_state(self) -> dict[str, Array]:
        return {"rl2_context/features": self._memory.features}


class RL2Context(TaskWrapper):
    """Extends observations of a trial with the last action, the last reward and a boundary flag (RL²).

    The observation is one flat float32 `Box`: ``[observation | last action | last reward | boundary]``, where a
    `Discrete` observation or action is one-hot, and a `Box` action is clipped into its space. At a trial's start
    action and reward are zeros and the boundary is 1. At the first observation of its later episodes the boundary is 1
    and the last action and reward of the episode before are there. Elsewhere the boundary is 0, also at the trial's
    last observation, which carries the last action and reward as well.

    Observations that are a Dict, or an image (a `Box` of bytes with three axes and at least 36 pixels either way), stay
    what they are: the observation is then a Dict of the entries there were (of an image: "observation") and of
    "context", the flat rest.

    Source: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 2.2.

    Args:
        env: `Trial(env)`, scalar or vector; the result is of the same kind. Other wrappers may lie between.
        reward_scale: what the rewards in the observation (not those returned) are multiplied with.

    Raises:
        ConfigError: if there is no `Trial` inside, a space cannot be flattened, an entry is called "context" already,
            or the scale is out of range.
    """

    rows_type = VectorRL2Context

    def __init__(self, env: gym.Env[Any, Any], *, reward_scale: float = 1.0) -> None:
        super().__init__(env, reward_scale=reward_scale)
        _require_trial(env.has_wrapper_attr("episodes_per_trial"), env)
        self._memory = ContextMemory(1, env.observation_space, env.action_space, reward_scale)
        self.observation_space = self._memory.space

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._memory.clear(_ROW)
        return self._extend(observation), info

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        boundary = np.array([info["episode_start"]])
        self._memory.store(np.asarray(action)[None], np.array([reward], np.float64), boundary)
        return self._extend(observation), reward, terminated, truncated, info

    def _extend(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            rows = self._memory.extend({key: np.asarray(part)[None] for key, part in observation.items()}, None)
        else:
            rows = self._memory.extend(np.asarray(observation)[None], None)
        return {key: part[0] for key, part in rows.items()} if isinstance(rows, dict) else rows[0]
