"""Fine-tuning after joint training: from which parameters, with what, and that it changes nothing."""

import base64
import json
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import ARS, QRDQN, TQC, TRPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos import GradientLearner, JointTraining
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState, get_rng_state
from metagym.replay import TaskReplayBuffer
from tests.algos.multi_task_setup import LAKE, POINT, env_of, state, tiny
from tests.algos.reptile_setup import Line, line_env, number_of_moments, same, same_moments


def task_of(learner_class):
    return gym.make(env_of(learner_class), split="test").unwrapped.sample_task()


def everything(agent):
    native = agent.env.unwrapped.env
    return {
        **get_rng_state(),
        **{f"env/{name}": value for name, value in native.get_state().items()},
        "counters": np.array([agent.num_timesteps, agent.learner.num_timesteps, agent.learner._n_updates]),
        "observation": agent.learner._last_obs,
    }


@pytest.mark.parametrize("learner_class", [PPO, A2C, DQN, SAC, TD3, ARS, QRDQN, TQC, TRPO])
def test_every_learner_trains_and_adapts_and_adapting_changes_nothing(learner_class):
    agent = tiny(learner_class, inner_optimizer="carry").learn(150)
    task, before, parameters = task_of(learner_class), everything(agent), state(agent)
    expert = agent.adapt(task, total_timesteps=64, seed=4)
    assert type(expert) is learner_class
    assert expert.get_env().unwrapped.env.get_tasks() == (task,) * 4
    after = everything(agent)
    assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)
    assert same(parameters, state(agent))
    assert same_moments(parameters, state(agent))
    assert not same(LearnerState.capture(expert), state(agent))
    expert.learn(16, log_interval=None)
    assert same(parameters, state(agent))


@pytest.mark.parametrize("inner_optimizer", ["fresh", "carry"])
def test_adaptation_starts_from_what_was_learnt_of_all_tasks(inner_optimizer, monkeypatch):
    agent = tiny(inner_optimizer=inner_optimizer).learn(64)
    learn, starts = PPO.learn, []

    def spy(self, *args, **kwargs):
        starts.append(LearnerState.capture(self))
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(PPO, "learn", spy)
    agent.adapt(task_of(PPO))
    assert same(starts[0], state(agent))
    assert (number_of_moments(starts[0]) > 0) == (inner_optimizer == "carry")


def test_it_keeps_to_the_budget_and_to_its_default():
    agent = tiny(inner_timesteps=128, learner_kwargs={"n_steps": 8})
    assert agent.adapt(task_of(PPO)).num_timesteps == 128
    for budget, used in ((100, 96), (32, 32), (3, 4)):
        assert agent.adapt(task_of(PPO), total_timesteps=budget).num_timesteps == used


def test_training_has_sb3s_defaults_and_adaptation_those_of_short_runs():
    agent = JointTraining("MlpPolicy", POINT, inner_timesteps=800, device="cpu")
    assert (agent.learner.n_steps, agent.learner.batch_size) == (2048, 64)
    expert = agent.adapt(task_of(PPO))
    assert (expert.n_steps, expert.num_timesteps) == (25, 800)
    agent = JointTraining("MlpPolicy", LAKE, learner_class=DQN, learner_kwargs={"buffer_size": 50}, device="cpu")
    assert agent.learner.learning_starts == 100
    expert = agent.adapt(task_of(DQN), total_timesteps=64)
    assert (expert.learning_starts, expert.buffer_size, expert.target_update_interval) == (0, 64, 102)


def test_adaptation_may_have_arguments_of_its_own():
    agent = tiny(adapt_kwargs={"learning_rate": 1e-5, "n_epochs": 1})
    assert (agent.learner.learning_rate, agent.learner.n_epochs) == (3e-4, 2)
    expert = agent.adapt(task_of(PPO))
    assert (expert.learning_rate, expert.n_epochs) == (1e-5, 1)


def test_a_schedule_is_for_training_and_adaptation_asks_for_a_constant():
    own = {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    agent = tiny(learner_kwargs=own).learn(64)
    with pytest.raises(ConfigError, match=r"learning_rate changes.*adapt_kwargs=\{'learning_rate'"):
        agent.adapt(task_of(PPO))
    tiny(learner_kwargs=own, adapt_kwargs={"learning_rate": 1e-4}).adapt(task_of(PPO))


def test_what_adapts_to_one_task_needs_no_buffer_of_many_and_no_metagym(tmp_path):
    own = {"replay_buffer_class": TaskReplayBuffer, "replay_buffer_kwargs": {"sampling": "uniform"}}
    agent = tiny(SAC, learner_kwargs=own).learn(40)
    assert isinstance(agent.learner.replay_buffer, TaskReplayBuffer)
    assert len(agent.learner.replay_buffer.present_tasks) == 4
    expert = agent.adapt(task_of(SAC), total_timesteps=32)
    assert not isinstance(expert.replay_buffer, TaskReplayBuffer)
    expert.save(tmp_path / "expert.zip")
    entries = json.loads(zipfile.ZipFile(tmp_path / "expert.zip").read("data")).values()
    pickles = [base64.b64decode(entry.get(":serialized:", "")) for entry in entries if isinstance(entry, dict)]
    assert len(pickles) > 5
    assert not [pickled for pickled in pickles if b"metagym" in pickled]


def test_adaptations_repeat_each_other_unless_the_seed_differs():
    agent, task = tiny(), task_of(PPO)
    experts = [agent.adapt(task), agent.adapt(task), agent.adapt(task, seed=1), agent.adapt(task, seed=1)]
    states = [LearnerState.capture(expert) for expert in experts]
    assert same(states[0], states[1])
    assert same(states[2], states[3])
    assert not same(states[0], states[2])


def test_an_env_that_was_given_is_normalised_as_in_training():
    agent = tiny(env=VecNormalize(tiny().env)).learn(64)
    expert = agent.adapt(gym.make(POINT), total_timesteps=40)
    given = expert.get_vec_normalize_env()
    assert not given.training
    np.testing.assert_array_equal(given.obs_rms.mean, agent.env.obs_rms.mean)


def test_adapting_in_an_env_that_was_given():
    agent, env = tiny(env=line_env()), Line()
    env.set_task(0.25)
    assert agent.adapt(env, total_timesteps=40).get_env().get_attr("goal") == [0.25] * 4


def test_it_is_evaluated_as_what_adapts_by_gradient():
    agent = tiny(DQN).learn(64)
    assert isinstance(agent, GradientLearner)
    curve = evaluate(agent, LAKE, n_tasks=2, episodes=2, eval_episodes=2)
    assert (curve.name, curve.settings["kind"], curve.scores.shape) == ("JointTraining", "gradient", (1, 2, 2))
    assert np.array_equal(curve.scores, evaluate(agent, LAKE, n_tasks=2, episodes=2, eval_episodes=2).scores)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"inner_timesteps": 0}, "inner_timesteps must be an integer of at least 1, got 0"),
        ({"inner_optimizer": "old"}, "'fresh' or 'carry', got 'old'"),
        ({"adapt_kwargs": {"device": "cpu"}}, r"\['device'\]"),
        ({"adapt_kwargs": {"speed": 1}}, r"\['speed'\], which PPO does not have"),
    ],
)
def test_misuse_is_refused_by_name(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**kwargs)


@pytest.mark.slow
def test_fine_tuning_improves_on_new_goals_and_beats_learning_them_from_scratch():
    inner = {"n_steps": 100, "batch_size": 400, "n_epochs": 4, "learning_rate": 1e-3}
    kwargs = {"learner_kwargs": inner, "n_envs": 16, "seed": 0, "inner_timesteps": 9600, "device": "cpu"}
    scratch = JointTraining("MlpPolicy", POINT, **kwargs)
    agent = JointTraining("MlpPolicy", POINT, **kwargs).learn(200_000)
    tasks = gym.make(POINT, split="test").unwrapped.sample_tasks(5)
    curves = [
        evaluate(one, POINT, tasks=tasks, episodes=2, eval_episodes=8).scores[0].mean(axis=0)
        for one in (agent, scratch)
    ]
    assert curves[0][1] > curves[1][1]
