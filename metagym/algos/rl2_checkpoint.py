"""What an RL² learner's training depends on besides what all agents of trials store: taken, and put back to the bit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from metagym.algos.rl2_agent import env_state, restore_env_state, warn_of_new_trials
from metagym.sections import prefixed, section
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.rl2 import RL2

__all__ = ["KIND", "contents", "restore"]

KIND = "RL2"
"""What a checkpoint says it is of, whatever the learner class."""


def contents(agent: "RL2") -> dict[str, Array]:
    """The unfinished rollout, and the env."""
    return prefixed("rollout", agent.get_rollout_state()) | prefixed("env", env_state(agent.env))


def restore(agent: "RL2", arrays: Mapping[str, Array]) -> None:
    """Put back what `contents` returned, if the env is one that can go on from there."""
    rollout = section("rollout", arrays)
    starts = rollout.get("last_episode_starts")
    same_rows = agent.env is None or starts is None or len(starts) == agent.n_envs
    if same_rows and restore_env_state(agent.env, section("env", arrays)):
        agent.set_rollout_state(rollout)
    elif agent.env is not None and agent.num_timesteps:
        warn_of_new_trials()
