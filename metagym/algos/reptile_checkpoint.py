"""Saving a Reptile meta-learner, loading it, and resuming its training to the bit."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch as th
from gymnasium import spaces

from metagym.algos.reptile_env import is_builtin, native_env, vec_env
from metagym.algos.reptile_normalize import (
    Normalization,
    flatten_statistics,
    normalized,
    restore_statistics,
    unflatten_statistics,
)
from metagym.errors import CheckpointError, ConfigError, MetagymError
from metagym.learner_state import (
    flatten_state,
    generator_state,
    get_rng_state,
    load_state,
    preserved_rng,
    set_generator_state,
)
from metagym.saving import decode, encode, read_archive, write_archive
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.reptile import Reptile

__all__ = ["load_agent", "save_agent"]

Agent = TypeVar("Agent", bound="Reptile")

KIND = "Reptile"
ARGUMENTS = (
    "learner_class", "learning_rate", "outer_optimizer", "outer_optimizer_kwargs", "inner_timesteps",
    "meta_batch_size", "inner_optimizer", "frozen", "n_workers", "learner_kwargs", "policy_kwargs", "env_kwargs",
    "split", "tensorboard_log", "verbose",
)  # fmt: skip
COUNTERS = (
    "num_timesteps", "_n_iterations", "_n_updates", "_total_timesteps", "_num_timesteps_at_start", "_entropy",
)  # fmt: skip


def save_agent(agent: "Reptile", path: str | Path) -> None:
    """Write a checkpoint of everything that further training depends on."""
    stored = {name: getattr(agent, name) for name in ARGUMENTS}
    stored |= {"policy": agent.policy_argument, "stats_window_size": agent._stats_window_size}
    stored |= {"observation_space": agent.observation_space, "action_space": agent.action_space}
    meta = {
        "kind": KIND,
        "arguments": encode(stored),
        "env_id": agent.env_id,
        "n_envs": int(agent.n_envs),
        "seed": agent.seed,
        "counters": {name: int(getattr(agent, name)) for name in COUNTERS},
        "action_rng": generator_state(agent.action_space.np_random),
    }
    settings, statistics = agent._normalization()
    meta["normalizers"] = encode([dict(keywords) for keywords in settings])
    arrays = _prefixed("learner", flatten_state(agent.learner)) | _prefixed("outer", agent._outer.arrays())
    arrays |= _prefixed("normalizer", flatten_statistics(statistics))
    arrays |= _prefixed("rng", get_rng_state() if agent._resumed_rng is None else agent._resumed_rng)
    native = native_env(agent.env)
    if native is not None and hasattr(native, "get_state"):
        arrays |= _prefixed("env", native.get_state())
    write_archive(path, meta=meta, arrays=arrays)


def load_agent(
    cls: type[Agent], path: Path, env: Any, device: th.device | str, custom_objects: Mapping[str, Any] | None
) -> Agent:
    """Read a checkpoint. The process's random states stay as they are until the agent learns on."""
    meta, arrays = read_archive(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {KIND}")
    try:
        stored = decode(meta["arguments"], custom_objects)
        statistics = unflatten_statistics(_part("normalizer", arrays))
        normalization = Normalization(decode(meta["normalizers"]), statistics)
        with preserved_rng():
            agent = _rebuild(cls, meta, stored, _normalized(env, meta, stored, normalization), device)
            load_state(agent.learner, _part("learner", arrays))
            agent._outer.load(_part("outer", arrays))
            agent._resumed_normalization = normalization
            if agent.env is not None:
                # Once more: setting up has reset the env, and what it saw then was counted.
                restore_statistics(agent.env, statistics)
            set_generator_state(agent.action_space.np_random, meta["action_rng"])
            _resume_env(agent, _part("env", arrays))
        for name in COUNTERS:
            setattr(agent, name, int(meta["counters"][name]))
        agent.seed = meta["seed"]
        agent._resumed_rng = _part("rng", arrays)
    except MetagymError:
        raise
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ValueError,
        ArithmeticError,
        AssertionError,
        RuntimeError,
    ) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return agent


def _normalized(env: Any, meta: Mapping[str, Any], stored: Mapping[str, Any], like: Normalization) -> Any:
    """The env that was passed, normalised as the training env was."""
    if env is None or not like.settings:
        return env
    return normalized(vec_env(env, n_envs=meta["n_envs"], split=stored["split"]), like, training=True)


def _rebuild(
    cls: type[Agent], meta: Mapping[str, Any], stored: dict[str, Any], env: Any, device: th.device | str
) -> Agent:
    observation_space, action_space = stored.pop("observation_space"), stored.pop("action_space")
    if not (isinstance(observation_space, spaces.Space) and isinstance(action_space, spaces.Space)):
        raise CheckpointError(f"spaces are stored as {observation_space!r} and {action_space!r}")
    if env is None and is_builtin(meta["env_id"], stored["env_kwargs"]):
        env = meta["env_id"]
    if not isinstance(env, str):
        stored["env_kwargs"] = None
    agent = cls(
        stored.pop("policy"),
        env,
        n_envs=meta["n_envs"] if isinstance(env, str) else None,
        device=device,
        _init_setup_model=False,
        **stored,
    )
    if env is None:
        agent.observation_space, agent.action_space = observation_space, action_space
        agent.n_envs = meta["n_envs"]
    elif (agent.observation_space, agent.action_space) != (observation_space, action_space):
        raise ConfigError(
            f"the env has spaces {agent.observation_space} and {agent.action_space}, but {observation_space} and "
            f"{action_space} were trained on"
        )
    # Without a seed: setting up with one would start all random streams again.
    agent._setup_model()
    return agent


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
        stacklevel=4,
    )


def _prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _part(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    start = f"{prefix}/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
