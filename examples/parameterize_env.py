"""An env of Gymnasium's as a family of tasks, in one call: train RL² on it, and evaluate outside the training range."""

import argparse

import metagym
from metagym.algos import RL2
from metagym.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=20_000, help="environment steps to train")
steps = parser.parse_args().steps

family = metagym.parameterize(
    "Pendulum-v1",
    attributes={"g": (5.0, 12.0), "m": (0.5, 1.5)},
    ood={"g": (12.0, 15.0)},
    episode_length=50,
    id="MetaMyPendulum-v0",
)
agent = RL2("MlpPolicy", "MetaMyPendulum-v0", episodes_per_trial=2, n_envs=4, n_steps=100, batch_size=200).learn(steps)
for split in ("test", "ood"):
    curve = evaluate(agent, family, split=split, n_tasks=4, episodes=2)
    means = curve.scores.mean(axis=(0, 1)).round(1)
    print(f"{split}: mean return of each episode {means}, of random actions {curve.random.mean():.1f}")
