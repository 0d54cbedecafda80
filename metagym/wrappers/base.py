"""What metagym's wrappers share: one class over scalar envs, one over rows, and the choice between them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import ArrayLike
from typing_extensions import override

from metagym.distributions import TaskDistribution
from metagym.engine import RowsVectorEnv
from metagym.engine.autoreset import RowStep
from metagym.engine.drivers import PlayableFamily
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.types import Array, Bool, Int

__all__ = ["RowsWrapper", "TaskWrapper", "rows_layers"]


def rows_layers(env: RowsVectorEnv) -> Iterator[RowsVectorEnv]:
    """The env and all that it wraps, from the outside."""
    layer: RowsVectorEnv | None = env
    while layer is not None:
        yield layer
        layer = layer.env if isinstance(layer, RowsWrapper) else None


class RowsWrapper(RowsVectorEnv):
    """A wrapper of metagym's vector env that is such an env itself: only the outermost one resets by itself.

    Args:
        env: metagym's vector env, or a wrapper like this one around it.
        observation_space: of one row; that of `env` by default.

    Raises:
        ConfigError: if `env` is another vector env.
    """

    own_attributes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, env: RowsVectorEnv, observation_space: spaces.Space[Any] | None = None) -> None:
        if not isinstance(env, RowsVectorEnv):
            self.closed = True  # nothing was opened; Gymnasium before 1.4 closes whatever is deleted
            name = type(self).__name__.removeprefix("Vector")
            raise ConfigError(
                f"{name} over {type(env).__name__} is not accepted: wrap the envs inside "
                f"(SyncVectorEnv([lambda: {name}(gym.make(...))] * n)), or use gym.make_vec(id, num_envs=n), "
                "with Gymnasium's own vector wrappers outside"
            )
        space = env.single_observation_space if observation_space is None else observation_space
        super().__init__(env.num_envs, space, env.single_action_space, env.autoreset_mode)
        self.env: Any = env
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode, self.spec = env.render_mode, env.spec

    # --- rows --------------------------------------------------------------------------------------------------

    @override
    def step_rows(self, actions: Array, active: Bool | None) -> RowStep:
        step: RowStep = self.env.step_rows(actions, active)
        return step

    @override
    def reset_rows(
        self, rows: Int, *, tasks: list[Task | None] | None = None, repeat_task: bool = False
    ) -> dict[str, Any]:
        info: dict[str, Any] = self.env.reset_rows(rows, tasks=tasks, repeat_task=repeat_task)
        return info

    @override
    def observe_rows(self, rows: Int | None) -> Array:
        observation: Array = self.env.observe_rows(rows)
        return observation

    @override
    def seed_rows(self, rows: Int, seeds: list[int]) -> None:
        self.env.seed_rows(rows, seeds)

    @override
    def coerce(self, task: Any) -> Task:
        coerced: Task = self.env.coerce(task)
        return coerced

    # --- tasks -------------------------------------------------------------------------------------------------

    @property
    @override
    def unwrapped(self) -> Any:
        """The `TaskVectorEnv` inside."""
        return self.env.unwrapped

    @property
    def family(self) -> PlayableFamily:
        """The family of all rows."""
        family: PlayableFamily = self.env.family
        return family

    @property
    def task_distribution(self) -> TaskDistribution:
        """What resets draw tasks from."""
        distribution: TaskDistribution = self.env.task_distribution
        return distribution

    @property
    def single_task_space(self) -> spaces.Dict:
        """The space of one row's task."""
        space: spaces.Dict = self.env.single_task_space
        return space

    def set_tasks(self, tasks: Sequence[Task | None], env_ids: ArrayLike | None = None) -> None:
        """Pin the tasks of all later trials, from each row's next reset on; see `TaskVectorEnv.set_tasks`."""
        self.env.set_tasks(tasks, env_ids)

    def get_tasks(self) -> tuple[Task, ...]:
        """The tasks being played."""
        tasks: tuple[Task, ...] = self.env.get_tasks()
        return tasks

    def sample_tasks(self, n: int) -> list[Task]:
        """Tasks from a stream of their own: no trajectory changes."""
        tasks: list[Task] = self.env.sample_tasks(n)
        return tasks

    # --- access by name ----------------------------------------------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row, or read an attribute: one result a row."""
        if name == "observation_space":
            return (self.single_observation_space,) * self.num_envs
        if name in self.own_attributes:
            return (getattr(self, name),) * self.num_envs
        results: tuple[Any, ...] = self.env.call(name, *args, **kwargs)
        return results

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of every row."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every row; only "task" can be set."""
        self.env.set_attr(name, values)

    @override
    def render(self) -> tuple[Any, ...]:
        frames: tuple[Any, ...] = self.env.render()
        return frames

    @override
    def close_extras(self, **kwargs: Any) -> None:
        self.env.close(**kwargs)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Array]:
        """The arrays of this wrapper, under names that no other wrapper uses; they themselves, not copies."""
        return {}

    def get_state(self) -> dict[str, Array]:
        """Everything that decides the future of the env, as a flat dict of arrays."""
        arrays: dict[str, Array] = self.env.get_state()
        arrays |= {name: array.copy() for name, array in self.own_state().items()}
        arrays.pop("finished", None)
        if self._finished is not None:
            arrays["finished"] = self._finished.copy()
        return arrays

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` of an env made and wrapped alike returned."""
        self.env.set_state(arrays)
        for name, array in self.own_state().items():
            array[...] = arrays[name]
        self._finished = arrays["finished"].copy() if "finished" in arrays else None


class TaskWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A wrapper of a scalar env with tasks, which stays an env with tasks.

    Called with metagym's vector env it makes the wrapper of that kind, `rows_type`. Subclasses pass their own
    keywords on, so that ``gym.make(env.spec)`` makes the wrapped env again.

    Args:
        env: an env whose innermost one has `set_task` and `task_space`; Gymnasium's wrappers may lie between.
        **recorded: the keywords of the subclass.

    Raises:
        ConfigError: if `env` is no env, or has no tasks.
    """

    rows_type: ClassVar[type[RowsWrapper]]

    def __new__(cls, env: Any = None, **kwargs: Any) -> Any:
        """The wrapper of the right kind; `env` is missing when pickle makes one."""
        if isinstance(env, VectorEnv):
            return cls.rows_type(env, **kwargs)  # type: ignore[arg-type]
        return super().__new__(cls)

    def __init__(self, env: gym.Env[Any, Any], **recorded: Any) -> None:
        if not isinstance(env, gym.Env):
            raise ConfigError(
                f"{type(self).__name__} needs a gymnasium.Env or metagym's vector env, got {type(env).__name__}"
            )
        if not (env.has_wrapper_attr("set_task") and env.has_wrapper_attr("task_space")):
            raise ConfigError(f"{type(self).__name__} needs an env with tasks: {env} has no set_task and task_space")
        gym.utils.RecordConstructorArgs.__init__(self, **recorded)
        super().__init__(env)

    @property
    def family(self) -> PlayableFamily:
        """The family of the env."""
        family: PlayableFamily = self.env.get_wrapper_attr("family")
        return family

    @property
    def task_space(self) -> spaces.Dict:
        """The space of tasks."""
        space: spaces.Dict = self.env.get_wrapper_attr("task_space")
        return space

    @property
    def task_distribution(self) -> TaskDistribution:
        """What resets draw tasks from."""
        distribution: TaskDistribution = self.env.get_wrapper_attr("task_distribution")
        return distribution

    def sample_task(self) -> Task:
        """A task from a stream of its own: no trajectory changes."""
        task: Task = self.env.get_wrapper_attr("sample_task")()
        return task

    def sample_tasks(self, n: int) -> list[Task]:
        """A list of n tasks from the same stream."""
        tasks: list[Task] = self.env.get_wrapper_attr("sample_tasks")(n)
        return tasks

    def set_task(self, task: Task | Mapping[str, ArrayLike] | None) -> None:
        """Pin the task of all later trials, from the next reset on; None unpins."""
        self.env.get_wrapper_attr("set_task")(task)

    def get_task(self) -> Task:
        """The task being played."""
        task: Task = self.env.get_wrapper_attr("get_task")()
        return task

    @property
    def task(self) -> Task | None:
        """The task being played, None before the first reset; setting it is `set_task`."""
        task: Task | None = self.env.get_wrapper_attr("task")
        return task

    @task.setter
    def task(self, task: Task | Mapping[str, ArrayLike] | None) -> None:
        self.set_task(task)
