"""Copies and checkpoints: the running episodes are played once more, and come out where they were."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import metagym
from metagym.errors import ConfigError
from metagym.foreign.replay import pack, unpack
from metagym.foreign.world import World, accept
from metagym.wrappers import RL2Context, Trial
from tests.foreign.worlds import Walk, carts, switches, walks
from tests.parity import MODES, assert_same

MAKERS = [carts, walks, switches]


def copy_by_pickle(env):
    return pickle.loads(pickle.dumps(env))


def drive(env, steps, seed=0):
    env.action_space.seed(seed)
    return [env.step(env.action_space.sample()) for _ in range(steps)]


@pytest.mark.parametrize("twin_of", [copy.deepcopy, copy_by_pickle])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_copy_of_a_vector_env_goes_on_as_the_env_does(make, twin_of, mode):
    env = make().make_vec(3, autoreset_mode=mode)
    env.reset(seed=0)
    env.set_tasks([env.sample_tasks(1)[0], None, None])
    drive(env, 25)
    twin = twin_of(env)

    assert_same(drive(twin, 30), drive(env, 30))
    assert_same(twin.reset(), env.reset())


@pytest.mark.parametrize("twin_of", [copy.deepcopy, copy_by_pickle])
@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_of_a_scalar_env_goes_on_as_the_env_does(make, twin_of):
    env = make().make()
    env.reset(seed=0)
    drive(env, 3)
    twin = twin_of(env)

    assert_same(drive(twin, 1), drive(env, 1))
    assert_same([twin.reset(), twin.reset()], [env.reset(), env.reset()])
    assert twin.sample_task() == env.sample_task()


def test_an_env_that_was_not_reset_may_be_copied():
    env = carts().make()
    twin = copy_by_pickle(env)

    assert_same(twin.reset(), env.reset())
    vector_env = carts().make_vec(2)
    assert_same(copy_by_pickle(vector_env).reset(), vector_env.reset())


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_state_of_wrapped_rows_is_restored_in_another_env(mode):
    def make():
        return RL2Context(Trial(carts().make_vec(2, autoreset_mode=mode), episodes_per_trial=50))

    env, other = make(), make()
    env.reset(seed=0)
    drive(env, 30)
    other.set_state(env.get_state())

    assert_same(drive(other, 30), drive(env, 30))


def test_a_state_is_plain_arrays():
    env = walks().make_vec(2)
    env.reset(seed=0)
    drive(env, 4)

    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in env.get_state().values())


def test_a_state_of_another_kind_of_env_is_refused():
    with pytest.raises(ConfigError, match="holds no worlds"):
        carts().make_vec(2).set_state({})
    with pytest.raises(ConfigError, match="other rows than 2"):
        carts().make_vec(2).set_state(carts().make_vec(3).get_state())


def test_an_env_that_is_not_deterministic_goes_on_with_a_warning():
    count = iter(range(1000))

    class Restless(Walk):
        def reset(self, *, seed=None, options=None):
            self.place = next(count) % 5
            return self.place, {}

    env = metagym.parameterize(Restless, construct={"slip": (0.0, 0.4)}, episode_length=9).make_vec(1)
    env.reset(seed=0)

    with pytest.warns(UserWarning, match=r"rows \[0\] are not where they stood"):
        env.set_state(env.get_state())
    env.step(np.array([1]))


def test_worlds_in_the_middle_of_episodes_are_packed_beside_worlds_that_never_began():
    family = switches()
    worlds = [World(family, None) for _ in range(3)]
    task = family.distribution().sample(np.random.default_rng(0))
    worlds[1].begin(task, task.id, 5)
    for action in ([0, 1], [1, 2]):
        worlds[1].step(accept(family.action_space, np.array(action)))
    arrays = pack(worlds)
    twins = [World(family, None) for _ in range(3)]
    unpack(twins, family.params_of([task] * 3), [task.id] * 3, arrays)

    assert arrays["lengths"].tolist() == [-1, 2, -1]
    assert arrays["actions"][:, 1].tolist() == [[0, 1], [1, 2]]
    np.testing.assert_array_equal(twins[1].observation, worlds[1].observation)
    assert twins[0].env is None
