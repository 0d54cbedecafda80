"""Windows of trials: what a window holds, that rows equal scalar envs to the last bit, and what is refused."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from metagym.checks.wrapper import check_wrapper
from metagym.errors import ConfigError
from metagym.wrappers import RevealTask, RL2Context, Trial
from metagym.wrappers.window import Window, no_windows, pushed, window_space
from tests.parity import MODES, assert_parity, assert_same
from tests.strategies import FAMILIES, scalar_env, vector_env

RIGHT, DOWN = 2, 1
BANDIT, LAKE, POINT = "MetaBandit-v0", "MetaFrozenLake-v0", "MetaPointGoal-v0"


def wrapped(env, length=3, episodes=2):
    return Window(RL2Context(Trial(env, episodes_per_trial=episodes)), length=length)


def pond(length=3):
    env = gym.make(LAKE, size=2, is_slippery=False, split=None)
    env.unwrapped.set_task({"map": ["SF", "FG"]})
    return wrapped(env, length)


def test_windows_by_hand():
    env = pond()
    first, _ = env.reset(seed=0)
    #           cell        action      reward boundary valid
    start = [1, 0, 0, 0, *[0, 0, 0, 0], 0, 1, 1]
    right = [0, 1, 0, 0, *[0, 0, 1, 0], 0, 0, 1]
    again = [1, 0, 0, 0, *[0, 1, 0, 0], 1, 1, 1]
    goal = [0, 0, 0, 1, *[0, 1, 0, 0], 1, 0, 1]
    nothing = [0] * 11
    assert first.dtype == np.float32
    assert first.tolist() == [nothing, nothing, start]
    assert env.step(RIGHT)[0].tolist() == [nothing, start, right]
    assert env.step(DOWN)[0].tolist() == [start, right, again]
    assert env.step(RIGHT)[0].tolist() == [right, again, right]
    last, _, terminated, _, _ = env.step(DOWN)
    assert terminated
    assert last.tolist() == [again, right, goal]
    assert env.reset()[0].tolist() == [nothing, nothing, start]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", [BANDIT, LAKE, POINT])
def test_windows_of_rows_equal_those_of_scalar_envs_in_every_mode(env_id, mode):
    kwargs = {LAKE: {"episode_length": 7}, POINT: {"episode_length": 3}, BANDIT: {}}[env_id]
    env = wrapped(gym.make_vec(env_id, num_envs=3, autoreset_mode=mode, **kwargs), length=4)
    assert assert_parity(env, lambda: wrapped(gym.make(env_id, **kwargs), length=4), num_steps=80) > 5


@pytest.mark.parametrize("length", [1, 50])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_length_and_families_with_random_starts_and_ends_agree(family, length):
    env = wrapped(vector_env(family, 3, autoreset_mode=MODES[0]), length)
    assert assert_parity(env, lambda: wrapped(scalar_env(family), length), num_steps=60) > 5


@pytest.mark.parametrize("env_id", [BANDIT, *(pytest.param(name, marks=pytest.mark.slow) for name in (LAKE, POINT))])
def test_the_laws_of_wrappers_hold(env_id):
    laws = check_wrapper(wrapped, env=env_id, vector=True, num_steps=20)
    assert {law: why for law, why in laws.items() if why != "holds"}.keys() <= {"pictures"}


def test_final_observations_are_the_windows_before_the_reset():
    env = wrapped(gym.make_vec(BANDIT, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP), length=3, episodes=4)
    env.reset(seed=0)
    before = None
    for _ in range(4):
        observation, _, terminated, _, infos = env.step(np.zeros(2, np.int64))
        if not terminated.any():
            before = observation
    assert terminated.all()
    for row in range(2):
        final = infos["final_obs"][row]
        np.testing.assert_array_equal(final[:-1], before[row, 1:])
        assert (final[:, -1] == 1).all()
        assert observation[row, :, -1].tolist() == [0, 0, 1]


def test_windows_are_the_last_observations_of_the_env_inside():
    env = wrapped(gym.make(POINT, episode_length=3), length=4)
    inner = RL2Context(Trial(gym.make(POINT, episode_length=3), episodes_per_trial=2))
    env.action_space.seed(0)
    window, seen = env.reset(seed=3)[0], [inner.reset(seed=3)[0]]
    for _ in range(6):
        action = env.action_space.sample()
        window, seen = env.step(action)[0], [*seen, inner.step(action)[0]]
        there = seen[-4:]
        np.testing.assert_array_equal(window[-len(there) :, :-1], there)
        assert window[:, -1].tolist() == [0] * (4 - len(there)) + [1] * len(there)
        assert window in env.observation_space


def test_pushing_leaves_what_was_before_as_it_is():
    before = no_windows(2, window_space(spaces.Box(-1, 1, (1,)), 2))
    kept = before.copy()
    one = pushed(before, np.array([[0.5], [0.25]]))
    two = pushed(one, np.array([[0.1], [0.2]]), np.array([True, False]))
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_allclose(two[0], [[0, 0], [0.1, 1]])
    np.testing.assert_allclose(two[1], [[0.25, 1], [0.2, 1]])


def test_what_an_env_returned_never_changes():
    env = wrapped(gym.make_vec(BANDIT, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP), episodes=2)
    env.action_space.seed(0)
    returned = [env.reset(seed=0)[0]]
    kept = [returned[0].copy()]
    for _ in range(6):
        observation = env.step(env.action_space.sample())[0]
        returned.append(observation)
        kept.append(observation.copy())
        observation[...] += 0  # it may be written to
    assert_same(returned, kept, "observations")
    returned[-1][...] = 7
    assert env.step(env.action_space.sample())[0].max() <= 1


def test_bounds_contain_zero_for_what_is_missing():
    space = window_space(spaces.Box(np.float32([1, -3]), np.float32([2, -1])), 2)
    assert space.low.tolist() == [[0, -3, 0]] * 2
    assert space.high.tolist() == [[2, 0, 1]] * 2
    assert space.dtype == np.float32


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_in_the_middle_of_a_trial(clone):
    env = wrapped(gym.make_vec(LAKE, num_envs=3, size=4, autoreset_mode=AutoresetMode.SAME_STEP))
    env.action_space.seed(1)
    env.reset(seed=1)
    for _ in range(20):
        env.step(env.action_space.sample())
    twin = clone(env)
    for _ in range(40):
        actions = env.action_space.sample()
        assert_same(env.step(actions), twin.step(actions))


def test_a_fresh_env_goes_on_from_the_state_of_another():
    def make():
        return wrapped(gym.make_vec(BANDIT, num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP), episodes=5)

    env, twin = make(), make()
    env.action_space.seed(1)
    env.reset(seed=1)
    for _ in range(7):
        env.step(env.action_space.sample())
    twin.set_state(env.get_state())
    for _ in range(20):
        actions = env.action_space.sample()
        assert_same(env.step(actions), twin.step(actions))
    assert twin.call("window_length") == (3, 3, 3)


def test_it_is_made_again_from_its_spec():
    env = pond(length=5)
    assert gym.make(env.spec).observation_space.shape == (5, 11)


@pytest.mark.parametrize("build", [lambda: gym.make(BANDIT), lambda: gym.make_vec(BANDIT, num_envs=2)])
def test_misuse_is_refused_by_name(build):
    with pytest.raises(ConfigError, match="wrap it in Trial"):
        Window(build(), length=3)
    for length in (0, -1, True, 2.0, None):
        with pytest.raises(ConfigError, match="length must be an integer of at least 1, got"):
            wrapped(build(), length)
    with pytest.raises(ConfigError, match="needs flat observations"):
        Window(Trial(build(), episodes_per_trial=2), length=2)


def test_a_revealed_task_is_part_of_every_row():
    env = Window(RevealTask(RL2Context(Trial(gym.make(BANDIT, num_arms=3), episodes_per_trial=2))), length=2)
    width = env.env.observation_space.shape[0]
    assert env.reset(seed=0)[0].shape == (2, width + 1)
