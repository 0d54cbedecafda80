"""All laws of an env with tasks, one after another."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from metagym.checks.laws import hold
from metagym.checks.scalar import SCALAR_LAWS, EnvProbe
from metagym.checks.vector import VECTOR_LAWS, VectorProbe
from metagym.errors import ConfigError

__all__ = ["check_env"]

_NONE: Mapping[str, str] = MappingProxyType({})


def check_env(
    env: Any, *, seed: int = 0, num_steps: int = 40, exempt: Mapping[str, str] = _NONE
) -> dict[str, str]:  # fmt: skip
    """Check that an env with tasks keeps its contract: a scalar env, or a vector env, wrapped or not.

    The env is copied, never stepped itself. The check is deterministic.

    Args:
        env: a `gymnasium.Env` with the methods of `metagym.TaskEnv`, or a `gymnasium.vector.VectorEnv` with those of
            `metagym.TaskVectorEnv`.
        seed: of all resets and actions.
        num_steps: length of the trajectories.
        exempt: laws that are not checked, each with the reason.

    Returns:
        For every law "holds", or why it was not checked.

    Raises:
        ContractError: at the first law that is broken, naming it, the place, what was found and what is accepted.
        ConfigError: if `env` is no env, or an exemption names no law.
    """
    if isinstance(env, VectorEnv):
        return hold(VECTOR_LAWS, VectorProbe(env, seed=seed, num_steps=num_steps), exempt)
    if isinstance(env, gym.Env):
        return hold(SCALAR_LAWS, EnvProbe(env, seed=seed, num_steps=num_steps), exempt)
    raise ConfigError(f"env={env!r} is not accepted; accepted are a gymnasium.Env and a gymnasium.vector.VectorEnv")
