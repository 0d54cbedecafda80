"""What the training of a gradient meta-learner depends on besides its arguments: taken, and put back to the bit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch as th

from metagym.algos.iterative import resume_training, training_state
from metagym.algos.learner_checkpoint import episode_records, restore_episode_records
from metagym.errors import CheckpointError
from metagym.learner_state import flatten_state, load_state
from metagym.sections import prefixed, section
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["contents", "restore"]


def contents(agent: "GradientMetaLearner") -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on: what JSON can express, and arrays."""
    parts = agent._parts
    meta, arrays = training_state(agent)
    meta |= {"method": agent._method_state(), **episode_records(agent)}
    extras = {name: tensor.detach().cpu().numpy().copy() for name, tensor in parts.start.extras().items()}
    arrays |= prefixed("learner", flatten_state(agent.learner)) | prefixed("extra", extras)
    arrays |= prefixed("outer", parts.outer.arrays())
    if parts.critic is not None:
        arrays |= prefixed("critic", parts.critic.arrays())
    return meta, arrays


def restore(agent: "GradientMetaLearner", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put back what `contents` returned.

    Raises:
        CheckpointError: if it belongs to another learner or env.
    """
    parts = agent._parts
    load_state(agent.learner, section("learner", arrays))
    _load_extras(parts.start.extras(), section("extra", arrays))
    parts.outer.load(section("outer", arrays))
    if parts.critic is not None:
        parts.critic.load(section("critic", arrays))
    agent._restore_method_state(meta["method"])
    restore_episode_records(agent, meta)
    resume_training(agent, meta, arrays)


def _load_extras(extras: Mapping[str, th.Tensor], stored: Mapping[str, Array]) -> None:
    if extras.keys() != stored.keys():
        raise CheckpointError(f"the stored learner has other parameters: {sorted(extras.keys() ^ stored.keys())[:6]}")
    with th.no_grad():
        for name, tensor in extras.items():
            if tensor.shape != stored[name].shape:
                raise CheckpointError(
                    f"{name} has shape {tuple(tensor.shape)}, but {tuple(stored[name].shape)} is stored"
                )
            tensor.copy_(th.as_tensor(stored[name]))
