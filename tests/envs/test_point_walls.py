import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.corners import Place
from metagym.envs.point_walls import PointWalls, PointWallsParams
from metagym.errors import ConfigError, TaskError

EAST = {"goal": [2.0, 2.0], "gap_1": [1.0, 0.0], "gap_2": [2.0, 0.0]}
WEST = {"goal": [2.0, 2.0], "gap_1": [-1.0, 0.0], "gap_2": [-2.0, 0.0]}
REWARDS = ["sparse", "dense", "dense_squared"]


def _params(*tasks):
    columns = {name: np.array([task[name] for task in tasks], np.float64) for name in EAST}
    return PointWallsParams(**columns)


def _step(family, positions, actions, params):
    state = Place(np.atleast_2d(np.array(positions, np.float64)))
    return family.step(state, np.atleast_2d(np.float32(actions)), params, np.empty((len(params), 0)))


def _sample(num_tasks, part=None):
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(PointWalls()).part(part).draw(keys)[0]


def _rules_of_promp(before, action, goal, gap_1, gap_2, reward):
    """One step as ProMP's code words it, for one row."""
    after = before + np.clip(action, -0.2, 0.2)
    distance = np.linalg.norm(after - goal)
    progress = np.linalg.norm(before - goal) - distance if distance < 2.0 else 0.0
    paid = {"dense": -distance, "dense_squared": -(distance**2), "sparse": progress}[reward]
    reach = np.linalg.norm(after)
    if np.linalg.norm(before) < 1.0 < reach:
        if np.linalg.norm(after - gap_1) > 1.0:
            after = after / (reach + 1e-6)
    elif np.linalg.norm(before) < 2.0 < reach and np.linalg.norm(after - gap_2) > 1.0:
        after = after / (reach * 0.5 + 1e-6)
    return after, paid


@pytest.mark.parametrize(
    ("task", "position", "action", "moved"),
    [
        (EAST, [0.9, 0.0], [0.2, 0.0], [1.1, 0.0]),  # through the inner gap
        (WEST, [0.9, 0.0], [0.2, 0.0], [1.0, 0.0]),  # held back
        (EAST, [1.9, 0.0], [0.2, 0.1], [2.1, 0.1]),
        (WEST, [1.9, 0.0], [0.2, 0.0], [2.0, 0.0]),
        (WEST, [1.1, 0.0], [-0.2, 0.0], [0.9, 0.0]),  # the way in is free
        (WEST, [2.1, 0.0], [-0.2, 0.0], [1.9, 0.0]),
        (EAST, [0.9, 0.9], [0.0, -0.2], [0.9, 0.7]),  # between the walls
    ],
)
def test_walls_hold_back_the_way_out_except_at_the_gap(task, position, action, moved):
    step = _step(PointWalls(), position, action, _params(task))
    assert step.state.position[0] == pytest.approx(moved, abs=3e-6)
    if moved in ([1.0, 0.0], [2.0, 0.0]):
        assert np.hypot(*step.state.position[0]) < np.hypot(*moved)
    assert step.terminated.tolist() == [False]
    assert step.success is None


def test_the_reward_is_that_of_the_move_without_walls():
    step = _step(PointWalls(), [0.9, 0.0], [0.2, 0.0], _params(WEST))
    assert step.reward == pytest.approx([-np.hypot(0.9, 2.0)])


@pytest.mark.parametrize("reward", REWARDS)
def test_steps_equal_the_rules_of_the_source(reward):
    rng, family = np.random.default_rng(1), PointWalls(reward=reward)
    params = _sample(4000)
    radius = np.where(rng.random(4000) < 0.5, 1.0, 2.0) + rng.uniform(-0.15, 0.1, 4000)
    angle = rng.uniform(0.0, 2.0 * np.pi, 4000)
    positions = (radius * np.array([np.cos(angle), np.sin(angle)])).T
    actions = rng.uniform(-0.3, 0.3, (4000, 2)).astype(np.float32)
    step = _step(family, positions, actions, params)
    rows = zip(positions, actions.astype(float), params.goal, params.gap_1, params.gap_2, strict=True)
    expected = [_rules_of_promp(*row, reward) for row in rows]
    assert step.state.position == pytest.approx(np.array([position for position, _ in expected]))
    assert step.reward == pytest.approx(np.array([reward for _, reward in expected]), abs=1e-12)
    held = np.abs(step.state.position - positions - np.clip(actions, -0.2, 0.2)).max(axis=1) > 1e-6
    assert 200 < np.count_nonzero(held) < 3000


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(num_rows):
    rng, family, params = np.random.default_rng(2), PointWalls(), _sample(64)
    positions, actions = rng.normal(size=(64, 2)), rng.normal(0.0, 0.2, (64, 2)).astype(np.float32)
    whole = _step(family, positions, actions, params)
    rows = rng.permutation(64)[:num_rows]
    part = _step(family, positions[rows], actions[rows], params.take(rows))
    assert part.reward.tolist() == whole.reward[rows].tolist()
    assert part.state.position.tolist() == whole.state.position[rows].tolist()


def test_gaps_are_uniform_on_their_circles_and_goals_are_the_corners():
    params = _sample(4000)
    for gap, radius in ((params.gap_1, 1.0), (params.gap_2, 2.0)):
        assert np.hypot(*gap.T) == pytest.approx(np.full(4000, radius))
        assert stats.kstest(np.arctan2(gap[:, 1], gap[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    _, counts = np.unique(params.goal, axis=0, return_counts=True)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert len(counts) == 4


@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_drawn_tasks_are_accepted(part):
    distribution = TaskDistribution(PointWalls())
    tasks = distribution.part(part).sample(np.random.default_rng(0), 30)
    assert all(distribution.coerce(task) == task for task in tasks)
    at_corner = [np.array_equal(np.abs(task["goal"]), [2.0, 2.0]) for task in tasks]
    assert at_corner == [part != "ood"] * 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gap_1": [0.5, 0.0]}, "gap_1=.* accepted is 1"),
        ({"gap_2": [1.0, 0.0]}, "gap_2=.* accepted is 2"),
        ({"goal": [0.0, 0.0]}, "goal=.* accepted is 2.82843"),
        ({"gap_2": [3.0, 0.0]}, "out of range"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(change, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(PointWalls()).coerce({**EAST, **change})


@pytest.mark.parametrize("keywords", [{"reward": "shaped"}, {"episode_length": 0}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        PointWalls(**keywords)


def test_no_reference_return_is_given():
    assert PointWalls().optimal_return(_params(EAST)) is None
    assert PointWalls().random_return(_params(EAST)) is None


def test_the_picture_shows_walls_gaps_point_and_goal():
    image = PointWalls().draw(Place(np.zeros((1, 2))), _params(EAST))
    assert image[200, 200].tolist() == [236, 112, 20]
    assert image[200 - 117, 200 + 117].tolist() == [0, 158, 115]
    inner = round(200 / 3.4)
    assert image[200, 200 - inner].tolist() == [92, 100, 115]
    assert image[200, 200 + inner].tolist() != [92, 100, 115]
