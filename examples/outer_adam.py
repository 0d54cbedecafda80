"""Adam as Reptile's outer step, with a learning rate that decays over meta-training."""

import argparse

import torch as th
from stable_baselines3.common.utils import LinearSchedule

from metagym.algos import Reptile
from metagym.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

agent = Reptile(
    "MlpPolicy", "MetaPointGoal-v0", learner_class="PPO", learner_kwargs={"gamma": 0.95},
    inner_timesteps=min(800, steps), meta_batch_size=4, outer_optimizer="Adam",
    outer_optimizer_kwargs={"betas": (0.0, 0.999)}, learning_rate=LinearSchedule(3e-3, 3e-4, 1.0), seed=0,
).learn(steps)  # fmt: skip
budgets = (0, 5) if steps > 1_000 else (0, 1)
print(evaluate(agent, "MetaPointGoal-v0", n_tasks=4, budgets=budgets, eval_episodes=4))
