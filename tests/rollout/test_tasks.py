"""What a privileged critic is told: the tasks being played, flat and standardised."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from metagym.errors import ConfigError
from metagym.rollout import TaskReader
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.rollout.rollout_setup import Counting

BANDIT = "MetaBandit-v0"


def native(mode=AutoresetMode.SAME_STEP, num_envs=5):
    rows = gym.make_vec(BANDIT, num_envs=num_envs, autoreset_mode=mode, num_arms=3)
    return VecMonitor(VectorEnvAdapter(RL2Context(Trial(rows, episodes_per_trial=2))))


def foreign(num_envs=3):
    return DummyVecEnv([lambda: RL2Context(Trial(gym.make(BANDIT, num_arms=3), episodes_per_trial=2))] * num_envs)


@pytest.mark.parametrize("make", [native, lambda: native(AutoresetMode.DISABLED), foreign])
def test_tasks_are_those_being_played_now(make):
    env = make()
    env.seed(0)
    env.reset()
    reader = TaskReader(env)
    assert reader.size == 3
    for _ in range(5):  # trials of two pulls end and begin
        tasks = env.env_method("get_task")
        # Means of arms lie in [0, 1].
        expected = [2.0 * np.asarray(task["means"]) - 1.0 for task in tasks]
        read = reader.read(np.arange(env.num_envs))
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, expected, atol=1e-6)
        np.testing.assert_array_equal(reader.read(np.array([1])), read[1:2])
        env.step(np.zeros(env.num_envs, np.int64))


class Telling(Counting):
    """An SB3 vector env of one's own, whose rows tell tasks of every kind of field."""

    task_space = spaces.Dict(
        code=spaces.Discrete(3),
        fixed=spaces.Box(2.0, 2.0, (1,), np.float64),
        level=spaces.Box(-1.0, 3.0, (2,), np.float64),
        speed=spaces.Box(-np.inf, np.inf, (), np.float64),
    )

    def env_method(self, method_name, *args, indices=None, **kwargs):
        assert method_name == "get_task"
        return [{"code": row, "fixed": [2.0], "level": [-1.0, 2.0], "speed": 10.0 * row} for row in indices]


def test_fields_are_laid_out_and_standardised_by_hand():
    read = TaskReader(Telling([[2], [2], [2]])).read(np.array([0, 2]))
    #                 code one-hot, in -1..1  fixed  level       speed
    assert read[0].tolist() == [1, -1, -1, 0, -1.0, 0.5, 0]
    assert read[1].tolist() == [-1, -1, 1, 0, -1.0, 0.5, 20]


def test_envs_that_cannot_tell_tasks_are_refused():
    with pytest.raises(ConfigError, match="this Counting cannot tell them: its rows need get_task"):
        TaskReader(Counting([[2]]))
    with pytest.raises(ConfigError, match="this DummyVecEnv cannot tell them"):
        TaskReader(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
