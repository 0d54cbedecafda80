"""What every id returns: within its spaces, as likely as it says, and nothing that tells the task."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from metagym import TaskDistribution, TaskVectorEnv
from metagym.checks.distributions import chi_square_excess
from metagym.registry import make_family
from metagym.tabular import TabularFamily
from metagym.tasks import content_ids, content_words
from tests.exemptions import FEW_TASKS, LAWS, UNBOUNDED
from tests.strategies import EVERY_ID, PLAIN, SETTINGS, SIMULATED, family_of, label, some_ids

FAR = 5.0  # standard deviations: happens by chance once in three million times


def stays_in_its_spaces(family, num_rows, num_steps):
    env = TaskVectorEnv(family, num_rows, autoreset_mode=AutoresetMode.SAME_STEP)
    space, actions = env.single_observation_space, env.single_action_space
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    is_box = isinstance(actions, gym.spaces.Box)
    shape = (num_rows, *actions.shape)
    # Half of the rows push one way all the time, to get as far as the space claims one can get.
    held = np.arange(num_rows) < num_rows // 2
    push = np.where(held.reshape(-1, *[1] * len(actions.shape)), 1e3, 0.0) * rng.choice([-1.0, 1.0], shape)
    first = rng.integers(0, 1 if is_box else actions.n, num_rows)
    for _ in range(num_steps):
        chosen = rng.uniform(-2.0, 2.0, shape) + push if is_box else rng.integers(0, actions.n, num_rows)
        observation, reward, *_, infos = env.step(chosen if is_box else np.where(held, first, chosen))
        assert observation.dtype == space.dtype
        if isinstance(space, gym.spaces.Box):
            assert ((observation >= space.low) & (observation <= space.high)).all()
        else:
            assert observation in env.observation_space
        assert np.isfinite(observation).all()
        assert np.isfinite(reward).all()
        for final in infos.get("final_obs", np.array([]))[infos.get("_final_obs", np.array([], bool))][:5]:
            assert final in space


@pytest.mark.parametrize(
    "setting", [*((name, {}) for name in PLAIN), *(kind for kind in SETTINGS if kind[1])], ids=label
)
def test_observations_stay_in_their_space_and_rewards_finite_for_100_000_steps(setting):
    stays_in_its_spaces(family_of(setting), 500, 200)


@some_ids(SIMULATED)
def test_observations_of_simulators_stay_in_their_space(name):
    stays_in_its_spaces(make_family(name), 10, 100)


@pytest.mark.slow
@some_ids(SIMULATED)
def test_observations_of_simulators_stay_in_their_space_for_100_000_steps(name):
    stays_in_its_spaces(make_family(name), 100, 1000)


@some_ids(EVERY_ID)
def test_no_bounded_quantity_has_infinite_bounds(name):
    env = gym.make(name)
    spaces = {"action": env.action_space, **env.unwrapped.task_space}
    if name not in UNBOUNDED:
        spaces["observation"] = env.observation_space

    assert [key for key, space in spaces.items() if isinstance(space, gym.spaces.Box) and not space.is_bounded()] == []


# --- what a task tells -----------------------------------------------------------------------------------------------


@some_ids(EVERY_ID)
def test_the_first_observation_does_not_tell_the_task(name):
    num_rows = 16 if name in SIMULATED else 256
    env = gym.make_vec(name, num_envs=num_rows, split=None)
    tasks = env.unwrapped.sample_tasks(num_rows)

    for seed in range(3):
        observation, infos = env.reset(seed=[seed] * num_rows, options={"tasks": tasks})
        different = len(np.unique(observation, axis=0))
        assert (different == 1) == ("hidden task" not in LAWS.get(name, {}))
    assert len(np.unique(infos["task_id"])) > (1 if name in FEW_TASKS else 3)


@some_ids(EVERY_ID)
def test_infos_hold_the_id_of_the_task_and_nothing_else_about_it(name):
    env = gym.make(name)
    expected = {"task_id", "trial_start"} | ({"is_success"} if env.unwrapped.family.has_success else set())

    assert set(env.reset(seed=0)[1]) == expected
    assert set(env.step(env.action_space.sample())[-1]) == expected
    envs = gym.make_vec(name, num_envs=2)
    expected |= {f"_{key}" for key in expected}
    assert set(envs.reset(seed=0)[1]) == expected
    assert set(envs.step(envs.action_space.sample())[-1]) == expected


# --- how likely things are -------------------------------------------------------------------------------------------


@some_ids(PLAIN)
def test_tasks_are_drawn_as_often_as_the_family_draws_them(name):
    family = make_family(name)
    whole = TaskDistribution(family)
    rng = np.random.default_rng(1)
    listed = family.enumerate_structures()
    keys = rng.integers(0, 2**64, 4000, dtype=np.uint64)
    for part in (whole, whole.split("train")):
        params, _ = part.draw(keys)
        if listed is not None:
            columns, weights = listed
            ids = content_ids(content_words(family.name, columns))
            inside = np.ones(len(ids), bool) if part is whole or family.unsplit else part._in_split(ids)
            counts = counts_of(params.columns(), columns)
            assert not counts[~inside].any()
            assert chi_square_excess(counts[inside], weights[inside] / weights[inside].sum()) < FAR
            continue
        for field in family.structural:
            noise = rng.random((20_000, family.num_structure_draws))
            proposed = family.draw_structure(noise, "train")
            accepted = family.accept(proposed)
            other = proposed[field] if accepted is None else proposed[field][accepted]
            excess = two_sample_excess(params.columns()[field].reshape(4000, -1), other.reshape(len(other), -1))
            assert excess < FAR + 1.0  # the reference is a sample as well, and there are many elements


def counts_of(drawn, listed):
    names = sorted(listed)
    places = {b"".join(listed[name][row].tobytes() for name in names): row for row in range(len(listed[names[0]]))}
    rows = range(len(drawn[names[0]]))
    return np.bincount(
        [places[b"".join(drawn[name][row].tobytes() for name in names)] for row in rows], minlength=len(places)
    )


def two_sample_excess(sample, reference):
    """The largest chi-square excess over the elements of a field, in bins that hold equal shares of the reference."""
    worst = -np.inf
    for mine, theirs in zip(sample.T[:16], reference.T[:16], strict=True):
        edges = np.unique(np.quantile(theirs.astype(float), np.linspace(0, 1, 17))[1:-1])
        shares = np.bincount(np.searchsorted(edges, theirs, side="right"), minlength=len(edges) + 1) / len(theirs)
        counts = np.bincount(np.searchsorted(edges, mine, side="right"), minlength=len(edges) + 1)
        assert not counts[shares == 0].any()
        worst = max(worst, chi_square_excess(counts[shares > 0], shares[shares > 0]))
    return worst


TABULAR = [
    *((name, {}) for name in PLAIN),
    ("MetaCliffWalking-v0", {"is_slippery": True}),
    ("MetaTaxi-v0", {"is_rainy": True}),
]


@pytest.mark.parametrize("setting", TABULAR, ids=label)
def test_rows_of_a_vector_env_go_where_the_table_says_as_often_as_it_says(setting):
    family = family_of(setting)
    if not isinstance(family, TabularFamily) or not isinstance(family.observation_space, gym.spaces.Discrete):
        pytest.skip("the family is not tabular, or its states are not seen")
    env = TaskVectorEnv(family, 4000)
    for seed in range(3):
        (task,) = TaskDistribution(family).sample(np.random.default_rng(seed), 1)
        dense = family.dense(family.params_of([task]))
        before, _ = env.reset(seed=seed, options={"task": task})
        action = seed % int(family.action_space.n)
        after, *_ = env.step(np.full(4000, action))
        for state in np.unique(before)[:5]:
            rows = before == state
            shares = np.bincount(
                dense.successor[0, state, action], dense.probability[0, state, action], minlength=len(family.successors)
            )
            counts = np.bincount(after[rows], minlength=len(shares))
            assert not counts[shares == 0].any()
            assert chi_square_excess(counts[shares > 0], shares[shares > 0]) < FAR
