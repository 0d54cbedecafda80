"""Frozen prefixes: features that were learnt on all tasks stay, and Reptile moves what lies behind them."""

import argparse

import gymnasium as gym
import torch as th

from metagym.algos import JointTraining, Reptile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200_000, help="environment steps of each of the two trainings")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

points, ppo = "MetaPointGoal-v0", {"n_steps": 25, "batch_size": 200, "gamma": 0.95}
joint = JointTraining("MlpPolicy", points, learner_kwargs=ppo, seed=0).learn(steps)
agent = Reptile.from_learner(
    joint.learner, points, frozen=["mlp_extractor"], inner_timesteps=200, learning_rate=0.1, meta_batch_size=1, seed=0
)
expert = agent.learn(steps).adapt(gym.make(points, split="test").unwrapped.sample_task())
before, after = joint.policy.state_dict(), expert.policy.state_dict()
print("unchanged:", [name for name in before if th.equal(before[name], after[name])])
