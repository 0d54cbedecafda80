"""What can be said wrongly to `parameterize`, and what it answers."""

import numpy as np
import pytest

import metagym
from metagym.errors import ConfigError
from tests.foreign.worlds import Walk, refresh_walk


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attributes": {"step": (5.0, 15.0)}}, "'step' of CartPoleEnv is a method"),
        ({"attributes": {"gravity": [9, 9.5, "low"]}}, "'gravity' is .*, a number; the task's value is 'low'"),
        ({"attributes": {"gravity": [(5, 6), 7]}}, r"'gravity' is .*, a number; the task's value is \(5, 6\)"),
        ({"attributes": ["gravity"]}, r"attributes=\['gravity'\] is no mapping"),
        ({"construct": "gravity"}, "construct='gravity' is no mapping"),
        ({"layouts": 4, "env_kwargs": [1]}, r"env_kwargs=\[1\] is no mapping"),
        ({"attributes": {"gravity": (5.0, 15.0)}, "name": 3}, "name=3 is no text"),
        ({"attributes": {"gravity": (5.0, 15.0)}, "success": "solved"}, r"success='solved' is a key of no info"),
        (
            {"construct": {"sutton_barto_reward": [False, True]}, "env_kwargs": {"sutton_barto_reward": True}},
            r"construct= and env_kwargs= both give \['sutton_barto_reward'\]",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(given, message):
    with pytest.raises(ConfigError, match=message):
        metagym.parameterize("CartPole-v1", **given)


def test_a_key_of_success_that_shows_up_seldom_is_declared():
    family = metagym.parameterize(
        "CartPole-v1", attributes={"gravity": (5.0, 15.0)}, success="solved", infos={"solved": False}
    )
    env = family.make()
    env.reset(seed=0)

    assert family.has_success
    assert env.step(0)[4]["is_success"] is False


class Longer(Walk):
    """Its episodes are as long as it is wide."""

    def __init__(self, cells=6, slip=0.1, render_mode=None):
        super().__init__(cells, slip, render_mode)
        self.max_steps = 10 * cells


def test_a_task_with_longer_episodes_than_the_family_is_refused_unless_it_was_said_where_they_end():
    domains = {"cells": [4, 6, 8]}
    family = metagym.parameterize(Longer, construct=domains)
    env = family.make()
    env.set_task({"cells": 4})
    env.reset(seed=0)
    env.set_task({"cells": 8})

    assert family.episode_length == 60
    with pytest.raises(ConfigError, match=r"with {'cells': 8}, episodes of Longer have up to 80 steps.*after 60"):
        env.reset()

    env = metagym.parameterize(Longer, construct=domains, episode_length=60).make()
    env.set_task({"cells": 8})
    env.reset(seed=0)


class Tabled(Walk):
    """Keeps what follows from its parameter in a dict."""

    def __init__(self, cells=6, slip=0.1, render_mode=None):
        super().__init__(cells, slip, render_mode)
        self.table = {"stay": 1.0 - slip}

    def step(self, action):
        self.stay = self.table["stay"]
        return super().step(action)


def test_what_follows_from_an_attribute_and_is_no_number_is_named_as_a_possible_cause():
    with pytest.raises(ConfigError, match="is no number is not up to date, which construct= prevents"):
        metagym.parameterize(Tabled, attributes={"slip": (0.0, 0.9)}, episode_length=9, refresh=refresh_walk)


def test_actions_reach_the_env_as_its_space_samples_them():
    seen = []

    class Watched(Walk):
        def step(self, action):
            seen.append(type(action))
            return super().step(action)

    family = metagym.parameterize(Watched, construct={"slip": (0.0, 0.4)}, episode_length=9)
    seen.clear()
    env, vector_env = family.make(), family.make_vec(2)
    env.reset(seed=0)
    vector_env.reset(seed=0)
    env.step(1)
    vector_env.step(np.array([0, 1], np.int8))

    assert seen == [np.int64] * 3
