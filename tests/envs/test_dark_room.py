import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs import grids
from metagym.envs.dark_room import VARIANTS, DarkRoom
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def _all_tasks(family):
    columns, weights = family.enumerate_structures()
    return family.params_type(**columns), weights


def _draw(family, num_tasks, part=None, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _step(family, params, cell, action):
    state = Position(np.broadcast_to(np.asarray(cell), len(params)).astype(np.int64))
    return family.step(state, np.broadcast_to(np.asarray(action), len(params)), params, np.empty((len(params), 0)))


def source(cell, action, goal, size, ends_at_goal):
    """One step of toy-meta-gym's room, written out: cell, reward, whether it ends."""
    direction = {0: (0, 0), 1: (-1, 0), 2: (0, 1), 3: (1, 0), 4: (0, -1)}[action]
    place = np.clip(np.array(divmod(cell, size)) + direction, 0, size - 1)
    reward = float(np.array_equal(place, divmod(goal, size)))
    return int(place[0] * size + place[1]), reward, bool(reward and ends_at_goal)


# --- dynamics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["ad", "ad_hard", "dpt"])
def test_every_step_is_that_of_the_source(variant):
    family = DarkRoom(variant=variant, size=3)
    params, _ = _all_tasks(family)
    for cell in range(9):
        for action in range(5):
            step = _step(family, params, cell, action)
            expected = [source(cell, action, goal, 3, variant == "ad_hard") for goal in range(9)]
            columns = (family.observe(step.state, params), step.reward, step.terminated)
            assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
            assert step.success.tolist() == [reward == 1.0 for _, reward, _ in expected]


def test_standing_on_the_goal_pays_at_each_step_that_ends_there():
    env = TaskEnv(DarkRoom())
    env.set_task({"goal": (3, 4)})  # one up from the centre
    assert env.reset(seed=0)[0] == 40
    plan = [UP, STAY, DOWN, UP, *[STAY] * 16]
    results = [env.step(action) for action in plan]
    assert [result[1] for result in results] == [1.0, 1.0, 0.0, *[1.0] * 17]
    assert [result[0] for result in results[:4]] == [31, 31, 40, 31]
    assert [result[3] for result in results] == [False] * 19 + [True]
    assert not any(result[2] for result in results)


def test_a_wall_holds_the_agent_on_the_goal_and_pays():
    family = DarkRoom(variant="dpt")
    step = _step(family, _all_tasks(family)[0].take(np.array([0])), 0, UP)
    assert (step.state.cell.tolist(), step.reward.tolist()) == ([0], [1.0])


def test_starting_on_the_goal_pays_once_a_step_has_ended_there():
    env = TaskEnv(DarkRoom())
    env.reset(options={"task": {"goal": 40}})
    assert [env.step(action)[1] for action in (STAY, UP, DOWN)] == [1.0, 0.0, 1.0]


def test_the_hard_room_pays_once_and_ends_even_where_episodes_start_on_the_goal():
    env = TaskEnv(DarkRoom(variant="ad_hard"))
    observation, _ = env.reset(options={"task": {"goal": 144}})
    assert observation == 144
    observation, reward, terminated, truncated, info = env.step(STAY)
    assert (observation, reward, terminated, truncated, info["is_success"]) == (144, 1.0, True, False, True)


def test_a_permuted_action_does_what_the_action_map_says():
    family = DarkRoom()
    task = TaskDistribution(family).coerce({"goal": 0, "action_map": [3, 2, 1, 0, 4]})
    step = _step(family, family.params_of([task]).take(np.zeros(5, np.int64)), 40, np.arange(5))
    assert step.state.cell.tolist() == [49, 41, 31, 40, 39]


@pytest.mark.parametrize(
    ("variant", "size", "start", "length"), [("ad", 9, 40, 20), ("ad_hard", 17, 144, 20), ("dpt", 10, 0, 100)]
)
def test_the_published_constants(variant, size, start, length):
    family = DarkRoom(variant=variant)
    assert (family.size, family.episode_length, family.observation_space.n) == (size, length, size**2)
    env = TaskEnv(family)
    assert env.reset(seed=0)[0] == start


def test_where_no_cell_is_in_the_middle_the_one_below_and_to_the_right_of_it_is_the_centre():
    # The source starts in (size // 2, size // 2).
    assert TaskEnv(DarkRoom(size=4)).reset(seed=0)[0] == 2 * 4 + 2


# --- exact values --------------------------------------------------------------------------------------------------


def test_the_optimum_of_a_known_goal_is_to_go_straight_and_stay():
    family = DarkRoom()
    params, weights = _all_tasks(family)
    steps = np.abs(grids.coordinates(9) - 4).sum(axis=1)
    assert family.optimal_return(params).tolist() == (21 - np.maximum(steps, 1)).tolist()
    assert family.optimal_return(params) @ weights == pytest.approx(16.5432, abs=5e-5)
    assert family.optimal_return(params) @ weights == pytest.approx(1340 / 81)


@pytest.mark.parametrize(
    ("variant", "optimal", "random"),
    [("ad_hard", 1.0, 0.0373), ("dpt", 91.99, 1.0), ("dpt_permuted", 83.0, 0.1646)],
)
def test_the_documented_returns_of_the_variants(variant, optimal, random):
    family = DarkRoom(variant=variant)
    params, weights = _all_tasks(family)
    assert family.optimal_return(params) @ weights == pytest.approx(optimal, abs=1e-9)
    assert family.random_return(params) @ weights == pytest.approx(random, abs=5e-5)


@pytest.mark.parametrize("variant", ["ad", "dpt"])
def test_at_random_a_uniform_goal_is_met_once_in_as_many_steps_as_there_are_cells(variant):
    # Wherever the agent is after a step, each cell is the goal with the same probability.
    family = DarkRoom(variant=variant)
    params, weights = _all_tasks(family)
    assert family.random_return(params) @ weights == pytest.approx(family.episode_length / family.size**2)


def test_permuting_actions_changes_no_value():
    family = DarkRoom(variant="dpt_permuted", size=4, episode_length=9)
    params, _ = _all_tasks(family)
    assert np.ptp(family.optimal_return(params)) == 0.0
    assert family.random_return(params) == pytest.approx(np.full(120, family.random_return(params)[0]))


def test_the_best_first_episode_enters_twenty_new_cells():
    assert DarkRoom().bayes_return(1) == pytest.approx([sum(range(1, 21)) / 81])
    assert DarkRoom().bayes_return(1) == pytest.approx([2.593], abs=5e-4)


def test_each_of_four_hard_episodes_can_enter_twenty_new_cells():
    returns = DarkRoom(variant="ad_hard").bayes_return(4)
    assert returns == pytest.approx(np.array([20, 40, 60, 80]) / 289)


def test_in_a_hundred_steps_every_cell_can_be_visited():
    assert DarkRoom(variant="dpt").bayes_return(3) == pytest.approx([50.5, 91.99, 91.99])


def test_bayes_optima_that_are_not_computed_are_none():
    assert DarkRoom(variant="dpt_permuted").bayes_return(1) is None
    assert DarkRoom().bayes_return(2) is None


# --- distributions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "num_train", "num_test"),
    [("ad", 65, 16), ("ad_hard", 231, 58), ("dpt", 80, 20), ("dpt_permuted", 96, 24)],
)
def test_splits_are_exact(variant, num_train, num_test):
    family = DarkRoom(variant=variant)
    train, test = (
        set(zip(params.goal.tolist(), map(tuple, params.action_map.tolist()), strict=True))
        for params in (_draw(family, 6000, part) for part in ("train", "test"))
    )
    assert (len(train), len(test)) == (num_train, num_test)
    assert not train & test


def test_what_is_hidden_is_uniform_and_the_rest_fixed():
    goals, orders = _draw(DarkRoom(), 8100), _draw(DarkRoom(variant="dpt_permuted"), 12_000)
    assert stats.chisquare(np.bincount(goals.goal, minlength=81)).pvalue > 1e-3
    assert (goals.action_map == np.arange(5)).all()
    _, counts = np.unique(orders.action_map, axis=0, return_counts=True)
    assert len(counts) == 120
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (orders.goal == 99).all()


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_out_of_distribution_the_other_part_varies_as_well(variant):
    params = _draw(DarkRoom(variant=variant), 8000, "ood")
    if variant == "dpt_permuted":
        assert set(params.goal.tolist()) == set(range(99))
        assert len(np.unique(params.action_map, axis=0)) == 120
    else:
        assert set(params.goal.tolist()) == set(range(DarkRoom(variant=variant).size ** 2))
        assert not (params.action_map == np.arange(5)).all(axis=1).any()
        assert len(np.unique(params.action_map, axis=0)) == 119


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_proposed_structures_are_those_listed(variant):
    family = DarkRoom(variant=variant, size=3)
    columns, _ = family.enumerate_structures()
    noise = np.random.default_rng(0).random((4000, 2))
    drawn = family.draw_structure(noise, "train")
    listed, found = (
        set(zip(some["goal"].tolist(), map(tuple, some["action_map"].tolist()), strict=True))
        for some in (columns, drawn)
    )
    assert found == listed


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"goal": 81}, "goal=81"),
        ({"goal": (0, 9)}, "goal=.* lies outside the grid"),
        ({"goal": 3, "action_map": [0, 1, 2, 3, 3]}, "permutation"),
        ({"goal": 3, "action_map": [0, 1, 2, 3]}, "action_map has shape"),
        ({"action_map": [0, 1, 2, 3, 4]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(DarkRoom()).coerce(task)


def test_a_goal_may_be_given_as_coordinates_and_the_action_map_left_out():
    task = TaskDistribution(DarkRoom()).coerce({"goal": (8, 1)})
    assert task["goal"] == 73
    assert task["action_map"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keywords", [{"variant": "hard"}, {"size": 1}, {"size": 33}, {"episode_length": 1.5}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        DarkRoom(**keywords)


# --- rows and pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
@pytest.mark.parametrize("variant", ["ad", "ad_hard", "dpt_permuted"])
def test_rows_do_not_depend_on_each_other(variant, num_rows):
    family, rng = DarkRoom(variant=variant), np.random.default_rng(2)
    params = _draw(family, 64, seed=3)
    cells, actions = rng.integers(0, family.size**2, 64), rng.integers(0, 5, 64)
    whole = _step(family, params, cells, actions)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, params.take(rows), cells[rows], actions[rows])
    assert part.state.cell.tolist() == whole.state.cell[rows].tolist()
    assert part.reward.tobytes() == whole.reward[rows].tobytes()
    assert family.observe(part.state, params.take(rows)).tolist() == family.observe(whole.state, params)[rows].tolist()


@pytest.mark.parametrize("variant", ["ad", "ad_hard"])
def test_pictures_and_texts_show_the_agent_at_its_start(variant):
    family = DarkRoom(variant=variant, size=3)
    params, _ = _all_tasks(family)
    state = family.initial(params.take(np.array([1])), np.empty((1, 0)))
    assert family.describe(state, params.take(np.array([1]))) == " .  G  .\n . [.] .\n .  .  .\n"
    assert family.draw(state, params.take(np.array([1]))).shape == (192, 192, 3)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, "2", True])
def test_a_trial_has_a_whole_number_of_episodes(num_episodes):
    with pytest.raises(ConfigError, match=r"num_episodes=.* accepted is an integer in"):
        DarkRoom().bayes_return(num_episodes)
