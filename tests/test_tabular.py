"""Tables: stepped, written out and solved, each against a naive loop."""

import itertools
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metagym import ConfigError, Params, TabularFamily, TaskDistribution, TaskEnv, TaskVectorEnv
from metagym.engine.row import BatchRow, TableRow
from metagym.envs import FrozenLake, Taxi
from metagym.tabular import Cell, Position, at_states, outcomes, thresholds
from tests.parity import assert_same
from tests.strategies import Hall, HallParams, random_actions, rollout


@dataclass(frozen=True)
class VaultParams(Params):
    """Columns of N vaults."""

    key: np.ndarray
    door: np.ndarray
    turned: np.ndarray


class Vault(TabularFamily[VaultParams]):
    """Five cells in a row: take the key, then leave by the door. Uses all that tables may: the state tells whether
    one has the key, which the task's cell `key` hands over; actions are turned round where the task says so, and
    episodes start beside the key.
    """

    name = "Vault"
    params_type = VaultParams
    structural = ("key", "door", "turned")
    has_success = True
    cells = (Cell(-0.5, False, False), Cell(0.25, False, False), Cell(2.0, True, True))
    episode_length = 12
    num_structure_draws = 7
    num_initial_draws = 1
    initial_needs_task = True

    def __init__(self):
        states = np.arange(10)
        cell, layer = states % 5, states // 5
        left, right = np.maximum(cell - 1, 0) + 5 * layer, np.minimum(cell + 1, 4) + 5 * layer
        self.successors = np.stack([np.stack([left, states], axis=1), np.stack([right, left], axis=1)], axis=1)
        self.leads = np.stack([states, np.minimum(states + 5, 9), states])
        self.observations = np.stack([cell, layer], axis=1).astype(np.int16)
        self.observation_space, self.action_space = spaces.Box(0, 4, (2,), np.int16), spaces.Discrete(2)
        self.task_space = spaces.Dict(
            key=spaces.Discrete(5), door=spaces.Discrete(5), turned=spaces.Box(0, 1, (5,), np.uint8)
        )
        self._compile()

    def draw_structure(self, noise, region):
        place = (5 * noise[:, :2]).astype(np.int64)
        return {"key": place[:, 0], "door": place[:, 1], "turned": (2 * noise[:, 2:]).astype(np.uint8)}

    def kinds(self, params, states):
        return np.where(states == params.key[:, None], 1, 2 * (states == params.door[:, None] + 5))

    def probabilities(self, params):
        return np.full(len(params), 0.75), np.full(len(params), 0.25)

    def effects(self, params, states, actions):
        return actions ^ at_states(params.turned, states % 5)

    def starts(self, params):
        return np.stack([np.maximum(params.key - 1, 0), np.minimum(params.key + 1, 4)], axis=1)

    def draw(self, state, params):
        return np.zeros((4, 4, 3), np.uint8)

    def describe(self, state, params):
        return f"{state.cell[0]}\n"


class Lamp(Vault):
    """A vault whose states are of two kinds, told as booleans, and whose starts are the same for all tasks."""

    name = "Lamp"
    cells = (Cell(0.0, False, False), Cell(1.0, True, True))
    initial_needs_task = False

    def __init__(self):
        super().__init__()
        self.leads = self.observations = None
        self.observation_space = spaces.Discrete(10)
        self._compile()

    def kinds(self, params, states):
        return states == params.door[:, None]

    def starts(self, params):
        return np.broadcast_to(np.array([1, 7, 3]), (len(params), 3))


class Slide(Vault):
    """A vault whose first two cells are left at once for the other layer, but that episodes start in the first.

    Nobody is ever in the second. Where the task says so, there is no choice.
    """

    name = "Slide"
    initial_needs_task = False

    def __init__(self):
        super().__init__()
        self.leads[:, :2] = [5, 6]
        self._compile()

    def starts(self, params):
        return np.broadcast_to(np.array([0, 3]), (len(params), 2))

    def effects(self, params, states, actions):
        return actions & at_states(params.turned, states % 5)


FAMILIES = [
    Hall(),
    Vault(),
    Lamp(),
    FrozenLake(size=2),
    FrozenLake(size=3, remap_actions=True, success_rate=(0.0, 1.0)),
    FrozenLake(size=3, is_slippery=False, random_goal=True),
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)


def _params(family, num_tasks, seed=0):
    return TaskDistribution(family).draw(np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64))[0]


def _outcomes(family, params, row, state, action):
    """(probability, next state, reward, terminated, success) of each outcome, by hand from the tables."""
    kinds, effect = family.kind_table(params), family.effect_table(params)[row, state, action]
    for outcome, probability in enumerate(family.probabilities(params)):
        after = family.successors[state, effect, outcome]
        kind = kinds[row, after]
        after = after if family.leads is None else family.leads[kind, after]
        yield float(probability[row]), int(after), *family.cells[kind]


@every_family
def test_dense_tables_are_the_outcomes_and_terminal_states_absorb(family):
    params = _params(family, 3)
    dense, kinds = family.dense(params), family.kind_table(params)
    num_states, num_actions, _ = family.successors.shape
    for row, state, action in itertools.product(range(3), range(num_states), range(num_actions)):
        got = list(zip(*(column[row, state, action].tolist() for column in dense), strict=True))
        if family.cells[kinds[row, state]].terminal:
            assert all(outcome[1:] == (state, 0.0, True) for outcome in got)
        else:
            assert got == [outcome[:4] for outcome in _outcomes(family, params, row, state, action)]
    np.testing.assert_allclose(dense.probability.sum(axis=3), 1.0, atol=1e-12)
    assert (dense.probability >= 0.0).all()


@settings(max_examples=30)
@given(st.sampled_from(FAMILIES), st.integers(0, 100), st.data())
def test_a_step_takes_the_outcome_that_its_uniform_falls_on(family, seed, data):
    params = _params(family, 2, seed)
    num_states, num_actions, _ = family.successors.shape
    states = [data.draw(st.integers(0, num_states - 1)) for _ in range(2)]
    actions = [data.draw(st.integers(0, num_actions - 1)) for _ in range(2)]
    noise = data.draw(st.floats(0.0, 1.0, exclude_max=True))
    step = family.step(Position(np.array(states)), np.array(actions), params, np.full((2, 1), noise))
    for row in range(2):
        passed = 0.0
        for probability, after, reward, terminal, success in _outcomes(family, params, row, states[row], actions[row]):
            passed += probability
            expected = (after, reward, terminal, success)
            if noise < passed:
                break
        assert (step.state.cell[row], step.reward[row], step.terminated[row], step.success[row]) == expected


@pytest.mark.parametrize("family", FAMILIES[:5], ids=lambda family: type(family).__name__)
def test_outcomes_come_with_their_probabilities(family):
    params = _params(family, 1).take(np.zeros(20_000, np.int64))
    noise = np.random.default_rng(0).random((20_000, 1))
    step = family.step(Position(np.full(20_000, 1)), np.ones(20_000, np.int64), params, noise)
    expected = np.zeros(len(family.successors))
    for probability, after, *_ in _outcomes(family, params.take(np.array([0])), 0, 1, 1):
        expected[after] += probability
    counts = np.bincount(step.state.cell, minlength=len(expected))
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0] * 20_000).pvalue > 1e-3


def _value(family, params, row, state, horizon, greedy):
    """Expected return, by recursion over all outcomes."""
    kind = family.kind_table(params)[row, state]
    if horizon == 0 or family.cells[kind].terminal:
        return 0.0
    values = []
    for action in range(family.successors.shape[1]):
        value = 0.0
        for probability, after, reward, terminal, _ in _outcomes(family, params, row, state, action):
            rest = 0.0 if terminal else _value(family, params, row, after, horizon - 1, greedy)
            value += probability * (reward + rest)
        values.append(value)
    return max(values) if greedy else sum(values) / len(values)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("family", FAMILIES[:4], ids=lambda family: type(family).__name__)
def test_values_are_those_of_recursion_over_all_outcomes(family, greedy):
    params = _params(family, 3)
    for horizon in (0, 1, 3):
        values = family.state_values(params, greedy=greedy, horizon=horizon)
        for row, state in itertools.product(range(3), range(len(family.successors))):
            expected = _value(family, params, row, state, horizon, greedy)
            assert values[row, state] == pytest.approx(expected, abs=1e-12)


def _values_of_every_state(family, params, horizon, greedy):
    """Backward induction over the dense tables of all states, step by step to the end."""
    dense = family.dense(params)
    continues, rows = dense.probability * ~dense.terminated, np.arange(len(params))[:, None, None, None]
    gain = np.einsum("nsak,nsak->nsa", dense.probability, dense.reward)
    value = np.zeros(dense.probability.shape[:2])
    for _ in range(horizon):
        action_value = gain + np.einsum("nsak,nsak->nsa", continues, value[rows, dense.successor])
        value = action_value.max(axis=2) if greedy else action_value.mean(axis=2)
    return value


@pytest.mark.parametrize(
    ("family", "occupied"),
    [
        (Vault(), range(10)),
        (Slide(), [0, *range(2, 10)]),
        (FrozenLake(size=3, recover_from_holes=True), range(9)),
        (Taxi(), range(500)),
        (Taxi(is_rainy=True, fickle_passenger=True), range(1000)),
    ],
    ids=["Vault", "Slide", "FrozenLake", "Taxi", "fickle Taxi"],
)
@pytest.mark.parametrize("greedy", [True, False])
def test_values_are_the_same_to_the_last_bit_where_an_agent_can_be_and_0_elsewhere(family, occupied, greedy):
    params, nobody = _params(family, 2), np.ones(len(family.successors), np.bool_)
    nobody[occupied] = False
    for horizon in (1, 25):
        values = family.state_values(params, greedy=greedy, horizon=horizon)
        expected = _values_of_every_state(family, params, horizon, greedy)
        assert values[:, ~nobody].tolist() == expected[:, ~nobody].tolist()
        assert not values[:, nobody].any()


def test_the_optimal_return_is_the_best_of_all_open_loop_plans_where_nothing_is_random():
    family = FrozenLake(size=2, is_slippery=False, episode_length=3)
    params = _params(family, 4)
    best = np.zeros(4)
    for plan in itertools.product(range(4), repeat=3):
        state, total, running = family.initial(params, np.empty((4, 0))), np.zeros(4), np.ones(4, np.bool_)
        for action in plan:
            step = family.step(state, np.full(4, action), params, np.zeros((4, 1)))
            total += running * step.reward
            running &= ~step.terminated
            state = step.state
        best = np.maximum(best, total)
    assert family.optimal_return(params).tolist() == best.tolist()


@every_family
def test_reference_returns_are_the_values_of_the_start(family):
    params = _params(family, 4)
    starts = family.starts(params)
    for returns, greedy in ((family.optimal_return(params), True), (family.random_return(params), False)):
        values = family.state_values(params, greedy=greedy)
        expected = [np.mean([values[row, start] for start in starts[row]]) for row in range(4)]
        np.testing.assert_allclose(returns, expected, rtol=1e-12)


def test_the_random_return_is_the_mean_return_of_random_actions():
    family = FrozenLake(size=2)
    params = _params(family, 1).take(np.zeros(20_000, np.int64))
    rng = np.random.default_rng(0)
    state, total, running = family.initial(params, np.empty((20_000, 0))), np.zeros(20_000), np.ones(20_000, np.bool_)
    for _ in range(family.episode_length):
        step = family.step(state, rng.integers(0, 4, 20_000), params, rng.random((20_000, 1)))
        total += running * step.reward
        running &= ~step.terminated
        state = step.state
    expected = family.random_return(params.take(np.array([0])))[0]
    assert abs(total.mean() - expected) < 4.5 * total.std() / np.sqrt(20_000)


def test_thresholds_are_cumulative_probabilities_but_the_last():
    columns = tuple(np.array(column) for column in ([0.25, 0.0], [0.25, 1.0], [0.5, 0.0]))
    assert [threshold.tolist() for threshold in thresholds(columns)] == [[0.25, 0.0], [0.5, 1.0]]
    assert thresholds(columns[:1]) == []


@pytest.mark.parametrize("num_outcomes", [2, 3, 127, 128, 129, 130, 300])
def test_the_outcome_is_the_number_of_thresholds_passed_however_many_there_are(num_outcomes):
    draw = np.linspace(0.0, 1.0, 700, endpoint=False)
    columns = tuple(np.full(700, 1 / num_outcomes) for _ in range(num_outcomes))
    cumulative = [threshold[0] for threshold in thresholds(columns)]
    assert outcomes(columns, draw).tolist() == np.searchsorted(cumulative, draw, side="right").tolist()


def test_a_step_by_hand_in_the_hall():
    family = Hall()
    params = HallParams(
        kinds=np.array([[0, 0, 1, 2, 0, 0, 0, 0]] * 3, np.uint8), labels=np.array([[0, 1], [1, 0], [0, 1]], np.uint8)
    )
    step = family.step(Position(np.array([1, 1, 2])), np.array([1, 1, 1]), params, np.array([[0.5], [0.5], [0.8]]))
    # Row 0 goes right into the end, row 1 has its actions swapped, row 2 slips to the left.
    assert step.state.cell.tolist() == [2, 0, 1]
    assert step.reward.tolist() == [1.0, -0.25, -0.25]
    assert step.terminated.tolist() == step.success.tolist() == [True, False, False]


def test_a_vault_by_hand():
    family = Vault()
    params = VaultParams(np.array([2, 2]), np.array([0, 0]), np.array([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], np.uint8))
    assert family.starts(params).tolist() == [[1, 3], [1, 3]]
    steps = [family.step(Position(np.array([1, 1])), np.array([1, 0]), params, np.array([[0.0], [0.0]]))]
    # Both go right (action 0 is turned round in the second vault) onto the key, and have it.
    assert steps[0].state.cell.tolist() == [7, 7]
    assert steps[0].reward.tolist() == [0.25, 0.25]
    steps.append(family.step(Position(np.array([6, 5])), np.array([0, 0]), params, np.array([[0.0], [0.0]])))
    assert steps[1].state.cell.tolist() == [5, 5]
    assert steps[1].reward.tolist() == [2.0, 2.0]
    assert steps[1].terminated.tolist() == steps[1].success.tolist() == [True, True]
    assert family.observe(steps[0].state, params).tolist() == [[2, 1], [2, 1]]
    assert family.observe(steps[0].state, params).dtype == np.int16


@pytest.mark.parametrize("make", [Vault, Lamp])
def test_lists_and_arrays_of_a_vault_go_the_same_way(make):
    scalar = [TaskEnv(make()) for _ in range(3)]
    assert all(type(env._row) is TableRow for env in scalar)
    vector = TaskVectorEnv(make(), 3, autoreset_mode=AutoresetMode.SAME_STEP)
    actions = random_actions(vector, 60)
    expected = [rollout(env, [action[row] for action in actions], seed=7 + row) for row, env in enumerate(scalar)]
    results = rollout(vector, actions, seed=7)
    for row, results_of_row in enumerate(expected):
        seen = [result[0] for result in results_of_row if len(result) == 2 or not (result[2] or result[3])]
        assert_same([observation[row] for observation, *_ in results], seen)
        rewards = [result[1] for result in results_of_row if len(result) == 5]
        assert [result[1][row] for result in results if len(result) == 5] == rewards


@pytest.mark.parametrize("make", [Vault, Lamp])
def test_starts_are_equally_likely(make):
    family = make()
    params = _params(family, 1).take(np.zeros(9000, np.int64))
    cells = family.initial(params, np.random.default_rng(0).random((9000, 1))).cell
    starts = family.starts(params)[0]
    expected = np.bincount(starts, minlength=10) * 9000 / len(starts)
    counts = np.bincount(cells, minlength=10)
    assert (counts[expected == 0] == 0).all()
    if np.count_nonzero(expected) > 1:
        assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_a_family_with_tables_can_be_pickled():
    for family in FAMILIES:
        again = pickle.loads(pickle.dumps(family))
        params = _params(family, 5)
        assert_same(again.dense(params), family.dense(params))


def test_what_only_tables_can_hold_is_demanded():
    family = Vault()
    family.num_step_draws = 2
    with pytest.raises(ConfigError, match="one draw a step, got 2"):
        family._compile()
    family.num_step_draws = 0
    with pytest.raises(ConfigError, match="one draw a step, got 0"):
        family._compile()
    family.num_step_draws, family.action_space = 1, spaces.Box(-1.0, 1.0, (1,), np.float32)
    with pytest.raises(ConfigError, match="needs a Discrete action space"):
        family._compile()


def test_a_family_with_a_step_of_its_own_is_not_walked():
    class Slow(Vault):
        def step(self, state, action, params, noise):
            return super().step(state, action, params, noise)

    assert type(TaskEnv(Slow())._row) is BatchRow
