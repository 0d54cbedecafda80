"""The contract of a family: physics of N tasks at once, in NumPy, and nothing else.

A family knows its tasks, its spaces and its dynamics. It knows nothing of autoreset, truncation, seeding, batching
or display: `metagym.engine` drives the same code as one `gymnasium.Env` or as N rows of a `VectorEnv`. Row i of
every result may depend on row i of the arguments only. Elementwise ufuncs, `einsum`, fancy indexing and reductions
over a contiguous last axis keep that exactly; a 2-D ``@`` or a sum over rows does not.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from typing_extensions import NamedTuple, Self

from metagym.errors import TaskError
from metagym.tasks import Task
from metagym.types import Array, Bool, Float

__all__ = ["Family", "Params", "Region", "Step", "TaskFamily"]

Region: TypeAlias = Literal["train", "ood"]
StateT = TypeVar("StateT", bound=tuple[Any, ...])
ParamsT = TypeVar("ParamsT", bound="Params")


@dataclasses.dataclass(frozen=True)
class Params:
    """Columns of N tasks: each field an array whose first axis is N. Derived quantities are properties, not fields."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the free parameters, in order of declaration."""
        return _field_names(cls)  # type: ignore[arg-type]  # mypy takes the hash of instances for that of the class

    def columns(self) -> dict[str, Array]:
        """Name to column; the arrays themselves, not copies."""
        return {name: getattr(self, name) for name in self.names()}

    def __len__(self) -> int:
        return len(getattr(self, self.names()[0]))

    def take(self, rows: Array) -> Self:
        """The tasks at `rows` (indices or a mask), copied."""
        return type(self)(**{name: column[rows] for name, column in self.columns().items()})

    def put(self, rows: Array, source: Self) -> None:
        """Write the tasks of `source`, in order, into `rows` of these columns."""
        for name, column in self.columns().items():
            column[rows] = getattr(source, name)


@cache
def _field_names(params_type: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(params_type))


class Step(NamedTuple, Generic[StateT]):
    """What one step of N rows leads to."""

    state: StateT
    """New state: a NamedTuple of arrays with first axis N, freshly allocated."""
    reward: Float
    """Rewards, (N,)."""
    terminated: Bool
    """Whether the episode ended by the rules of the task (never by a time limit), (N,)."""
    success: Bool | None = None
    """Whether the task was solved at this step, (N,); None in families that define no success."""


class TaskFamily(ABC, Generic[ParamsT]):
    """A set of tasks: what they are, how they are drawn, and what the best return is. Nothing about dynamics.

    Attributes:
        name: the family's name; tasks carry it.
        params_type: the dataclass of task columns.
        structural: fields whose hash decides between train and test (a lake's map, not its slip).
        task_space: `spaces.Dict` with one entry for each field of `params_type`: the support.
        num_structure_draws: uniforms that `draw_structure` consumes for each task.
        num_detail_draws: uniforms that `draw_details` consumes for each task; 0 says that details are the same for all.
        num_ood_detail_draws: the same in the "ood" region; None: no other number.
        unsplit: why there is no "test" part, where tasks are too few to hold any out (forwards and backwards): "train"
            is then all of them, and "test" is refused with this reason. None where there is one.
    """

    name: str
    params_type: type[Any]
    structural: tuple[str, ...]

    task_space: spaces.Dict
    num_structure_draws: int
    num_detail_draws: int = 0
    num_ood_detail_draws: int | None = None
    unsplit: str | None = None

    # --- tasks -------------------------------------------------------------------------------------------------

    @abstractmethod
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        """Propose the structural fields of n tasks.

        Args:
            noise: uniforms in [0, 1), (n, num_structure_draws).
            region: "train" for the published distribution, "ood" for the stated region outside its support.

        Returns:
            Field name to column, for the structural fields.
        """

    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        """Draw the other fields of n tasks from uniforms, one column for each draw; none by default."""
        del noise, region
        return {}

    def accept(self, structure: Mapping[str, Array]) -> Bool | None:
        """Which of n proposed structures are tasks at all (a lake with a path), (n,); None if all are."""
        del structure
        return None

    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        """Every structure of the "train" region with its probability, where they are few (at most about 2**16).

        The distribution then draws from this table instead of rejecting proposals, and splits are exact. None if the
        structures are too many or continuous.
        """
        return None

    def normalize(self, fields: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        """Accept other spellings of a task (the rows of a lake as text) before it is validated."""
        return fields

    def check(self, params: ParamsT) -> None:
        """Refuse a single task (N = 1) that lies in `task_space` but makes no sense.

        Raises:
            TaskError: naming the field, the value and what is accepted.
        """
        del params

    def params_of(self, tasks: Sequence[Task]) -> ParamsT:
        """N tasks of this family as columns.

        Raises:
            TaskError: if a task is of another family or of another shape.
        """
        for task in tasks:
            if task.family != self.name:
                raise TaskError(f"a task of family {task.family!r} was given to family {self.name!r}")
        columns = {}
        for name in self.params_type.names():
            space = self.task_space[name]
            for task in tasks:
                if name not in task or task[name].shape != space.shape:
                    given = f"has shape {task[name].shape}" if name in task else "is missing"
                    raise TaskError(f"{name} {given}, this {self.name} accepts shape {space.shape}")
            columns[name] = np.array([task[name] for task in tasks], dtype=space.dtype)
        params: ParamsT = self.params_type(**columns)
        return params

    # --- limits ------------------------------------------------------------------------------------------------

    def optimal_return(self, params: ParamsT) -> Float | None:
        """Expected undiscounted return of one episode for an agent that knows the task, (N,); None if unknown."""
        del params
        return None

    def random_return(self, params: ParamsT) -> Float | None:
        """Expected undiscounted return of one episode for uniformly random actions, (N,); None if not computable."""
        del params
        return None

    def bayes_return(self, num_episodes: int) -> Float | None:
        """Expected undiscounted return of each episode of a trial for the Bayes-optimal agent, (num_episodes,).

        That agent knows the "train" region's distribution of tasks, whole (no split), but not the task, and maximises
        the return of the trial. Not all families can compute it.

        Returns:
            Exact values, or None where this family has no feasible computation.
        """
        del num_episodes
        return None


class Family(TaskFamily[ParamsT], Generic[StateT, ParamsT]):
    """A set of tasks that share spaces, and their dynamics.

    Subclasses set the attributes below, and those of `TaskFamily`, in ``__init__`` and implement the methods.

    Attributes:
        has_success: whether `step` fills `Step.success`.
        initial_needs_task: whether `initial` looks at the tasks; if not, it may be handed the columns of other rows.
        observe_needs_task: the same of `observe`.
        observation_space: of one row.
        action_space: of one row, `Discrete` or `Box`.
        episode_length: steps after which an episode is truncated.
        num_initial_draws: uniforms that `initial` consumes.
        num_step_draws: uniforms that `step` consumes.
    """

    has_success: bool = False
    initial_needs_task: bool = True
    observe_needs_task: bool = True

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episode_length: int
    num_initial_draws: int = 0
    num_step_draws: int = 0

    # --- dynamics ----------------------------------------------------------------------------------------------

    @abstractmethod
    def initial(self, params: ParamsT, noise: Float) -> StateT:
        """States in which episodes start; noise (N, num_initial_draws). Arrays are freshly allocated."""

    @abstractmethod
    def step(self, state: StateT, action: Array, params: ParamsT, noise: Float) -> Step[StateT]:
        """One step of N rows.

        Rows past the end of their episode may be stepped as well; what they yield is discarded.

        Args:
            state: current state.
            action: int64 (N,) within the space for `Discrete`; finite float (N, A) for `Box`, perhaps out of bounds.
            params: columns of the N tasks.
            noise: uniforms in [0, 1), (N, num_step_draws).

        Returns:
            New state, reward, termination and success, freshly allocated.
        """

    def expected_reward(self, state: StateT, action: Array, params: ParamsT) -> Float | None:
        """Expected reward of the step that would follow, given state, action and task, (N,); None if not computable.

        Arguments are those of `step`; nothing moves, and no noise is drawn.
        """
        del state, action, params
        return None

    def solve(self, params: ParamsT) -> Float | None:
        """What actions give away for agents that know the task, V* - Q*, with 1 to H steps to go, (N, H, S, A).

        Over an episode that adds up, in expectation, to what its return lacks of `optimal_return`, whatever the agent
        does. For families with S numbered states, whose state is one column of such numbers, and A actions; H is the
        episode length. None, as by default, where there is no such table or it would be too large to keep.
        """
        del params
        return None

    @abstractmethod
    def observe(self, state: StateT, params: ParamsT) -> Array:
        """What the agent sees, (N, *observation shape), freshly allocated, of the space's dtype."""

    # --- pictures ----------------------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, state: StateT, params: ParamsT) -> Array:
        """A picture of one row (N = 1), uint8 (H, W, 3)."""

    @abstractmethod
    def describe(self, state: StateT, params: ParamsT) -> str:
        """One row (N = 1) as text for the "ansi" render mode."""
