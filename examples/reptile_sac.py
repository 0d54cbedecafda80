"""Reptile around SAC: any learner of SB3 or sb3-contrib becomes a meta-learner by naming it."""

import argparse

import torch as th

from metagym.algos import Reptile
from metagym.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

inner = min(1_600, steps)  # environment steps on each task: two episodes of each of the 8 rows
short = {"learning_rate": 1e-3, "batch_size": 64, "gamma": 0.95}  # keywords of SAC
agent = Reptile(
    "MlpPolicy", "MetaPointGoal-v0", learner_class="SAC", learner_kwargs=short, inner_timesteps=inner,
    meta_batch_size=2, learning_rate=0.3, seed=0,
).learn(steps)  # fmt: skip
budgets = (0, 5) if steps > 1_000 else (0, 1)
print(evaluate(agent, "MetaPointGoal-v0", n_tasks=4, budgets=budgets, eval_episodes=4))
agent.save("reptile_sac.zip")
