"""Tiny learners for the tests of what a stranger does."""

import gymnasium as gym
import torch as th

from metagym.algos import RL2, JointTraining, Reptile
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState

BANDIT, POINT = "MetaBandit-v0", "MetaPointGoal-v0"
SHORT = {"episode_length": 6}
PPO_ARGUMENTS = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}
NETS = {"net_arch": [8]}
TRIAL = {"episodes_per_trial": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1}


def reptile(env, policy="MlpPolicy", **kwargs):
    given = {"learner_kwargs": PPO_ARGUMENTS, "policy_kwargs": NETS, "inner_timesteps": 16, "meta_batch_size": 1}
    return Reptile(policy, env, **(given | rows_of(env) | {"seed": 0, "device": "cpu"} | kwargs))


def joint(env, policy="MlpPolicy", kind=JointTraining, **kwargs):
    given = {"learner_kwargs": PPO_ARGUMENTS, "policy_kwargs": NETS, "inner_timesteps": 16}
    return kind(policy, env, **(given | rows_of(env) | {"seed": 0, "device": "cpu"} | kwargs))


def rl2(env, **kwargs):
    given = {**TRIAL, "policy_kwargs": {"rnn_hidden_size": 4}}
    if hasattr(env, "step_async"):
        given.pop("episodes_per_trial")
    return RL2("MlpPolicy", env, **(given | rows_of(env) | {"seed": 0, "device": "cpu"} | kwargs))


def rows_of(env):
    return {} if hasattr(env, "num_envs") else {"n_envs": 2}


def point(**kwargs):
    return gym.make(POINT, **SHORT, **kwargs)


def a_task():
    return point(split="test").unwrapped.sample_task()


def score(agent, env=POINT, **kwargs):
    env_kwargs = {"env_kwargs": SHORT} if env == POINT else {}
    return evaluate(agent, env, n_tasks=2, budgets=(0, 1), eval_episodes=1, **env_kwargs, **kwargs)


def moved(agent, before):
    after = LearnerState.capture(agent.learner).tensors
    return any(not th.equal(value, after[name]) for name, value in before.tensors.items())
