"""Save in the middle of training, load, go on: the result is that of training without a break, to the bit."""

import argparse

import torch as th

from metagym.algos import RL2

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each half")
half = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several


def learner() -> RL2:
    """The same learner every time it is called."""
    return RL2("MlpPolicy", "MetaBandit-v0", episodes_per_trial=10, n_envs=16, n_steps=10, seed=0)


through = learner().learn(half)
through.learn(half, reset_num_timesteps=False)

first = learner().learn(half)
first.save("half.zip")  # with random states, unfinished trials and the env
resumed = RL2.load("half.zip")  # executes nothing from the file
resumed.learn(half, reset_num_timesteps=False)

one, other = through.policy.state_dict(), resumed.policy.state_dict()
assert all(th.equal(one[name], other[name]) for name in one)
print(f"{through.num_timesteps} steps without a break, {resumed.num_timesteps} with one: {len(one)} equal tensors")
