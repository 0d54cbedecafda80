"""Saving an RL² learner with a window, loading it, and resuming its training to the bit."""

import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch as th

from metagym.algos.rl2_checkpoint import _env_state, _part, _plain, _prefixed, _rebuild, _set_env_state
from metagym.errors import CheckpointError, MetagymError
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
from metagym.window_replay import WindowReplayBuffer

if TYPE_CHECKING:
    from metagym.algos.rl2_window import WindowRL2

__all__ = ["KIND", "load_agent", "save_agent"]

Agent = TypeVar("Agent", bound="WindowRL2")

KIND = "WindowRL2"
"""What a checkpoint says it is of: the class that loads it."""

COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining")
OWN_COUNTERS = ("_n_calls", "exploration_rate")


def save_agent(agent: "WindowRL2", path: str | Path, *, with_buffer: bool) -> None:
    """Write a checkpoint of everything that further training depends on."""
    source = agent._source
    names = (*COUNTERS, *(name for name in OWN_COUNTERS if hasattr(agent, name)))
    meta: dict[str, Any] = {
        "kind": KIND,
        "settings": encode(agent._settings | {"learner_class": agent.learner_class}),
        "spaces": encode([agent.observation_space, agent.action_space]),
        "n_envs": int(agent.n_envs),
        "counters": {name: getattr(agent, name) for name in names},
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
        "action_rng": generator_state(agent.action_space.np_random),
    }
    arrays = _prefixed("learner", flatten_state(agent))
    arrays |= _prefixed("rng", get_rng_state() if agent._resumed_rng is None else agent._resumed_rng)
    buffer = getattr(agent, "replay_buffer", None)
    if with_buffer and isinstance(buffer, WindowReplayBuffer):
        arrays |= _prefixed("buffer", buffer.get_state())
    if agent.is_whole:
        arrays |= _prefixed("rollout", agent.get_rollout_state()) | _prefixed("env", _env_state(agent.env))
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
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {KIND}.")
    try:
        settings = decode(meta["settings"], custom_objects) | {**changes, "device": device}
        with preserved_rng():
            agent: Agent = _rebuild(cls, meta, env, settings)  # type: ignore[type-var]
        load_state(agent, _part("learner", arrays))
        for name, value in meta["counters"].items():
            if name not in {*COUNTERS, *OWN_COUNTERS}:
                raise CheckpointError(f"{path} holds the unknown counter {name!r}.")
            setattr(agent, name, value)
        set_generator_state(agent.action_space.np_random, meta["action_rng"])
        _resume(agent, meta, arrays)
    except MetagymError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return agent


def _resume(agent: "WindowRL2", meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    agent.ep_info_buffer = deque(meta["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(meta["successes"], maxlen=agent._stats_window_size)
    buffer, stored = getattr(agent, "replay_buffer", None), _part("buffer", arrays)
    if stored and isinstance(buffer, WindowReplayBuffer) and meta["n_envs"] == agent.n_envs:
        buffer.set_state(stored)
    rollout = _part("rollout", arrays)
    same_rows = agent.env is None or not rollout or len(rollout["windows"]) == agent.n_envs
    if rollout and same_rows and _set_env_state(agent.env, _part("env", arrays)):
        agent.set_rollout_state(rollout)
    elif agent.env is not None and agent.num_timesteps:
        warnings.warn(
            "The state of this training env was not saved or cannot be restored: its trials start anew, so training "
            "goes on, but not bit for bit.",
            stacklevel=4,
        )
    agent._resumed_rng = _part("rng", arrays)
