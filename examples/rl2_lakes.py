"""RL²: an agent whose memory learns where the holes of a lake are, episode by episode."""

import argparse

import gymnasium as gym
import torch as th

from metagym.algos import RL2

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2_000_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

lakes = {"is_slippery": False, "episode_length": 20}  # firm ice: a fall tells where a hole is
agent = RL2("MlpPolicy", "MetaFrozenLake-v0", env_kwargs=lakes, episodes_per_trial=6, n_envs=128, seed=0)
agent.learn(steps)

task = gym.make("MetaFrozenLake-v0", split="test", **lakes).unwrapped.sample_task()
expert = agent.adapt(task, episodes=5, seed=0)  # plays five episodes; what it learnt is in its memory
print("returns while adapting:", expert.returns)

observation, ended = expert.observation, False
while not ended:  # the sixth episode, with that memory
    action, _ = expert.predict(observation, deterministic=True)
    observation, reward, _, _, info = expert.env.step(action)
    ended = info["episode_end"]
print("sixth episode:", info["last_episode_return"], "after", info["last_episode_length"], "steps")
