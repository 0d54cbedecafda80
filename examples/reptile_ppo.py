"""Reptile: meta-train a PPO so that it learns a new goal in a few steps, then fine-tune and save it with SB3."""

import argparse

import gymnasium as gym
import torch as th
from stable_baselines3 import PPO

from metagym.algos import Reptile

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

inner = min(1_600, steps)  # environment steps on each task
agent = Reptile("MlpPolicy", "MetaPointGoal-v0", learner_class=PPO, inner_timesteps=inner, learning_rate=0.5, seed=0)
agent.learn(steps)

task = gym.make("MetaPointGoal-v0", split="test").unwrapped.sample_task()
expert = agent.adapt(task, total_timesteps=inner, seed=0)  # a plain PPO; the meta-learner stays as it was
assert isinstance(expert, PPO)

env = gym.make("MetaPointGoal-v0")
env.unwrapped.set_task(task)
for name, learner in (("before", agent), ("after", expert)):
    observation, _ = env.reset(seed=1)
    total, finished = 0.0, False
    while not finished:
        action, _ = learner.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, finished = total + float(reward), terminated or truncated
    print(f"{name} adaptation: return {total:.2f}")

expert.save("expert.zip")  # loads without metagym
print(PPO.load("expert.zip").num_timesteps, "environment steps on this task")
