"""Saving an RL² learner, loading it, and resuming its training to the bit."""

import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metagym.algos.rl2_learners import other_kind
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import flatten_state, get_rng_state, load_state, preserved_rng
from metagym.rollout import env_layers
from metagym.saving import decode, encode, read_archive, write_archive
from metagym.types import Array
from metagym.wrappers.sb3 import VectorEnvAdapter

if TYPE_CHECKING:
    from metagym.algos.rl2 import RL2

__all__ = ["load_agent", "save_agent"]

Agent = TypeVar("Agent", bound="RL2")

KIND = "RL2"
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining")
MONITOR = ("episode_returns", "episode_lengths")


def save_agent(agent: "RL2", path: str | Path) -> None:
    """Write a checkpoint of everything that further training depends on."""
    source = agent._source
    meta: dict[str, Any] = {
        "kind": KIND,
        "settings": encode(agent._settings | {"learner_class": agent.learner_class}),
        "spaces": encode([agent.observation_space, agent.action_space]),
        "n_envs": int(agent.n_envs),
        "counters": {name: getattr(agent, name) for name in COUNTERS},
        "env": encode(
            {
                "id": source.env_id,
                "env_kwargs": source.env_kwargs,
                "split": source.split,
                "episodes_per_trial": source.episodes_per_trial,
                "steps_per_trial": source.steps_per_trial,
            }
        ),
        "episodes": [_plain(info) for info in agent.ep_info_buffer or ()],
        "successes": [float(success) for success in agent.ep_success_buffer or ()],
    }
    arrays = _prefixed("learner", flatten_state(agent)) | _prefixed("rollout", agent.get_rollout_state())
    arrays |= _prefixed("rng", get_rng_state() if agent._resumed_rng is None else agent._resumed_rng)
    arrays |= _prefixed("env", _env_state(agent.env))
    write_archive(path, meta=meta, arrays=arrays)


def load_agent(
    cls: type[Agent],
    path: str | Path,
    env: Any,
    device: th.device | str,
    custom_objects: Mapping[str, Any] | None,
    changes: Mapping[str, Any],
) -> Agent:
    """Read a checkpoint; the process's random states stay as they are until the learner learns."""
    meta, arrays = read_archive(path)
    other = other_kind(meta.get("kind"))
    if other is not None:
        loaded: Agent = other.load(path, env, device, custom_objects, **changes)
        return loaded
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {KIND}.")
    try:
        with preserved_rng():
            agent = _rebuild(cls, meta, env, decode(meta["settings"], custom_objects) | {**changes, "device": device})
        load_state(agent, _part("learner", arrays))
        for name in COUNTERS:
            setattr(agent, name, meta["counters"][name])
        _resume(agent, meta, arrays)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return agent


def _rebuild(cls: type[Agent], meta: Mapping[str, Any], env: Any, settings: dict[str, Any]) -> Agent:
    """A learner with the stored spaces and settings, whose parameters are still fresh."""
    source = decode(meta["env"])
    env_id = source.pop("id")
    env = env_id if env is None and _can_make(env_id) else env
    kwargs: dict[str, Any] = {}
    if isinstance(env, str):
        kwargs = source | {"n_envs": meta["n_envs"]}
    elif not isinstance(env, VecEnv):
        kwargs = {name: source[name] for name in ("episodes_per_trial", "steps_per_trial")}
    seed = settings.pop("seed", None)
    agent = cls(settings.pop("policy"), env, _init_setup_model=False, **kwargs, **settings)
    found = (agent.observation_space, agent.action_space) if env is not None else None
    stored = tuple(decode(meta["spaces"]))
    if found is None:
        agent.observation_space, agent.action_space = stored
        agent.n_envs = meta["n_envs"]
    elif found != stored:
        raise ConfigError(f"the env has spaces {found}; the learner was trained with {stored}.")
    agent._setup_model()
    # Only now: setting up with a seed would restart the process's random streams.
    agent.seed = agent._settings["seed"] = seed
    return agent


def _can_make(env_id: str | None) -> bool:
    if env_id is None or env_id in gym.registry:
        return env_id is not None
    warnings.warn(
        f"The learner was trained in {env_id!r}, which is not registered: it is loaded without an env. Import what "
        "registers it first, or pass env=.",
        stacklevel=5,
    )
    return False


def _resume(agent: "RL2", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    agent.ep_info_buffer = deque(meta["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(meta["successes"], maxlen=agent._stats_window_size)
    rollout, env_state = _part("rollout", arrays), _part("env", arrays)
    starts = rollout.get("last_episode_starts")
    same_rows = agent.env is None or starts is None or len(starts) == agent.n_envs
    if same_rows and _set_env_state(agent.env, env_state):
        agent.set_rollout_state(rollout)
    elif agent.env is not None and agent.num_timesteps:
        warnings.warn(
            "The state of this training env was not saved or cannot be restored: its trials start anew, so training "
            "goes on, but not bit for bit.",
            stacklevel=4,
        )
    agent._resumed_rng = _part("rng", arrays)


def _env_state(env: Any) -> dict[str, Array]:
    """State of the outermost native env inside, and of SB3's monitor."""
    arrays: dict[str, Array] = {}
    for layer in env_layers(env):
        if isinstance(layer, VecMonitor) and layer.episode_returns is not None:
            arrays |= {f"monitor/{name}": np.array(getattr(layer, name)) for name in MONITOR}
        if isinstance(layer, VectorEnvAdapter) and None not in layer._seeds:
            arrays["seeds"] = np.array(layer._seeds)  # given, and waiting for the first reset
        if hasattr(layer, "get_state") and hasattr(layer, "set_state"):
            return arrays | _prefixed("native", layer.get_state())
    return {}


def _set_env_state(env: Any, arrays: Mapping[str, Array]) -> bool:
    native = _part("native", arrays)
    if not native:
        return False
    for layer in env_layers(env):
        if isinstance(layer, VecMonitor):
            layer.reset()
            for name, array in _part("monitor", arrays).items():
                setattr(layer, name, array)
        if isinstance(layer, VectorEnvAdapter) and "seeds" in arrays:
            layer._seeds = arrays["seeds"].tolist()
        if hasattr(layer, "set_state"):
            layer.set_state(native)
            return True
    return False


def _prefixed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _part(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    start = f"{prefix}/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}


def _plain(info: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in info.items() if isinstance(value, int | float | np.number)}
