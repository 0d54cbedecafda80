"""A family whose dynamics are somebody else's: tasks as metagym has them, and an env to put them into."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from typing_extensions import Self, override

from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError
from metagym.family import Params, TaskFamily
from metagym.foreign.application import check_application
from metagym.foreign.env import ForeignEnv
from metagym.foreign.ids import register_family
from metagym.foreign.vector import ForeignVectorEnv
from metagym.tasks import Task
from metagym.types import Array

__all__ = ["ForeignFamily", "accept_spaces"]

_OBSERVED = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class _UnknownModeError(ConfigError, TypeError):
    """A TypeError too: Stable-Baselines3 makes every id to be drawn in pixels first, and takes that for an answer."""


class ForeignFamily(TaskFamily[Params]):
    """A set of tasks over envs that metagym did not write.

    Subclasses set the attributes below, and those of `TaskFamily`, and implement `enter`. Users get envs from `make`
    and `make_vec`, or from the id that `register` gives.

    Attributes:
        observation_space: of one env: `Box`, `Discrete`, `MultiDiscrete` or `MultiBinary`.
        action_space: likewise.
        episode_length: steps after which an episode is truncated, if the env has not done so.
        has_success: whether infos hold `is_success`.
        success_key: the key of the env's own infos that says so.
        info_schema: the other keys of the env's infos that are passed on, with zeros of their dtypes and shapes.
        metadata: render modes and frames a second.
        applies_always: whether a task is applied before every episode; else where it differs from the one before.
        num_initial_draws: uniforms that a reset consumes: the seed of the episode.
        num_step_draws: uniforms that a step consumes.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episode_length: int
    has_success: bool = False
    success_key: str | None = None
    info_schema: Mapping[str, Array]
    metadata: Mapping[str, Any]
    applies_always: bool = False
    num_initial_draws: int = 1
    num_step_draws: int = 1

    @abstractmethod
    def enter(
        self, env: gym.Env[Any, Any] | None, fields: Mapping[str, Array], render_mode: str | None
    ) -> gym.Env[Any, Any]:
        """The env that plays a task, not reset yet.

        Args:
            env: the env that played the task before, to be changed or closed; None if there is none.
            fields: the task.
            render_mode: of an env that is made.
        """

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, fields={list(self.structural)})"

    def reset_seed(self, fields: Mapping[str, Array], seed: int) -> int:
        """What the env is reset with, where the row's stream says `seed`."""
        del fields
        return seed

    def reference(self, fields: Mapping[str, Array]) -> gym.Env[Any, Any]:
        """A freshly built env of a task, made without using `enter` on another: what `check_application` compares."""
        return self.enter(None, fields, None)

    def stale(self, fields: Mapping[str, Array]) -> list[str]:
        """What an env that was given the task holds, and a freshly built one does not, as sentences."""
        del fields
        return []

    def overwritten(self, env: gym.Env[Any, Any], fields: Mapping[str, Array]) -> list[str]:
        """What of the task an env has lost since it was given it, by name."""
        del env, fields
        return []

    def distribution(self, split: str | None = None) -> TaskDistribution:
        """The distribution of the tasks, or its part: "train", "test" or "ood"."""
        return TaskDistribution(self).part(split)

    def make(
        self,
        *,
        split: str | None = "train",
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> ForeignEnv:
        """A scalar env with tasks.

        Args:
            split: what resets draw tasks from: "train", "test", "ood", or None for all.
            render_mode: of the env inside.
            reveal_task: put copies of the task's fields into the info under "task".
            distribution: draw from this one instead of the split.
        """
        return ForeignEnv(
            self, split=split, render_mode=render_mode, reveal_task=reveal_task, distribution=distribution
        )

    def make_vec(
        self,
        num_envs: int = 1,
        *,
        split: str | None = "train",
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        reveal_task: bool = False,
        distribution: TaskDistribution | None = None,
    ) -> ForeignVectorEnv:
        """N of them as a vector env, in this process; the keywords of `make` and of `TaskVectorEnv`."""
        return ForeignVectorEnv(
            self,
            num_envs,
            split=split,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            reveal_task=reveal_task,
            distribution=distribution,
        )

    def register(self, id: str) -> Self:  # noqa: A002 (Gymnasium's name)
        """Give the family a name for `gymnasium.make` and `gymnasium.make_vec`, in this process.

        Args:
            id: such as "MetaLunarLander-v0". A family that had it before loses it.

        Returns:
            The family.

        Raises:
            ConfigError: if the id belongs to another kind of env.
        """
        register_family(id, self)
        return self

    def check_application(
        self,
        *,
        tasks: Sequence[Task] | None = None,
        num_tasks: int = 4,
        num_steps: int = 64,
        seed: int = 0,
    ) -> None:
        """Prove on examples that after a task is applied an env equals a freshly built one with that task.

        Args:
            tasks: the tasks to go through, each after the one before it; drawn by default.
            num_tasks: how many are drawn.
            num_steps: random steps that are compared.
            seed: of tasks, episodes and actions.

        Raises:
            ConfigError: naming what differs.
        """
        if tasks is None:
            tasks = self.distribution().sample(np.random.default_rng(seed), num_tasks)
        check_application(self, tasks, num_steps=num_steps, seed=seed)

    def check_render_mode(self, mode: str | None) -> str | None:
        """Refuse a render mode that the envs do not have.

        Raises:
            ConfigError: if it is neither None nor one of theirs.
        """
        accepted = list(self.metadata.get("render_modes", []))
        if mode is not None and mode not in accepted:
            raise _UnknownModeError(f"render_mode={mode!r} is unknown to {self.name}; accepted are None and {accepted}")
        return mode


def accept_spaces(name: str, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
    """Refuse spaces whose values are not arrays of one shape.

    Raises:
        ConfigError: naming the space and what is accepted.
    """
    if not isinstance(observation, _OBSERVED):
        raise ConfigError(
            f"{name} observes {observation}; accepted are Box, Discrete, MultiDiscrete and MultiBinary: say what the "
            "agent is to see, as wrappers=[gymnasium.wrappers.FlattenObservation] or with a wrapper of the env's own"
        )
    if not isinstance(action, _OBSERVED):
        raise ConfigError(f"{name} acts in {action}; accepted are Box, Discrete, MultiDiscrete and MultiBinary")
    if isinstance(action, spaces.Discrete) and action.start != 0:
        raise ConfigError(f"{name} acts in {action}; a Discrete action space must start at 0 (TransformAction helps)")
