"""Federated averaging: learners go out to tasks of their own, and come back as one, again and again (FedAvg)."""

import argparse

import gymnasium as gym
import torch as th

from metagym.aggregation import average, merge_into
from metagym.algos import JointTraining

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200_000, help="environment steps of all clients in all rounds")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

tasks = gym.make("MetaPointGoal-v0").unwrapped.sample_tasks(4)  # one for each client
rounds = 10 if steps > 10_000 else 1
each = max(steps // (rounds * len(tasks)), 16)
server = JointTraining("MlpPolicy", "MetaPointGoal-v0", learner_kwargs={"gamma": 0.95}, seed=0)
for number in range(rounds):
    clients = [server.adapt(task, total_timesteps=each, seed=number) for task in tasks]
    merge_into(server, clients, weights="steps")  # in place; step_size=0.1 would be an outer step of Reptile
model = average(clients, weights=[1.0, 1.0, 1.0, 0.0])  # a new PPO, without the last client
print(f"{rounds} round(s), {len(clients)} clients; {type(model).__name__} of {model.num_timesteps} steps")
