"""Environments that are distributions of tasks: draw, set, repeat and save them."""

import argparse

import gymnasium as gym

import metagym

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=20, help="environment steps to show")
steps = parser.parse_args().steps

env = gym.make("MetaFrozenLake-v0", split="test", render_mode="ansi")
for _ in range(2):  # every reset starts a trial: another lake
    observation, info = env.reset()
    print(f"task {info['task_id']}\n{env.render()}")

task = env.unwrapped.sample_task()
env.unwrapped.set_task(task)  # for all trials from the next reset on; set_task(None) unpins
observation, info = env.reset(seed=0)
assert info["task_id"] == task.id
for _ in range(steps):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        observation, info = env.reset()  # the same lake again

other = {"map": ["SFFF", "FHFH", "FFFH", "HFFG"], "success_rate": 0.5}  # a task of one's own, for one trial
observation, info = env.reset(options={"task": other})
family = env.unwrapped.family
params = family.params_of([env.unwrapped.get_task()])
print(f"optimal {family.optimal_return(params)[0]:.3f}, random {family.random_return(params)[0]:.3f}")

benchmark = metagym.TaskSet(env.unwrapped.sample_tasks(100))
benchmark.save("lakes.npz")
assert metagym.TaskSet.load("lakes.npz").fingerprint == benchmark.fingerprint
print(benchmark)
