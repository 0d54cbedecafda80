"""What agents that need no training share: they learn in their memory alone, from what `RL2Context` shows."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from typing_extensions import Self

from metagym.engine import TaskEnv
from metagym.errors import ConfigError
from metagym.types import Array, Bool, Float, Int
from metagym.wrappers import RL2Context, Trial

__all__ = ["MemoryAgent", "Seen", "between", "whole"]


class Seen(NamedTuple):
    """What N rows show, read from the observations of `RL2Context`."""

    look: Array
    """The env's own observation, flat, (N, D)."""
    action: Int
    """The last action, 0 where there is none, (N,)."""
    reward: Float
    """The last reward, (N,)."""
    boundary: Bool
    """Whether this is the first observation of an episode, (N,)."""
    fresh: Bool
    """Whether this is the first observation of a trial: nothing that came before counts, (N,)."""


class MemoryAgent(ABC):
    """An agent with the interface of the learners, and nothing to train.

    What it remembers of a trial it hands on as the state of `predict`, as recurrent policies do. A trial begins where
    `episode_start` says so, where the state is None, and where no last action is shown. Random numbers hang on torch's
    global generator, as those of Stable-Baselines3's policies do.

    Args:
        policy: ignored; there because every learner has it.
        env: id of the family, or an env of it, scalar or vector.
        episodes_per_trial: episodes of the trials that `make_env` makes, n.
        env_kwargs: keywords for `gymnasium.make`, with an id.
        seed: seed of torch's global generator; None leaves it alone.

    Attributes:
        family: of the env.
        observation_space: that of `RL2Context`.
        action_space: `Discrete`.
        num_timesteps: environment steps taken in training: none.

    Raises:
        ConfigError: if `env` is of another family, or an argument is out of range.
    """

    plays: ClassVar[str] = ""
    """What it plays, for messages."""

    def __init__(
        self,
        policy: str | None = None,
        env: Any = None,
        *,
        episodes_per_trial: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        del policy
        self.episodes_per_trial = whole("episodes_per_trial", episodes_per_trial, 1)
        if isinstance(env, str):
            env = gym.make(env, **(env_kwargs or {}))
        self.family: Any = getattr(getattr(env, "unwrapped", None), "family", None)
        if not self.suits(self.family):
            raise ConfigError(f"{type(self).__name__} plays {self.plays}; got {env!r}")
        trials = self.make_env()
        self.observation_space, self.action_space = trials.observation_space, trials.action_space
        self.num_timesteps = 0
        if seed is not None:
            self.set_random_seed(seed)

    @classmethod
    @abstractmethod
    def suits(cls, family: Any) -> bool:
        """Whether it plays a family."""

    @abstractmethod
    def blank(self, num_rows: int) -> Any:
        """The memory of N rows before anything was seen: a tuple of arrays (N, ...)."""

    @abstractmethod
    def act(self, seen: Seen, memory: Any, deterministic: bool) -> tuple[Int, Any]:
        """Actions (N,) and the new memory; `memory` stays as it was."""

    def make_env(self, task: Any = None, *, split: str | None = "train", render_mode: str | None = None) -> Any:
        """A scalar env that it can act in: trials, with the observations of `RL2Context`.

        Args:
            task: the task of every trial; None: each reset draws one.
            split: what resets draw from: "train", "test", "ood", or None for all.
            render_mode: of the env.
        """
        bare = TaskEnv(self.family, split=split, render_mode=render_mode)
        bare.set_task(task)
        return RL2Context(Trial(bare, episodes_per_trial=self.episodes_per_trial))

    def set_random_seed(self, seed: int) -> None:
        """Seed torch's global generator."""
        th.manual_seed(seed)

    def learn(self, total_timesteps: int, **options: Any) -> Self:
        """Nothing: it takes no step."""
        del total_timesteps, options
        return self

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Array, Any]:
        """Actions for what is seen.

        Args:
            observation: of `RL2Context`, (D,) or (N, D).
            state: what the last call returned, a tuple of arrays (N, ...); None at the start.
            episode_start: where a trial starts, (N,).
            deterministic: explore no more than the agent's rule does without random numbers, and of equally good
                actions take the first. Agents that act on a sample of their belief draw it all the same.

        Returns:
            Actions, (N,) for N observations, and the new state.
        """
        features = np.atleast_2d(np.asarray(observation, np.float64))
        num_actions = int(self.action_space.n)
        taken = features[:, -num_actions - 2 : -2]
        fresh: Bool = np.logical_not((taken > 0.5).any(axis=1))
        if episode_start is not None:
            fresh = fresh | np.atleast_1d(np.asarray(episode_start, np.bool_))
        if state is None:
            state, fresh = self.blank(len(features)), np.ones_like(fresh)
        seen = Seen(
            look=features[:, : -num_actions - 2],
            action=taken.argmax(axis=1),
            reward=features[:, -2],
            boundary=features[:, -1] > 0.5,
            fresh=fresh,
        )
        actions, state = self.act(seen, state, deterministic)
        return actions.reshape(np.shape(observation)[:-1]), state

    def generator(self) -> np.random.Generator:
        """A new generator, whose seed is drawn from torch's."""
        return np.random.default_rng(int(th.randint(2**62, (1,))))


def whole(name: str, value: Any, least: int) -> int:
    """An integer argument of at least `least`.

    Raises:
        ConfigError: if it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}={value!r} is not accepted; it must be an integer of at least {least}")
    return int(value)


def between(name: str, value: Any, low: float, high: float) -> float:
    """A finite number argument in [low, high].

    Raises:
        ConfigError: if it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is not accepted; it must be a number in [{low:g}, {high:g}]")
    return float(value)
