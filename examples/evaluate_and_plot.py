"""Measure learners on held-out tasks, episode by episode, beside random actions and the exact optimum."""

import argparse

import torch as th

from metagym.algos import RL2, Random
from metagym.evaluation import evaluate
from metagym.plots import plot_adaptation, save_figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of each training run")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several
episodes = 20 if steps > 10_000 else 3

runs = []
for seed in range(3):  # independently trained learners: what an interval over runs needs
    agent = RL2("MlpPolicy", "MetaBandit-v0", env_kwargs={"num_arms": 5}, episodes_per_trial=episodes, seed=seed)
    runs.append(agent.learn(steps))

protocol = {"env_kwargs": {"num_arms": 5}, "split": "test", "n_tasks": 200, "episodes": episodes, "seed": 0}
memory = evaluate(runs, "MetaBandit-v0", name="RL²", **protocol)
floor = evaluate(Random(env="MetaBandit-v0", env_kwargs={"num_arms": 5}), "MetaBandit-v0", **protocol)

print(memory)
low, high = memory.interval("mean")
print(f"last episode: {memory.mean[-1]:.3f} [{low[-1]:.3f}, {high[-1]:.3f}] of {memory.optimal.mean():.3f}")
print(memory.to_frame().groupby("episode")["return"].mean().round(3).to_dict())
memory.save("rl2.npz")
print("wrote", save_figure(plot_adaptation([memory, floor]), "adaptation.png"))
