"""After a task is applied an env equals a freshly built one: the check, and what it catches."""

import pytest

import metagym
from metagym.errors import ConfigError
from metagym.foreign import check_application
from tests.foreign.worlds import Forgetful, Leaky, Walk, carts, refresh_walk, switches, walks

SLIP = {"slip": (0.0, 0.4)}


@pytest.mark.parametrize("make", [carts, walks, switches])
def test_sound_families_pass(make):
    make().check_application(num_steps=80)


def test_tasks_may_be_given():
    family = carts()

    check_application(family, family.make().sample_tasks(2))


def test_a_stale_attribute_is_named_with_what_it_hangs_on():
    family = carts(refresh=None)

    with pytest.raises(ConfigError, match=r"polemass_length, which hangs on length, is 0\.05 and would be 0\.\d+"):
        family.check_application()


def test_the_message_says_which_task_and_where_trajectories_part():
    with pytest.raises(ConfigError, match=r"with gravity=.*, length=.* applied, CartPole-v1 .* at step 1 its obs"):
        carts(refresh=None).check_application()


def test_a_reset_that_overwrites_the_task_is_caught():
    with pytest.raises(ConfigError, match=r"Forgetful writes over slip by itself.*construct="):
        parameterized(Forgetful).check_application()


def test_an_episode_that_leaks_into_the_next_is_caught():
    with pytest.raises(ConfigError, match="what one episode leaves behind reaches the next"):
        parameterized(Leaky).check_application()


def test_construction_does_not_save_an_env_whose_second_episodes_differ():
    family = metagym.parameterize(Leaky, construct=SLIP, episode_length=9)

    with pytest.raises(ConfigError, match="what one episode leaves behind reaches the next"):
        family.check_application()


def test_rebuilding_for_every_episode_saves_such_an_env():
    for given in ({"construct": SLIP}, {"layouts": 5}, {"attributes": SLIP, "refresh": refresh_walk}):
        metagym.parameterize(Leaky, **given, episode_length=9, rebuild=True).check_application()


def test_an_env_that_draws_from_elsewhere_is_caught():
    class Restless(Walk):
        draws = 0

        def reset(self, *, seed=None, options=None):
            Restless.draws += 1
            super().reset(seed=Restless.draws)
            return self.place, {}

    family = metagym.parameterize(Restless, construct=SLIP, episode_length=9)

    with pytest.raises(ConfigError, match="not deterministic under its seed"):
        family.check_application(num_steps=200)


def parameterized(kind):
    return metagym.parameterize(kind, attributes=SLIP, refresh=refresh_walk, episode_length=9, check=False)


def test_tasks_that_change_the_spaces_are_caught():
    with pytest.raises(ConfigError, match=r"a freshly built CartPole-v1 observes Box.*share their spaces"):
        metagym.parameterize("CartPole-v1", attributes={"theta_threshold_radians": (0.1, 0.3)})
