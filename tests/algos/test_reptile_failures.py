"""What goes wrong in training is said, and leaves the last complete iteration and the last good checkpoint."""

import os
import resource
import signal
from typing import ClassVar

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_run import DivergenceError
from metagym.errors import ConfigError
from metagym.learner_state import get_rng_state
from tests.algos.reptile_setup import Line, line_env, same, same_moments, state, tiny


class Troubled(Line):
    """A line on which something happens after some steps of all rows."""

    steps_left: ClassVar = {"raise": np.inf, "nan": np.inf}

    def step(self, action):
        for what in self.steps_left:
            self.steps_left[what] -= 1
        if self.steps_left["raise"] < 0:
            raise OSError("the simulator is gone")
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.steps_left["nan"] < 0 else reward, *rest


@pytest.fixture
def trouble():
    yield Troubled.steps_left
    Troubled.steps_left.update({"raise": np.inf, "nan": np.inf})


def troubled_env():
    return make_vec_env(Troubled, 4, seed=0)


@pytest.mark.parametrize("outer_optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("learner_class", [PPO, SAC])
def test_a_loss_that_is_nan_is_said_and_nothing_of_its_iteration_is_kept(learner_class, outer_optimizer, trouble):
    kwargs = {"learner_kwargs": {"batch_size": 4}} if learner_class is SAC else {}
    env = VecNormalize(troubled_env(), norm_reward=False)
    agent = tiny(env, learner_class=learner_class, outer_optimizer=outer_optimizer, seed=0, **kwargs).learn(64)
    before, moments, statistics, rng = state(agent), agent._outer.arrays(), env.obs_rms.mean.copy(), get_rng_state()
    trouble["nan"] = 40  # in the second run
    with pytest.raises(DivergenceError, match=rf"{learner_class.__name__} diverged in run 1 .*NaN.*learning_rate"):
        agent.learn(64, reset_num_timesteps=False)
    assert same(state(agent), before)
    np.testing.assert_array_equal(env.obs_rms.mean, statistics)
    assert all(np.array_equal(moments[name], value) for name, value in agent._outer.arrays().items())
    assert all(np.array_equal(rng[name], value) for name, value in get_rng_state().items())
    assert agent.num_timesteps == 64
    trouble["nan"] = np.inf
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps == 128
    assert not same(state(agent), before)


def test_an_outer_step_that_overflows_is_said():
    agent = tiny(outer_optimizer="rmsprop", learning_rate=lambda progress: 1e38 if progress < 1 else 1e-4)
    agent.learn(64)
    before = state(agent)
    with pytest.raises(DivergenceError, match=r"outer step with learning_rate=1e\+38"):
        agent.learn(64, reset_num_timesteps=False)
    assert same(state(agent), before)


@pytest.mark.parametrize("inner_optimizer", ["fresh", "carry"])
def test_an_env_that_raises_is_heard_with_its_task_and_leaves_the_last_iteration(inner_optimizer, trouble, tmp_path):
    agent = tiny(troubled_env(), inner_optimizer=inner_optimizer, seed=0)
    agent.learn(64, callback=CheckpointCallback(1, str(tmp_path), "agent"))
    before = state(agent)
    trouble["raise"] = 50
    with pytest.raises(OSError, match="the simulator is gone") as caught:
        agent.learn(64, reset_num_timesteps=False)
    if hasattr(caught.value, "__notes__"):
        assert "while PPO learnt run 1 of an iteration, on " in caught.value.__notes__[0]
    assert same(state(agent), before)
    assert same_moments(state(agent), before)
    assert same(state(Reptile.load(tmp_path / "agent_64_steps")), before)
    agent.save(tmp_path / "after")
    assert same(state(Reptile.load(tmp_path / "after")), before)


@pytest.fixture
def full_disk():
    """No file grows beyond 4 KiB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_a_learner_to_go_on_with(tmp_path, full_disk):
    agent = tiny(line_env(), seed=0).learn(64)
    path = tmp_path / "agent.zip"
    agent.save(path)
    first, kept = state(agent), path.read_bytes()
    full_disk()

    def save(local, _):
        local["self"].save(path)
        return True

    with pytest.raises(ConfigError, match=r"cannot write .*agent\.zip: File too large"):
        agent.learn(128, callback=save, reset_num_timesteps=False)
    assert path.read_bytes() == kept
    assert os.listdir(tmp_path) == ["agent.zip"]  # noqa: PTH208 (the hidden ones too)
    assert agent.num_timesteps == 128  # the iteration was complete
    second = state(agent)
    assert not same(first, second)
    assert same(state(Reptile.load(path)), first)


def test_full_disks_do_not_matter_once_there_is_room_again(tmp_path, full_disk):
    agent = tiny(seed=0).learn(64)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full_disk()
    with pytest.raises(ConfigError, match="cannot write"):
        agent.save(tmp_path / "agent")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    agent.save(tmp_path / "agent")
    assert same(state(Reptile.load(tmp_path / "agent")), state(agent))


class Masked(BaseFeaturesExtractor):
    """Features with a constant that is infinite."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 1)
        self.register_buffer("mask", th.tensor([float("-inf"), 0.3]))

    def forward(self, observations):
        return th.maximum(observations, self.mask[0])


@pytest.mark.parametrize("outer_optimizer", ["sgd", "adam"])
def test_constants_may_be_infinite_and_do_not_drift(outer_optimizer):
    kwargs = {"net_arch": [8], "features_extractor_class": Masked}
    agent = tiny(
        line_env(), policy_kwargs=kwargs, meta_batch_size=3, learning_rate=0.1, outer_optimizer=outer_optimizer
    )
    agent.learn(400)
    assert agent.learner.policy.features_extractor.mask.tolist() == [float("-inf"), np.float32(0.3)]
