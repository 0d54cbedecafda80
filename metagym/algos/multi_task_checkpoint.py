"""What the training of a learner of many tasks depends on besides its arguments: taken, and put back to the bit."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metagym.algos.multi_task_state import (
    forget_episode,
    replay_contents,
    restore_env,
    restore_position,
    take_position,
)
from metagym.learner_state import flatten_state, load_state
from metagym.sections import prefixed, section
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.multi_task import MultiTask

__all__ = ["contents", "restore"]


def contents(agent: "MultiTask") -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on: what JSON can express, and arrays.

    In the middle of a rollout, this is the learner as it stood at its beginning: what was collected since would be of
    no use without the rest.
    """
    position = take_position(agent.learner) if agent._mark is None else agent._mark
    arrays = dict(position.arrays)
    if agent._resumed_rng is not None:
        arrays |= prefixed("rng", agent._resumed_rng)
    arrays |= prefixed("replay", replay_contents(agent.learner)) | prefixed("learner", flatten_state(agent.learner))
    return {"position": position.meta}, arrays


def restore(agent: "MultiTask", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put back what `contents` returned.

    Raises:
        CheckpointError: if it belongs to another learner or env.
    """
    load_state(agent.learner, section("learner", arrays))
    restore_position(agent.learner, meta["position"], arrays)
    _resume_env(agent, section("env", arrays))
    agent._follow_learner()


def _resume_env(agent: "MultiTask", state: dict[str, Array]) -> None:
    if agent.env is None or not restore_env(agent.env, state):
        forget_episode(agent.learner)
        if agent.env is not None and agent.learner.num_timesteps:
            warnings.warn(
                "The state of this training env cannot be stored: it starts anew, so training goes on, but not bit for "
                "bit.",
                stacklevel=5,  # the caller of load
            )
    buffer = vars(agent.learner).get("replay_buffer")
    if buffer is not None and agent.learner.num_timesteps and not replay_contents(agent.learner):
        warnings.warn(
            f"A {type(buffer).__name__} cannot be stored: it starts empty, so training goes on, but not bit for bit.",
            stacklevel=5,
        )
