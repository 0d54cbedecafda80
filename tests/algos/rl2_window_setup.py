"""What the tests of RL² with a window share: small learners, and comparisons of them."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from metagym.algos.rl2_window import WindowRL2

BANDIT, LAKE, POINT = "MetaBandit-v0", "MetaFrozenLake-v0", "MetaPointGoal-v0"
FAMILY = {
    BANDIT: {"env_kwargs": {"num_arms": 3}, "episodes_per_trial": 6},
    LAKE: {"env_kwargs": {"size": 4, "episode_length": 8}, "episodes_per_trial": 2},
    POINT: {"env_kwargs": {"episode_length": 4}, "steps_per_trial": 8},
}
DISCRETE, CONTINUOUS = ("DQN", "QRDQN"), ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
EITHER = ("ARS", "PPO", "A2C", "TRPO")
LEARNERS = (*DISCRETE, *CONTINUOUS, *EITHER)


def slow_but(quick, *values):
    """A parameter that is slow unless `quick`."""
    return pytest.param(*values, marks=[] if quick else [pytest.mark.slow])


# Every learner once, in two families where it can play both; with -m slow the rest.
MATRIX = [
    *(slow_but(env_id == BANDIT, name, env_id) for name in DISCRETE for env_id in (BANDIT, LAKE)),
    *((name, POINT) for name in CONTINUOUS),
    *(
        slow_but((name in {"ARS", "A2C"}) == (env_id == BANDIT), name, env_id)
        for name in EITHER
        for env_id in (BANDIT, POINT)
    ),
]
OFF_POLICY = [(name, BANDIT) for name in DISCRETE] + [(name, POINT) for name in CONTINUOUS]


def budget(name):
    """Keywords of a learner that learns from its first steps on."""
    if name in (*DISCRETE, *CONTINUOUS):
        return {"learning_starts": 12, "batch_size": 8, "buffer_size": 60, "train_freq": 2}
    if name == "ARS":
        return {"n_delta": 2, "n_eval_episodes": 2}
    return {"n_steps": 8} | ({} if name == "A2C" else {"batch_size": 8})


def make(name="DQN", env=BANDIT, *, extractor="gru", **kwargs):
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 4}, "extractor": extractor}
    settings = {"learner_class": name, "n_envs": 2, "window": 4, "seed": 0, "policy_kwargs": network} | budget(name)
    return WindowRL2("MlpPolicy", env, **(FAMILY[env] if isinstance(env, str) else {}) | settings | kwargs)


def parameters(agent):
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


def same(one, other):
    return all(th.equal(mine, yours) for mine, yours in zip(one, other, strict=True))


def assert_predict_alike(one, other):
    seen = np.random.default_rng(0).random((5, *one.observation_space.shape), np.float32)
    states = [None, None]
    for _ in range(3):
        actions = []
        for place, agent in enumerate((one, other)):
            action, states[place] = agent.predict(seen, states[place], deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(*actions)


class SaveAt(BaseCallback):
    """Saves after so many steps of all rows."""

    def __init__(self, path, step):
        super().__init__()
        self.path, self.step = path, step

    def _on_step(self):
        if self.n_calls == self.step:
            self.model.save(self.path)
        return True
