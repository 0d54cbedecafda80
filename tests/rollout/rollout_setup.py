"""What the tests of rollouts share: an env whose trials can be counted, and learners on whole trials."""

from typing import ClassVar

import numpy as np
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from metagym.nets import TrialActorCriticPolicy
from metagym.rollout import TrialRollouts, TrialTRPO

GAMMA = 0.9


class Counting(VecEnv):
    """Row i's trials have the lengths `lengths[i]`, over and over; it observes [row, trial, step]."""

    render_mode = None

    def __init__(self, lengths, truncate=False):
        super().__init__(len(lengths), spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2))
        self.lengths, self.truncate = lengths, truncate
        self.resets = 0

    def observe(self):
        return np.stack([np.arange(self.num_envs), self.trial, self.time], axis=1).astype(np.float32)

    def reset(self):
        self.resets += 1
        self.trial = np.zeros(self.num_envs, np.int64)
        self.time = np.zeros(self.num_envs, np.int64)
        return self.observe()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        self.time += 1
        rewards = 100.0 * self.trial + self.time
        lengths = np.array([own[trial % len(own)] for own, trial in zip(self.lengths, self.trial, strict=True)])
        dones = self.time >= lengths
        infos = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(dones):
            infos[row] = {"terminal_observation": self.observe()[row], "TimeLimit.truncated": self.truncate}
        self.trial[dones] += 1
        self.time[dones] = 0
        return self.observe(), rewards, dones, infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


class TrialPPO(TrialRollouts, PPO):
    policy_aliases: ClassVar = {"MlpPolicy": TrialActorCriticPolicy}


class TrialA2C(TrialRollouts, A2C):
    policy_aliases: ClassVar = {"MlpPolicy": TrialActorCriticPolicy}


class OurTRPO(TrialRollouts, TrialTRPO):
    policy_aliases: ClassVar = {"MlpPolicy": TrialActorCriticPolicy}


class TheirTRPO(TrialRollouts, TRPO):
    policy_aliases: ClassVar = {"MlpPolicy": TrialActorCriticPolicy}


class Watch(BaseCallback):
    """Keeps what every rollout trains on, as {(row, trial): steps}."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        seen = {}
        for sample in self.model.rollout_buffer.get(None):
            for row, trial, time in sample.observations.data.tolist():
                seen.setdefault((int(row), int(trial)), []).append(int(time))
        self.rollouts.append(seen)


def make(env, learner=TrialPPO, **kwargs):
    settings = {"n_steps": 4, "seed": 0, "policy_kwargs": {"rnn_hidden_size": 4}, "gamma": GAMMA}
    if learner is TrialPPO:
        settings |= {"batch_size": 4 * env.num_envs, "n_epochs": 2}
    elif learner is not TrialA2C:
        settings |= {"batch_size": 4 * env.num_envs}
    return learner("MlpPolicy", env, **settings | kwargs)
