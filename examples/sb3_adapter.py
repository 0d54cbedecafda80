"""metagym's native vector envs in any Stable-Baselines3 algorithm: here plain PPO, which learns across tasks only."""

import argparse

import gymnasium as gym
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from metagym.wrappers import RevealTask, VectorEnvAdapter

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of each training run")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

SAME_STEP = gym.vector.AutoresetMode.SAME_STEP  # SB3's convention: a finished row is reset within the step

for name, wrap in (("task hidden", lambda env: env), ("task revealed", RevealTask)):
    envs = wrap(gym.make_vec("MetaPointGoal-v0", num_envs=32, autoreset_mode=SAME_STEP))
    agent = PPO("MlpPolicy", VecMonitor(VectorEnvAdapter(envs)), n_steps=100, batch_size=800, gamma=0.95, seed=0)
    agent.learn(steps)
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    print(f"{name}: mean return of the last {len(returns)} training episodes {sum(returns) / max(len(returns), 1):.2f}")
