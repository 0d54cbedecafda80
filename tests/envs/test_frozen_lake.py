import inspect
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.frozen_lake import FrozenLake
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

STANDARD = ["SFFF", "FHFH", "FFFH", "HFFG"]
LEFT, DOWN, RIGHT, UP = range(4)
CENTRE, BEFORE, AFTER = 0.5, 0.1, 0.9  # uniforms that choose the intended effect, action - 1 and action + 1


def _params(family, *tasks):
    distribution = TaskDistribution(family)
    return family.params_of([distribution.coerce(task) for task in tasks])


def _step(family, params, cell, action, noise):
    cells, actions, draws = np.broadcast_arrays(cell, action, noise)
    state = Position(np.array(cells, np.int64).reshape(-1))
    return family.step(state, np.array(actions, np.int64).reshape(-1), params, np.array(draws).reshape(-1, 1))


def _sample(family, num_tasks, seed=0, part=None):
    return (
        TaskDistribution(family)
        .part(part)
        .draw(np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64))[0]
    )


# --- transitions by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "action", "noise", "next_cell", "reward", "terminated"),
    [
        (0, RIGHT, CENTRE, 1, 0.0, False),
        (0, RIGHT, BEFORE, 4, 0.0, False),  # slips down
        (0, RIGHT, AFTER, 0, 0.0, False),  # slips up, into the wall
        (4, RIGHT, CENTRE, 5, 0.0, True),  # into the hole
        (14, RIGHT, CENTRE, 15, 1.0, True),  # onto the goal
        (14, DOWN, AFTER, 15, 1.0, True),  # slips onto the goal
        (14, LEFT, BEFORE, 10, 0.0, False),  # slips up: the side before 0 is 3
    ],
)
def test_transitions_of_the_standard_lake(cell, action, noise, next_cell, reward, terminated):
    family = FrozenLake()
    step = _step(family, _params(family, {"map": STANDARD}), cell, action, noise)
    assert step.state.cell.tolist() == [next_cell]
    assert step.reward.tolist() == [reward]
    assert step.terminated.tolist() == [terminated]
    assert step.success.tolist() == [reward == 1.0]


def test_a_sure_step_ignores_the_noise_on_firm_ice_and_at_rate_one():
    noise = [0.0, 0.3, np.nextafter(1.0, 0.0)]
    for family in (FrozenLake(is_slippery=False), FrozenLake(success_rate=1.0)):
        params = _params(family, {"map": STANDARD}).take(np.zeros(3, np.int64))
        assert _step(family, params, 0, DOWN, noise).state.cell.tolist() == [4, 4, 4]


def test_at_rate_zero_the_agent_never_goes_where_it_means_to():
    family = FrozenLake(success_rate=0.0)
    params = _params(family, {"map": STANDARD}).take(np.zeros(2, np.int64))
    assert _step(family, params, 9, RIGHT, [0.499, 0.5]).state.cell.tolist() == [13, 5]


def test_a_remapped_action_does_what_the_action_map_says():
    family = FrozenLake(remap_actions=True, is_slippery=False)
    params = _params(family, {"map": STANDARD, "action_map": [3, 2, 1, 0]}).take(np.zeros(4, np.int64))
    assert _step(family, params, 9, np.arange(4), 0.0).state.cell.tolist() == [5, 10, 13, 8]


def test_the_probabilities_of_the_outcomes_are_those_drawn():
    family = FrozenLake(success_rate=0.6)
    params = _params(family, {"map": STANDARD}).take(np.zeros(30_000, np.int64))
    noise = np.random.default_rng(1).random(30_000)
    cells = _step(family, params, 9, RIGHT, noise).state.cell
    counts = np.bincount(cells, minlength=16)[[13, 10, 5]]
    assert stats.chisquare(counts, 30_000 * np.array([0.2, 0.6, 0.2])).pvalue > 1e-3


# --- parity with Gymnasium -----------------------------------------------------------------------------------------


# Before 1.2, Gymnasium's lake has no success_rate, and rounds its thirds differently.
same_lakes = pytest.mark.skipif(
    "success_rate" not in inspect.signature(FrozenLakeEnv.__init__).parameters, reason="Gymnasium is older than 1.2"
)


@same_lakes
@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("keywords", [{}, {"is_slippery": False}, {"success_rate": (0.0, 1.0)}, {"random_goal": True}])
def test_transitions_equal_gymnasiums(size, keywords):
    family = FrozenLake(size=size, **keywords)
    for task in TaskDistribution(family).sample(np.random.default_rng(size), 5):
        rows = ["".join("SFHG"[code] for code in row) for row in task["map"]]
        # Gymnasium looks the rate up only on slippery ice.
        original = gym.make(
            "FrozenLake-v1", desc=rows, is_slippery=family.is_slippery, success_rate=float(task["success_rate"])
        )
        assert family.transitions(task) == original.unwrapped.P


@same_lakes
def test_remapped_transitions_equal_gymnasiums_at_the_action_meant():
    family = FrozenLake(remap_actions=True)
    task = TaskDistribution(family).coerce({"map": STANDARD, "action_map": [2, 0, 3, 1]})
    original = gym.make("FrozenLake-v1", desc=STANDARD).unwrapped.P
    expected = {
        cell: {action: original[cell][effect] for action, effect in enumerate([2, 0, 3, 1])} for cell in original
    }
    assert family.transitions(task) == expected


def test_horizons_are_gymnasiums():
    assert FrozenLake().episode_length == gym.spec("FrozenLake-v1").max_episode_steps
    assert FrozenLake(size=8).episode_length == gym.spec("FrozenLake8x8-v1").max_episode_steps
    assert FrozenLake(size=8, episode_length=7).episode_length == 7


# --- exact values --------------------------------------------------------------------------------------------------


def test_optima_of_gymnasiums_own_lakes():
    assert FrozenLake().optimal_return(_params(FrozenLake(), {"map": STANDARD})) == pytest.approx(0.74419, abs=1e-5)
    large = FrozenLake(size=8)
    desc = gym.make("FrozenLake8x8-v1").unwrapped.desc
    assert large.optimal_return(_params(large, {"desc": desc})) == pytest.approx(0.91322, abs=1e-5)


def test_the_best_plan_on_firm_ice_is_found_by_trying_all():
    family = FrozenLake(size=3, is_slippery=False, episode_length=5)
    params = _params(family, {"map": ["SHF", "FFF", "FHG"]}, {"map": ["SFF", "HHF", "GFF"]})
    best = np.zeros(2)
    for plan in product(range(4), repeat=5):
        cell, reward, alive = np.zeros(2, np.int64), np.zeros(2), np.ones(2, np.bool_)
        for action in plan:
            step = _step(family, params, cell, action, 0.0)
            reward += alive * step.reward
            alive &= ~step.terminated
            cell = step.state.cell
        best = np.maximum(best, reward)
    assert best.tolist() == [1.0, 0.0]  # the second goal is six steps away
    assert family.optimal_return(params).tolist() == [1.0, 0.0]


def test_the_value_of_a_lake_of_two_cells_by_hand():
    family = FrozenLake(size=2, episode_length=2, success_rate=0.5)
    params = _params(family, {"map": ["SH", "FG"]})
    # One step to go in F (cell 2): right succeeds with 0.5, its sides are down (stays) and up. Down slips right with
    # 0.25. So V1(F) = 0.5. Two to go in S: down (0.5 to F, 0.25 stays, 0.25 into the hole) is the only way to score,
    # except left, which slips down with 0.25: V2(S) = 0.5 * 0.5.
    assert family.state_values(params, horizon=1).tolist() == [[0.0, 0.0, 0.5, 0.0]]
    assert family.optimal_return(params).tolist() == [0.25]
    # Random: each cell's four effects are equally likely, whatever the slip. V1(F) = 1/4, V2(S) = 1/4 * 1/4.
    assert family.random_return(params) == pytest.approx(0.0625)


def test_remapping_actions_changes_no_value():
    family = FrozenLake(remap_actions=True)
    params = _params(family, {"map": STANDARD}, {"map": STANDARD, "action_map": [1, 3, 0, 2]})
    values = family.state_values(params)
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_the_documented_reference_returns_of_random_lakes():
    params = _sample(FrozenLake(), 1500)
    optimal, random = FrozenLake().optimal_return(params), FrozenLake().random_return(params)
    assert optimal.mean() == pytest.approx(0.9029, abs=4 * optimal.std() / 1500**0.5)
    assert optimal.mean() == pytest.approx(0.906, abs=0.015)
    assert random.mean() == pytest.approx(0.1296, abs=4 * random.std() / 1500**0.5)


@pytest.mark.slow
def test_the_documented_reference_returns_exactly():
    family = FrozenLake()
    columns, weights = family.enumerate_structures()
    params = family.params_type(**columns, **family.draw_details(np.zeros((len(weights), 1)), "train"))
    assert family.optimal_return(params) @ weights == pytest.approx(0.9029, abs=5e-5)
    assert family.random_return(params) @ weights == pytest.approx(0.1296, abs=5e-5)


# --- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords", [{}, {"size": 8, "success_rate": (0.2, 0.9), "remap_actions": True, "random_goal": True}]
)
def test_rows_do_not_depend_on_each_other(keywords):
    family = FrozenLake(**keywords)
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 2**64, 17, np.uint64)
    distribution = TaskDistribution(family).split("train")
    params, ids = distribution.draw(keys)
    cells, actions, noise = rng.integers(0, family.size**2, 17), rng.integers(0, 4, 17), rng.random(17)
    whole = _step(family, params, cells, actions, noise)
    for rows in ([16], [4, 0, 11], rng.permutation(17)):
        part, part_ids = distribution.draw(keys[rows])
        assert part_ids.tolist() == ids[rows].tolist()
        step = _step(family, part, cells[rows], actions[rows], noise[rows])
        assert step.state.cell.tolist() == whole.state.cell[rows].tolist()
        assert step.reward.tolist() == whole.reward[rows].tolist()
        assert step.success.tolist() == whole.success[rows].tolist()
        assert family.optimal_return(part).tolist() == family.optimal_return(params)[rows].tolist()


def test_stepping_and_observing_hand_out_fresh_arrays():
    family = FrozenLake()
    params = _params(family, {"map": STANDARD})
    state = family.initial(params, np.empty((1, 0)))
    assert state.cell.tolist() == [0]
    observation = family.observe(state, params)
    assert observation.dtype == np.int64
    assert not np.shares_memory(observation, state.cell)


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_what_is_left_out_of_a_task_is_filled_in():
    task = TaskDistribution(FrozenLake(success_rate=(0.2, 0.8))).coerce({"desc": np.asarray(STANDARD, dtype="c")})
    assert task["map"].dtype == np.uint8
    assert task["success_rate"] == 0.5
    assert task["action_map"].tolist() == [0, 1, 2, 3]
    assert TaskDistribution(FrozenLake()).coerce({"map": STANDARD})["success_rate"] == 1 / 3
    assert TaskDistribution(FrozenLake(is_slippery=False)).coerce({"map": STANDARD})["success_rate"] == 1.0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"map": ["SFFF", "HHHH", "FFFF", "FFFG"]}, "path from S to G"),
        ({"map": ["SFFF", "FFFF", "FFFF", "FFGG"]}, "exactly one goal G, got 2"),
        ({"map": ["SFFF", "FFFF", "FFFF", "FFFF"]}, "exactly one goal G, got 0"),
        ({"map": ["FSFF", "FFFF", "FFFF", "FFFG"]}, "one start S, at the top left"),
        ({"map": ["SSFF", "FFFF", "FFFF", "FFFG"]}, "one start S, at the top left"),
        ({"map": ["SFF", "FFF", "FFG"]}, r"shape \(3, 3\)"),
        ({"map": np.full((4, 4), 4)}, "map="),
        ({"map": np.full((4, 4), 0.5)}, "map="),
        ({"map": STANDARD, "desc": STANDARD}, "not as both"),
        ({"map": STANDARD, "success_rate": np.nan}, "success_rate="),
        ({"map": STANDARD, "success_rate": 1.01}, "success_rate="),
        ({"map": STANDARD, "success_rate": [0.5]}, "success_rate has shape"),
        ({"map": STANDARD, "success_rate": "high"}, "success_rate="),
        ({"map": STANDARD, "action_map": [0, 1, 2, 2]}, "permutation"),
        ({"map": STANDARD, "action_map": [1, 0, 2, 3]}, "remap_actions=False"),
        ({"map": STANDARD, "action_map": [0, 1, 2, 4]}, "action_map="),
        ({"map": STANDARD, "slip": 0.5}, "unknown"),
        ({"success_rate": 0.5}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(FrozenLake()).coerce(task)


def test_a_refused_lake_is_shown():
    with pytest.raises(TaskError, match=r"\n S  H\n H  G"):
        TaskDistribution(FrozenLake(size=2)).coerce({"map": ["SH", "HG"]})


@pytest.mark.parametrize(
    "keywords",
    [
        {"size": 1},
        {"size": 17},
        {"size": 4.0},
        {"frozen_probability": 0.0},
        {"frozen_probability": 1.1},
        {"is_slippery": 1},
        {"success_rate": -0.1},
        {"success_rate": (0.8, 0.2)},
        {"success_rate": (0.1, 0.2, 0.3)},
        {"success_rate": "1/3"},
        {"success_rate": 0.5, "is_slippery": False},
        {"remap_actions": None},
        {"random_goal": "yes"},
        {"episode_length": 0},
    ],
)
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        FrozenLake(**keywords)


# --- distributions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8])
def test_the_single_map_without_holes_is_for_training(size):
    family = FrozenLake(size=size, frozen_probability=1.0)
    train = TaskDistribution(family).split("train").draw(np.arange(50, dtype=np.uint64))[0]
    assert len(np.unique(train.map, axis=0)) == 1
    with pytest.raises(ConfigError, match="no test part here: there is a single map"):
        TaskDistribution(family).split("test")


def test_a_range_of_rates_may_be_an_array():
    assert FrozenLake(success_rate=np.array([0.25, 0.5])).success_rates == (0.25, 0.5)


def test_no_ood_rate_is_just_a_margin_away_from_those_of_training():
    family = FrozenLake(success_rate=0.5)
    noise = np.array([[0.0], [np.nextafter(0.5, 0.0)], [0.5], [np.nextafter(1.0, 0.0)]])
    rates = family.draw_details(noise, "ood")["success_rate"]
    np.testing.assert_allclose(rates, [0.0, 0.4, 1.0, 0.6], rtol=0.0, atol=1e-12)
    assert np.all(np.abs(rates - 0.5) > 0.1)


def test_sampled_maps_follow_the_exact_probabilities():
    family = FrozenLake(size=3)
    columns, weights = family.enumerate_structures()
    listed = {codes.tobytes(): row for row, codes in enumerate(columns["map"])}
    drawn = _sample(family, 20_000).map
    counts = np.bincount([listed[codes.tobytes()] for codes in drawn], minlength=len(weights))
    assert stats.chisquare(counts, weights * 20_000).pvalue > 1e-3


def test_rates_are_uniform_on_their_range_and_permutations_on_all_24():
    params = _sample(FrozenLake(success_rate=(0.3, 0.9), remap_actions=True), 20_000)
    assert stats.kstest(params.success_rate, stats.uniform(0.3, 0.6).cdf).pvalue > 1e-3
    _, counts = np.unique(params.action_map, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_default_family_draws_gymnasiums_rate_and_actions():
    params = _sample(FrozenLake(), 5)
    assert params.success_rate.tolist() == [1 / 3] * 5
    assert params.action_map.tolist() == [[0, 1, 2, 3]] * 5


def test_ood_rates_lie_outside_the_widened_range_on_both_sides():
    rates = _sample(FrozenLake(success_rate=(0.3, 0.7)), 5000, part="ood").success_rate
    assert np.all((rates < 0.2) | (rates > 0.8))
    assert np.all((rates >= 0.0) & (rates <= 1.0))
    inside = np.where(rates < 0.2, rates, rates - 0.6)
    assert stats.kstest(inside, stats.uniform(0.0, 0.4).cdf).pvalue > 1e-3


def test_ood_maps_are_lakes_too():
    tasks = TaskDistribution(FrozenLake()).ood().sample(np.random.default_rng(0), 50)
    assert all(TaskDistribution(FrozenLake()).coerce(task) == task for task in tasks)
    assert all(abs(task["success_rate"] - 1 / 3) > 0.1 for task in tasks)


@pytest.mark.parametrize("keywords", [{"success_rate": (0.05, 0.95)}, {"success_rate": [0, 1]}, {"is_slippery": False}])
def test_an_empty_ood_region_is_said_to_be_empty(keywords):
    with pytest.raises(ConfigError, match="no ood region"):
        _sample(FrozenLake(**keywords), 1, part="ood")


@pytest.mark.parametrize("keywords", [{"size": 2}, {"size": 2, "random_goal": True}, {"size": 3}, {"size": 5}])
def test_train_and_test_share_no_map(keywords):
    family = FrozenLake(**keywords)
    train, test = ({codes.tobytes() for codes in _sample(family, 4000, part=part).map} for part in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_splits_of_a_small_family_together_hold_every_map():
    family = FrozenLake(size=3)
    columns, _ = family.enumerate_structures()
    parts = [{codes.tobytes() for codes in _sample(family, 30_000, part=part).map} for part in ("train", "test")]
    assert len(parts[1]) == round(0.2 * len(columns["map"]))
    assert parts[0] | parts[1] <= {codes.tobytes() for codes in columns["map"]}


def test_the_goal_of_random_goal_moves():
    maps = _sample(FrozenLake(size=5, random_goal=True), 2000).map.reshape(2000, -1)
    goals = maps.argmax(axis=1)
    assert set(goals.tolist()) == set(range(1, 25))


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4, 16])
def test_a_picture_and_a_text_of_every_size(size):
    family = FrozenLake(size=size)
    params = _sample(family, 1)
    state = family.initial(params, np.empty((1, 0)))
    image = family.draw(state, params)
    assert image.dtype == np.uint8
    assert image.shape == (max(24, min(72, 512 // size)) * size,) * 2 + (3,)
    assert family.describe(state, params).startswith("[S]")
    assert family.describe(state, params).count("\n") == size
