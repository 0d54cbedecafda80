"""RL² on DQN: what does not learn from whole trials looks back over a window of the trial, read by a GRU."""

import argparse

import torch as th

from metagym.algos import RL2
from metagym.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200_000, help="environment steps of meta-training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

arms = {"num_arms": 3}
agent = RL2(
    "MlpPolicy", "MetaBandit-v0", learner_class="DQN", env_kwargs=arms, episodes_per_trial=10, window=10,
    learning_starts=100, buffer_size=50_000, gamma=0.9, policy_kwargs={"extractor": "gru"}, seed=0,
)  # fmt: skip
print(agent)
agent.learn(steps)
print(evaluate(agent, "MetaBandit-v0", env_kwargs=arms, n_tasks=50, episodes=10, deterministic=True))
