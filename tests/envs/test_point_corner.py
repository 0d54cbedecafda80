import numpy as np
import pytest

from metagym.distributions import TaskDistribution
from metagym.envs.corners import CORNERS, CornerParams, Place
from metagym.envs.point_corner import PointCorner
from metagym.errors import ConfigError, TaskError

PACE = 0.2 * 2**0.5
REWARDS = ["sparse", "dense", "dense_squared"]


def _params(goals):
    return CornerParams(np.atleast_2d(np.array(goals, np.float64)))


def _step(family, positions, actions, goals):
    params = _params(goals)
    state = Place(np.atleast_2d(np.array(positions, np.float64)))
    return family.step(state, np.atleast_2d(np.float32(actions)), params, np.empty((len(params), 0)))


def _play(family, goals, starts, policy):
    """Return of each row; `policy` maps step and positions to moves in metres."""
    position, total = starts.copy(), np.zeros(len(starts))
    for elapsed in range(family.episode_length):
        step = _step(family, position, policy(elapsed, position), goals)
        total += step.reward
        position = step.state.position
    return total


def _rules_of_promp(before, action, goal, reward):
    """One step as ProMP's code words it, for one row."""
    after = before + np.clip(action, -0.2, 0.2)
    distance = np.linalg.norm(after - goal)
    if reward == "dense":
        return after, -distance
    if reward == "dense_squared":
        return after, -(distance**2)
    if np.abs(after).sum() < 0.5 or distance > min(np.linalg.norm(after - corner) for corner in CORNERS):
        return after, 0.0
    return after, np.linalg.norm(before - goal) - distance


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "action", "moved", "reward"),
    [
        ([0.0, 0.0], [0.2, 0.2], [0.2, 0.2], 0.0),  # |x| + |y| = 0.4
        ([0.2, 0.2], [0.2, 0.2], [0.4, 0.4], PACE),
        ([0.2, 0.2], [0.9, 5.0], [0.4, 0.4], PACE),  # clipped
        ([0.5, 0.5], [-0.2, -0.2], [0.3, 0.3], -PACE),  # going back is charged
        ([0.4, 0.4], [-0.2, -0.2], [0.2, 0.2], 0.0),  # but not into the ball
        ([0.6, 0.1], [0.0, -0.2], [0.6, -0.1], 0.0),  # nor where another corner is nearer
        ([5.0, 2.0], [-0.2, 0.0], [4.8, 2.0], 0.2),
    ],
)
def test_sparse_rewards_by_hand(position, action, moved, reward):
    step = _step(PointCorner(), position, action, [2.0, 2.0])
    assert step.state.position[0] == pytest.approx(moved)
    assert step.reward == pytest.approx([reward])
    assert step.terminated.tolist() == [False]
    assert step.success is None


@pytest.mark.parametrize("reward", REWARDS)
def test_steps_equal_the_rules_of_the_source(reward):
    rng, family = np.random.default_rng(0), PointCorner(reward=reward)
    positions = rng.normal(0.0, 1.2, (3000, 2))
    actions, goals = rng.uniform(-0.3, 0.3, (3000, 2)).astype(np.float32), CORNERS[rng.integers(0, 4, 3000)]
    step = _step(family, positions, actions, goals)
    expected = [_rules_of_promp(*row, reward) for row in zip(positions, actions.astype(float), goals, strict=True)]
    assert step.state.position == pytest.approx(np.array([position for position, _ in expected]))
    assert step.reward == pytest.approx(np.array([reward for _, reward in expected]), abs=1e-12)
    assert np.count_nonzero(step.reward) > 500


def test_starts_fill_their_square():
    noise = np.array([[0.0, 0.0], [0.5, 0.75], [np.nextafter(1.0, 0.0)] * 2])
    position = PointCorner().initial(_params([2.0, 2.0]), noise).position
    assert position == pytest.approx(np.array([[-0.2, -0.2], [0.0, 0.1], [0.2, 0.2]]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_running_off_stays_inside_the_observation_space(sign):
    family = PointCorner(reward="dense")
    position = np.full((1, 2), sign * 0.2)
    for _ in range(family.episode_length):
        position = _step(family, position, [sign, sign], [2.0, 2.0]).state.position
    observation = family.observe(Place(position), _params([2.0, 2.0]))
    assert observation.dtype == np.float32
    assert observation[0] == pytest.approx([sign * 20.2] * 2)
    assert observation[0] in family.observation_space


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(reward, num_rows):
    rng, family = np.random.default_rng(1), PointCorner(reward=reward)
    positions, goals = rng.normal(size=(64, 2)), CORNERS[rng.integers(0, 4, 64)]
    actions = rng.normal(0.0, 0.2, (64, 2)).astype(np.float32)
    whole = _step(family, positions, actions, goals)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, positions[rows], actions[rows], goals[rows])
    assert part.reward.tolist() == whole.reward[rows].tolist()
    assert part.state.position.tolist() == whole.state.position[rows].tolist()


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["dense", "dense_squared"])
def test_closing_in_on_the_corner_earns_the_dense_optimum(reward):
    family = PointCorner(reward=reward)
    place = 0.2 * ((2 * np.arange(32) + 1) / 32 - 1.0)
    starts = np.stack(np.meshgrid(place, place), axis=2).reshape(-1, 2)
    returns = _play(family, np.tile([2.0, -2.0], (1024, 1)), starts, lambda _, place: [2.0, -2.0] - place)
    optimum = family.optimal_return(_params(CORNERS))
    assert optimum == pytest.approx(np.full(4, returns.mean()), abs=1e-4)
    assert optimum[0] == pytest.approx({"dense": -12.88, "dense_squared": -23.05}[reward], abs=0.005)


def test_walking_out_of_the_ball_again_and_again_earns_the_sparse_optimum():
    # 0.06 rather than 0.05, so that rounding does not decide at the border of the ball.
    def farm(elapsed, place):
        out = np.full_like(place, 0.2)
        if elapsed == 0:
            return 0.06 - place
        return out if elapsed >= 91 or elapsed % 2 else -out

    starts = np.random.default_rng(0).uniform(-0.14, 0.2, (200, 2))
    returns = _play(PointCorner(), np.tile([2.0, 2.0], (200, 1)), starts, farm)
    paid_at_once = starts.sum(axis=1) >= 0.5 - 2 * 0.2
    assert returns[~paid_at_once] == pytest.approx(np.full(np.count_nonzero(~paid_at_once), 54 * PACE), abs=1e-5)
    assert PointCorner().optimal_return(_params([2.0, 2.0]))[0] == pytest.approx(54 * PACE, abs=0.04)


def test_going_straight_earns_the_documented_amount():
    starts = np.random.default_rng(3).uniform(-0.2, 0.2, (4000, 2))
    returns = _play(PointCorner(), np.tile([2.0, 2.0], (4000, 1)), starts, lambda _, place: 2.0 - place)
    assert returns.mean() == pytest.approx(2.62, abs=0.01)


def test_the_random_return_of_squared_distances_is_that_of_random_walks():
    family = PointCorner(reward="dense_squared", episode_length=30)
    rng = np.random.default_rng(5)
    starts = rng.uniform(-0.2, 0.2, (4000, 2))
    returns = _play(family, np.tile([-2.0, 2.0], (4000, 1)), starts, lambda *_: rng.uniform(-0.2, 0.2, (4000, 2)))
    expected = family.random_return(_params([-2.0, 2.0]))
    assert expected == pytest.approx([returns.mean()], abs=4 * returns.std() / 4000**0.5)
    full = PointCorner(reward="dense_squared").random_return(_params([2.0, 2.0]))
    # Each step pays 8 on average, plus what starts and moves are spread by.
    assert full == pytest.approx([-937.33], abs=0.01)
    assert PointCorner().random_return(_params([2.0, 2.0])) is None


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_three_corners_are_for_training_and_one_for_testing():
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, np.uint64)
    parts = [TaskDistribution(PointCorner()).part(part).draw(keys)[0].goal for part in ("train", "test", None)]
    goals = [{tuple(goal) for goal in part.tolist()} for part in parts]
    assert [len(part) for part in goals] == [3, 1, 4]
    assert not goals[0] & goals[1]
    _, counts = np.unique(parts[2], axis=0, return_counts=True)
    assert counts / 4000 == pytest.approx(np.full(4, 0.25), abs=0.03)


def test_ood_goals_are_tasks_outside_training():
    family = PointCorner()
    tasks = TaskDistribution(family).ood().sample(np.random.default_rng(0), 20)
    assert all(TaskDistribution(family).coerce(task) == task for task in tasks)
    assert not any(np.allclose(np.abs(task["goal"]), 2.0, atol=0.2) for task in tasks)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"goal": [2.0, 1.0]}, r"is 2.23\d* from the origin; accepted is 2.82843"),
        ({"goal": [2.0, np.nan]}, "goal="),
        ({"goal": [2.0]}, r"shape \(1,\)"),
        ({"corner": [2.0, 2.0]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(PointCorner()).coerce(task)


@pytest.mark.parametrize("keywords", [{"reward": "shaped"}, {"reward": None}, {"episode_length": 0}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        PointCorner(**keywords)


@pytest.mark.parametrize("reward", REWARDS)
def test_the_picture_shows_the_point_and_the_goal(reward):
    image = PointCorner(reward=reward).draw(Place(np.zeros((1, 2))), _params([2.0, 2.0]))
    assert image.shape == (400, 400, 3)
    assert image[200, 200].tolist() == [236, 112, 20]
    assert image[200 - 117, 200 + 117].tolist() == [0, 158, 115]


def test_the_text_names_position_goal_and_distance():
    text = PointCorner().describe(Place(np.array([[2.0, -1.0]])), _params([2.0, 2.0]))
    assert text == "at (+2.000, -1.000), goal (+2.000, +2.000), distance 3.000 m\n"
