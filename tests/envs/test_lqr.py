import numpy as np
import pytest

from metagym.distributions import TaskDistribution
from metagym.envs.lqr import LQR, LinearState, LQRParams
from metagym.errors import ConfigError, TaskError

ONE = np.nextafter(1.0, 0.0)
SETTINGS = [{}, {"noise": 0.0, "episode_length": 3}, {"noise": 0.2, "episode_length": 100}]


def _sample(family, num_tasks, part=None, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _params(a, b):
    return LQRParams(np.array([a], np.float64), np.array([b], np.float64).reshape(1, 2, 1))


def _noise(family, rng, num_rows):
    return rng.random((num_rows, family.num_step_draws))


def _returns(family, params, policy, seed=0):
    """Return of each row, and its largest action; `policy` maps the time and the positions to actions (N,)."""
    rng = np.random.default_rng(seed)
    state = family.initial(params, rng.random((len(params), 2)))
    total, largest = np.zeros(len(params)), np.zeros(len(params))
    for time in range(family.episode_length):
        action = policy(time, state.position)
        largest = np.maximum(largest, np.abs(action))
        step = family.step(state, action[:, None], params, _noise(family, rng, len(params)))
        total, state = total + step.reward, step.state
        assert not step.terminated.any()
    return total, largest


def _mean_and_error(values):
    return values.mean(), 4.0 * values.std() / len(values) ** 0.5


# --- transitions ---------------------------------------------------------------------------------------------------


def test_a_step_by_hand():
    family = LQR(noise=0.1)
    params = _params([[0.5, 0.25], [-0.5, 1.0]], [1.0, 0.5])
    state = LinearState(np.array([[1.0, 2.0]]))

    step = family.step(state, np.array([[2.0]], np.float32), params, np.array([[0.5, 0.75]]))

    # A x = (1, 1.5), B u = (2, 1), w = (0, 0.05).
    assert step.state.position.tolist() == [[3.0, 2.55]]
    assert step.reward[0] == pytest.approx(-(9.0 + 2.55**2 + 0.1 * 4.0))


def test_actions_are_clipped_and_pay_for_what_was_done():
    family = LQR(noise=0.0)
    params = _params([[0.5, 0.0], [0.0, 0.5]], [1.0, 0.0])
    state = LinearState(np.zeros((1, 2)))

    step = family.step(state, np.array([[-70.0]]), params, np.empty((1, 0)))

    assert step.state.position.tolist() == [[-6.0, 0.0]]
    assert step.reward.tolist() == [-(36.0 + 0.1 * 36.0)]


def test_starts_and_disturbances_fill_their_squares():
    family = LQR(noise=0.2)
    params = _params(np.zeros((2, 2)), np.zeros(2)).take(np.zeros(4000, np.int64))
    rng = np.random.default_rng(0)
    start = family.initial(params, rng.random((4000, 2)))
    moved = family.step(start, np.zeros((4000, 1)), params, rng.random((4000, 2))).state
    for position, half in ((start.position, 1.0), (moved.position, 0.2)):
        assert np.abs(position).max() <= half
        assert position.var(axis=0) == pytest.approx(half**2 / 3.0, rel=0.05)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_bounds_of_observations_hold_for_the_worst_policy_of_the_worst_task(settings):
    family = LQR(**settings)
    # The largest stretch along the way the input pushes, and both along the diagonal.
    diagonal = np.full(2, 0.5**0.5)
    params = _params(1.15 * np.outer(diagonal, diagonal), 1.5 * diagonal)
    state = family.initial(params, np.full((1, 2), ONE))
    for _ in range(family.episode_length):
        noise = np.full((1, family.num_step_draws), ONE)
        state = family.step(state, family.action_space.high[None], params, noise).state
    observation = family.observe(state, params)[0]
    assert observation.dtype == np.float32
    assert observation in family.observation_space
    # The diagonal's share of a length is 0.71.
    assert observation == pytest.approx(family.observation_space.high * 0.5**0.5, rel=1e-4)


# --- the optimum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "ood"])
def test_the_best_controller_earns_the_optimum_and_never_meets_the_bounds_of_actions(part):
    family = LQR()
    tasks = _sample(family, 4, part)
    rows = np.repeat(np.arange(4), 4000)
    params = tasks.take(rows)
    gains = family.gains(params)
    returns, largest = _returns(family, params, lambda time, x: -(gains[time] * x).sum(axis=1))
    assert np.all(largest <= family.worst_action(params))
    for task, optimum in enumerate(family.optimal_return(tasks)):
        mean, error = _mean_and_error(returns[rows == task])
        assert mean == pytest.approx(optimum, abs=error)


def test_no_other_linear_controller_does_better():
    family, rng = LQR(), np.random.default_rng(3)
    tasks = _sample(family, 10)
    rows = np.repeat(np.arange(10), 2000)
    params = tasks.take(rows)
    gains = family.gains(params)
    best, _ = _returns(family, params, lambda time, x: -(gains[time] * x).sum(axis=1))
    for size in (0.05, 0.3):
        change = size * rng.normal(size=(20, 10, 2))[:, rows]
        other, _ = _returns(
            family, params, lambda time, x, change=change: -((gains[time] + change[time]) * x).sum(axis=1)
        )
        # The same starts and noises: only the controllers differ.
        gap = np.array([(best - other)[rows == task].mean() for task in range(10)])
        assert np.all(gap > 0.0)


def test_random_actions_earn_the_random_return():
    family = LQR()
    tasks, rng = _sample(family, 3), np.random.default_rng(5)
    rows = np.repeat(np.arange(3), 4000)
    returns, _ = _returns(family, tasks.take(rows), lambda time, x: rng.uniform(-6.0, 6.0, len(x)))
    for task, expected in enumerate(family.random_return(tasks)):
        mean, error = _mean_and_error(returns[rows == task])
        assert mean == pytest.approx(expected, abs=error)


def test_the_documented_reference_returns():
    family = LQR()
    for part, optimal, random in (("train", -0.462, -750), ("ood", -0.663, -2700)):
        params = _sample(family, 20_000, part)
        assert family.optimal_return(params).mean() == pytest.approx(optimal, abs=0.004)
        assert family.random_return(params).mean() == pytest.approx(random, rel=0.02)
    params = _sample(family, 20_000, "train")
    nothing, _ = _returns(family, params, lambda time, x: np.zeros(len(x)))
    assert nothing.mean() == pytest.approx(-1.91, abs=0.05)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_the_clip_binds_the_best_controller_of_no_drawn_task(part, settings):
    family = LQR(**settings)
    worst = family.worst_action(_sample(family, 2000, part))
    assert worst.max() < 6.0


@pytest.mark.slow
@pytest.mark.parametrize(("region", "documented"), [("train", 3.2), ("ood", 5.1)])
def test_a_global_search_finds_no_drawn_task_whose_best_controller_meets_the_bounds(region, documented):
    from scipy.optimize import differential_evolution

    family = LQR()

    def negative(noise):
        structure = family.draw_structure(np.clip(noise.T, 0.0, 1.0), region)
        return -np.where(family.accept(structure), family.worst_action(LQRParams(**structure)), 0.0)

    settings = {"vectorized": True, "updating": "deferred", "popsize": 40, "maxiter": 150, "polish": False, "seed": 0}
    worst = -differential_evolution(negative, [(0.0, 1.0)] * 7, **settings).fun
    assert worst == pytest.approx(documented, abs=0.1)


# --- rows and tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(size):
    family, rng = LQR(), np.random.default_rng(7)
    structure = rng.random((64, 7))
    noise, starts, actions = rng.random((64, 2)), rng.random((64, 2)), rng.normal(size=(64, 1)).astype(np.float32)
    rows = rng.permutation(64)[:size]

    def all_of(rows):
        fields = family.draw_structure(structure[rows], "train")
        params = LQRParams(**fields)
        step = family.step(family.initial(params, starts[rows]), actions[rows], params, noise[rows])
        limits = family.optimal_return(params), family.random_return(params), family.worst_action(params)
        return [*fields.values(), step.state.position, step.reward, family.accept(fields), *limits]

    for whole, part in zip(all_of(np.arange(64)), all_of(rows), strict=True):
        assert whole[rows].tobytes() == part.tobytes()


@pytest.mark.parametrize(("part", "low", "high"), [("train", 0.5, 1.0), ("test", 0.5, 1.0), ("ood", 1.0, 1.15)])
def test_drawn_systems_are_controllable_and_stretch_as_the_split_says(part, low, high):
    params = _sample(LQR(), 3000, part)
    values = np.linalg.svd(params.state_matrix, compute_uv=False)
    largest = values[:, 0]
    assert np.all((largest > low - 1e-12) & (largest <= high * (1 + 1e-12)))
    assert np.all((values[:, 1] >= 0.5 - 1e-12) & (values[:, 1] <= 1.0 + 1e-12))
    lengths = np.linalg.norm(params.input_matrix[:, :, 0], axis=1)
    assert (lengths.min(), lengths.max()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1.5, abs=0.01))
    pairs = np.concatenate([params.input_matrix, params.state_matrix @ params.input_matrix], axis=2)
    assert np.all(np.abs(np.linalg.det(pairs)) >= 0.5 * lengths**2 - 1e-12)
    if part != "ood":
        assert np.all(np.abs(np.linalg.eigvals(params.state_matrix)) <= 1.0 + 1e-9)


def test_every_uniform_gives_a_matrix_inside_the_space():
    family = LQR()
    noise = np.array(np.meshgrid(*[[0.0, ONE]] * 7)).reshape(7, -1).T
    for region in ("train", "ood"):
        fields = family.draw_structure(noise, region)
        for name, column in fields.items():
            assert all(value in family.task_space[name] for value in column)
    assert np.linalg.svd(fields["state_matrix"], compute_uv=False)[:, 0].min() > 1.0 - 1e-12


@pytest.mark.parametrize("part", ["train", "test", "ood"])
def test_drawn_tasks_may_be_set(part):
    distribution = TaskDistribution(LQR(noise=0.2, episode_length=100)).part(part)
    tasks = distribution.sample(np.random.default_rng(0), 15)
    assert all(distribution.coerce(task) == task and task in distribution for task in tasks)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1.1, 0.5], [0.0, 1.1]], [1.0, 1.0], "singular value"),
        ([[0.5, 0.0], [0.0, 0.5]], [1.5, 0.1], "length"),
        ([[1.15, 0.0], [0.0, 1.1]], [0.3, 0.3], "needs actions up to"),
        ([[1.2, 0.0], [0.0, 0.5]], [1.0, 1.0], "state_matrix="),
    ],
)
def test_tasks_that_make_no_sense_are_refused(a, b, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(LQR()).coerce({"state_matrix": a, "input_matrix": np.reshape(b, (2, 1))})


@pytest.mark.parametrize("keywords", [{"noise": 0.3}, {"noise": -0.1}, {"episode_length": 0}, {"episode_length": 101}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        LQR(**keywords)


def test_the_picture_shows_the_state_even_if_it_is_far_away():
    family, params = LQR(), _params([[0.6, 0.5], [-0.5, 0.6]], [1.0, 0.5])
    pictures = [
        family.draw(LinearState(np.array([place])), params) for place in ([0.5, 0.5], [-1.0, 0.2], [900.0, 3.0])
    ]
    assert all(picture.shape == (400, 400, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert pictures[0][160, 240].tolist() == [236, 112, 20]
    assert np.any(pictures[0] != pictures[1])
    assert pictures[2][8, 392].tolist() != pictures[1][8, 392].tolist()


def test_the_text_names_state_and_system():
    text = LQR().describe(LinearState(np.array([[0.5, -1.0]])), _params([[0.5, 0.0], [0.0, -0.5]], [1.0, 0.0]))
    assert text == "x (+0.500, -1.000), A (+0.500 +0.000; +0.000 -0.500), B (+1.000, +0.000)\n"


def test_tasks_are_refused_as_soon_as_the_best_controller_would_leave_the_box():
    family = LQR()
    c, s = np.cos(0.7), np.sin(0.7)
    weak, strong = (
        {"state_matrix": 1.15 * np.array([[c, -s], [s, c]]), "input_matrix": [[b], [0.0]]} for b in (0.176, 0.187)
    )
    accepted = TaskDistribution(family).coerce(strong)

    assert 5.5 < family.worst_action(family.params_of([accepted]))[0] < 6.0
    with pytest.raises(TaskError, match=r"needs actions up to 6\.1\d; accepted are tasks that need up to 6"):
        TaskDistribution(family).coerce(weak)
