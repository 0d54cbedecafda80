import numpy as np
import pytest

from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.engine.drivers import distribution_of, env_of, is_playable, vector_env_of
from metagym.envs.bandit import Bandit
from metagym.foreign import ForeignEnv, ForeignVectorEnv
from tests.foreign.worlds import carts


@pytest.mark.parametrize(
    ("family", "scalar", "vector"), [(Bandit(), TaskEnv, TaskVectorEnv), (carts(), ForeignEnv, ForeignVectorEnv)]
)
def test_every_family_gets_its_own_drivers(family, scalar, vector):
    env, vector_env = env_of(family, split="test"), vector_env_of(family, 2, split="test")
    env.reset(seed=0)
    vector_env.reset(seed=0)

    assert (type(env), type(vector_env)) == (scalar, vector)
    assert env.task == vector_env.get_tasks()[0]
    assert env.task in distribution_of(family, "test")
    assert distribution_of(family).sample(np.random.default_rng(0)).family == family.name


def test_what_has_no_dynamics_is_not_playable():
    assert is_playable(Bandit())
    assert is_playable(carts())
    assert not is_playable(Bandit)
    assert not is_playable("MetaBandit-v0")
    assert not is_playable(carts().make())
