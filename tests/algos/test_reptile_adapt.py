"""Adaptation, which changes nothing, and learners that become an initialisation."""

import subprocess
import sys
import warnings
from inspect import signature

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from metagym.algos.base import GradientLearner, MemoryLearner, Policy
from metagym.algos.reptile import Reptile
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState, get_rng_state
from tests.algos.reptile_setup import (
    CONTINUOUS,
    DISCRETE,
    LAKE,
    NETS,
    POINT,
    Line,
    line_env,
    number_of_moments,
    same,
    same_moments,
    state,
    tiny,
)


def everything(agent):
    native = agent.env.unwrapped.env
    return (
        {**get_rng_state(), **{f"env/{name}": value for name, value in native.get_state().items()}},
        (agent.num_timesteps, agent._n_iterations, agent.learner.num_timesteps, agent.learner._n_updates),
        repr(agent.action_space.np_random.bit_generator.state),
        list(agent.ep_info_buffer),
    )


@pytest.mark.parametrize("learner_class", [PPO, SAC, ARS])
def test_adapting_leaves_the_meta_learner_as_it_was_to_the_last_bit(learner_class):
    agent = tiny(learner_class=learner_class, inner_optimizer="carry", inner_timesteps=64, seed=0).learn(64)
    task = gym.make(POINT).unwrapped.sample_task()
    before, parameters = everything(agent), state(agent)
    expert = agent.adapt(task, total_timesteps=64, seed=4)
    after = everything(agent)
    assert all(np.array_equal(before[0][name], after[0][name], equal_nan=True) for name in before[0])
    assert before[1:] == after[1:]
    assert same(parameters, state(agent))
    assert same_moments(parameters, state(agent))
    assert not same(LearnerState.capture(expert), state(agent))
    expert.learn(64, log_interval=None)
    assert same(parameters, state(agent))


def test_training_goes_on_the_same_with_and_without_adaptations_between():
    states = []
    for adapts in (False, True):
        agent = tiny(seed=0).learn(64)
        if adapts:
            agent.adapt(agent.env.unwrapped.env.task_distribution.sample(np.random.default_rng(0)), seed=9)
        states.append(state(agent.learn(64, reset_num_timesteps=False)))
    assert same(*states)


def test_the_adapted_learner_plays_the_task_and_keeps_to_the_budget():
    agent = tiny(LAKE, seed=0, inner_timesteps=400)
    task = gym.make(LAKE).unwrapped.sample_task()
    for budget, used in ((400, 400), (350, 300), (100, 100), (50, 48), (3, 4)):
        expert = agent.adapt(task, total_timesteps=budget)
        assert expert.num_timesteps == used
        assert expert.get_env().unwrapped.env.get_tasks() == (task,) * 4


def test_adaptations_repeat_each_other_unless_the_seed_differs():
    agent = tiny(seed=0)
    task = gym.make(POINT).unwrapped.sample_task()
    experts = [agent.adapt(task), agent.adapt(task), agent.adapt(task, seed=1), agent.adapt(task, seed=1)]
    states = [LearnerState.capture(expert) for expert in experts]
    assert same(states[0], states[1])
    assert same(states[2], states[3])
    assert not same(states[0], states[2])


def test_adaptation_starts_from_carried_moments_or_none(monkeypatch):
    for inner_optimizer in ("fresh", "carry"):
        agent = tiny(inner_optimizer=inner_optimizer).learn(1)
        moments = []
        learn = PPO.learn

        def spy(self, *args, learn=learn, moments=moments, **kwargs):
            moments.append(LearnerState.capture(self))
            return learn(self, *args, **kwargs)

        monkeypatch.setattr(PPO, "learn", spy)
        agent.adapt(gym.make(POINT).unwrapped.sample_task())
        monkeypatch.undo()
        assert same(moments[0], state(agent))
        assert same_moments(moments[0], state(agent))
        assert (number_of_moments(moments[0]) > 0) == (inner_optimizer == "carry")


def test_adapting_in_an_env_that_was_given():
    agent = tiny(line_env())
    env = Line()
    env.set_task(0.25)
    assert agent.adapt(env, total_timesteps=40).get_env().get_attr("goal") == [0.25] * 4
    env = gym.make(POINT)
    task = env.unwrapped.sample_task()
    env.unwrapped.set_task(task)
    assert set(tiny().adapt(env).get_env().get_attr("task")) == {task}
    vec_env = line_env(2)
    assert agent.adapt(vec_env, total_timesteps=40).get_env() is vec_env


def test_adapting_with_normalized_observations_leaves_the_statistics_alone():
    env = VecNormalize(line_env())
    agent = tiny(env).learn(64)
    before = env.obs_rms.mean.copy()
    expert = agent.adapt(0.5)
    np.testing.assert_array_equal(env.obs_rms.mean, before)
    np.testing.assert_array_equal(expert.get_vec_normalize_env().obs_rms.mean, before)
    assert expert.get_env() is not env
    assert expert.get_env().get_attr("goal") == [0.5] * 4
    assert env.training


def test_an_env_that_cannot_be_copied_asks_for_one_to_adapt_in():
    env = SubprocVecEnv([Line, Line], start_method="fork")
    agent = tiny(env).learn(1)
    with pytest.raises(ConfigError, match="processes of SubprocVecEnv cannot be copied: give adapt an env"):
        agent.adapt(0.5)
    agent.adapt(line_env(2))
    env.close()


class Unique(Line):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one")


def test_a_scalar_env_that_cannot_be_copied_is_named():
    with pytest.raises(ConfigError, match="Unique cannot be copied"):
        tiny(Unique())


def test_what_was_adapted_is_saved_and_loaded_by_sb3_without_metagym(tmp_path):
    agent = tiny(LAKE, learner_class=A2C).learn(1)
    expert = agent.adapt(gym.make(LAKE).unwrapped.sample_task())
    expert.save(tmp_path / "expert")
    code = f"""
import sys
sys.modules["metagym"] = None
from stable_baselines3 import A2C
model = A2C.load({str(tmp_path / "expert")!r}, device="cpu")
print([int(model.predict(i, deterministic=True)[0]) for i in range(4)])
assert not [name for name in sys.modules if name.startswith("metagym.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([int(expert.predict(i, deterministic=True)[0]) for i in range(4)])
    loaded = A2C.load(tmp_path / "expert", env=expert.get_env(), device="cpu")
    loaded.learn(40)
    expert.learn(40)


def test_sb3_evaluates_the_meta_learner_and_what_it_adapted():
    agent = tiny(line_env())
    for policy in (agent, agent.adapt(0.5)):
        mean, _ = evaluate_policy(policy, line_env(1), n_eval_episodes=2)
        assert np.isfinite(mean)


def test_the_protocols_tell_reptile_from_learners_with_memory():
    agent = tiny()
    assert isinstance(agent, Policy)
    assert isinstance(agent, GradientLearner)
    assert not isinstance(agent, MemoryLearner)


@pytest.mark.parametrize("learner_class", CONTINUOUS + DISCRETE)
def test_a_learner_becomes_the_initialisation_with_its_hyperparameters(learner_class):
    kwargs = {"gamma": 0.7} if "gamma" in signature(learner_class).parameters else {"n_delta": 3}
    if learner_class in (TD3, DDPG):
        kwargs["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, 0.1))
    if "buffer_size" in signature(learner_class).parameters:
        kwargs |= {"train_freq": 3, "buffer_size": 50, "batch_size": 4, "learning_starts": 1}
    elif learner_class is not ARS:
        kwargs |= {"n_steps": 8}
    policy = "MlpLstmPolicy" if learner_class is RecurrentPPO else "MlpPolicy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = learner_class(
            policy, line_env(discrete=learner_class in DISCRETE), policy_kwargs=dict(NETS), **kwargs
        )
    learner.learn(24, log_interval=None)
    before = LearnerState.capture(learner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent = Reptile.from_learner(learner, inner_timesteps=40, meta_batch_size=1)
    assert same(state(agent), before)
    assert same_moments(state(agent), before)
    for name, value in vars(learner).items():
        if (
            isinstance(value, int | float | str)
            and not name.startswith("_")
            and name not in {"num_timesteps", "start_time"}
        ):
            assert name in {"exploration_rate", "seed"} or vars(agent.learner)[name] == value
    agent.learn(1)
    assert not same(state(agent), before)
    assert same(LearnerState.capture(learner), before)
    assert same_moments(LearnerState.capture(learner), before)
    assert learner.num_timesteps < agent.num_timesteps + 24


def test_a_learner_with_a_schedule_inside_is_refused():
    learner = PPO("MlpPolicy", line_env(), n_steps=8, batch_size=32, learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    with pytest.raises(ConfigError, match="lr_schedule"):
        Reptile.from_learner(learner)


def test_a_learner_without_tasks_is_refused():
    learner = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ConfigError, match="has no tasks"):
        Reptile.from_learner(learner)
