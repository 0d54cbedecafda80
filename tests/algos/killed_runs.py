"""Trainings that write checkpoints as they go, and that a test may kill: what runs in the process that dies."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from metagym.algos import RL2, JointTraining, Reptile
from metagym.algos.rl2_window import WindowRL2

POINT, BANDIT = "MetaPointGoal-v0", "MetaBandit-v0"
NETS = {"net_arch": [8]}
PPO_ARGUMENTS = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}


def reptile(n_workers=1):
    return Reptile(
        "MlpPolicy", POINT, inner_timesteps=64, meta_batch_size=2, n_envs=4, policy_kwargs=NETS, seed=0, device="cpu",
        outer_optimizer="adam", learning_rate=0.01, n_workers=n_workers, learner_kwargs=PPO_ARGUMENTS,
    )  # fmt: skip


def rl2():
    return RL2(
        "MlpPolicy", BANDIT, episodes_per_trial=5, n_envs=4, n_steps=7, batch_size=14, n_epochs=2, seed=0, device="cpu",
        policy_kwargs={"rnn_hidden_size": 4},
    )  # fmt: skip


def window():
    return WindowRL2(
        "MlpPolicy", BANDIT, learner_class="DQN", episodes_per_trial=6, n_envs=4, window=4, seed=0, device="cpu",
        learning_starts=16, batch_size=8, buffer_size=256, train_freq=2, target_update_interval=40,
        policy_kwargs={**NETS, "features_extractor_kwargs": {"features_dim": 4}},
    )  # fmt: skip


def joint(learner_class="PPO"):
    own = {"learning_starts": 16, "batch_size": 8, "buffer_size": 512} if learner_class == "SAC" else PPO_ARGUMENTS
    return JointTraining(
        "MlpPolicy", POINT, learner_class=learner_class, learner_kwargs=own, n_envs=4, policy_kwargs=NETS, seed=0,
        device="cpu",
    )  # fmt: skip


# What to train, how it is loaded, steps of all, and callbacks between two checkpoints.
KINDS = {
    "Reptile": (reptile, Reptile, 4_096, 2),
    "Reptile, two workers": (lambda: reptile(2), Reptile, 2_048, 2),
    "RL2": (rl2, RL2, 2_000, 25),
    "WindowRL2, DQN": (window, WindowRL2, 1_200, 20),
    "JointTraining, PPO": (joint, JointTraining, 4_000, 50),
    "JointTraining, SAC": (lambda: joint("SAC"), JointTraining, 480, 12),
}


class Saves(BaseCallback):
    """Saves every so many calls, whatever else happens, and says how far training is."""

    def __init__(self, path, every):
        super().__init__()
        self.path, self.every = Path(path), every

    def _on_step(self):
        # The last digits of a file that only grows.
        with (self.path.parent / "progress").open("a") as file:
            file.write(f"{self.num_timesteps:9d}")
        if self.n_calls % self.every == 0:
            self.model.save(self.path)
        return True


@contextmanager
def slow_writes(seconds, folder, die_in_write=None):
    """Checkpoints take long to reach the disk; or the process dies while the n-th does."""
    fsync, count = os.fsync, [0]

    def slow(descriptor):
        count[0] += 1
        if count[0] == die_in_write:
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "writing").touch()
        time.sleep(seconds)
        fsync(descriptor)
        (folder / "writing").unlink()

    os.fsync = slow
    try:
        yield
    finally:
        os.fsync = fsync


def train(kind, folder, *, writes_take=0.0, die_in_write=None, share=1.0):
    """Train, or go on from the checkpoint that is there; at the end there is ``final.zip``."""
    th.set_num_threads(1)
    make, learner, steps, every = KINDS[kind]
    folder, steps = Path(folder), int(steps * share)
    checkpoint = folder / "checkpoint.zip"
    if checkpoint.exists():
        agent = learner.load(checkpoint, device="cpu")
    else:
        agent = make()
        agent.save(checkpoint)
    with slow_writes(writes_take, folder, die_in_write):
        left = max(steps - agent.num_timesteps, 0)
        agent.learn(left, Saves(checkpoint, every), reset_num_timesteps=False, log_interval=None)
        agent.save(folder / "final")
