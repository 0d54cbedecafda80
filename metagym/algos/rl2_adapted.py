"""What RL² returns from `adapt`: a policy that remembers the episodes it has played of a task."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.utils import set_random_seed

from metagym.algos.rl2_env import TrialSource, require_same_observations
from metagym.engine import TaskEnv
from metagym.errors import ConfigError
from metagym.learner_state import preserved_rng
from metagym.nets import TrialActorCriticPolicy
from metagym.tasks import Task
from metagym.types import Array

__all__ = ["AdaptedPolicy", "Adapting", "copy_policy", "play_episodes"]

# Longer than any trial: the env returned beside the policy goes on for as long as somebody plays.
ENDLESS = 2**40


class AdaptedPolicy:
    """A policy with a memory inside, in the middle of a trial.

    It is a copy: later training of the learner does not change it. To play on where adaptation stopped::

        obs = adapted.observation
        while True:
            action, _ = adapted.predict(obs)
            obs, reward, _, _, info = adapted.env.step(action)

    A fresh ``agent.make_env(task)`` serves as well.

    Attributes:
        returns: return of every episode played in adaptation, (E,).
        task: the task that was played.
        env: the env it was played in; its trial goes on.
        observation: the first observation of the next episode there.
        state: the memory, each part (layers, 1, H).
    """

    def __init__(self, policy: TrialActorCriticPolicy, env: gym.Env[Any, Any], observation: Array) -> None:
        self._policy = policy
        self.env = env
        self.observation = observation
        self.state: tuple[Array, ...] | None = None
        self.returns: Array = np.empty(0)
        self.task: Task = env.unwrapped.get_task()  # type: ignore[attr-defined]

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """The action for the next observation of the trial, which is then remembered.

        Args:
            observation: what RL2Context emits, (D,) or (1, D).
            state: accepted for SB3's sake, and not used: the memory is inside.
            episode_start: likewise.
            deterministic: the most probable action instead of a sampled one.

        Returns:
            Action and the memory after the step.
        """
        del state, episode_start
        action, self.state = self._policy.predict(observation, self.state, None, deterministic)
        return action, self.state


class Adapting(Protocol):
    """What plays episodes of one task: an agent of trials."""

    _source: TrialSource

    def copied_policy(self) -> Any:
        """A copy of what acts: called ``predict(observation, state, episode_start, deterministic)``."""


def play_episodes(
    agent: Adapting,
    task: Task | Mapping[str, Any] | gym.Env[Any, Any],
    episodes: int,
    *,
    deterministic: bool,
    seed: int | None,
) -> AdaptedPolicy:
    """Play episodes of one task with a copy of the agent's policy, and leave everything else as it was."""
    env = _env_of(agent._source, task)
    require_same_observations(env, agent)
    with preserved_rng():
        if seed is not None:
            set_random_seed(seed)
        observation, _ = env.reset(seed=seed)
        adapted = AdaptedPolicy(agent.copied_policy(), env, observation)
        returns: list[float] = []
        while len(returns) < episodes:
            action, _ = adapted.predict(adapted.observation, deterministic=deterministic)
            adapted.observation, _, _, _, info = env.step(action)
            if info["episode_end"]:
                returns.append(float(info["last_episode_return"]))
    adapted.returns = np.array(returns)
    return adapted


def _env_of(source: TrialSource, task: Task | Mapping[str, Any] | gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if not isinstance(task, gym.Env):
        env = source.scalar_env(split=None, own_split=True, render_mode=None, episodes=ENDLESS)
        env.unwrapped.set_task(task)
        return env  # type: ignore[no-any-return]
    if not isinstance(task.unwrapped, TaskEnv):
        raise ConfigError(f"adapt needs a task or a scalar metagym env, not {type(task.unwrapped).__name__}.")
    return source.wrap(task.unwrapped, ENDLESS)  # type: ignore[no-any-return]


def copy_policy(policy: TrialActorCriticPolicy) -> TrialActorCriticPolicy:
    """A copy of a recurrent policy, without its optimiser."""
    # A distribution left over from training holds tensors of a graph, which cannot be copied.
    vars(policy.action_dist).pop("distribution", None)
    optimizer, policy.optimizer = policy.optimizer, None  # type: ignore[assignment]
    try:
        return copy.deepcopy(policy)
    finally:
        policy.optimizer = optimizer
