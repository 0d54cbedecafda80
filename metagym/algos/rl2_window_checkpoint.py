"""What training with a window depends on besides what all agents of trials store: taken, and put back to the bit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metagym.algos.rl2_agent import env_state, restore_env_state, warn_of_new_trials
from metagym.learner_state import generator_state, set_generator_state
from metagym.sections import prefixed, section
from metagym.types import Array
from metagym.window_replay import WindowReplayBuffer

if TYPE_CHECKING:
    from metagym.algos.rl2_window import WindowRL2

__all__ = ["KIND", "contents", "restore"]

KIND = "WindowRL2"
"""What a checkpoint says it is of: the class that loads it."""


def contents(agent: "WindowRL2", *, with_buffer: bool) -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on besides: what JSON can express, and arrays."""
    arrays: dict[str, Array] = {}
    buffer = getattr(agent, "replay_buffer", None)
    if with_buffer and isinstance(buffer, WindowReplayBuffer):
        arrays |= prefixed("buffer", buffer.get_state())
    if agent.is_whole:
        arrays |= prefixed("rollout", agent.get_rollout_state()) | prefixed("env", env_state(agent.env))
    return {"action_rng": generator_state(agent.action_space.np_random)}, arrays


def restore(agent: "WindowRL2", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put back what `contents` returned, as far as the env is one that can go on from there."""
    set_generator_state(agent.action_space.np_random, meta["action_rng"])
    buffer, stored = getattr(agent, "replay_buffer", None), section("buffer", arrays)
    if stored and isinstance(buffer, WindowReplayBuffer) and meta["n_envs"] == agent.n_envs:
        buffer.set_state(stored)
    rollout = section("rollout", arrays)
    same_rows = agent.env is None or not rollout or agent.num_rows_of(rollout) == agent.n_envs
    if rollout and same_rows and restore_env_state(agent.env, section("env", arrays)):
        agent.set_rollout_state(rollout)
    elif agent.env is not None and agent.num_timesteps:
        warn_of_new_trials()
