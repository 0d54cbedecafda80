"""What a trainer learns from in place of the rewards that were paid: the same on average, with less noise."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from metagym.engine import TaskVectorEnv
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.rollout.tasks import env_layers
from metagym.types import Array, Float
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["Credits"]


class Credits:
    """Credits of steps in a vector env whose tasks, hidden from the agent, the trainer knows.

    With ``expected``, a step is credited with what its action pays on average in its state and task. With ``regret``,
    the optimal return of the task is taken off where an episode ends, so that an episode is credited with what was
    missed. In a trial of a fixed number of episodes that is a constant of the task, whatever the agent does: without
    a discount the best policy stays the best, and returns no longer vary with how much there is to earn.

    With both, where the family can solve its tasks, a step is credited with what its action gives away in expectation
    (`metagym.family.Family.solve`): the sum over an episode has the same expectation, and no longer varies with
    where chance led.

    Args:
        env: metagym's vector env in an adapter.
        expected: whether to put expected rewards in place of rewards.
        regret: whether to take the optimal return off.

    Raises:
        ConfigError: if the env is none, its family cannot tell, or trials are counted in steps with `regret`.
    """

    def __init__(self, env: VecEnv, *, expected: bool, regret: bool) -> None:
        layers = list(env_layers(env))
        native: Any = next((layer for layer in layers if isinstance(layer, TaskVectorEnv)), None)
        adapter = next((layer for layer in layers if isinstance(layer, VectorEnvAdapter)), None)
        wanted = "expected_rewards" if expected else "regret"
        if native is None or adapter is None:
            raise ConfigError(f"{wanted} needs metagym's native vector env; {type(env).__name__} is or holds none.")
        family = native.family
        if expected and type(family).expected_reward is Family.expected_reward:
            raise ConfigError(f"expected_rewards needs a family with expected_reward(); {family.name} has none.")
        if regret and any(getattr(layer, "steps_per_trial", None) is not None for layer in layers):
            raise ConfigError(
                "regret needs trials of a fixed number of episodes (episodes_per_trial); with steps_per_trial what is "
                "taken off would depend on how many episodes the agent gets into a trial."
            )
        self._env, self._native, self._adapter = env, native, adapter
        self._expected, self._regret = expected, regret
        self._exact = expected and regret and type(family).solve is not Family.solve
        self._solutions: Array | None = None
        self._optimum: Float | None = None

    def start(self) -> None:
        """Trials are running in all rows: look up their tasks.

        Raises:
            ConfigError: if the family does not know optimal returns.
        """
        rows = np.arange(self._native.num_envs)
        self._solutions = self._native.solutions(rows) if self._exact else None
        if self._regret and self._solutions is None:
            self._optimum = self._optima(rows)

    def before_step(self, actions: Array) -> Array | None:
        """Expected rewards of actions, (N,), if those are wanted.

        Raises:
            ConfigError: if the family cannot tell them as it was configured.
        """
        if self._solutions is not None:
            return -np.asarray(self._native.shortfalls(self._solutions, actions))
        if not self._expected:
            return None
        expected = self._native.expected_rewards(actions)
        if expected is None:
            raise ConfigError(f"{self._native.family.name} cannot tell expected rewards as configured here.")
        return np.asarray(expected)

    def after_step(self, rewards: Array, expected: Array | None, dones: Array) -> Array:
        """Credits of a step, (N,).

        Args:
            rewards: what was paid, (N,).
            expected: what `before_step` returned.
            dones: where trials ended, and others have begun, (N,).
        """
        credit: Array = rewards if expected is None else expected
        begun = np.flatnonzero(dones)
        if self._solutions is not None and begun.size:
            self._solutions[begun] = self._native.solutions(begun)
        if self._optimum is None:
            return credit
        credit = credit - np.where(self._adapter.last_infos["episode_end"], self._optimum, 0.0)
        if begun.size:
            self._optimum[begun] = self._optima(begun)
        return credit

    def _optima(self, rows: Array) -> Float:
        family = self._native.family
        optimum = family.optimal_return(family.params_type(**self._native.task_columns(rows)))
        if optimum is None:
            raise ConfigError(f"regret needs optimal returns, and {family.name} does not know them.")
        return np.array(optimum, np.float64)
