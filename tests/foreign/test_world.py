import numpy as np
import pytest
from gymnasium import error

from metagym.errors import ConfigError
from metagym.foreign.world import World, fit_info, seed_of
from tests.foreign.worlds import carts, switches, walks


def begun(family, seed=3):
    world, task = World(family, None), family.distribution().sample(np.random.default_rng(0))
    world.begin(task, task.id, seed)
    return world, task


def test_seeds_are_those_that_every_env_takes():
    assert seed_of(np.array([0.0])) == 0
    assert seed_of(np.array([np.nextafter(1.0, 0.0)])) == 2**31 - 1


def test_an_episode_follows_from_task_seed_and_actions():
    family = walks()
    (one, task), (other, _) = begun(family), begun(family, seed=4)
    for _ in range(3):
        other.step(1)
    other.begin(task, task.id, 3)

    assert one.observation == other.observation
    for action in (1, 0, 1, 1):
        assert one.step(action) == other.step(action)
    assert other.actions == [1, 0, 1, 1]


def test_construction_keeps_the_env_as_long_as_the_task_stays():
    family = walks()
    world, task = begun(family)
    env = world.env
    world.begin(task, task.id, 8)

    assert world.env is env
    other = family.distribution().sample(np.random.default_rng(1))
    world.begin(other, other.id, 8)
    assert world.env is not env


def test_observations_are_copies_of_the_dtype_of_the_space():
    world, _ = begun(carts())
    seen = world.observation.copy()
    world.env.unwrapped.state = None

    assert world.observation.dtype == np.float32
    np.testing.assert_array_equal(world.observation, seen)


def test_a_closed_world_opens_another_env():
    world, task = begun(walks())
    world.close()

    with pytest.raises(error.ResetNeeded):
        world.step(1)
    with pytest.raises(error.ResetNeeded):
        world.render()
    world.begin(task, task.id, 1)
    world.step(1)


def test_actions_that_are_none_are_refused():
    world, _ = begun(switches())

    for wrong in ([0.5, 0.5], [2, 0], [0]):
        with pytest.raises(ConfigError, match="action must be in"):
            world.accept(np.array(wrong))


def test_infos_are_fitted_to_what_was_seen_first():
    schema = {"x": np.zeros(()), "flag": np.zeros((), np.bool_), "v": np.zeros(2), "n": np.zeros((), np.int64)}
    fitted = fit_info(schema, {"x": 3, "flag": True, "v": [1.0, 2.0, 3.0], "other": "text"})

    assert fitted["x"].dtype == np.float64
    assert (fitted["x"].item(), fitted["flag"].item(), fitted["v"].tolist()) == (3.0, True, [0.0, 0.0])
    assert fitted["n"] is not schema["n"]
    assert fit_info(schema, {"v": [[1.0], [1.0, 2.0]], "n": None})["n"] == 0


def test_a_float_where_whole_numbers_were_is_no_number_to_cut():
    with pytest.raises(ConfigError, match=r"info\['n'\] is 0.75, and was a whole number before: pass infos="):
        fit_info({"n": np.zeros((), np.int64)}, {"n": 0.75})
