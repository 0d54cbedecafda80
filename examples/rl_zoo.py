"""RL Zoo: train by a recipe with its command, then measure adaptation with metagym (needs rl_zoo3)."""

import argparse

from metagym.algos import RL2
from metagym.evaluation import evaluate
from metagym.zoo import main, recipes

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500_000, help="environment steps of training")
steps = parser.parse_args().steps

print("the recipe is in", recipes("rl2").name)
arguments = ["--algo", "rl2", "--env", "MetaBandit-v0", "-n", str(steps), "--seed", "0", "--eval-freq", "-1"]
main([*arguments, "--num-threads", "1", "-f", "logs", "--verbose", "0"])
agent = RL2.load("logs/rl2/MetaBandit-v0_1/MetaBandit-v0.zip")
print(evaluate(agent, "MetaBandit-v0", n_tasks=50, episodes=10))
