import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text import taxi as original_taxi
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs import taxi_layouts
from metagym.envs.taxi import Taxi
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

beside_gymnasiums = pytest.mark.skipif(
    "Taxi-v4" not in gym.registry, reason="this Gymnasium has no Taxi-v4 to compare with"
)

SOUTH, NORTH, EAST, WEST, PICKUP, DROPOFF = range(6)
NOMINAL = {"stands": [0, 4, 20, 23], "walls": taxi_layouts.read(taxi_layouts.NOMINAL)["walls"]}


def _params(family, *tasks):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce(task) for task in tasks])


def _sample(family, num_tasks, part=None):
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _step(family, params, states, actions, noise=0.5):
    cells, actions, draws = np.broadcast_arrays(states, actions, noise)
    state = Position(np.array(cells, np.int64).reshape(-1))
    return family.step(state, np.array(actions, np.int64).reshape(-1), params, np.array(draws).reshape(-1, 1))


def _state(row, column, passenger, destination):
    return ((row * 5 + column) * 5 + passenger) * 4 + destination


def _drive(walls, cell, action):
    """Where a dry move leads."""
    row, column = divmod(cell, 5)
    possible = {
        SOUTH: (row < 4, 5),
        NORTH: (row > 0, -5),
        EAST: (column < 4 and not walls[row, min(column, 3)], 1),
        WEST: (column > 0 and not walls[row, max(column - 1, 0)], -1),
    }
    is_free, change = possible[action]
    return cell + change if is_free else cell


def _rules(stands, walls, state, action):
    """One dry step as Dietterich tells it: next state, reward, whether it is the last."""
    cell, passenger, destination = state // 20, state // 4 % 5, state % 4
    if action < PICKUP:
        return _drive(walls, cell, action) * 20 + state % 20, -1, False
    if action == PICKUP and passenger < 4 and stands[passenger] == cell:
        return state + 4 * (4 - passenger), -1, False
    if action == DROPOFF and passenger == 4 and cell in stands:
        stand = stands.index(cell)
        over = stand == destination
        return state + 4 * (stand - 4), 20 if over else -1, over
    return state, -10, False


# --- parity with Gymnasium -------------------------------------------------------------------------------------------


@beside_gymnasiums
@pytest.mark.parametrize("keywords", [{}, {"is_rainy": True}, {"is_rainy": True, "rainy_probability": 0.5}])
def test_the_table_of_the_nominal_task_equals_gymnasiums(keywords):
    family = Taxi(**keywords)
    task = TaskDistribution(family).coerce(family.nominal())
    assert family.transitions(task) == gym.make("Taxi-v4", **keywords).unwrapped.P


@beside_gymnasiums
@pytest.mark.parametrize("is_rainy", [False, True])
def test_the_table_of_other_walls_equals_gymnasiums(is_rainy, monkeypatch):
    family = Taxi(is_rainy=is_rainy)
    for walls in _sample(family, 3).walls:
        desc = taxi_layouts.text({"stands": np.array(NOMINAL["stands"]), "walls": walls})
        monkeypatch.setattr(original_taxi, "MAP", desc)
        task = TaskDistribution(family).coerce({"desc": desc})
        assert family.transitions(task) == gym.make("Taxi-v4", is_rainy=is_rainy).unwrapped.P


@beside_gymnasiums
def test_episodes_start_as_gymnasiums_do():
    family, original = Taxi(), gym.make("Taxi-v4").unwrapped
    noise = (np.arange(3000)[:, None] + 0.5) / 3000
    starts = family.initial(_params(family, NOMINAL).take(np.zeros(3000, np.int64)), noise).cell
    assert np.bincount(starts, minlength=500) / 3000 == pytest.approx(original.initial_state_distrib)
    assert family.episode_length == gym.spec("Taxi-v4").max_episode_steps


@beside_gymnasiums
def test_trajectories_of_the_nominal_task_equal_gymnasiums():
    env, original, rng = TaskEnv(Taxi()), gym.make("Taxi-v4").unwrapped, np.random.default_rng(0)
    env.set_task(Taxi.nominal())
    num_delivered = 0
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        original.reset(seed=seed)
        original.s = observation
        terminated = truncated = False
        while not (terminated or truncated):
            _, _, passenger, destination = original.decode(observation)
            # Now and then the right thing at the right place, so that some arrive.
            here = NOMINAL["stands"].index(observation // 20) if observation // 20 in NOMINAL["stands"] else None
            action = int(rng.integers(0, 6))
            if here is not None and here == (destination if passenger == 4 else passenger):
                action = DROPOFF if passenger == 4 else PICKUP
            observation, reward, terminated, truncated, info = env.step(action)
            assert (observation, reward, terminated) == original.step(action)[:3]
            assert info["is_success"] == terminated
            num_delivered += terminated
    assert num_delivered > 5


@beside_gymnasiums
@pytest.mark.parametrize("is_rainy", [False, True])
def test_a_fickle_passenger_does_as_gymnasiums(is_rainy):
    family = Taxi(is_rainy=is_rainy, fickle_passenger=True)
    original = gym.make("Taxi-v4", is_rainy=is_rainy, fickle_passenger=True).unwrapped
    original.reset(seed=0)
    aboard = _state(2, 1, 4, 3)
    after = []
    for _ in range(3000):
        original.s, original.fickle_step = aboard, True
        after.append(original.step(EAST)[0])
    params = _params(family, family.nominal()).take(np.zeros(3000, np.int64))
    step = _step(family, params, 500 + aboard, EAST, (np.arange(3000) + 0.5) / 3000)
    seen = family.observe(step.state, params)
    counts = np.bincount(after, minlength=500)
    expected = np.bincount(seen, minlength=500)
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(expected))
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3
    # Afterwards the mind is made up.
    moved = step.state.cell[seen % 4 != 3]
    assert (moved < 500).all()
    noise = np.random.default_rng(0).random((4000, 1))
    starts = family.initial(_params(family, NOMINAL).take(np.zeros(4000, np.int64)), noise)
    assert (starts.cell >= 500).mean() == pytest.approx(0.3, abs=0.03)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "action", "expected", "reward", "over"),
    [
        (_state(0, 0, 0, 1), PICKUP, _state(0, 0, 4, 1), -1.0, False),
        (_state(0, 1, 0, 1), PICKUP, _state(0, 1, 0, 1), -10.0, False),
        (_state(0, 0, 4, 1), PICKUP, _state(0, 0, 4, 1), -10.0, False),
        (_state(0, 4, 4, 1), DROPOFF, _state(0, 4, 1, 1), 20.0, True),
        (_state(0, 0, 4, 1), DROPOFF, _state(0, 0, 0, 1), -1.0, False),
        (_state(2, 2, 4, 1), DROPOFF, _state(2, 2, 4, 1), -10.0, False),
        (_state(0, 1, 0, 1), EAST, _state(0, 1, 0, 1), -1.0, False),  # a wall
        (_state(2, 1, 0, 1), EAST, _state(2, 2, 0, 1), -1.0, False),
    ],
)
def test_steps_of_gymnasiums_map_by_hand(state, action, expected, reward, over):
    family = Taxi()
    params = _params(family, family.nominal())
    step = _step(family, params, state, action)
    assert family.observe(step.state, params).tolist() == [expected]
    assert step.reward.tolist() == [reward]
    assert step.terminated.tolist() == step.success.tolist() == [over]
    assert over or step.state.cell.tolist() == [expected]


@pytest.mark.parametrize("part", ["train", "ood"])
def test_steps_in_any_town_follow_the_rules(part):
    family, rng = Taxi(), np.random.default_rng(1)
    params = _sample(family, 4000, part)
    # Half of the taxis are at a stand, where something can happen.
    cells = np.where(rng.random(4000) < 0.5, params.stands[:, 0], rng.integers(0, 25, 4000))
    states, actions = cells.astype(np.int64) * 20 + rng.integers(0, 20, 4000), rng.integers(0, 6, 4000)
    step = _step(family, params, states, actions)
    rows = zip(params.stands, params.walls, states.tolist(), actions.tolist(), strict=True)
    expected = [_rules(stands.tolist(), walls, state, action) for stands, walls, state, action in rows]
    seen = family.observe(step.state, params).tolist()
    assert list(zip(seen, step.reward.tolist(), step.terminated.tolist(), strict=True)) == expected
    assert step.terminated.any()


def test_in_the_rain_each_outcome_has_its_probability():
    family = Taxi(is_rainy=True, rainy_probability=0.6)
    params = _params(family, family.nominal()).take(np.zeros(10, np.int64))
    after = _step(family, params, _state(2, 2, 0, 1), EAST, (np.arange(10) + 0.5) / 10).state.cell
    places = [_state(2, 3, 0, 1)] * 6 + [_state(1, 2, 0, 1)] * 2 + [_state(3, 2, 0, 1)] * 2
    assert after.tolist() == places


@pytest.mark.parametrize("keywords", [{}, {"is_rainy": True, "fickle_passenger": True}])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(keywords, num_rows):
    family, rng = Taxi(**keywords), np.random.default_rng(3)
    params, states = _sample(family, 64), rng.integers(0, 500, 64)
    actions, noise = rng.integers(0, 6, 64), rng.random(64)
    whole = _step(family, params, states, actions, noise)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, params.take(rows), states[rows], actions[rows], noise[rows])
    assert part.state.cell.tolist() == whole.state.cell[rows].tolist()
    assert part.reward.tolist() == whole.reward[rows].tolist()


# --- exact values ----------------------------------------------------------------------------------------------------


@beside_gymnasiums
@pytest.mark.parametrize(("is_rainy", "documented"), [(False, 7.93), (True, 3.95)])
def test_the_optimum_by_a_second_computation_from_gymnasiums_table(is_rainy, documented):
    original = gym.make("Taxi-v4", is_rainy=is_rainy).unwrapped
    lists = [[original.P[state][action] for action in range(6)] for state in range(500)]
    table = np.array([[(row * 3)[:3] if len(row) == 1 else row for row in rows] for rows in lists])
    share = np.where([[[len(row) == 1] for row in rows] for rows in lists], 1 / 3, table[..., 0])
    value = np.zeros(500)
    for _ in range(200):
        after = np.where(table[..., 3] == 1.0, 0.0, value[table[..., 1].astype(int)])
        value = (share * (table[..., 2] + after)).sum(axis=2).max(axis=1)
    family = Taxi(is_rainy=is_rainy)
    optimum = family.optimal_return(_params(family, family.nominal()))
    assert optimum == pytest.approx([original.initial_state_distrib @ value])
    assert optimum == pytest.approx([documented], abs=0.005)


@pytest.mark.parametrize(
    ("keywords", "optimal", "random"),
    [({}, 7.93, -771.1), ({"is_rainy": True}, 3.95, -772.5), ({"fickle_passenger": True}, 8.38, -765.7)],
)
def test_the_documented_returns_of_gymnasiums_map(keywords, optimal, random):
    family = Taxi(**keywords)
    params = _params(family, family.nominal())
    assert family.optimal_return(params) == pytest.approx([optimal], abs=0.005)
    assert family.random_return(params) == pytest.approx([random], abs=0.05)


def test_random_actions_earn_the_random_return():
    family = Taxi(episode_length=30)
    params = _sample(family, 1).take(np.zeros(3000, np.int64))
    rng = np.random.default_rng(2)
    state, alive, total = family.initial(params, rng.random((3000, 1))), np.ones(3000, np.bool_), np.zeros(3000)
    for _ in range(30):
        step = family.step(state, rng.integers(0, 6, 3000), params, np.empty((3000, 0)))
        total += alive * step.reward
        alive &= ~step.terminated
        state = step.state
    expected = family.random_return(params.take(np.zeros(1, np.int64)))
    assert expected == pytest.approx([total.mean()], abs=4 * total.std() / 3000**0.5)


def test_the_documented_averages_over_training_towns():
    family = Taxi()
    params = _sample(family, 40, "train")
    for values, documented in ((family.optimal_return(params), 10.70), (family.random_return(params), -755.7)):
        assert values.mean() == pytest.approx(documented, abs=4 * values.std() / 40**0.5)


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_drawn_towns_are_accepted(part):
    distribution = TaskDistribution(Taxi())
    tasks = distribution.part(part).sample(np.random.default_rng(0), 30)
    assert all(distribution.coerce(task) == task for task in tasks)
    inside = [set(task["stands"].tolist()) <= set(taxi_layouts.INNER.tolist()) for task in tasks]
    assert inside == [part == "ood"] * 30


def test_a_town_may_be_spelled_or_listed():
    distribution = TaskDistribution(Taxi())
    assert distribution.coerce(Taxi.nominal()) == distribution.coerce(NOMINAL)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({**NOMINAL, "stands": [0, 0, 1, 2]}, "four different cells"),
        ({**NOMINAL, "stands": [0, 1, 2, 25]}, "stands="),
        ({**NOMINAL, "walls": np.repeat([[0, 1, 0, 0]], 5, axis=0)}, "walls must leave a way"),
        ({**NOMINAL, "walls": np.zeros((4, 5))}, r"shape \(4, 5\)"),
        ({**NOMINAL, **Taxi.nominal()}, "as desc, or as stands and walls"),
        ({"stands": [0, 1, 2, 3]}, "missing"),
        ({"desc": ["RGYB"]}, "7 rows"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(Taxi()).coerce(task)


@pytest.mark.parametrize(
    "keywords",
    [
        {"is_rainy": 1},
        {"fickle_passenger": None},
        {"rainy_probability": 1.1},
        {"rainy_probability": 0.5},
        {"wall_probability": 0.7},
        {"episode_length": 0},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        Taxi(**keywords)


def test_picture_and_text_tell_who_is_where():
    family = Taxi()
    params, state = _params(family, family.nominal()), Position(np.array([_state(2, 2, 1, 3)]))
    lines = family.describe(state, params).split("\n")
    assert lines[:7] == list(taxi_layouts.NOMINAL)
    assert lines[7:] == ["taxi in row 2, column 2; passenger at G, to B", ""]
    assert "in the taxi" in family.describe(Position(np.array([_state(2, 2, 4, 3)])), params)
    assert family.draw(state, params).shape == (400, 400, 3)
