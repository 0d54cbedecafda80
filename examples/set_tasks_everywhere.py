"""One task for each row, whatever the vector env: metagym's, Gymnasium's, Stable-Baselines3's."""

import argparse

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

import metagym
from metagym.wrappers import VectorEnvAdapter

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=4, help="number of rows")
num_envs = parser.parse_args().steps

tasks = gym.make("MetaBandit-v0").unwrapped.sample_tasks(num_envs)
expected = [task.id for task in tasks]

native = gym.make_vec("MetaBandit-v0", num_envs=num_envs)
metagym.set_tasks(native, tasks)
_, infos = native.reset()
assert infos["task_id"].tolist() == expected

gymnasium = SyncVectorEnv([lambda: gym.make("MetaBandit-v0")] * num_envs)
metagym.set_tasks(gymnasium, tasks)
_, infos = gymnasium.reset()
assert infos["task_id"].tolist() == expected

stable_baselines = make_vec_env("MetaBandit-v0", n_envs=num_envs)
metagym.set_tasks(stable_baselines, tasks)
stable_baselines.reset()
assert [info["task_id"] for info in stable_baselines.reset_infos] == expected

same_step = gym.make_vec("MetaBandit-v0", num_envs=num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
adapted = VecMonitor(VectorEnvAdapter(same_step))
metagym.set_tasks(adapted, tasks)
adapted.reset()
assert [task.id for task in same_step.unwrapped.get_tasks()] == expected
print(f"{num_envs} rows, {len(set(expected))} tasks, four kinds of vector env")
