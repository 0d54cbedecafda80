"""One replay buffer for many tasks, sampled by task, so that none of them crowds out the others."""

import argparse

import torch as th

from metagym.algos import JointTraining
from metagym.replay import TaskReplayBuffer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=50_000, help="environment steps of training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

replay = {"replay_buffer_class": TaskReplayBuffer, "buffer_size": 50_000, "learning_starts": 100, "gamma": 0.95}
joint = JointTraining("MlpPolicy", "MetaPointGoal-v0", learner_class="SAC", learner_kwargs=replay, seed=0)
joint.learn(steps)
buffer = joint.learner.replay_buffer
batch = buffer.sample_task(int(buffer.present_tasks[0]), 32)  # of one task alone; sample(32) draws a task for each
print(f"{len(buffer.present_tasks)} tasks in the buffer, a batch of one of them: {tuple(batch.observations.shape)}")
