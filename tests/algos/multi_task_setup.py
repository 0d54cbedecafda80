"""Tiny learners of many tasks, and how they are compared."""

import copy

from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback

from metagym.algos.joint_training import JointTraining
from metagym.learner_state import LearnerState

POINT, LAKE = "MetaPointGoal-v0", "MetaFrozenLake-v0"
NETS = {"net_arch": [8]}
OFF_POLICY = {"learning_starts": 8, "batch_size": 8, "buffer_size": 96, "train_freq": 1}
KWARGS = {
    PPO: {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
    A2C: {"n_steps": 4},
    TRPO: {"n_steps": 16, "batch_size": 32},
    RecurrentPPO: {"n_steps": 16, "batch_size": 32, "n_epochs": 1},
    ARS: {"n_delta": 1},
    SAC: OFF_POLICY,
    TD3: OFF_POLICY,
    TQC: OFF_POLICY,
    CrossQ: OFF_POLICY,
    DQN: {**OFF_POLICY, "target_update_interval": 16, "train_freq": 3},
    QRDQN: {**OFF_POLICY, "target_update_interval": 16},
}
LEARNERS = list(KWARGS)


def env_of(learner_class):
    return LAKE if learner_class in (DQN, QRDQN) else POINT


def tiny(learner_class=PPO, env=None, kind=JointTraining, **kwargs):
    """A learner with networks of 8 and short rollouts in 4 rows."""
    policy_kwargs = {**NETS, "lstm_hidden_size": 4} if learner_class is RecurrentPPO else NETS
    arguments = {"policy_kwargs": policy_kwargs, "device": "cpu", "n_envs": 4, "seed": 0, **kwargs}
    if env is not None and not isinstance(env, str):
        arguments.pop("n_envs")
    if kind is JointTraining:
        arguments.setdefault("inner_timesteps", 64)
    own = arguments.pop("learner_kwargs", {})
    policy = "MlpLstmPolicy" if learner_class is RecurrentPPO else "MlpPolicy"
    return kind(
        policy,
        env_of(learner_class) if env is None else env,
        learner_class=learner_class,
        learner_kwargs=copy.deepcopy({**KWARGS[learner_class], **own}),
        **copy.deepcopy(arguments) if not hasattr(env, "step") else arguments,
    )


def state(agent):
    return LearnerState.capture(agent.learner)


class SaveAt(BaseCallback):
    """Saves in the middle of learning, at one call, and notes the count of steps of what it saved."""

    def __init__(self, call, path, stop=False):
        super().__init__()
        self.call, self.path, self.stop = call, path, stop

    def _on_step(self):
        if self.n_calls == self.call:
            self.model.save(self.path)
            return not self.stop
        return True
