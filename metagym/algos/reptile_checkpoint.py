"""What a Reptile meta-learner's training depends on besides its arguments: taken, and put back to the bit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metagym.algos.iterative import resume_training, training_state
from metagym.algos.reptile_env import vec_env
from metagym.algos.reptile_normalize import (
    Normalization,
    flatten_statistics,
    normalized,
    restore_statistics,
    unflatten_statistics,
)
from metagym.encoding import decode, encode
from metagym.learner_state import flatten_state, load_state
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


def contents(agent: "Reptile") -> tuple[dict[str, Any], dict[str, Array]]:
    """Everything that further training depends on: what JSON can express, and arrays."""
    settings, statistics = agent._normalization()
    meta, arrays = training_state(agent)
    meta["normalizers"] = encode([dict(keywords) for keywords in settings])
    arrays |= prefixed("learner", flatten_state(agent.learner)) | prefixed("outer", agent._outer.arrays())
    return meta, arrays | prefixed("normalizer", flatten_statistics(statistics))


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
    resume_training(agent, meta, arrays)


def _normalization(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Normalization:
    return Normalization(decode(meta["normalizers"]), unflatten_statistics(section("normalizer", arrays)))
