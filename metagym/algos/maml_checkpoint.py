"""What the training of a gradient meta-learner depends on besides its arguments: taken, and put back to the bit."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch as th

from metagym.algos.learner_checkpoint import episode_records, kept_rng, restore_episode_records
from metagym.algos.reptile_env import native_env
from metagym.errors import CheckpointError
from metagym.learner_state import flatten_state, generator_state, load_state, set_generator_state
from metagym.sections import prefixed, section
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["contents", "restore"]

COUNTERS = (
    "num_timesteps", "_n_iterations", "_n_updates", "_total_timesteps", "_num_timesteps_at_start", "_entropy",
)  # fmt: skip


def contents(agent: "GradientMetaLearner") -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on: what JSON can express, and arrays."""
    meta = {
        "counters": {name: int(getattr(agent, name)) for name in COUNTERS},
        "action_rng": generator_state(agent.action_space.np_random),
        "method": agent._method_state(),
        **episode_records(agent),
    }
    parts = agent._parts
    extras = {name: tensor.detach().cpu().numpy().copy() for name, tensor in parts.start.extras().items()}
    arrays = prefixed("learner", flatten_state(agent.learner)) | prefixed("extra", extras)
    arrays |= prefixed("outer", parts.outer.arrays()) | kept_rng(agent)
    if parts.critic is not None:
        arrays |= prefixed("critic", parts.critic.arrays())
    native = native_env(agent.env)
    if native is not None and hasattr(native, "get_state"):
        arrays |= prefixed("env", native.get_state())
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
    set_generator_state(agent.action_space.np_random, meta["action_rng"])
    _resume_env(agent, section("env", arrays))
    for name in COUNTERS:
        setattr(agent, name, int(meta["counters"][name]))


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


def _resume_env(agent: "GradientMetaLearner", state: dict[str, Array]) -> None:
    native = native_env(agent.env)
    if agent.env is None:
        return
    if native is not None and state:
        try:
            native.set_state(state)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise CheckpointError(f"the env does not take the stored state of the training env: {error!r}") from error
        return
    warnings.warn(
        "The state of this training env cannot be stored: it starts anew. Iterations seed and reset it, so training "
        "goes on, but bit for bit only if nothing else in it outlives a reset.",
        stacklevel=5,  # the caller of load
    )
