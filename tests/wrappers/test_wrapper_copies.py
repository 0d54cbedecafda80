"""Copies, saved states and refused uses of wrapped envs."""

import copy
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import error
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metagym
from metagym.errors import ConfigError
from metagym.wrappers import RevealTask, RL2Context, Trial
from tests.parity import assert_same
from tests.wrappers.test_trial import make, make_rows, pond, wrapped_all

# --- copies ------------------------------------------------------------------------------------------------------

COPIES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_scalar_env_goes_on_in_the_middle_of_a_trial(name):
    env = wrapped_all(make())
    env.reset(seed=2)
    env.action_space.seed(2)
    for _ in range(4):
        env.step(env.action_space.sample())
    twin = COPIES[name](env)
    assert type(twin) is type(env)
    for _ in range(80):
        action = env.action_space.sample()
        step = env.step(action)
        assert data_equivalence(step, twin.step(action), exact=True)
        if step[2]:
            assert data_equivalence(env.reset(), twin.reset(), exact=True)


def run_beside(env, twin, num_steps=60):
    for _ in range(num_steps):
        actions = env.action_space.sample()
        assert_same(env.step(actions), twin.step(actions))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_vector_env_goes_on_in_the_middle_of_its_trials(name, mode):
    env = wrapped_all(make_rows(mode=mode))
    env.reset(seed=2)
    env.action_space.seed(2)
    for _ in range(30):
        env.step(env.action_space.sample())
    run_beside(env, COPIES[name](env))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("num_steps", [0, 5, 40])
def test_a_fresh_vector_env_goes_on_from_the_state_of_another(num_steps, mode):
    env = wrapped_all(make_rows(mode=mode), steps_per_trial=8)
    env.action_space.seed(3)
    env.reset(seed=3)
    for _ in range(num_steps):
        env.step(env.action_space.sample())
    state = env.get_state()
    kept = {name: array.copy() for name, array in state.items()}
    twin = wrapped_all(make_rows(mode=mode), steps_per_trial=8)
    twin.set_state(state)
    run_beside(env, twin)
    assert_same(state, kept, "state")
    unused = wrapped_all(make_rows(mode=mode), steps_per_trial=8)
    twin.set_state(unused.get_state())
    with pytest.raises(error.ResetNeeded):
        twin.step(env.action_space.sample())


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["episodes_per_trial", "steps_per_trial"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "3", np.float64(2)])
@pytest.mark.parametrize("build", [make, make_rows])
def test_a_budget_that_is_no_count_is_refused_by_name(build, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least 1, got"):
        Trial(build(), **{name: value})


@pytest.mark.parametrize("build", [make, make_rows])
@pytest.mark.parametrize("budget", [{}, {"episodes_per_trial": 2, "steps_per_trial": 2}])
def test_a_trial_needs_exactly_one_budget(build, budget):
    with pytest.raises(ConfigError, match="one of episodes_per_trial and steps_per_trial"):
        Trial(build(), **budget)


@pytest.mark.parametrize("build", [make, make_rows])
def test_a_trial_of_trials_is_refused(build):
    with pytest.raises(ConfigError, match="trials already"):
        Trial(RevealTask(Trial(build(), episodes_per_trial=2)), episodes_per_trial=2)


@pytest.mark.parametrize("wrap", [lambda env: Trial(env, episodes_per_trial=2), RevealTask, RL2Context])
def test_envs_without_tasks_and_foreign_vector_envs_are_refused(wrap):
    with pytest.raises(ConfigError, match="needs an env with tasks"):
        wrap(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="got int"):
        wrap(3)
    with pytest.raises(ConfigError, match=r"wrap the envs inside .*make_vec"):
        wrap(SyncVectorEnv([make]))
    with pytest.raises(ConfigError, match="Gymnasium's own vector wrappers outside"):
        wrap(gym.wrappers.vector.RecordEpisodeStatistics(make_rows()))


def test_stepping_a_trial_that_is_over_or_was_not_started_is_refused():
    env = Trial(pond(), steps_per_trial=1)
    with pytest.raises(error.ResetNeeded):
        env.step(0)
    env.reset()
    assert env.step(0)[2]
    with pytest.raises(error.ResetNeeded, match="call reset"):
        env.step(0)


def test_set_tasks_reaches_wrapped_rows_through_gymnasiums_wrappers():
    env = gym.wrappers.vector.RecordEpisodeStatistics(Trial(make_rows(), episodes_per_trial=2))
    tasks = env.unwrapped.sample_tasks(3)
    metagym.set_tasks(env, tasks)
    env.reset(seed=0)
    assert list(env.env.get_tasks()) == tasks
    num_steps, infos = 0, {}
    while "final_info" not in infos:
        *_, infos = env.step(np.zeros(3, np.int64))
        num_steps += 1
    row = np.flatnonzero(infos["_final_info"])[0]
    assert infos["episode"]["l"][row] == num_steps
    assert infos["final_info"]["trial_episode"][row] == 1
