import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.envs.grid_navi import GridNavi
from metagym.errors import ConfigError, TaskError
from metagym.tabular import Position

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def _all_tasks(family):
    columns, weights = family.enumerate_structures()
    return family.params_type(**columns), weights


def _step(family, params, cell, action):
    state = Position(np.broadcast_to(np.asarray(cell), len(params)).astype(np.int64))
    return family.step(state, np.broadcast_to(np.asarray(action), len(params)), params, np.empty((len(params), 0)))


def source(x, y, action, goal, size=5):
    """One step of VariBAD's gridworld, written out: place and reward."""
    if action == UP:
        y = min(y + 1, size - 1)
    elif action == RIGHT:
        x = min(x + 1, size - 1)
    elif action == DOWN:
        y = max(y - 1, 0)
    elif action == LEFT:
        x = max(x - 1, 0)
    return x, y, 1.0 if (x, y) == goal else -0.1


def test_every_step_is_that_of_the_source():
    family = GridNavi()
    params, _ = _all_tasks(family)
    goals = [divmod(goal, 5) for goal in params.goal.tolist()]
    for cell in range(25):
        for action in range(5):
            step = _step(family, params, cell, action)
            expected = [source(*divmod(cell, 5), action, goal) for goal in goals]
            seen = family.observe(step.state, params)
            assert seen.tolist() == [[x, y] for x, y, _ in expected]
            assert seen.dtype == np.float32
            assert step.reward.tolist() == [reward for *_, reward in expected]
            assert step.success.tolist() == [reward == 1.0 for *_, reward in expected]
            assert not step.terminated.any()


def test_an_episode_is_truncated_after_15_steps_and_goes_on_at_the_goal():
    env = TaskEnv(GridNavi())
    env.set_task({"goal": (0, 2)})
    observation, info = env.reset(seed=0)
    assert observation.tolist() == [0.0, 0.0]
    results = [env.step(action) for action in [UP, UP, *[STAY] * 13]]
    assert [result[1] for result in results] == [-0.1, *[1.0] * 14]
    assert not any(result[2] for result in results)
    assert [result[3] for result in results] == [False] * 14 + [True]
    assert [result[4]["is_success"] for result in results] == [False] + [True] * 14
    assert "goal" not in info


def test_the_optimum_of_a_known_goal_is_to_go_straight_and_stay():
    family = GridNavi()
    params, weights = _all_tasks(family)
    steps = np.array([sum(divmod(goal, 5)) for goal in params.goal.tolist()])
    straight = -0.1 * (steps - 1) + (15 - steps + 1)
    assert family.optimal_return(params) == pytest.approx(straight, abs=1e-12)
    assert family.optimal_return(params) @ weights == pytest.approx(11.0714, abs=5e-5)


def test_the_random_return_by_the_chance_to_be_at_the_goal():
    family = GridNavi()
    params, weights = _all_tasks(family)
    moves = family.successors[:, :, 0]
    place, at_goal = np.eye(25)[0], np.zeros(21)
    for _ in range(15):
        place = np.bincount(moves.ravel(), weights=np.repeat(place / 5, 5), minlength=25)
        at_goal += place[params.goal]
    assert family.random_return(params) == pytest.approx(1.1 * at_goal - 1.5, abs=1e-12)
    assert family.random_return(params) @ weights == pytest.approx(-1.1655, abs=5e-5)


def test_the_bayes_optimal_returns_of_a_trial_of_four_episodes():
    family = GridNavi()
    params, weights = _all_tasks(family)
    known = family.optimal_return(params) @ weights
    returns = family.bayes_return(4)
    assert returns == pytest.approx([4.0, known, known, known], abs=1e-12)
    assert returns.sum() == pytest.approx(37.2143, abs=5e-5)


@pytest.mark.parametrize("num_episodes", [1, 2, 3, 7])
def test_bayes_optimal_returns_of_shorter_and_longer_trials(num_episodes):
    returns = GridNavi().bayes_return(num_episodes)
    assert returns[0] == pytest.approx(4.0)
    assert returns[1:] == pytest.approx(np.full(num_episodes - 1, 11.0714), abs=5e-5)


def test_in_a_long_episode_all_goals_can_be_found():
    # The 21 goals can be entered one after the other, the first of them at step 2.
    returns = GridNavi(episode_length=1000).bayes_return(2)
    found_at = np.arange(2, 23)
    assert returns[0] == pytest.approx((1001 - found_at - 0.1 * (found_at - 1)).mean())


def test_no_bayes_optimum_is_claimed_that_was_not_proven():
    assert GridNavi(size=6).bayes_return(1) is not None
    assert GridNavi(size=6).bayes_return(2) is None


def test_goals_are_uniform_over_the_21_cells_outside_the_corner_of_the_start():
    keys = np.random.default_rng(0).integers(0, 2**64, 21_000, np.uint64)
    goals = TaskDistribution(GridNavi()).draw(keys)[0].goal
    counts = np.bincount(goals, minlength=25)
    assert counts[[0, 1, 5, 6]].tolist() == [0, 0, 0, 0]
    assert stats.chisquare(np.delete(counts, [0, 1, 5, 6])).pvalue > 1e-3


def test_splits_are_exact_and_ood_goals_lie_in_the_corner():
    distribution = TaskDistribution(GridNavi())
    keys = np.random.default_rng(1).integers(0, 2**64, 2000, np.uint64)
    train, test, ood = (set(distribution.part(part).draw(keys)[0].goal.tolist()) for part in ("train", "test", "ood"))
    assert (len(train), len(test)) == (17, 4)
    assert not train & test
    assert ood == {1, 5, 6}


def test_draws_of_structures_reach_every_cell_of_their_region():
    family = GridNavi(size=4)
    noise = np.linspace(0.0, 1.0, 1000, endpoint=False)[:, None]
    assert np.unique(family.draw_structure(noise, "train")["goal"]).tolist() == [2, 3, *range(6, 16)]
    assert np.unique(family.draw_structure(noise, "ood")["goal"]).tolist() == [1, 4, 5]


@pytest.mark.parametrize("goal", [25, -1, (0, 5), (1, 2, 3), 2.5])
def test_goals_outside_the_grid_are_refused(goal):
    with pytest.raises(TaskError, match="goal"):
        TaskDistribution(GridNavi()).coerce({"goal": goal})


def test_a_goal_may_be_given_as_coordinates():
    assert TaskDistribution(GridNavi()).coerce({"goal": (3, 1)})["goal"] == 16


@pytest.mark.parametrize("keywords", [{"size": 2}, {"size": 33}, {"size": 5.0}, {"episode_length": 0}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        GridNavi(**keywords)


def test_the_horizon_grows_with_the_grid():
    assert GridNavi().episode_length == 15
    assert GridNavi(size=8).episode_length == 24
    assert GridNavi(size=8, episode_length=7).episode_length == 7
    assert GridNavi(size=8).observation_space.high.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(num_rows):
    family, rng = GridNavi(), np.random.default_rng(2)
    params = TaskDistribution(family).draw(rng.integers(0, 2**64, 64, np.uint64))[0]
    cells, actions = rng.integers(0, 25, 64), rng.integers(0, 5, 64)
    whole = _step(family, params, cells, actions)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, params.take(rows), cells[rows], actions[rows])
    assert part.state.cell.tolist() == whole.state.cell[rows].tolist()
    assert part.reward.tobytes() == whole.reward[rows].tobytes()


def test_pictures_and_texts_point_y_up():
    family = GridNavi(size=3)
    params = family.params_of([TaskDistribution(family).coerce({"goal": (2, 1)})])
    state = Position(np.array([1]))
    assert family.describe(state, params) == " .  .  .\n[.] .  G\n .  .  .\n"
    assert family.draw(state, params).shape == (192, 192, 3)


@pytest.mark.parametrize("num_episodes", [0, -1, 2.5, "2", True])
def test_a_trial_has_a_whole_number_of_episodes(num_episodes):
    with pytest.raises(ConfigError, match=r"num_episodes=.* accepted is an integer in"):
        GridNavi().bayes_return(num_episodes)
