import pytest
from gymnasium import spaces

from metagym.distributions import TaskDistribution
from metagym.errors import ConfigError
from metagym.family import Family, TaskFamily
from metagym.foreign import ForeignFamily
from metagym.foreign.family import accept_spaces
from tests.foreign.worlds import carts, walks
from tests.strategies import plainly

BOX, DISCRETE = spaces.Box(0.0, 1.0, (2,)), spaces.Discrete(2)


def test_a_foreign_family_has_tasks_and_no_batched_physics():
    family = carts()

    assert isinstance(family, TaskFamily)
    assert not isinstance(family, Family)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Dict(x=BOX), DISCRETE, "FlattenObservation"),
        (spaces.Text(3), DISCRETE, "observes Text"),
        (BOX, spaces.Tuple([BOX]), "acts in Tuple"),
        (BOX, spaces.Discrete(2, start=1), "must start at 0"),
    ],
    ids=plainly,
)
def test_spaces_of_other_kinds_are_refused(observation, action, message):
    with pytest.raises(ConfigError, match=message):
        accept_spaces("Env", observation, action)


@pytest.mark.parametrize("space", [BOX, DISCRETE, spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)], ids=plainly)
def test_spaces_of_arrays_are_accepted(space):
    accept_spaces("Env", space, space)


def test_a_distribution_may_be_given_in_place_of_a_split():
    family = carts()
    heavy = family.distribution().where(lambda tasks: tasks.gravity > 14.0)
    env = family.make(distribution=heavy)
    env.reset(seed=0)

    assert env.task["gravity"] > 14.0
    assert isinstance(family.distribution("train"), TaskDistribution)


def test_defaults_of_a_family_leave_the_env_alone():
    family = walks()

    assert ForeignFamily.reset_seed(family, {}, 7) == 7
    assert ForeignFamily.stale(family, {}) == []
    assert ForeignFamily.overwritten(family, None, {}) == []
    assert family.optimal_return(None) is None
