import gymnasium as gym
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from metagym.distributions import TaskDistribution
from metagym.envs.reacher_2d import ArmState, Reacher2D, Reacher2DParams, arm_at, fingertip
from metagym.errors import ConfigError, TaskError

ONE = np.nextafter(1.0, 0.0)
NOTHING = np.empty((1, 0))


def _params(*targets):
    return Reacher2DParams(np.array(targets, np.float64))


def _state(angle, velocity=(0.0, 0.0)):
    return arm_at(np.array([angle], np.float64), np.array([velocity], np.float64))


def _sample(family, num_tasks, part=None, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)
    return TaskDistribution(family).part(part).draw(keys)[0]


def _returns(family, params, plans, seed=0):
    """Return of each row, for plans (T, N, 2)."""
    state = family.initial(params, np.random.default_rng(seed).random((len(params), 4)))
    total = np.zeros(len(params))
    for action in plans:
        result = family.step(state, action, params, np.empty((len(params), 0)))
        total, state = total + result.reward, result.state
        assert not result.terminated.any()
    return total


# --- the arm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "tip"),
    [
        ([0.0, 0.0], [0.21, 0.0]),
        ([np.pi / 2, 0.0], [0.0, 0.21]),
        ([0.0, np.pi / 2], [0.1, 0.11]),
        ([np.pi / 2, -np.pi / 2], [0.11, 0.1]),
        ([0.7, np.pi], [-0.01 * np.cos(0.7), -0.01 * np.sin(0.7)]),
    ],
)
def test_the_tip_of_the_arm_by_hand(angle, tip):
    assert fingertip(_state(angle))[0] == pytest.approx(tip)


def test_a_step_solves_the_equation_of_damped_joints():
    action, angle, velocity = np.array([0.3, -0.8]), np.array([0.4, -1.0]), np.array([5.0, -2.0])
    found = Reacher2D().step(_state(angle, velocity), action[None], _params([0.1, 0.1]), NOTHING).state

    def motion(_, y):
        return np.concatenate([y[2:], 200.0 * action - y[2:]])

    solution = solve_ivp(motion, (0.0, 0.02), np.concatenate([angle, velocity]), rtol=1e-11, atol=1e-12).y[:, -1]
    assert np.concatenate([found.angle[0], found.velocity[0]]) == pytest.approx(solution, rel=1e-9)


def test_rewards_by_hand():
    family = Reacher2D()
    at_rest = family.step(_state([0.0, 0.0]), np.zeros((1, 2)), _params([0.21, 0.1]), NOTHING)
    assert at_rest.reward[0] == pytest.approx(-0.1)
    assert at_rest.success is None
    # Torques beyond 1 do, and cost, what 1 does.
    results = [
        family.step(_state([0.0, 0.0]), np.array([act]), _params([0.1, 0.1]), NOTHING) for act in ([9, -7], [1, -1])
    ]
    assert results[0].reward.tolist() == results[1].reward.tolist()
    distance = np.hypot(*(fingertip(results[0].state)[0] - [0.1, 0.1]))
    assert results[0].reward[0] == pytest.approx(-distance - 2.0)
    cheap = Reacher2D(control_cost=0.1).step(_state([0.0, 0.0]), np.array([[1, -1]]), _params([0.1, 0.1]), NOTHING)
    assert cheap.reward[0] == pytest.approx(-distance - 0.2)


@pytest.mark.parametrize(
    ("size", "errors"),
    [
        (0.1, {"angle": 1.5e-3, "velocity": 4e-3, "reward": 3e-4}),
        (1.0, {"angle": 0.02, "velocity": 0.04, "reward": 2e-3}),
    ],
)
def test_the_arm_moves_nearly_as_gymnasiums_in_mujoco(size, errors):
    mujoco = pytest.importorskip("mujoco")
    if not hasattr(mujoco, "MjModel"):
        pytest.skip("MuJoCo is not installed: this is a folder of its name")
    env, family, rng = gym.make("Reacher-v5").unwrapped, Reacher2D(), np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        params = _params(env.data.qpos[2:])
        state = _state(env.data.qpos[:2], env.data.qvel[:2])
        for _ in range(50):
            action = rng.uniform(-size, size, 2)
            _, reward, *_ = env.step(action)
            result = family.step(state, action[None], params, NOTHING)
            state = result.state
            if abs(state.angle[0, 1]) > 2.9:
                break  # Gymnasium's elbow has a stop at 3
            assert state.angle[0] == pytest.approx(env.data.qpos[:2], abs=errors["angle"])
            assert state.velocity[0] == pytest.approx(env.data.qvel[:2], abs=errors["velocity"])
            assert result.reward[0] == pytest.approx(reward, abs=errors["reward"])


def test_starts_are_those_of_gymnasium():
    family = Reacher2D()
    state = family.initial(_params([0.1, 0.1]), np.random.default_rng(0).random((4000, 4)))
    for column, half in ((state.angle, 0.1), (state.velocity, 0.005)):
        assert column.shape == (4000, 2)
        assert np.abs(column).max() <= half
        assert stats.kstest(column.ravel(), stats.uniform(-half, 2.0 * half).cdf).pvalue > 1e-3


@pytest.mark.parametrize("episode_length", [1, 50, 3000])
def test_pushing_all_the_time_reaches_the_bounds_of_velocities(episode_length):
    family = Reacher2D(episode_length=episode_length)
    params, state = _params([0.1, 0.1]), family.initial(_params([0.1, 0.1]), np.full((1, 4), ONE))
    for _ in range(episode_length):
        state = family.step(state, family.action_space.high[None], params, NOTHING).state
    observation = family.observe(state, params)[0]
    assert observation in family.observation_space
    assert observation[4:] == pytest.approx(family.observation_space.high[4:], rel=0.01)


def test_observations_by_hand():
    observation = Reacher2D().observe(_state([np.pi / 2, 0.0], [3.0, -4.0]), _params([0.1, 0.1]))
    assert observation.dtype == np.float32
    assert observation[0] == pytest.approx([0.0, 1.0, 1.0, 0.0, 3.0, -4.0], abs=1e-7)


# --- what can be earned --------------------------------------------------------------------------------------------


def _poses(target):
    """Angles that bring the tip to a target: elbow to either side, and every joint turned either way round."""
    distance = np.hypot(*target)
    inner = np.arccos(np.clip((distance**2 - 0.1**2 - 0.11**2) / (2.0 * 0.1 * 0.11), -1.0, 1.0))
    for elbow in (inner, -inner):
        shoulder = np.arctan2(target[1], target[0]) - np.arctan2(0.11 * np.sin(elbow), 0.1 + 0.11 * np.cos(elbow))
        shoulder = (shoulder + np.pi) % (2.0 * np.pi) - np.pi
        for first in (shoulder, shoulder - np.sign(shoulder) * 2.0 * np.pi):
            for second in (elbow, elbow - np.sign(elbow) * 2.0 * np.pi):
                yield np.array([first, second])


def _plan(target, state):
    """Least cost found for one target and start, and its actions: gradients from a plan for each pose on the target."""
    family, steps = Reacher2D(), 50
    unit = np.zeros((steps, 1, 2))
    unit[0] = 1.0
    lever, moved = [], _state([0.0, 0.0])
    for action in unit:
        moved = family.step(moved, action, _params(target), NOTHING).state
        lever.append(moved.angle[0, 0])
    lever = np.array([[lever[t - s] if t >= s else 0.0 for s in range(steps)] for t in range(steps)])
    approach = np.linalg.solve(0.1 * lever.T @ lever + np.eye(steps), 0.1 * lever.T)
    free = state.angle + state.velocity * (1.0 - np.exp(-0.02 * np.arange(1, steps + 1)))[:, None]

    def cost(flat, blur):
        actions = flat.reshape(steps, 2)
        angle = free + lever @ actions
        tip, total = fingertip(arm_at(angle, angle)), angle.sum(axis=1)
        offset = tip - target
        distance = np.sqrt((offset**2).sum(axis=1) + blur**2)
        by_elbow = 0.11 * np.stack([-np.sin(total), np.cos(total)], axis=1)
        by_shoulder = np.stack([-tip[:, 1], tip[:, 0]], axis=1)
        slopes = np.stack([(offset * by).sum(axis=1) / distance for by in (by_shoulder, by_elbow)], axis=1)
        return distance.sum() + (actions**2).sum(), (lever.T @ slopes + 2.0 * actions).ravel()

    found = []
    for pose in _poses(target):
        flat = np.clip(approach @ (pose - free), -1.0, 1.0).ravel()
        for blur in (1e-2, 1e-3, 1e-4):
            flat = minimize(cost, flat, (blur,), "L-BFGS-B", jac=True, bounds=[(-1.0, 1.0)] * 100).x
        found.append((cost(flat, 0.0)[0], flat.reshape(steps, 1, 2)))
    return min(found, key=lambda pair: pair[0])


def test_a_plan_for_a_known_target_earns_what_was_planned():
    family, params = Reacher2D(), _params([-0.05, 0.12])
    state = family.initial(params, np.random.default_rng(0).random((1, 4)))
    cost, plan = _plan(params.target[0], state)
    assert _returns(family, params, plan) == pytest.approx([-cost])
    assert cost < 6.0


@pytest.mark.slow
def test_plans_earn_about_the_documented_return():
    family, rng = Reacher2D(), np.random.default_rng(3)
    params = _sample(family, 60, "train")
    states = family.initial(params, rng.random((60, 4)))
    costs = []
    for row in range(60):
        state = ArmState(*(column[row : row + 1] for column in states))
        costs.append(_plan(params.target[row], state)[0])
    assert -np.mean(costs) == pytest.approx(-3.24, abs=4.0 * np.std(costs) / 60**0.5)


def test_doing_nothing_and_random_actions_earn_the_documented_returns():
    family, rng = Reacher2D(), np.random.default_rng(0)
    params = _sample(family, 5000, "train")
    assert _returns(family, params, np.zeros((50, 5000, 2))).mean() == pytest.approx(-11.76, abs=0.3)
    assert _returns(family, params, rng.uniform(-1.0, 1.0, (50, 5000, 2))).mean() == pytest.approx(-43.3, abs=0.3)


# --- rows and tasks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_rows_do_not_depend_on_each_other(size):
    family, rng = Reacher2D(), np.random.default_rng(size)
    structure, noise = rng.random((64, 2)), rng.random((64, 4))
    actions = rng.uniform(-1.0, 1.0, (20, 64, 2)).astype(np.float32)
    rows = rng.permutation(64)[:size]

    def all_of(rows):
        params = Reacher2DParams(**family.draw_structure(structure[rows], "train"))
        state = family.initial(params, noise[rows])
        found = [params.target, *state]
        for action in actions:
            result = family.step(state, action[rows], params, np.empty((len(rows), 0)))
            state = result.state
            found += [*state, result.reward, family.observe(state, params)]
        return found

    for whole, part in zip(all_of(np.arange(64)), all_of(rows), strict=True):
        assert whole[rows].tobytes() == part.tobytes()


@pytest.mark.parametrize(("part", "inner", "outer"), [("train", 0.01, 0.2), ("test", 0.01, 0.2), ("ood", 0.2, 0.25)])
def test_targets_are_uniform_on_their_ring(part, inner, outer):
    x, y = _sample(Reacher2D(), 4000, part).target.T
    areas = (x * x + y * y - inner**2) / (outer**2 - inner**2)
    assert areas.min() >= -1e-9
    assert stats.kstest(areas, stats.uniform().cdf).pvalue > 1e-3
    assert stats.kstest(np.arctan2(y, x), stats.uniform(-np.pi, 2.0 * np.pi).cdf).pvalue > 1e-3


def test_train_and_test_share_no_target():
    train, test = ({row.tobytes() for row in _sample(Reacher2D(), 1000, part).target} for part in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert not train & test


def test_extreme_uniforms_give_tasks_that_may_be_set():
    family = Reacher2D()
    noise = np.array([[u, v] for u in (0.0, 0.25, 0.5, 0.75, ONE) for v in (0.0, ONE)])
    for region in ("train", "ood"):
        for target in family.draw_structure(noise, region)["target"]:
            TaskDistribution(family).coerce({"target": target})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"target": [0.0, 0.009]}, "from the shoulder"),
        ({"target": [0.2, 0.2]}, "from the shoulder"),
        ({"target": [0.3, 0.0]}, "target="),
        ({"goal": [0.1, 0.1]}, "missing"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(task, message):
    with pytest.raises(TaskError, match=message):
        TaskDistribution(Reacher2D()).coerce(task)


@pytest.mark.parametrize("keywords", [{"control_cost": -1.0}, {"episode_length": 0}, {"episode_length": True}])
def test_keywords_out_of_range_are_refused_by_name(keywords):
    with pytest.raises(ConfigError, match=f"{next(iter(keywords))}="):
        Reacher2D(**keywords)


def test_the_picture_shows_tip_and_target():
    family, params = Reacher2D(), _params([0.0, 0.15])
    image = family.draw(_state([0.0, np.pi / 2]), params)
    assert image.shape == (400, 400, 3)
    assert image.dtype == np.uint8
    assert image[200 - 77, 200 + 70].tolist() == [236, 112, 20]
    assert image[200 - 105, 200].tolist() == [0, 158, 115]


def test_the_text_names_tip_target_and_distance():
    text = Reacher2D().describe(_state([0.0, 0.0]), _params([0.21, 0.1]))
    assert text == "tip (+0.210, +0.000), target (+0.210, +0.100), distance 0.100 m\n"
