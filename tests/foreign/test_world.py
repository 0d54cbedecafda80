import numpy as np
import pytest
from gymnasium import error, spaces

import metagym
from metagym.errors import ConfigError
from metagym.foreign.world import World, accept, fit_info, seed_of
from tests.foreign.worlds import Walk, carts, switches, walks


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
    space = switches().action_space

    for wrong in ([0.5, 0.5], [2, 0], [0]):
        with pytest.raises(ConfigError, match="action must be in"):
            accept(space, np.array(wrong))


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


def test_numbers_of_a_box_are_clipped_into_it_one_by_one_or_in_rows():
    space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([0.5, 2.0], np.float32))
    one, rows = accept(space, np.array([-3.0, 3.0])), accept(space, np.array([[0.25, -1.0], [9.0, 1.0]]))

    assert (one.dtype, rows.dtype) == (np.float32, np.float32)
    assert one.tolist() == [-1.0, 2.0]
    assert rows.tolist() == [[0.25, 0.0], [0.5, 1.0]]


class Fragile(Walk):
    """Cannot be used once it was closed, and cannot be made for some tasks."""

    def __init__(self, cells=6, slip=0.1, render_mode=None):
        if cells == 5:
            raise TypeError("five is not to be had")
        super().__init__(cells, slip, render_mode)
        self.is_closed = False

    def reset(self, *, seed=None, options=None):
        assert not self.is_closed
        return super().reset(seed=seed)

    def close(self):
        self.is_closed = True


def test_after_a_task_that_no_env_could_be_made_for_the_task_before_it_is_played_in_a_new_env():
    family = metagym.parameterize(Fragile, construct={"cells": [4, 5, 6, 7]}, episode_length=9)
    env = family.make()
    env.set_task({"cells": 4})
    env.reset(seed=0)
    env.set_task({"cells": 5})
    with pytest.raises(ConfigError, match="five is not to be had"):
        env.reset()
    env.set_task({"cells": 4})

    env.reset()
