"""Saving and loading learners: what their checkpoints have in common.

A checkpoint is one archive of `metagym.saving`. Its ``meta["kind"]`` says which class loads it; the rest is the
arguments of the constructor, counters and arrays, each part under a prefix of its own.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from typing_extensions import Self, override

from metagym.algos.reptile_env import is_builtin
from metagym.encoding import decode, encode
from metagym.errors import CheckpointError, ConfigError, MetagymError
from metagym.learner_state import get_rng_state, preserved_rng, set_rng_state
from metagym.saving import read_archive, write_archive
from metagym.sections import prefixed, section
from metagym.types import Array

__all__ = [
    "Checkpointed", "blaming", "episode_records", "kept_rng", "require_kind", "restore_episode_records", "resume_rng",
]  # fmt: skip

# What an archive with the right members and wrong contents provokes.
_FAULTS = (
    KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError, AssertionError, RuntimeError
)  # fmt: skip


# --- what every learner's checkpoint does ----------------------------------------------------------------------------


def require_kind(path: str | Path, meta: Mapping[str, Any], kind: str) -> None:
    """Refuse the checkpoint of another class.

    Raises:
        CheckpointError: if it is one.
    """
    if meta.get("kind") != kind:
        raise CheckpointError(f"{path} is a checkpoint of {meta.get('kind')!r}, not of {kind}")


@contextmanager
def blaming(path: str | Path) -> Iterator[None]:
    """Report what goes wrong in the block as damage of a file, unless it is reported properly already.

    Raises:
        CheckpointError: in place of what malformed contents provoke.
    """
    try:
        yield
    except MetagymError:
        raise
    except _FAULTS as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error


def kept_rng(agent: Any) -> dict[str, Array]:
    """The random states that an agent goes on from: the process's, or those it was loaded with and has not set yet."""
    return prefixed("rng", get_rng_state() if agent._resumed_rng is None else agent._resumed_rng)


def resume_rng(agent: Any) -> None:
    """Set the process's random states to those that an agent was loaded with, once.

    Raises:
        CheckpointError: if they are none.
    """
    if agent._resumed_rng is not None:
        set_rng_state(agent._resumed_rng)
        agent._resumed_rng = None


def episode_records(learner: BaseAlgorithm) -> dict[str, list[Any]]:
    """What a learner's ``rollout/...`` averages over, as JSON can express it."""
    return {
        "episodes": [_numbers(info) for info in learner.ep_info_buffer or ()],
        "successes": [float(success) for success in learner.ep_success_buffer or ()],
    }


def restore_episode_records(learner: BaseAlgorithm, meta: Mapping[str, Any]) -> None:
    """Put back what `episode_records` returned."""
    window = learner._stats_window_size
    learner.ep_info_buffer = deque(meta["episodes"], maxlen=window)
    learner.ep_success_buffer = deque(meta["successes"], maxlen=window)


def _numbers(info: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in info.items() if isinstance(value, int | float | np.number)}


# --- learners around a learner ---------------------------------------------------------------------------------------


class Checkpointed(BaseAlgorithm):
    """What learners with a learner of Stable-Baselines3 inside share: its policies' names, and their checkpoints.

    A subclass lists the arguments that a checkpoint stores, and says in `_contents` and `_restore` what its training
    depends on besides.

    Attributes:
        learner: the learner inside.
        learner_class: its class.
        policy_argument: the policy, as the constructor was given it.
        stored_arguments: names of the constructor's keywords that a checkpoint stores, each also an attribute.
    """

    learner: BaseAlgorithm
    learner_class: type[BaseAlgorithm]
    policy_argument: str | type[BasePolicy]
    env_id: str | None
    stored_arguments: ClassVar[tuple[str, ...]] = ()
    _resumed_rng: dict[str, Array] | None

    @override
    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        aliases = self.learner_class.policy_aliases
        if policy_name not in aliases:
            raise ConfigError(f"{self.learner_class.__name__} has no policy {policy_name!r}; it has {sorted(aliases)}")
        return aliases[policy_name]

    @override
    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = self.learner._get_torch_save_params()
        return [f"learner.{name}" for name in parts], [f"learner.{name}" for name in variables]

    @override
    def save(self, path: Any, exclude: Any = None, include: Any = None) -> None:
        """Write a checkpoint in metagym's format, from which `load` resumes training to the bit.

        Everything is in it that further training depends on, also the replay buffer of a learner that keeps one
        between two calls of `learn`.

        Args:
            path: where; ``.zip`` is appended if there is no suffix.
            exclude: not supported; there because SB3 has it.
            include: not supported.

        Raises:
            ConfigError: if the folder cannot be written to.
        """
        if exclude or include:
            raise ConfigError("a metagym checkpoint has fixed contents: exclude and include are not supported")
        stored = {name: getattr(self, name) for name in self.stored_arguments}
        stored |= {"policy": self.policy_argument, "stats_window_size": self._stats_window_size}
        stored |= {"observation_space": self.observation_space, "action_space": self.action_space}
        meta = {
            "kind": self._kind(),
            "arguments": encode(stored),
            "env_id": self.env_id,
            "n_envs": int(self.n_envs),
            "seed": self.seed,
        }
        own, arrays = self._contents()
        write_archive(path, meta=meta | own, arrays=arrays)

    @classmethod
    @override
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Read a checkpoint; nothing in it is executed.

        Training goes on with ``learn(n, reset_num_timesteps=False)`` as if it had never stopped: what was learnt and
        is remembered, optimisers, counters, the process's random states (set when `learn` starts) and metagym's own
        envs continue to the bit. Another env starts anew, and a warning says so. Ids of metagym's families are made
        again; for any other env, pass it.

        Args:
            path: the file.
            env: what to go on learning in.
            device: of the learner.
            custom_objects: what a file cannot hold, by name; the error says which.
            print_system_info: ignored; there because SB3 has it.
            force_reset: ignored.
            **kwargs: none.

        Raises:
            CheckpointError: if there is no such file, it is damaged, of another kind, or needs `custom_objects`.
            ConfigError: if `env` does not fit.
        """
        if kwargs:
            raise ConfigError(f"load does not take {sorted(kwargs)}; use custom_objects to change what is stored")
        meta, arrays = read_archive(path)
        require_kind(path, meta, cls._kind())
        with blaming(path):
            stored = decode(meta["arguments"], custom_objects)
            with preserved_rng():
                agent = cls._rebuild(meta, stored, cls._env_like(env, meta, stored, arrays), device)
                agent._restore(meta, arrays)
            agent.seed = meta["seed"]
            agent._resumed_rng = section("rng", arrays)
        return agent

    @classmethod
    def _kind(cls) -> str:
        """What a checkpoint says it is of."""
        return cls.__name__

    @classmethod
    def _env_like(
        cls, env: Any, meta: Mapping[str, Any], stored: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> Any:
        """The env passed to `load`, made like the one trained in."""
        del meta, stored, arrays
        return env

    @abstractmethod
    def _contents(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """What further training depends on besides the arguments: what JSON can express, and arrays."""

    @abstractmethod
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Put back what `_contents` returned, in a learner made of the same arguments. Called by `load` itself."""

    @classmethod
    def _rebuild(cls, meta: Mapping[str, Any], stored: dict[str, Any], env: Any, device: th.device | str) -> Self:
        """A learner with the stored arguments and spaces, whose parameters are still fresh."""
        observation_space, action_space = stored.pop("observation_space"), stored.pop("action_space")
        if not (isinstance(observation_space, spaces.Space) and isinstance(action_space, spaces.Space)):
            raise CheckpointError(f"spaces are stored as {observation_space!r} and {action_space!r}")
        if env is None and is_builtin(meta["env_id"], stored["env_kwargs"]):
            env = meta["env_id"]
        if not isinstance(env, str):
            stored["env_kwargs"] = None
        make: Any = cls  # the subclasses' signature, not BaseAlgorithm's
        agent: Self = make(
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
