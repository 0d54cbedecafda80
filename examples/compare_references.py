"""A learner beside what needs no learning: random actions, Gittins indices, the Bayes and the known-task optimum."""

import argparse

import torch as th
from rich.console import Console

from metagym.algos import RL2, Gittins, Random
from metagym.evaluation import evaluate
from metagym.plots import plot_adaptation, save_figure
from metagym.reports import adaptation_table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500_000, help="environment steps of training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

arms = {"num_arms": 2}
agent = RL2("MlpPolicy", "MetaBandit-v0", env_kwargs=arms, episodes_per_trial=10, n_envs=16, n_steps=10, seed=0)
gittins = Gittins(env="MetaBandit-v0", env_kwargs=arms, episodes_per_trial=10)
learners = [agent.learn(steps), gittins, Random(env="MetaBandit-v0", env_kwargs=arms)]
curves = [evaluate(learner, "MetaBandit-v0", env_kwargs=arms, episodes=10) for learner in learners]
Console().print(adaptation_table(curves))
print("wrote", save_figure(plot_adaptation(curves), "references.png"))
