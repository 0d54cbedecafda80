import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.point_goal import VARIANTS, Point, PointGoal, PointGoalParams
from metagym.errors import ConfigError, TaskError

ONE = np.nextafter(1.0, 0.0)
FIXED_START = ["maml", "promp", "pearl_sparse", "varibad_sparse"]
SQUARES = {"maml": 0.5, "promp": 2.0, "pearl": 1.0}
HALF_CIRCLES = ["pearl_sparse", "varibad_sparse", "semicircle"]


def _params(goals):
    return PointGoalParams(np.atleast_2d(np.array(goals, np.float64)))


def _step(family, position, action, goal):
    params = _params(goal)
    noise = np.empty((len(params), 0))
    return family.step(Point(np.atleast_2d(np.float64(position))), np.atleast_2d(np.float32(action)), params, noise)


def _keys(num_tasks, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)


def _sample(family, num_tasks, part=None):
    return TaskDistribution(family).part(part).draw(_keys(num_tasks))[0]


def _grid(width):
    """Midpoints of width ** 2 squares that tile [-1, 1] x [-1, 1]."""
    place = (2 * np.arange(width) + 1) / width - 1.0
    return np.stack(np.meshgrid(place, place), axis=2).reshape(-1, 2)


def _play(family, params, starts, policy):
    """Return of each row, and whether it ended by itself; `policy` maps positions and goals to moves in metres."""
    state, alive = Point(starts.copy()), np.ones(len(params), np.bool_)
    total = np.zeros(len(params))
    for _ in range(family.episode_length):
        action = policy(state.position, params.goal) / 0.1 * family.constants.action_limit
        step = family.step(state, action, params, np.empty((len(params), 0)))
        total += alive * step.reward
        alive &= ~step.terminated
        state = step.state
    return total, ~alive


# --- transitions by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "action", "goal", "moved", "reward", "terminated"),
    [
        ([0.0, 0.0], [0.1, -0.05], [0.4, -0.45], [0.1, -0.05], -0.5, False),
        ([0.0, 0.0], [0.7, -9.0], [0.4, 0.3], [0.1, -0.1], -0.5, False),  # clipped to 0.1, so 0.3 and 0.4 are left
        ([0.2, 0.2], [0.1, 0.1], [0.309, 0.291], [0.3, 0.3], -np.hypot(0.009, 0.009), True),
        ([0.2, 0.2], [0.1, 0.1], [0.309, 0.289], [0.3, 0.3], -np.hypot(0.009, 0.011), False),
    ],
)
def test_transitions_of_maml(position, action, goal, moved, reward, terminated):
    step = _step(PointGoal(), position, action, goal)
    assert step.state.position[0] == pytest.approx(moved)
    assert step.reward[0] == pytest.approx(reward)
    assert step.terminated.tolist() == [terminated]
    assert step.success.tolist() == [terminated]


@pytest.mark.parametrize(
    ("variant", "action", "near", "far"),
    [
        ("pearl_sparse", 0.1, 1.0 - 0.15, 0.0),
        ("varibad_sparse", 1.0, 1.0 - 0.15, 0.0),
        ("semicircle", 0.1, 1.0, 0.0),
    ],
)
def test_sparse_rewards_are_paid_within_a_fifth_of_a_metre(variant, action, near, far):
    step = _step(PointGoal(variant=variant), [[0.75, 0.0], [0.69, 0.0]], [[action, 0.0]] * 2, [[1.0, 0.0]] * 2)
    assert step.state.position[:, 0] == pytest.approx([0.85, 0.79])
    assert step.reward == pytest.approx([near, far])
    assert step.success.tolist() == [True, False]
    assert step.terminated.tolist() == [False, False]


def test_pearl_pays_the_distance_and_neither_ends_nor_succeeds():
    family = PointGoal(variant="pearl")
    step = _step(family, [0.3, 0.4], [0.0, 0.0], [[0.3, 0.4]])
    assert step.reward.tolist() == [0.0]
    assert step.terminated.tolist() == [False]
    assert step.success is None
    assert not family.has_success


def test_the_largest_single_precision_action_moves_by_exactly_a_tenth():
    family = PointGoal()
    assert _step(family, [0.0, 0.0], family.action_space.high, [0.5, 0.5]).state.position.tolist() == [[0.1, 0.1]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_running_into_a_corner_stays_inside_the_observation_space(variant):
    family = PointGoal(variant=variant)
    params = _sample(family, 4)
    corners = np.array([[0.0, 0.0], [0.0, ONE], [ONE, 0.0], [ONE, ONE]])
    state = family.initial(params, corners if family.num_initial_draws else np.empty((4, 0)))
    run = family.action_space.high * np.where(corners > 0.5, 1, -1).astype(np.float32)
    for _ in range(family.episode_length):
        assert all(row in family.observation_space for row in family.observe(state, params))
        state = family.step(state, run, params, np.empty((4, 0))).state
    observation = family.observe(state, params)
    assert observation.dtype == np.float32
    assert all(row in family.observation_space for row in observation)
    # The bounds are tight: these four runs reach them.
    assert observation.max(axis=0).tolist() == pytest.approx(family.observation_space.high.tolist(), rel=1e-6)
    assert observation.min(axis=0).tolist() == pytest.approx(family.observation_space.low.tolist(), rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_starts_are_where_the_variant_says(variant):
    family = PointGoal(variant=variant)
    constants = family.constants
    params = _params(np.zeros((5000, 2)))
    noise = np.random.default_rng(0).random((5000, family.num_initial_draws))
    position = family.initial(params, noise).position
    assert position.min(axis=0) == pytest.approx(constants.start_low, abs=0.01)
    assert position.max(axis=0) == pytest.approx(constants.start_high, abs=0.01)
    assert np.all((position >= constants.start_low) & (position <= constants.start_high))


def test_horizons_of_the_variants():
    lengths = {variant: PointGoal(variant=variant).episode_length for variant in VARIANTS}
    assert lengths == {
        "maml": 100,
        "promp": 100,
        "pearl": 20,
        "pearl_sparse": 20,
        "varibad_sparse": 100,
        "semicircle": 60,
    }
    short = PointGoal(episode_length=7)
    assert short.episode_length == 7
    assert short.observation_space.high.tolist() == [np.float32(0.7)] * 2


# --- limits --------------------------------------------------------------------------------------------------------


def test_the_known_goal_optimum_of_maml_is_the_published_one():
    assert PointGoal().optimal_return(_params(0.5 * _grid(300))).mean() == pytest.approx(-0.506, abs=0.001)


def test_standing_still_in_maml_pays_the_published_amount():
    params = _sample(PointGoal(), 4000)
    starts = np.zeros((4000, 2))
    still, _ = _play(PointGoal(), params, starts, lambda position, goal: np.zeros_like(position))
    # E|g| = (sqrt 2 + ln(1 + sqrt 2)) / 6 = 0.382598 for g uniform on the square.
    assert still.mean() == pytest.approx(-38.26, abs=4 * still.std() / 4000**0.5)


def test_the_optimum_of_one_goal_by_hand():
    # From (0, 0) to (0.2, 0.1): one diagonal step leaves 0.1, the second none.
    assert PointGoal().optimal_return(_params([0.2, 0.1])) == pytest.approx([-0.1])
    # Steps 8 to 20 end inside the disc: 0.199 and 0.099 from its centre, then eleven times on it.
    sparse = PointGoal(variant="pearl_sparse").optimal_return(_params([0.0, 0.999]))
    assert sparse == pytest.approx([(1 - 0.199) + (1 - 0.099) + 11])
    # Even on the goal a step must be taken, and it ends the episode.
    assert PointGoal().optimal_return(_params([0.0, 0.0])).tolist() == [0.0]


@pytest.mark.parametrize("variant", FIXED_START)
@pytest.mark.parametrize("part", ["train", "ood"])
def test_going_straight_in_each_axis_earns_the_optimum(variant, part):
    family = PointGoal(variant=variant)
    params = _sample(family, 500, part)
    greedy, _ = _play(family, params, np.zeros((500, 2)), lambda position, goal: goal - position)
    assert greedy == pytest.approx(family.optimal_return(params), abs=1e-9)


@pytest.mark.parametrize("variant", FIXED_START)
def test_no_disturbed_plan_beats_the_optimum(variant):
    family = PointGoal(variant=variant)
    params, rng = _sample(family, 500), np.random.default_rng(1)
    optimum = family.optimal_return(params)
    for size in (0.003, 0.03, 0.3):
        returns, _ = _play(
            family,
            params,
            np.zeros((500, 2)),
            lambda position, goal, size=size: goal - position + rng.normal(0.0, size, position.shape),
        )
        assert np.all(returns <= optimum + 1e-9)


@pytest.mark.parametrize(("variant", "error"), [("pearl", 0.001), ("semicircle", 0.02)])
def test_the_optimum_over_random_starts_is_what_the_greedy_agent_earns_on_average(variant, error):
    family = PointGoal(variant=variant)
    goals = _sample(family, 3).goal
    optimum = family.optimal_return(_params(goals))
    noise = np.random.default_rng(4).random((20_000, 2))
    for goal, expected in zip(goals, optimum, strict=True):
        params = _params(np.tile(goal, (20_000, 1)))
        starts = family.initial(params, noise).position
        returns, _ = _play(family, params, starts, lambda position, goal: goal - position)
        assert returns.mean() == pytest.approx(expected, abs=error + 4 * returns.std() / 20_000**0.5)


def test_the_documented_reference_returns():
    half_turn = np.pi * (np.arange(400) + 0.5) / 400
    circle = _params(np.stack([np.cos(half_turn), np.sin(half_turn)], axis=1))
    square = _grid(100)
    means = {
        "promp": PointGoal(variant="promp").optimal_return(_params(2.0 * square)).mean(),
        "pearl": PointGoal(variant="pearl").optimal_return(_params(_grid(12))).mean(),
        "pearl_sparse": PointGoal(variant="pearl_sparse").optimal_return(circle).mean(),
        "varibad_sparse": PointGoal(variant="varibad_sparse").optimal_return(circle).mean(),
        "semicircle": PointGoal(variant="semicircle").optimal_return(circle.take(np.arange(2, 400, 8))).mean(),
    }
    assert means == pytest.approx(
        {"promp": -10.23, "pearl": -5.19, "pearl_sparse": 13.38, "varibad_sparse": 93.38, "semicircle": 51.82}, abs=0.05
    )
    assert PointGoal().random_return(square) is None


# --- rows and tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_do_not_depend_on_each_other(variant):
    family, rng = PointGoal(variant=variant), np.random.default_rng(7)
    keys, positions = _keys(17), rng.normal(size=(17, 2))
    actions = rng.normal(size=(17, 2)).astype(np.float32)
    for part in ("train", "ood"):
        distribution = TaskDistribution(family).part(part)
        params, ids = distribution.draw(keys)
        whole = family.step(Point(positions), actions, params, np.empty((17, 0)))
        for rows in ([8], [16, 2, 3], rng.permutation(17)):
            fewer, fewer_ids = distribution.draw(keys[rows])
            assert fewer_ids.tolist() == ids[rows].tolist()
            step = family.step(Point(positions[rows]), actions[rows], fewer, np.empty((len(rows), 0)))
            assert step.state.position.tolist() == whole.state.position[rows].tolist()
            assert step.reward.tolist() == whole.reward[rows].tolist()
            assert step.terminated.tolist() == whole.terminated[rows].tolist()
    assert family.optimal_return(params.take(np.arange(3))).tolist()[1:] == (
        family.optimal_return(params.take(np.arange(1, 3))).tolist()
    )


@pytest.mark.parametrize(("variant", "half"), SQUARES.items())
def test_goals_are_uniform_on_the_square_and_ood_around_it(variant, half):
    family = PointGoal(variant=variant)
    train = _sample(family, 5000, "train").goal
    assert np.abs(train).max() <= half
    assert stats.kstest(train.ravel(), stats.uniform(-half, 2 * half).cdf).pvalue > 1e-3
    ood = _sample(family, 12_000, "ood").goal / half
    assert np.abs(ood).max(axis=1).min() > 1.0
    assert np.abs(ood).max() <= 2.0
    # Twelve squares of side 1 around the hole, and uniform within them.
    counts, _, _ = np.histogram2d(*ood.T, bins=4, range=[[-2, 2]] * 2)
    assert counts[1:3, 1:3].tolist() == [[0, 0], [0, 0]]
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    assert stats.kstest((ood % 1.0).ravel(), stats.uniform().cdf).pvalue > 1e-3


@pytest.mark.parametrize("variant", HALF_CIRCLES)
def test_goals_are_uniform_on_the_upper_half_circle_and_ood_on_the_lower(variant):
    family = PointGoal(variant=variant)
    for part, side in (("train", 1.0), ("ood", -1.0)):
        goal = _sample(family, 5000, part).goal
        assert np.hypot(*goal.T) == pytest.approx(np.ones(5000))
        assert np.all(side * goal[:, 1] > 0.0)
        angle = np.arctan2(side * goal[:, 1], goal[:, 0])
        assert stats.kstest(angle, stats.uniform(0.0, np.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_extreme_uniforms_give_goals_inside_the_space_and_outside_training(variant):
    family = PointGoal(variant=variant)
    noise = np.array([[u, v] for u in (0.0, 0.25, 0.5, 0.75, ONE) for v in (0.0, ONE)])
    for region in ("train", "ood"):
        goals = family.draw_structure(noise, region)["goal"]
        assert all(goal in family.task_space["goal"] for goal in goals)
    if family.constants.goals == "square":
        assert np.abs(goals).max(axis=1).min() > family.constants.extent
    else:
        assert goals[:, 1].max() < 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_train_and_test_share_no_goal(variant):
    family = PointGoal(variant=variant)
    train, test = ({row.tobytes() for row in _sample(family, 1000, part).goal} for part in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert not train & test


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"goal": [0.1]}, r"shape \(1,\)"),
        ({"goal": [0.1, 1.1]}, "goal="),
        ({"goal": [np.nan, 0.0]}, "goal="),
        ({"goal": ["north", "east"]}, "goal="),
        ({"target": [0.1, 0.1]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(PointGoal()).coerce(task)


@pytest.mark.parametrize("keywords", [{"variant": "walls"}, {"variant": None}, {"episode_length": 0}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        PointGoal(**keywords)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_picture_shows_the_point_and_the_goal(variant):
    family = PointGoal(variant=variant)
    params = _params([0.25, 0.25])
    here, there = (family.draw(Point(np.array([place])), params) for place in ([0.0, 0.0], [-0.3, 0.1]))
    assert here.shape == (400, 400, 3)
    assert here.dtype == np.uint8
    assert here[200, 200].tolist() == [236, 112, 20]
    assert np.any(here != there)


def test_the_text_names_position_goal_and_distance():
    text = PointGoal().describe(Point(np.array([[0.0, 0.1]])), _params([0.3, 0.5]))
    assert text == "at (+0.000, +0.100), goal (+0.300, +0.500), distance 0.500 m\n"
