import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.mujoco.ant import AntDir, AntGoal, AntGoalParams
from metagym.envs.mujoco.directions import DirectionParams
from metagym.errors import ConfigError, TaskError
from tests.envs.mujoco.bodies import MADE, begin, move, mujoco, play, sample

ONE = np.nextafter(1.0, 0.0)


def _state(family, params, torso, height=0.75, force=0.0):
    state = move(family, begin(family, params), x2=height)
    readings = np.full_like(state.readings, 0.0)
    readings[:, :2], readings[:, 2] = torso, force
    return state._replace(readings=readings)


def _judge(family, params, before, after, action=0.0):
    reward, terminated = family.judge(before, after, np.full((len(params), 8), action), params)
    return reward[0], bool(terminated[0])


@pytest.mark.parametrize(
    ("angle", "reward"), [(0.0, 0.1 / 0.05), (np.pi, -0.1 / 0.05), (np.pi / 2, 0.05 / 0.05), (-np.pi / 2, -0.05 / 0.05)]
)
def test_walking_in_the_direction_of_the_task_is_paid_by_the_metre_per_second(angle, reward):
    family, params = MADE[AntDir], DirectionParams(np.array([angle]))
    before, after = _state(family, params, [1.0, 2.0]), _state(family, params, [1.1, 2.05])
    assert _judge(family, params, before, after) == (pytest.approx(reward + 1.0), False)
    assert _judge(family, params, before, after, action=0.5)[0] == pytest.approx(reward + 1.0 - 0.5 * 8 * 0.25)
    # A force of 7 counts as one of 1.
    pushed = _state(family, params, [1.1, 2.05], force=7.0)
    assert _judge(family, params, before, pushed)[0] == pytest.approx(reward + 1.0 - 5e-4)


@pytest.mark.parametrize(("height", "ends"), [(0.19, True), (0.2, False), (1.0, False), (1.01, True)])
def test_an_ant_that_fell_or_flew_ends_its_episode_without_the_bonus(height, ends):
    family, params = MADE[AntDir], DirectionParams(np.zeros(1))
    before, after = _state(family, params, [0.0, 0.0]), _state(family, params, [0.0, 0.0], height=height)
    assert _judge(family, params, before, after) == (pytest.approx(0.0 if ends else 1.0), ends)


@pytest.mark.parametrize("height", [0.1, 0.75])
def test_the_distance_to_the_goal_is_counted_along_both_axes_and_never_ends_the_episode(height):
    family, params = MADE[AntGoal], AntGoalParams(np.array([[1.0, -2.0]]))
    before = _state(family, params, [0.0, 0.0])
    after = _state(family, params, [0.5, 0.5], height=height, force=-0.5)
    assert _judge(family, params, before, after, action=1.0) == (pytest.approx(-3.0 - 0.1 * 8 - 5e-4 * 0.25), False)


def test_observations_show_where_the_ant_is_only_where_it_has_a_goal():
    for kind, hidden in ((AntDir, True), (AntGoal, False)):
        family = MADE[kind]
        params = sample(family, 1)
        state = begin(family, params)
        same = np.array_equal(
            family.observe(state, params), family.observe(move(family, state, x0=5.0, x1=-3.0), params)
        )
        assert same == hidden


def test_the_first_observation_is_the_same_whatever_the_task():
    for kind in (AntDir, AntGoal):
        family = MADE[kind]
        params = sample(family, 4)
        noise = np.tile(np.random.default_rng(0).random((1, family.num_initial_draws)), (4, 1))
        assert len(np.unique(family.observe(family.initial(params, noise), params), axis=0)) == 1


def test_the_torso_read_is_that_of_the_simulator():
    family = MADE[AntGoal]
    params = sample(family, 1)
    state = begin(family, params)
    assert state.readings[0, :2].tolist() == family.simulator.data.xpos[1, :2].tolist()
    assert state.readings[0, :2] == pytest.approx(state.physics[0, :2])
    assert family.simulator.model.body(1).name == "torso"
    assert family.simulator.model.nbody == 14
    assert mujoco.mj_name2id(family.simulator.model, mujoco.mjtObj.mjOBJ_BODY, "torso") == 1


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_goals_are_uniform_on_the_disc_and_ood_on_a_ring_around_it():
    family = MADE[AntGoal]
    for part, inner, outer in (("train", 0.0, 3.0), ("test", 0.0, 3.0), ("ood", 3.0, 4.5)):
        x, y = sample(family, 4000, part).goal.T
        areas = (x * x + y * y - inner**2) / (outer**2 - inner**2)
        assert stats.kstest(areas, stats.uniform().cdf).pvalue > 1e-3
        assert stats.kstest(np.arctan2(y, x), stats.uniform(-np.pi, 2.0 * np.pi).cdf).pvalue > 1e-3


def test_goals_are_uniform_on_the_square_and_ood_on_a_frame_around_it():
    family = AntGoal(goals="square")
    train = sample(family, 4000, "train").goal
    assert np.abs(train).max() <= 3.0
    assert stats.kstest(train.ravel(), stats.uniform(-3.0, 6.0).cdf).pvalue > 1e-3
    ood = sample(family, 9000, "ood").goal
    assert np.abs(ood).max(axis=1).min() > 3.0
    counts, _, _ = np.histogram2d(*ood.T, bins=6, range=[[-4.5, 4.5]] * 2)
    assert counts[1:5, 1:5].sum() == 0
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


@pytest.mark.parametrize("goals", ["disc", "square"])
def test_extreme_uniforms_give_goals_inside_the_space_and_outside_training(goals):
    family = AntGoal(goals=goals)
    noise = np.array([[u, v] for u in (0.0, 0.25, 0.5, 0.75, ONE) for v in (0.0, ONE)])
    for region in ("train", "ood"):
        found = family.draw_structure(noise, region)["goal"]
        assert all(goal in family.task_space["goal"] for goal in found)
    far = np.hypot(*found.T) if goals == "disc" else np.abs(found).max(axis=1)
    assert far.min() >= 3.0


@pytest.mark.parametrize("directions", ["circle", "half_circle"])
def test_train_and_test_share_no_direction(directions):
    family = AntDir(directions=directions)
    train, test = (set(sample(family, 1000, part).angle.tolist()) for part in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert not train & test


def test_forwards_and_backwards_are_both_for_training():
    family = AntDir(directions="forward_backward")
    assert set(sample(family, 200, "train").angle.tolist()) == {0.0, np.pi}
    for part in ("test", "ood"):
        with pytest.raises(ConfigError, match="AntDir"):
            sample(family, 2, part)


def test_the_half_circle_has_an_ood_region():
    family = AntDir(directions="half_circle")
    assert sample(family, 200, "train").angle.max() < np.pi < sample(family, 200, "ood").angle.min()


@pytest.mark.parametrize(
    ("family", "task", "message"),
    [
        (AntDir(directions="forward_backward"), {"angle": 1.0}, r"angle=1\.0"),
        (AntDir(), {"angle": -1.0}, "angle="),
        (AntGoal(), {"goal": [5.0, 0.0]}, "goal="),
    ],
)
def test_tasks_that_make_no_sense_are_refused(family, task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(family).coerce(task)


@pytest.mark.parametrize(("kind", "keywords"), [(AntDir, {"directions": "up"}), (AntGoal, {"goals": "line"})])
def test_keywords_out_of_range_are_refused_by_name(kind, keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        kind(**keywords)


def test_the_picture_shows_the_goal_and_the_direction():
    family = MADE[AntGoal]
    pictures = []
    for goal in ([2.0, 2.0], [-2.0, 2.0]):
        params = AntGoalParams(np.array([goal]))
        pictures.append((family.draw(begin(family, params), params) == [0, 158, 115]).all(axis=2))
        assert pictures[-1].sum() > 100
    assert np.any(pictures[0] != pictures[1])
    params = DirectionParams(np.array([np.pi / 2.0]))
    assert (MADE[AntDir].draw(begin(MADE[AntDir], params), params) == [0, 158, 115]).all(axis=2).sum() > 100


def test_the_text_names_the_task():
    params = AntGoalParams(np.array([[1.0, -2.0]]))
    assert MADE[AntGoal].describe(begin(MADE[AntGoal], params), params).startswith("goal (+1.000, -2.000), at (")
    params = DirectionParams(np.array([np.pi / 2.0]))
    assert MADE[AntDir].describe(begin(MADE[AntDir], params), params).startswith("direction 90.0 degrees, at (")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "documented"), [(AntDir, -30), (AntGoal, -720)])
def test_random_actions_earn_about_the_documented_return(kind, documented):
    family = MADE[kind]
    returns = play(family, sample(family, 200, "train"), 200)
    assert returns.mean() == pytest.approx(documented, abs=6.0 * returns.std() / 200**0.5)
