import gymnasium as gym
import numpy as np
import pytest

from metagym.errors import ConfigError
from metagym.foreign.maker import EnvMaker, episode_length_of, info_schema_of, takes
from tests.foreign.worlds import Dice, Walk, switches


def test_an_id_is_made_without_gymnasiums_checker_and_with_its_time_limit():
    env = EnvMaker("CartPole-v1", {}, (), 7)(None)

    assert env.spec.max_episode_steps == 7
    assert "PassiveEnvChecker" not in str(env)


def test_a_callable_gets_keywords_of_all_and_of_the_task():
    env = EnvMaker(Walk, {"cells": 4}, (), None)("ansi", slip=0.3)

    assert (env.cells, env.slip, env.render_mode) == (4, 0.3, "ansi")


def test_wrappers_go_around_every_env_the_innermost_first():
    wrappers = (lambda env: gym.wrappers.TimeLimit(env, 3), gym.wrappers.Autoreset)

    assert str(EnvMaker(Walk, {}, wrappers, None)(None)).startswith("<Autoreset<TimeLimit<")


def test_a_callable_without_render_mode_says_so():
    with pytest.raises(ConfigError, match="Dice has no keyword render_mode"):
        EnvMaker(Dice, {}, (), None)("ansi")


def test_the_length_of_episodes_is_found_where_it_is_said():
    walk = Walk()

    assert episode_length_of(gym.make("CartPole-v1"), None) == 500
    assert episode_length_of(gym.wrappers.TimeLimit(walk, 8), None) == 8
    assert episode_length_of(walk, 5) == 5
    walk.max_steps = 6
    assert episode_length_of(walk, None) == 6


def test_infos_are_found_by_playing_and_numbers_alone_are_kept():
    schema, success = info_schema_of(Walk(), "solved", {})

    assert {key: value.dtype.kind for key, value in schema.items()} == {"moved": "f", "place": "i", "solved": "b"}
    assert success == "solved"


def test_infos_that_show_up_late_may_be_declared():
    family = switches(infos={"late": 0.0}, episode_length=80)
    env = family.make()
    env.reset(seed=0)
    late = [env.step([0, 0])[4]["late"] for _ in range(70)]

    assert late == [0.0] * 69 + [2.5]
    assert np.array_equal(family.info_schema["total"], np.zeros(2))


@pytest.mark.parametrize("wrong", [{"task_id": 1}, {"_x": 1}, {"x": "text"}, {"episode": 0}], ids=str)
def test_infos_of_metagym_and_gymnasium_may_not_be_declared(wrong):
    with pytest.raises(ConfigError, match="infos="):
        info_schema_of(Walk(), None, wrong)


def anything(**kwargs):
    return Walk(**kwargs)


def test_a_number_that_is_whole_in_some_infos_is_a_float_in_all():
    class Whole(Walk):
        def step(self, action):
            observation, reward, terminated, _, _ = super().step(action)
            return observation, reward, terminated, False, {"prob": 1 if self.place == 1 else 0.5}

    for seed in range(4):
        assert info_schema_of(Whole(), None, {}, seed)[0]["prob"].dtype == np.float64


def test_what_a_callable_takes_is_read_off_its_signature():
    assert takes(Walk, "slip")
    assert not takes(Walk, "mass")
    assert takes(anything, "mass")
    assert takes(type, "anything")
