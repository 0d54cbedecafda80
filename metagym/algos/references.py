"""References that a meta-learner is measured against, with the interface of the learners.

`Random` is the floor: actions drawn uniformly from the action space, on every task, whatever it has seen.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from typing_extensions import Self

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["Random"]


class Random:
    """Uniformly random actions: the control that learns nothing, in training or in a trial.

    Actions come from torch's global generator, as those of every Stable-Baselines3 policy do.

    Args:
        policy: ignored; there because every learner has it.
        env: Gymnasium id, an env, or a vector env of Gymnasium or Stable-Baselines3. Only its spaces are
            used.
        env_kwargs: keywords for `gymnasium.make`, with an id.
        seed: seed of torch's global generator; None leaves it alone.

    Attributes:
        observation_space: of one row.
        action_space: of one row: `Discrete`, `MultiDiscrete`, or a bounded `Box`.
        num_timesteps: environment steps taken in training: none.

    Raises:
        ConfigError: if the action space has no uniform distribution.
    """

    def __init__(
        self,
        policy: str | None = None,
        env: Any = None,
        *,
        env_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        del policy
        if env is None:
            raise ConfigError("Random needs an env: an id, an env or a vector env, got None")
        if isinstance(env, str):
            env = gym.make(env, **(env_kwargs or {}))
        self._set_spaces(
            getattr(env, "single_observation_space", env.observation_space),
            getattr(env, "single_action_space", env.action_space),
        )
        if seed is not None:
            self.set_random_seed(seed)

    @classmethod
    def of_spaces(cls, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Self:
        """The same for two spaces, where no env is at hand."""
        learner = cls.__new__(cls)
        learner._set_spaces(observation_space, action_space)
        return learner

    def _set_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
        if not (bounded or isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)):
            raise ConfigError(
                f"random actions need a Discrete, MultiDiscrete, MultiBinary or bounded Box space, got {action_space}"
            )
        self.observation_space, self.action_space = observation_space, action_space
        self.num_timesteps = 0

    def set_random_seed(self, seed: int) -> None:
        """Seed torch's global generator."""
        th.manual_seed(seed)

    def learn(self, total_timesteps: int, **options: Any) -> Self:
        """Nothing: it takes no step."""
        del total_timesteps, options
        return self

    def adapt(self, task_or_env: Any, **budget: Any) -> Self:
        """Nothing: it is the same on every task."""
        del task_or_env, budget
        return self

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Array, Any]:
        """Random actions.

        Args:
            observation: of one env, or of N, (N, ...).
            state: returned as it is.
            episode_start: ignored.
            deterministic: ignored; a uniform distribution has no most probable action.

        Returns:
            Actions, (N, ...) for N observations, and `state`.
        """
        del episode_start, deterministic
        shape = np.shape(observation)
        batch = shape[: len(shape) - len(self.observation_space.shape or ())]
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            drawn = th.randint(int(space.n), batch).numpy()
            return drawn + space.start, state
        assert isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary)
        unit = th.rand((*batch, *space.shape), dtype=th.float64).numpy()
        if isinstance(space, spaces.MultiBinary):
            return (unit < 0.5).astype(space.dtype), state
        if isinstance(space, spaces.MultiDiscrete):
            return (space.start + np.floor(unit * space.nvec)).astype(space.dtype), state
        actions = space.low + unit * (space.high.astype(np.float64) - space.low)
        return actions.astype(space.dtype), state
