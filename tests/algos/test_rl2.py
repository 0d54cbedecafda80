"""RL²: constructed like an SB3 learner, and learns within a trial."""

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, HerReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import metagym
from metagym.algos.rl2 import RL2, RL2A2C, RL2PPO, RL2TRPO
from metagym.algos.rl2_learners import Learner
from metagym.distributions import TaskDistribution
from metagym.engine import TaskEnv
from metagym.errors import ConfigError
from metagym.saving import write_archive
from tests.algos.rl2_setup import (
    BANDIT,
    LAKE,
    lake,
    parameters,
)


class Recorder(Logger):
    def __init__(self):
        super().__init__(None, [])
        self.lines = []

    def dump(self, step=0):
        self.lines.append(dict(self.name_to_value))
        super().dump(step)


def test_it_is_both_an_rl2_and_an_sb3_learner():
    agent = lake()
    assert isinstance(agent, RL2)
    assert isinstance(agent, PPO)
    assert type(agent) is RL2PPO
    other = RL2("MlpPolicy", LAKE, learner_class=A2C, episodes_per_trial=2, n_envs=2, n_steps=8)
    assert type(other) is RL2A2C
    assert isinstance(other, A2C)


def test_a_subclass_of_ppo_is_joined_once():
    class Mine(PPO):
        pass

    one, other = lake(learner_class=Mine), lake(learner_class=Mine)
    assert type(one) is type(other)
    assert isinstance(one, Mine)
    assert type(one).__name__ == "RL2Mine"


def test_subclasses_of_rl2_are_joined_too():
    class Own(RL2):
        learner_class = A2C

    settings = {"episodes_per_trial": 2, "n_envs": 2, "n_steps": 8}
    assert isinstance(Own("MlpPolicy", LAKE, **settings), RL2A2C)
    trpo = Own("MlpPolicy", LAKE, learner_class=TRPO, batch_size=8, **settings)
    assert isinstance(trpo, Own)
    assert isinstance(trpo, RL2TRPO)
    assert trpo.learner_class is TRPO
    with pytest.raises(ConfigError, match="RL2A2C cannot have PPO inside"):
        RL2A2C("MlpPolicy", LAKE, learner_class=PPO, **settings)
    for given in (RL2A2C, Own):
        with pytest.raises(ConfigError, match="cannot have DQN inside"):
            given("MlpPolicy", LAKE, learner_class=DQN, **settings)


def test_trpo_has_a_critic_with_a_memory_of_its_own_and_whole_trials():
    settings = {"learner_class": TRPO, "episodes_per_trial": 2, "n_envs": 2, "n_steps": 8, "batch_size": 8}
    agent = RL2("MlpPolicy", LAKE, **settings)
    assert type(agent) is RL2TRPO
    assert hasattr(agent.policy, "vf_rnn")
    assert (agent.target_kl, agent.cg_max_steps) == (0.03, 10)
    shared = RL2("MlpPolicy", LAKE, policy_kwargs={"share_features_extractor": True}, **settings)
    assert not hasattr(shared.policy, "vf_rnn")
    with pytest.raises(ConfigError, match="sub_sampling_factor must be 1, not 4: memories read whole trials"):
        RL2("MlpPolicy", LAKE, sub_sampling_factor=4, **settings)


class Elsewhere:
    """Stands for a class of another module that makes and loads some learners in place of RL2."""

    made: ClassVar = []

    def __init__(self, *args, **kwargs):
        self.made.append((args, kwargs))

    @classmethod
    def load(cls, path, env, device, custom_objects, **changes):
        return path, env, device, custom_objects, changes


def test_learners_that_the_table_gives_away_are_made_and_loaded_elsewhere(tmp_path, monkeypatch):
    row = Learner(DQN, {}, made_by=f"{__name__}:Elsewhere")
    monkeypatch.setattr("metagym.algos.rl2_learners.LEARNERS", (row,))
    agent = RL2("MlpPolicy", LAKE, learner_class="DQN", episodes_per_trial=2)
    assert type(agent).__name__ == "Elsewhere"
    assert agent.made == [(("MlpPolicy", LAKE), {"learner_class": DQN, "episodes_per_trial": 2})]
    path = tmp_path / "agent"
    write_archive(path, meta={"kind": "Elsewhere"}, arrays={})
    assert RL2.load(path, device="cpu", verbose=1) == (path, None, "cpu", None, {"verbose": 1})


def test_off_policy_learners_look_back_over_a_window():
    agent = RL2("MlpPolicy", LAKE, learner_class="DQN", episodes_per_trial=2, n_envs=2, buffer_size=100)
    assert isinstance(agent, DQN)
    assert type(agent).__module__ == "metagym.algos.rl2_window"


@pytest.mark.parametrize("learner_class", ["PPO", "A2C", "TRPO"])
@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_it_learns_from_an_id(learner_class, rnn_type):
    kwargs = {"n_steps": 8, "policy_kwargs": {"rnn_hidden_size": 4, "rnn_type": rnn_type}, "n_envs": 2}
    if learner_class == "PPO":
        kwargs |= {"batch_size": 8, "n_epochs": 2}
    if learner_class == "TRPO":
        kwargs |= {"batch_size": 8, "target_kl": 1.0}
    agent = RL2("MlpPolicy", LAKE, learner_class=learner_class, steps_per_trial=4, **kwargs)
    before = parameters(agent)
    agent.learn(32)
    assert agent.num_timesteps == 32
    assert any(not th.equal(before[name], p) for name, p in agent.policy.named_parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"episodes_per_trial": 0}, "episodes_per_trial must be an integer of at least 1, not 0"),
        ({"episodes_per_trial": 2.5}, "episodes_per_trial must be an integer of at least 1, not 2.5"),
        ({"steps_per_trial": 10}, "exactly one of episodes_per_trial and steps_per_trial"),
        ({"episodes_per_trial": None}, "exactly one of episodes_per_trial and steps_per_trial"),
        ({"learner_class": HerReplayBuffer}, "must be PPO, A2C, TRPO, .* not .*HerReplayBuffer"),
        ({"learner_class": RecurrentPPO}, "must be PPO, A2C, TRPO, .* not .*RecurrentPPO"),
        ({"learner_class": RL2PPO}, "must be PPO, A2C, TRPO, .* not .*RL2PPO"),
        ({"learner_class": "PPO2"}, "must be PPO, A2C, TRPO, .* not 'PPO2'"),
        ({"privileged_critic": 1}, "privileged_critic must be True or False, not 1"),
        ({"n_envs": 0}, "n_envs must be an integer of at least 1, not 0"),
        ({"n_stepz": 8}, "unknown keywords \\['n_stepz'\\]; PPO takes"),
        ({"split": "tset"}, "tset"),
        ({"env_kwargs": {"sizes": 4}}, "sizes"),
        ({"policy_kwargs": {"rnn_type": "rnn"}}, "'gru' or 'lstm'"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        lake(**kwargs)


def test_caller_arguments_are_not_changed():
    kwargs = {"policy_kwargs": {"rnn_hidden_size": 4}, "env_kwargs": {"size": 4}}
    given = copy.deepcopy(kwargs)
    RL2("MlpPolicy", LAKE, learner_class=A2C, episodes_per_trial=2, n_envs=2, n_steps=8, **kwargs)
    assert kwargs == given


@pytest.mark.parametrize(
    ("trials", "n_steps"),
    [
        ({"steps_per_trial": 100}, 100),
        ({"steps_per_trial": 20}, 80),
        ({"episodes_per_trial": 5}, 64),
    ],
)
def test_default_rollouts_are_whole_numbers_of_trials_or_short(trials, n_steps):
    agent = RL2("MlpPolicy", LAKE, n_envs=64, **trials)
    assert agent.n_steps == n_steps
    assert agent.batch_size == n_steps * 64 // 4


def test_default_rollouts_of_bandits_are_whole_trials():
    assert RL2("MlpPolicy", BANDIT, episodes_per_trial=30, n_envs=64).n_steps == 90


def test_it_logs_trials_and_what_is_learnt_within_them():
    agent = lake()
    logger = Recorder()
    agent.set_logger(logger)
    agent.learn(48)
    line = logger.lines[-1]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "train/loss"} <= line.keys()
    assert line["meta/trials"] >= 1
    assert 0.0 <= line["meta/first_episode_return"] <= 1.0
    assert 0.0 <= line["meta/last_episode_return"] <= 1.0


def test_returns_of_episodes_add_up_to_those_of_trials():
    agent = RL2("MlpPolicy", BANDIT, steps_per_trial=2, n_envs=4, n_steps=6, batch_size=24, seed=0)
    agent.learn(24)
    logger = Recorder()
    agent.set_logger(logger)
    agent._stats_window_size = 12
    agent.learn(24)
    line = logger.lines[-1]
    both = line["meta/first_episode_return"] + line["meta/last_episode_return"]
    assert line["meta/trials"] == 12
    assert both == pytest.approx(line["rollout/ep_rew_mean"], rel=1e-4)


def test_sb3_tools_work(tmp_path):
    agent = lake()
    evaluation_env = VecMonitor(DummyVecEnv([agent.make_env]))
    checkpoint = CheckpointCallback(save_freq=10, save_path=str(tmp_path))
    evaluation = EvalCallback(
        evaluation_env, n_eval_episodes=1, eval_freq=20, best_model_save_path=str(tmp_path), verbose=0
    )
    agent.learn(72, callback=[checkpoint, evaluation])
    saved = RL2.load(tmp_path / "rl_model_60_steps.zip")
    assert saved.num_timesteps == 60
    assert (tmp_path / "best_model.zip").exists()
    returns, lengths = evaluate_policy(agent, evaluation_env, n_eval_episodes=3, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 3


def test_it_learns_to_find_the_better_arm():
    family = metagym.make_family(BANDIT, num_arms=2)
    far_apart = TaskDistribution(family).where(lambda tasks: np.abs(tasks.means[:, 0] - tasks.means[:, 1]) > 0.6)
    agent = RL2(
        "MlpPolicy",
        TaskEnv(family, distribution=far_apart),
        steps_per_trial=20,
        n_steps=20,
        batch_size=640,
        learning_rate=1e-2,
        gae_lambda=0.3,
        seed=0,
        policy_kwargs={"rnn_hidden_size": 32},
    )
    agent.learn(60_000)
    returns = [info["r"] for info in agent.ep_info_buffer]
    # Random pulls earn 10 of 20 and the better arm 17.3: means differ by 0.6 to 1, by 0.73 on average.
    assert np.mean(returns) > 14.0
