"""What tests of learners that learn in iterations do to save, to stop, and to compare files."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from metagym.errors import ConfigError
from metagym.saving import read_archive
from tests.algos.reptile_setup import line_env


class StopAfter(BaseCallback):
    """Saves after some iterations, and ends training."""

    def __init__(self, iterations, path):
        super().__init__()
        self.iterations, self.path = iterations, path

    def _on_step(self):
        if self.n_calls == self.iterations:
            self.model.save(self.path)
            return False
        return True


def assert_same_archives(one, other):
    """Two files hold the same, to the bit."""
    first, second = read_archive(one), read_archive(other)
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(np.array_equal(first[1][name], second[1][name], equal_nan=True) for name in first[1])


def assert_learns_once_it_has_an_env(agent, env):
    """A learner of lines loaded without an env predicts and adapts in one that it is given; to learn, it needs one."""
    agent.predict(np.zeros(1, np.float32))
    assert agent.adapt(line_env(2)).n_envs == 2
    for act in (lambda: agent.learn(1), lambda: agent.adapt(0.5)):
        with pytest.raises(ConfigError, match="no env"):
            act()
    agent.set_env(env)
    agent.learn(1)
    assert agent.num_timesteps > 0
