"""What a Reptile meta-learner's training depends on besides its arguments: taken, and put back to the bit."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metagym.algos.learner_checkpoint import kept_rng
from metagym.algos.reptile_env import native_env, vec_env
from metagym.algos.reptile_normalize import (
    Normalization,
    flatten_statistics,
    normalized,
    restore_statistics,
    unflatten_statistics,
)
from metagym.errors import CheckpointError
from metagym.learner_state import flatten_state, generator_state, load_state, set_generator_state
from metagym.saving import decode, encode
from metagym.sections import prefixed, section
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.reptile import Reptile

__all__ = ["ARGUMENTS", "KIND", "contents", "normalized_alike", "restore"]

KIND = "Reptile"
"""What a checkpoint says it is of, of subclasses too."""

ARGUMENTS = (
    "learner_class", "learning_rate", "outer_optimizer", "outer_optimizer_kwargs", "inner_timesteps",
    "meta_batch_size", "inner_optimizer", "frozen", "n_workers", "batched", "learner_kwargs", "policy_kwargs",
    "env_kwargs", "split", "tensorboard_log", "verbose",
)  # fmt: skip
"""The constructor's keywords that a checkpoint stores."""

COUNTERS = (
    "num_timesteps", "_n_iterations", "_n_updates", "_total_timesteps", "_num_timesteps_at_start", "_entropy",
)  # fmt: skip


def contents(agent: "Reptile") -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on: what JSON can express, and arrays."""
    settings, statistics = agent._normalization()
    meta = {
        "counters": {name: int(getattr(agent, name)) for name in COUNTERS},
        "action_rng": generator_state(agent.action_space.np_random),
        "normalizers": encode([dict(keywords) for keywords in settings]),
    }
    arrays = prefixed("learner", flatten_state(agent.learner)) | prefixed("outer", agent._outer.arrays())
    arrays |= prefixed("normalizer", flatten_statistics(statistics)) | kept_rng(agent)
    native = native_env(agent.env)
    if native is not None and hasattr(native, "get_state"):
        arrays |= prefixed("env", native.get_state())
    return meta, arrays


def normalized_alike(env: Any, meta: Mapping[str, Any], stored: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
    """The env that was passed, normalised as the training env was."""
    like = _normalization(meta, arrays)
    if env is None or not like.settings:
        return env
    return normalized(vec_env(env, n_envs=meta["n_envs"], split=stored["split"]), like, training=True)


def restore(agent: "Reptile", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put back what `contents` returned.

    Raises:
        CheckpointError: if it belongs to another learner or env.
    """
    load_state(agent.learner, section("learner", arrays))
    agent._outer.load(section("outer", arrays))
    agent._resumed_normalization = _normalization(meta, arrays)
    if agent.env is not None:
        # Once more: setting up has reset the env, and what it saw then was counted.
        restore_statistics(agent.env, agent._resumed_normalization.statistics)
    set_generator_state(agent.action_space.np_random, meta["action_rng"])
    _resume_env(agent, section("env", arrays))
    for name in COUNTERS:
        setattr(agent, name, int(meta["counters"][name]))


def _normalization(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Normalization:
    return Normalization(decode(meta["normalizers"]), unflatten_statistics(section("normalizer", arrays)))


def _resume_env(agent: "Reptile", state: dict[str, Array]) -> None:
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
        "The state of this training env cannot be stored: it starts anew. Runs seed and reset it, so training goes on, "
        "but bit for bit only if nothing else in it outlives a reset.",
        stacklevel=5,  # the caller of load
    )
