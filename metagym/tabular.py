"""Families whose dynamics are a table: stepped as a table, solved from the same table."""

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
from typing_extensions import override

from metagym.family import Family, Params, Step
from metagym.types import Array, Bool, Float, Int

__all__ = ["Cell", "DenseTable", "Position", "Table", "TabularFamily", "outcomes", "thresholds"]

ParamsT = TypeVar("ParamsT", bound=Params)


class Position(NamedTuple):
    """The state of a tabular family."""

    cell: Int
    """Number of the state, (N,)."""


class Cell(NamedTuple):
    """What entering a state of some kind means."""

    reward: float
    terminal: bool
    success: bool


class Table(NamedTuple):
    """The tables of N tasks; the family's `successors` are shared by all of them."""

    kind: Array
    """Kind of every state, indexes the family's `cells`, (N, S)."""
    probability: tuple[Float, ...]
    """Probability of each of K outcomes, K arrays (N,) that sum to 1."""
    relabel: Int | None = None
    """Which effect each action has, (N, A); None where action a has effect a."""


class DenseTable(NamedTuple):
    """The Markov decision processes of N tasks written out; terminal states absorb with reward 0."""

    probability: Float
    """(N, S, A, K)."""
    successor: Int
    """(N, S, A, K)."""
    reward: Float
    """(N, S, A, K)."""
    terminated: Bool
    """(N, S, A, K)."""


@lru_cache(maxsize=64)
def _row_offsets(num_rows: int, width: int) -> Int:
    offsets = np.arange(num_rows, dtype=np.int64) * width
    offsets.setflags(write=False)
    return offsets


def _test_of(flags: list[bool]) -> Callable[[Array], Bool]:
    """From kinds of cells to their flags: one comparison where the flagged kinds are the last, else a lookup."""
    first = flags.index(True) if any(flags) else len(flags)
    if all(flags[first:]):
        return partial(np.less_equal, np.array(first, np.uint8))
    return np.array(flags, dtype=np.bool_).take


class TabularFamily(Family[Position, ParamsT]):
    """A family with S states, A actions and K outcomes of an action.

    In state s, outcome k of effect a leads to ``successors[s, a, k]``; the kind of the state entered decides reward,
    termination and success. Subclasses set the two attributes and implement `table`.

    Attributes:
        successors: (S, A, K) int64, shared by all tasks.
        cells: what each kind of state means when entered.
        start: the state in which episodes start.
    """

    successors: Int
    cells: tuple[Cell, ...]
    start: int = 0
    num_step_draws = 1
    initial_needs_task = False
    observe_needs_task = False

    @abstractmethod
    def table(self, params: ParamsT) -> Table:
        """The tables of N tasks."""

    def _compile(self) -> None:
        """Lay the tables out for stepping; to be called at the end of ``__init__``."""
        # As 0-d arrays, which ufuncs take faster than Python's numbers.
        self._num_actions, self._num_outcomes = (np.array(size) for size in self.successors.shape[1:])
        self._flat_successors = np.ascontiguousarray(self.successors.reshape(-1))
        self._rewards = np.array([cell.reward for cell in self.cells], dtype=np.float64)
        self._terminals = np.array([cell.terminal for cell in self.cells], dtype=np.bool_)
        self._is_terminal = _test_of([cell.terminal for cell in self.cells])
        self._is_success = _test_of([cell.success for cell in self.cells])

    @override
    def initial(self, params: ParamsT, noise: Float) -> Position:
        cell = np.empty(len(noise), dtype=np.int64)
        cell.fill(self.start)
        return Position(cell)

    @override
    def step(self, state: Position, action: Array, params: ParamsT, noise: Float) -> Step[Position]:
        num_states, num_actions, num_outcomes = self.successors.shape
        table = self.table(params)
        num_rows = len(action)
        if table.relabel is not None:
            action = table.relabel.reshape(-1).take(_row_offsets(num_rows, num_actions) + action)
        entry = state.cell * self._num_actions
        entry += action
        if num_outcomes > 1:
            entry *= self._num_outcomes
            entry += outcomes(table.probability, noise[:, 0])
        index = self._flat_successors.take(entry)
        kind = table.kind.reshape(-1).take(_row_offsets(num_rows, num_states) + index)
        reward = self._rewards.take(kind.astype(np.intp))  # `take` itself widens small integers slowly
        return Step(Position(index), reward, self._is_terminal(kind), self._is_success(kind))

    @override
    def observe(self, state: Position, params: ParamsT) -> Array:
        return state.cell.copy()

    # --- exact values ------------------------------------------------------------------------------------------

    def dense(self, params: ParamsT) -> DenseTable:
        """The decision processes of N tasks, written out from the tables that are stepped."""
        table = self.table(params)
        num_states, num_actions, num_outcomes = self.successors.shape
        shape = (len(params), num_states, num_actions, num_outcomes)
        if table.relabel is None:
            successor = np.broadcast_to(self.successors, shape).copy()
        else:
            successor = np.ascontiguousarray(self.successors[:, table.relabel].transpose(1, 0, 2, 3))
        rows = np.arange(len(params))[:, None, None, None]
        kind = table.kind.reshape(len(params), -1)
        entered = kind[rows, successor]
        probability = np.broadcast_to(np.stack(table.probability, axis=1)[:, None, None, :], shape).copy()
        reward, terminated = self._rewards[entered], self._terminals[entered]
        over = self._terminals[kind]
        successor[over] = np.nonzero(over)[1][:, None, None]
        reward[over] = 0.0
        terminated[over] = True
        return DenseTable(probability, successor, reward, terminated)

    @override
    def optimal_return(self, params: ParamsT) -> Float:
        return self.state_values(params, greedy=True)[:, self.start]

    @override
    def random_return(self, params: ParamsT) -> Float:
        return self.state_values(params, greedy=False)[:, self.start]

    def state_values(self, params: ParamsT, *, greedy: bool = True, horizon: int | None = None) -> Float:
        """Exact undiscounted values with `horizon` steps to go, by backward induction.

        Args:
            params: columns of N tasks.
            greedy: values of the best policy; otherwise of uniformly random actions.
            horizon: steps to go; the family's episode length by default.

        Returns:
            Values, (N, S).
        """
        dense = self.dense(params)
        continues = dense.probability * ~dense.terminated
        gain = np.einsum("nsak,nsak->nsa", dense.probability, dense.reward)
        rows = np.arange(len(params))[:, None, None, None]
        value = np.zeros(dense.probability.shape[:2])
        for _ in range(self.episode_length if horizon is None else horizon):
            action_value = gain + np.einsum("nsak,nsak->nsa", continues, value[rows, dense.successor])
            value = action_value.max(axis=2) if greedy else action_value.mean(axis=2)
        return value


def outcomes(probability: tuple[Float, ...], draw: Float) -> Array:
    """The outcome that each uniform stands for, integers (N,); K is at least 2."""
    # Counted in bytes where they suffice: adding booleans to wider integers costs a conversion each time.
    threshold = probability[0]
    passed: Array = (draw >= threshold).view(np.int8)
    if len(probability) > 128:
        passed = passed.astype(np.int64)
    for column in probability[1:-1]:
        threshold = threshold + column
        passed = passed + (draw >= threshold).view(np.int8)
    return passed


def thresholds(probability: tuple[Float, ...]) -> list[Float]:
    """Cumulative probabilities of K outcomes but the last, K - 1 arrays (N,): a uniform passes one for each outcome."""
    return list(accumulate(probability[:-1]))
