"""Saving an RL² learner, loading it, and resuming its training to the bit."""

import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metagym.algos.rl2_env import env_layers
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import flatten_state, get_rng_state, load_state, preserved_rng, set_rng_state
from metagym.saving import decode, encode, read_archive, write_archive
from metagym.types import Array

if TYPE_CHECKING:
    from metagym.algos.rl2 import RL2

__all__ = ["load_agent", "save_agent"]

Agent = TypeVar("Agent", bound="RL2")

KIND = "RL2"
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining")
MONITOR = ("episode_returns", "episode_lengths")


def save_agent(agent: "RL2", path: str | Path, *, resume: bool) -> None:
    """Write a checkpoint of `agent`; with `resume`, everything that its further training depends on."""
    source = agent._source
    meta: dict[str, Any] = {
        "kind": KIND,
        "learner_class": encode(agent.learner_class),
        "settings": encode(agent._settings),
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
        "resume": None,
    }
    arrays = _prefixed("learner", flatten_state(agent))
    if resume:
        meta["resume"] = {
            "episodes": [_plain(info) for info in agent.ep_info_buffer or ()],
            "successes": [float(success) for success in agent.ep_success_buffer or ()],
        }
        arrays |= _prefixed("rng", get_rng_state()) | _prefixed("rollout", agent.get_rollout_state())
        arrays |= _prefixed("env", _env_state(agent.env))
    write_archive(path, meta=meta, arrays=arrays)


def load_agent(
    cls: type[Agent],
    path: str | Path,
    env: Any,
    device: th.device | str,
    custom_objects: Mapping[str, Any] | None,
) -> Agent:
    """Read a checkpoint; the process's random states change only if it was saved to resume."""
    meta, arrays = read_archive(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {KIND}.")
    try:
        with preserved_rng():
            agent = _rebuild(cls, meta, env, device, custom_objects)
        load_state(agent, _part("learner", arrays))
        for name in COUNTERS:
            setattr(agent, name, meta["counters"][name])
        if meta["resume"] is not None:
            _resume(agent, meta["resume"], arrays)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return agent


def _rebuild(
    cls: type[Agent],
    meta: Mapping[str, Any],
    env: Any,
    device: th.device | str,
    custom_objects: Mapping[str, Any] | None,
) -> Agent:
    settings = decode(meta["settings"], custom_objects)
    stored = decode(meta["env"])
    env_id = stored.pop("id")
    observation_space, action_space = decode(meta["spaces"])
    if env is None:
        env = env_id
    kwargs: dict[str, Any] = {}
    if isinstance(env, str):
        kwargs = stored | {"n_envs": meta["n_envs"]}
    elif not isinstance(env, VecEnv):
        kwargs = {name: stored[name] for name in ("episodes_per_trial", "steps_per_trial")}
    seed = settings.pop("seed", None)
    agent = cls(
        settings.pop("policy"),
        env,
        learner_class=decode(meta["learner_class"]),
        _init_setup_model=False,
        **kwargs,
        **settings | {"device": device},
    )
    if env is None:
        agent.observation_space, agent.action_space = observation_space, action_space
        agent.n_envs = meta["n_envs"]
    elif (agent.observation_space, agent.action_space) != (observation_space, action_space):
        raise ConfigError(
            f"the env has spaces {agent.observation_space}, {agent.action_space}; "
            f"the learner was trained with {observation_space}, {action_space}."
        )
    agent._setup_model()
    # Only now: setting up with a seed would restart the process's random streams.
    agent.seed = agent._settings["seed"] = seed
    return agent


def _resume(agent: "RL2", buffers: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    agent.ep_info_buffer = deque(buffers["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(buffers["successes"], maxlen=agent._stats_window_size)
    rollout, env_state = _part("rollout", arrays), _part("env", arrays)
    same_rows = agent.env is None or "last_obs" not in rollout or len(rollout["last_obs"]) == agent.n_envs
    if same_rows and _set_env_state(agent.env, env_state):
        agent.set_rollout_state(rollout)
    elif agent.env is not None:
        warnings.warn(
            "The state of this training env was not saved or cannot be restored: its trials start anew, so training "
            "goes on, but not bit for bit.",
            stacklevel=4,
        )
    set_rng_state(_part("rng", arrays))


def _env_state(env: Any) -> dict[str, Array]:
    """State of the outermost native env inside, and of SB3's monitor."""
    arrays: dict[str, Array] = {}
    for layer in env_layers(env):
        if isinstance(layer, VecMonitor) and layer.episode_returns is not None:
            arrays |= {f"monitor/{name}": np.array(getattr(layer, name)) for name in MONITOR}
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
