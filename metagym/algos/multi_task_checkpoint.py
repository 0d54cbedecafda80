"""Saving a learner of many tasks, loading it, and resuming its training to the bit."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch as th
from gymnasium import spaces

from metagym.algos.multi_task_state import (
    forget_episode,
    prefixed,
    replay_contents,
    restore_env,
    restore_position,
    section,
    take_position,
)
from metagym.algos.reptile_env import is_builtin
from metagym.errors import CheckpointError, ConfigError, MetagymError
from metagym.learner_state import flatten_state, load_state, preserved_rng
from metagym.saving import decode, encode, read_archive, write_archive

if TYPE_CHECKING:
    from metagym.algos.multi_task import MultiTask

__all__ = ["load_agent", "save_agent"]

Agent = TypeVar("Agent", bound="MultiTask")
FAULTS = (
    KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError, AssertionError, RuntimeError
)  # fmt: skip


def save_agent(agent: "MultiTask", path: str | Path) -> None:
    """Write a checkpoint of everything that further training depends on.

    In the middle of a rollout, the learner is written as it stood at its beginning: what was collected since would be
    of no use without the rest.
    """
    stored = {name: getattr(agent, name) for name in agent.stored_arguments}
    stored |= {"policy": agent.policy_argument, "stats_window_size": agent._stats_window_size}
    stored |= {"observation_space": agent.observation_space, "action_space": agent.action_space}
    position = take_position(agent.learner) if agent._mark is None else agent._mark
    meta = {
        "kind": type(agent).__name__,
        "arguments": encode(stored),
        "env_id": agent.env_id,
        "n_envs": int(agent.n_envs),
        "seed": agent.seed,
        "position": position.meta,
    }
    arrays = dict(position.arrays)
    if agent._resumed_rng is not None:
        arrays |= prefixed("rng", agent._resumed_rng)
    arrays |= prefixed("replay", replay_contents(agent.learner))
    arrays |= prefixed("learner", flatten_state(agent.learner))
    write_archive(path, meta=meta, arrays=arrays)


def load_agent(
    cls: type[Agent], path: Path, env: Any, device: th.device | str, custom_objects: Mapping[str, Any] | None
) -> Agent:
    """Read a checkpoint. The process's random states stay as they are until the agent learns on."""
    meta, arrays = read_archive(path)
    if meta.get("kind") != cls.__name__:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {cls.__name__}")
    try:
        stored = decode(meta["arguments"], custom_objects)
        with preserved_rng():
            agent = _rebuild(cls, meta, stored, env, device)
            load_state(agent.learner, section("learner", arrays))
            restore_position(agent.learner, meta["position"], arrays)
            _resume_env(agent, section("env", arrays))
        agent.seed = meta["seed"]
        agent._resumed_rng = section("rng", arrays)
        agent._follow_learner()
    except MetagymError:
        raise
    except FAULTS as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return agent


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


def _resume_env(agent: "MultiTask", state: dict[str, Any]) -> None:
    if agent.env is None or not restore_env(agent.env, state):
        forget_episode(agent.learner)
        if agent.env is not None and agent.learner.num_timesteps:
            warnings.warn(
                "The state of this training env cannot be stored: it starts anew, so training goes on, but not bit for "
                "bit.",
                stacklevel=4,
            )
    buffer = vars(agent.learner).get("replay_buffer")
    if buffer is not None and agent.learner.num_timesteps and not replay_contents(agent.learner):
        warnings.warn(
            f"A {type(buffer).__name__} cannot be stored: it starts empty, so training goes on, but not bit for bit.",
            stacklevel=4,
        )
