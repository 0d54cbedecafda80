"""Families whose dynamics are a table: stepped as a table, solved from the same table."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.family import Family, Params, Step
from metagym.types import Array, Bool, Float, Int

__all__ = [
    "SOLVED",
    "Cell",
    "DenseTable",
    "Position",
    "TabularFamily",
    "at_states",
    "outcomes",
    "over_actions",
    "thresholds",
]

ParamsT = TypeVar("ParamsT", bound=Params)
SOLVED = 2**14
"""Numbers of the largest solution that is kept for each task being played."""


class Position(NamedTuple):
    """The state of a tabular family."""

    cell: Int
    """Number of the state, (N,)."""


class Cell(NamedTuple):
    """What entering a state of some kind means."""

    reward: float
    terminal: bool
    success: bool


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
    offsets = (np.arange(num_rows, dtype=np.int64) * width)[:, None]
    offsets.setflags(write=False)
    return offsets


def at_states(columns: Array, states: Int) -> Array:
    """What columns with one entry a state, (N, S) or (N, ...) with S entries in all, hold for `states` (N, M)."""
    num_rows = len(states)
    found: Array = columns.reshape(-1).take(_row_offsets(num_rows, columns.size // num_rows) + states)
    return found


def _one_from(first: Array, kind: Array) -> Float:
    return np.less_equal(first, kind).astype(np.float64)


def _looked_up(rewards: Float, kind: Array) -> Float:
    found: Float = rewards.take(kind.astype(np.intp))  # `take` itself widens small integers slowly
    return found


def _rewards_of(rewards: Float) -> Callable[[Array], Float]:
    """From kinds of cells to their rewards: one comparison where only the last ones pay, and 1; else a lookup."""
    first = int(np.argmax(rewards != 0.0)) if rewards.any() else len(rewards)
    if (rewards[first:] == 1.0).all():
        return partial(_one_from, np.array(first, np.uint8))
    return partial(_looked_up, rewards)


def _test_of(flags: list[bool]) -> Callable[[Array], Bool]:
    """From kinds of cells to their flags: one comparison where the flagged kinds are the last, else a lookup."""
    first = flags.index(True) if any(flags) else len(flags)
    if all(flags[first:]):
        return partial(np.less_equal, np.array(first, np.uint8))
    return np.array(flags, dtype=np.bool_).take


class TabularFamily(Family[Position, ParamsT]):
    """A family with S states, A actions, and K outcomes of an action.

    In state s, an action has an effect e, and outcome k of that leads to ``successors[s, e, k]``, the same for all
    tasks. What kind of state is entered there, the task says; the kind decides reward, termination and success, and
    may lead on at once to yet another state.

    Subclasses set the attributes, implement `kinds`, and whichever of `probabilities`, `effects` and `starts` are
    not the default.

    Attributes:
        successors: (S, E, K) int64, shared by all tasks; E is at least A.
        cells: what each of C kinds of states means when entered.
        start: the state in which episodes start, unless `starts` says otherwise.
        observations: what each state looks like, (S, ...) of the observation space's dtype; None for its number.
        leads: (C, S) int64: where entering state s, which is of kind c, really leaves the agent; None for s itself.
        actions_are_effects: whether action a has effect a under every task, so that `effects` need not be asked; by
            default, whether a family leaves `effects` as it is.
    """

    successors: Int
    cells: tuple[Cell, ...]
    start: int = 0
    observations: Array | None = None
    leads: Int | None = None
    actions_are_effects: bool | None = None
    num_step_draws = 1
    initial_needs_task = False
    observe_needs_task = False

    @abstractmethod
    def kinds(self, params: ParamsT, states: Int) -> Array:
        """Kind of each of `states` (N, M) when entered under the tasks: integers below C, or booleans, (N, M)."""

    def probabilities(self, params: ParamsT) -> tuple[Float, ...]:
        """Probability of each of K outcomes under the tasks, K arrays (N,) that sum to 1; certainty by default."""
        return (np.ones(len(params)),)

    def effects(self, params: ParamsT, states: Int, actions: Int) -> Int:
        """Which effect each of `actions` (N, M) has in `states` (N, M), (N, M); by default that of its number."""
        del params, states
        return actions

    def starts(self, params: ParamsT) -> Int:
        """States in which episodes start, each as likely as the others, (N, M).

        Families with M > 1 set `num_initial_draws` to 1; those that look at the tasks set `initial_needs_task`.
        """
        return np.full((len(params), 1), self.start, dtype=np.int64)

    def _compile(self) -> None:
        """Lay the tables out for stepping; to be called at the end of ``__init__``."""
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(f"{self.name} is tabular and needs a Discrete action space, got {self.action_space}")
        if self.num_step_draws not in {0, 1} or (self.num_step_draws == 0 and self.successors.shape[2] > 1):
            raise ConfigError(f"{self.name} is tabular and uses one draw a step, got {self.num_step_draws}")
        # As 0-d arrays, which ufuncs take faster than Python's numbers.
        self._num_effects, self._num_outcomes = (np.array(size) for size in self.successors.shape[1:])
        self._flat_successors = np.ascontiguousarray(self.successors.reshape(-1))
        self._flat_leads = None if self.leads is None else np.ascontiguousarray(self.leads.reshape(-1))
        self._rewards = np.array([cell.reward for cell in self.cells], dtype=np.float64)
        self._terminals = np.array([cell.terminal for cell in self.cells], dtype=np.bool_)
        self._reward_of = _rewards_of(self._rewards)
        self._is_terminal = _test_of([cell.terminal for cell in self.cells])
        self._is_success = _test_of([cell.success for cell in self.cells])
        if self.actions_are_effects is None:
            self.actions_are_effects = type(self).effects is TabularFamily.effects
        self._starts_anywhere = type(self).starts is not TabularFamily.starts

    @override
    def initial(self, params: ParamsT, noise: Float) -> Position:
        if not self._starts_anywhere:
            cell = np.empty(len(noise), dtype=np.int64)
            cell.fill(self.start)
            return Position(cell)
        if not self.initial_needs_task:
            (shared,) = self.starts(params.take(np.zeros(1, np.int64)))
            return Position(shared[(noise[:, 0] * len(shared)).astype(np.int64)])
        starts = self.starts(params)
        if starts.shape[1] == 1:
            return Position(starts[:, 0].copy())
        chosen = (noise[:, 0] * starts.shape[1]).astype(np.int64)
        return Position(at_states(starts, chosen[:, None])[:, 0])

    @override
    def step(self, state: Position, action: Array, params: ParamsT, noise: Float) -> Step[Position]:
        if not self.actions_are_effects:
            action = self.effects(params, state.cell[:, None], action[:, None])[:, 0]
        entry = state.cell * self._num_effects
        entry += action
        if self.successors.shape[2] > 1:
            entry *= self._num_outcomes
            entry += outcomes(self.probabilities(params), noise[:, 0])
        index = self._flat_successors.take(entry)
        kind = self.kinds(params, index[:, None])[:, 0]
        if kind.dtype == np.bool_:
            kind = kind.view(np.uint8)
        reward = self._reward_of(kind)
        if self._flat_leads is not None:
            place = kind.astype(np.intp)
            place *= len(self.successors)
            place += index
            index = self._flat_leads.take(place)
        success = self._is_success(kind) if self.has_success else None
        return Step(Position(index), reward, self._is_terminal(kind), success)

    @override
    def expected_reward(self, state: Position, action: Array, params: ParamsT) -> Float | None:
        if type(self).step is not TabularFamily.step:
            return None  # the tables do not say what such a step pays
        cells, actions = state.cell[:, None], np.asarray(action, np.int64)[:, None]
        effect = actions if self.actions_are_effects else self.effects(params, cells, actions)
        kind = self.kinds(params, self.successors[cells[:, 0], effect[:, 0]])  # (N, outcomes)
        if kind.dtype == np.bool_:
            kind = kind.view(np.uint8)
        probability = np.stack(self.probabilities(params), axis=1)
        expected: Float = (probability * self._rewards[kind]).sum(axis=1)
        return expected

    @override
    def observe(self, state: Position, params: ParamsT) -> Array:
        return state.cell.copy() if self.observations is None else self.observations.take(state.cell, axis=0)

    # --- exact values ------------------------------------------------------------------------------------------

    def kind_table(self, params: ParamsT) -> Array:
        """Kind of every state, (N, S)."""
        num_states = len(self.successors)
        table = self.kinds(params, np.broadcast_to(np.arange(num_states), (len(params), num_states)))
        return table.view(np.uint8) if table.dtype == np.bool_ else table

    def effect_table(self, params: ParamsT) -> Int:
        """Effect of every action in every state, (N, S, A)."""
        num_states, num_actions = len(self.successors), int(self.action_space.n)  # type: ignore[attr-defined]
        states, actions = np.divmod(np.arange(num_states * num_actions), num_actions)
        shape = (len(params), num_states * num_actions)
        table = self.effects(params, np.broadcast_to(states, shape), np.broadcast_to(actions, shape))
        return table.reshape(len(params), num_states, num_actions)

    def dense(self, params: ParamsT) -> DenseTable:
        """The decision processes of N tasks, written out from the tables that are stepped."""
        return self._written_out(params, np.arange(len(self.successors)))

    def _written_out(self, params: ParamsT, states: Int) -> DenseTable:
        """`dense` for some states; successors keep their numbers."""
        kinds, effects = self.kind_table(params), self.effect_table(params)[:, states]
        entered = self.successors[states[:, None], effects]
        rows = np.arange(len(params))[:, None, None, None]
        kind = kinds[rows, entered]
        probability = np.stack(self.probabilities(params), axis=1)[:, None, None, :]
        probability = np.broadcast_to(probability, entered.shape).copy()
        successor = entered if self.leads is None else self.leads[kind, entered]
        reward, terminated = self._rewards[kind], self._terminals[kind]
        over = self._terminals[kinds[:, states]]
        successor[over] = states[np.nonzero(over)[1]][:, None, None]
        reward[over] = 0.0
        terminated[over] = True
        return DenseTable(probability, successor, reward, terminated)

    def _occupied(self, params: ParamsT) -> Int:
        """States in which an agent can be: not those that are left as soon as they are entered."""
        if self.leads is None:
            return np.arange(len(self.successors))
        return np.union1d(self.leads, self.starts(params))

    @override
    def optimal_return(self, params: ParamsT) -> Float:
        return self._value_of_start(params, self.state_values(params, greedy=True))

    @override
    def random_return(self, params: ParamsT) -> Float:
        return self._value_of_start(params, self.state_values(params, greedy=False))

    def _value_of_start(self, params: ParamsT, values: Float) -> Float:
        mean: Float = at_states(values, self.starts(params)).mean(axis=1)
        return mean

    def state_values(self, params: ParamsT, *, greedy: bool = True, horizon: int | None = None) -> Float:
        """Exact undiscounted values with `horizon` steps to go, by backward induction.

        Args:
            params: columns of N tasks.
            greedy: values of the best policy; otherwise of uniformly random actions.
            horizon: steps to go; the family's episode length by default.

        Returns:
            Values, (N, S); 0 for states that are left as soon as they are entered.
        """
        states = self._occupied(params)
        value = np.zeros((len(params), len(states)))
        steps = self.episode_length if horizon is None else horizon
        for action_value in self._action_values(params, states, steps, greedy=greedy):
            before, value = value, over_actions(action_value, greedy)
            if np.array_equal(before, value):
                break  # more steps to go change nothing any more
        values = np.zeros((len(params), len(self.successors)))
        values[:, states] = value
        return values

    def _action_values(self, params: ParamsT, states: Int, horizon: int, *, greedy: bool) -> Iterator[Float]:
        """Exact values of actions, (N, M, A), with 1 to `horizon` steps to go, by backward induction."""
        dense = self._written_out(params, states)
        continues = dense.probability * ~dense.terminated
        gain = np.einsum("nsak,nsak->nsa", dense.probability, dense.reward)
        value = np.zeros((len(params), len(states)))
        # Places of the successors among the values of all tasks: one index is looked up faster than two.
        column = np.zeros(len(self.successors), dtype=np.int64)
        column[states] = np.arange(len(states))
        place = column.take(dense.successor) + _row_offsets(*value.shape)[:, :, None, None]
        for _ in range(horizon):
            action_value = gain + np.einsum("nsak,nsak->nsa", continues, value.reshape(-1).take(place))
            value = over_actions(action_value, greedy)
            yield action_value

    @override
    def solve(self, params: ParamsT) -> Float | None:
        """V* - Q* of every action in every state, with 1 to H steps to go, (N, H, S, A).

        None where the tables of a task would be larger than `SOLVED`, or do not say what a step does.
        """
        num_states, num_actions = len(self.successors), int(self.action_space.n)  # type: ignore[attr-defined]
        size = self.episode_length * num_states * num_actions
        if size > SOLVED or type(self).step is not TabularFamily.step:
            return None
        states = self._occupied(params)
        lost = np.zeros((len(params), self.episode_length, num_states, num_actions))
        tables = self._action_values(params, states, self.episode_length, greedy=True)
        for left, action_value in enumerate(tables):
            lost[:, left, states] = action_value.max(axis=2, keepdims=True) - action_value
        return lost


def over_actions(action_value: Float, greedy: bool) -> Float:
    """Values of states, (N, S), from those of actions, (N, S, A): of the best one, or of random ones."""
    value: Float = action_value.max(axis=2) if greedy else action_value.mean(axis=2)
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
