import numpy as np
import pytest
from scipy import stats

from metagym.distributions import TaskDistribution
from metagym.envs.point_wind import Drifter, PointWind, PointWindParams
from metagym.errors import ConfigError, TaskError

GOAL = np.array([0.0, 1.0])
ONE = np.nextafter(1.0, 0.0)


def _params(winds):
    return PointWindParams(np.atleast_2d(np.array(winds, np.float64)))


def _step(positions, actions, winds):
    params = _params(winds)
    state = Drifter(np.atleast_2d(np.array(positions, np.float64)))
    return PointWind().step(state, np.atleast_2d(np.float32(actions)), params, np.empty((len(params), 0)))


def _sample(num_tasks, part=None):
    keys = np.random.default_rng(0).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(PointWind()).part(part).draw(keys)[0]


def _play(params, policy):
    """Return of each row; `policy` maps step and positions to moves in metres."""
    position, total = np.zeros((len(params), 2)), np.zeros(len(params))
    for elapsed in range(75):
        step = _step(position, policy(elapsed, position), params.wind)
        total += step.reward
        position = step.state.position
    return total


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "action", "wind", "moved", "reward"),
    [
        ([0.0, 0.0], [0.1, -0.05], [0.02, 0.08], [0.12, 0.03], 0.0),
        ([0.0, 0.0], [7.0, -7.0], [0.02, 0.08], [0.12, -0.02], 0.0),  # clipped to 0.1
        ([0.0, 0.9], [0.0, 0.0], [0.0, 0.075], [0.0, 0.975], 1.0),
        ([0.0, 0.9], [0.0, 0.0], [0.0, 0.065], [0.0, 0.965], 0.0),
        ([0.1, 0.98], [-0.1, 0.0], [0.025, 0.0], [0.025, 0.98], 0.0),  # 0.032 from the goal
        ([0.1, 0.99], [-0.1, 0.0], [0.025, 0.0], [0.025, 0.99], 1.0),  # 0.027 from it
        ([0.03, 1.0], [0.0, 0.0], [0.0, 0.0], [0.03, 1.0], 1.0),  # on the rim
    ],
)
def test_transitions_by_hand(position, action, wind, moved, reward):
    step = _step(position, action, wind)
    assert step.state.position[0] == pytest.approx(moved)
    assert step.reward.tolist() == [reward]
    assert step.success.tolist() == [reward == 1.0]
    assert step.terminated.tolist() == [False]


def test_steps_equal_the_rules_of_the_source():
    rng = np.random.default_rng(0)
    positions, winds = GOAL + rng.normal(0.0, 0.05, (2000, 2)), rng.uniform(-0.08, 0.08, (2000, 2))
    actions = rng.uniform(-0.1, 0.1, (2000, 2)).astype(np.float32)
    step = _step(positions, actions, winds)
    expected = positions + actions + winds
    assert step.state.position == pytest.approx(expected)
    assert step.reward.tolist() == [float(np.linalg.norm(row - GOAL) <= 0.03) for row in expected]
    assert 20 < step.reward.sum() < 1000


def test_the_largest_single_precision_action_moves_by_exactly_a_tenth():
    assert _step([0.0, 0.0], PointWind().action_space.high, [0.0, 0.0]).state.position.tolist() == [[0.1, 0.1]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_drifting_off_ends_at_the_bounds_of_the_observation_space(sign):
    family, params = PointWind(), _params([sign * 0.1, sign * 0.1])
    position = np.zeros((1, 2))
    for _ in range(75):
        position = _step(position, [sign, sign], params.wind).state.position
    observation = family.observe(Drifter(position), params)
    assert observation[0] in family.observation_space
    assert observation[0].tolist() == [sign * 15.0] * 2


def test_episodes_start_at_the_origin():
    family = PointWind()
    state = family.initial(_params(np.ones((3, 2))), np.empty((3, 0)))
    assert family.observe(state, _params(np.ones((3, 2)))).tolist() == [[0.0, 0.0]] * 3
    assert PointWind(episode_length=9).episode_length == 9


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(num_rows):
    rng, winds = np.random.default_rng(1), _sample(64).wind
    positions, actions = rng.normal(size=(64, 2)), rng.normal(0.0, 0.1, (64, 2)).astype(np.float32)
    whole = _step(positions, actions, winds)
    rows = rng.permutation(64)[:num_rows]
    part = _step(positions[rows], actions[rows], winds[rows])
    assert part.state.position.tolist() == whole.state.position[rows].tolist()
    assert part.reward.tolist() == whole.reward[rows].tolist()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_optimum_of_some_winds_by_hand():
    # Without wind, ten steps of 0.1 lead into the disc: 75 - 9 are paid. With 0.08 six steps, against it 49.
    optimum = PointWind().optimal_return(_params([[0.0, 0.0], [0.05, 0.08], [-0.08, -0.08], [0.0, -0.0999], [0, -0.1]]))
    assert optimum.tolist() == [66.0, 70.0, 27.0, 0.0, 0.0]


@pytest.mark.parametrize("part", ["train", "ood"])
def test_flying_up_against_the_side_wind_earns_the_optimum(part):
    params = _sample(2000, part)
    returns = _play(params, lambda _, position: GOAL - position - params.wind)
    assert returns.tolist() == PointWind().optimal_return(params).tolist()


def test_measuring_the_wind_in_the_first_step_costs_nothing():
    params = _sample(2000)
    felt = []

    def policy(elapsed, position):
        if elapsed == 0:
            return np.tile([0.0, 0.1], (2000, 1))
        if elapsed == 1:
            felt.append(position - np.float32([0.0, 0.1]).astype(np.float64))
        return GOAL - position - felt[0]

    assert _play(params, policy).tolist() == PointWind().optimal_return(params).tolist()


def test_the_bayes_return_is_the_mean_optimum():
    family, num_winds = PointWind(), 200_000
    winds = 0.08 * ((2 * np.arange(num_winds) + 1) / num_winds - 1.0)
    mean = family.optimal_return(_params(np.stack([np.zeros(num_winds), winds], axis=1))).mean()
    assert family.bayes_return(3) == pytest.approx([mean] * 3, abs=1e-3)
    assert mean == pytest.approx(62.19, abs=0.005)
    assert PointWind(episode_length=5).bayes_return(1).tolist() == [0.0]


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_winds_are_uniform_on_the_square_and_ood_around_it():
    train = _sample(5000, "train").wind
    assert np.abs(train).max() <= 0.08
    assert stats.kstest(train.ravel(), stats.uniform(-0.08, 0.16).cdf).pvalue > 1e-3
    ood = _sample(20_000, "ood").wind
    assert np.abs(ood).max(axis=1).min() > 0.08
    assert np.abs(ood).max() <= 0.1
    # The frame is 10 x 10 small squares without the inner 8 x 8.
    counts, _, _ = np.histogram2d(*ood.T, bins=10, range=[[-0.1, 0.1]] * 2)
    assert counts[1:9, 1:9].sum() == 0
    assert np.count_nonzero(counts) == 36
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_extreme_uniforms_give_winds_inside_the_space_and_outside_training():
    noise = np.array([[u, v] for u in (0.0, 0.25, 0.5, 0.75, ONE) for v in (0.0, ONE)])
    winds = PointWind().draw_structure(noise, "ood")["wind"]
    assert all(wind in PointWind().task_space["wind"] for wind in winds)
    assert np.abs(winds).max(axis=1).min() > 0.08


def test_train_and_test_share_no_wind():
    train, test = ({row.tobytes() for row in _sample(1000, part).wind} for part in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert not train & test


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"wind": [0.11, 0.0]}, "wind="),
        ({"wind": [np.nan, 0.0]}, "wind="),
        ({"wind": [0.0]}, r"shape \(1,\)"),
        ({"storm": [0.0, 0.0]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(PointWind()).coerce(task)


@pytest.mark.parametrize("length", [0, 1.5, True])
def test_lengths_out_of_range_are_refused(length):
    with pytest.raises(ConfigError, match="episode_length="):
        PointWind(episode_length=length)


def test_the_picture_shows_the_point_and_the_goal():
    image = PointWind().draw(Drifter(np.zeros((1, 2))), _params([0.05, 0.0]))
    assert image.shape == (400, 400, 3)
    assert image[310, 200].tolist() == [236, 112, 20]
    assert image[90, 200].tolist() == [0, 158, 115]


def test_the_text_names_position_wind_and_distance():
    text = PointWind().describe(Drifter(np.array([[0.3, 0.6]])), _params([0.05, -0.01]))
    assert text == "at (+0.300, +0.600), wind (+0.050, -0.010), 0.500 m from the goal\n"


def test_a_point_that_has_left_the_picture_is_drawn_at_its_border():
    family = PointWind()
    wind = PointWindParams(np.zeros((1, 2)))
    near, far = (family.draw(Drifter(np.array([place])), wind) for place in ([0.3, 0.3], [50.0, -50.0]))
    agent = near[310 - 66, 200 + 66]

    assert (far[-9:, -9:] == agent).all(axis=2).any()
