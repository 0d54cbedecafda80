"""What the tests of families on MuJoCo share."""

import numpy as np
import pytest

from metagym.distributions import TaskDistribution
from metagym.envs.mujoco.ant import AntDir, AntGoal
from metagym.envs.mujoco.half_cheetah import HalfCheetahDir, HalfCheetahVel
from metagym.envs.mujoco.humanoid import HumanoidDir
from metagym.envs.mujoco.random_params import HopperParams, Walker2DParams

mujoco = pytest.importorskip("mujoco")
if not hasattr(mujoco, "MjModel"):
    pytest.skip("MuJoCo is not installed: this is a folder of its name", allow_module_level=True)

FAMILIES = [HalfCheetahDir, HalfCheetahVel, AntDir, AntGoal, HumanoidDir, HopperParams, Walker2DParams]
# Making a model takes longer than stepping it.
MADE = {kind: kind() for kind in FAMILIES}


def keys_of(num_tasks, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, num_tasks, np.uint64)


def sample(family, num_tasks, part=None, seed=0):
    return TaskDistribution(family).part(part).draw(keys_of(num_tasks, seed))[0]


def begin(family, params, seed=0):
    noise = np.random.default_rng(seed).random((len(params), family.num_initial_draws))
    return family.initial(params, noise)


def step(family, state, action, params):
    return family.step(state, action, params, np.empty((len(params), 0)))


def actions_of(family, shape, seed=0):
    """Actions within the space, (*shape, A)."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-family.action_limit, family.action_limit, (*shape, family.num_actions))


def play(family, params, num_steps, seed=0):
    """Return of each row until it ends or the steps are over, under random actions."""
    state, total, alive = begin(family, params, seed), np.zeros(len(params)), np.ones(len(params), np.bool_)
    for action in actions_of(family, (num_steps, len(params)), seed):
        result = step(family, state, action, params)
        total += alive * result.reward
        alive &= ~result.terminated
        state = result.state
    return total


def move(family, state, **changes):
    """A state of one row with other values: `x0=0.5` is the first coordinate, `v2=1.0` the third velocity."""
    physics = state.physics.copy()
    for name, value in changes.items():
        physics[:, int(name[1:]) + (family.num_positions if name[0] == "v" else 0)] = value
    return state._replace(physics=physics)
