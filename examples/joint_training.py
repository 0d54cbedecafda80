"""Joint training, then fine-tuning: the baseline that a meta-learner has to beat, beside learning from scratch."""

import argparse

import torch as th

from metagym.algos import FromScratch, JointTraining
from metagym.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of joint training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

points, ppo = "MetaPointGoal-v0", {"n_steps": 100, "batch_size": 200, "gamma": 0.95}
joint = JointTraining("MlpPolicy", points, learner_class="PPO", learner_kwargs=ppo, seed=0).learn(steps)
scratch = FromScratch("MlpPolicy", points, learner_class="PPO", learner_kwargs=ppo, seed=0)  # nothing to train before
budgets = (0, 5, 10) if steps > 1_000 else (0, 1)
for learner in (joint, scratch):
    print(evaluate(learner, points, n_tasks=4, budgets=budgets, eval_episodes=4))
