"""Callbacks of SB3 around a meta-learner: held-out tasks while it trains, checkpoints, early stop, TensorBoard."""

import argparse

import torch as th
from stable_baselines3.common.callbacks import CheckpointCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.logger import configure

from metagym.algos import RL2
from metagym.callbacks import AdaptationEvalCallback

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300_000, help="environment steps of training")
steps = parser.parse_args().steps
th.set_num_threads(1)  # networks this small are slower on several

agent = RL2("MlpPolicy", "MetaBandit-v0", episodes_per_trial=10, n_envs=16, n_steps=10, seed=0)
agent.set_logger(configure("log", ["csv", "tensorboard"]))
patience = StopTrainingOnNoModelImprovement(max_no_improvement_evals=20)
every = max(steps // 16 // 10, 6)  # calls: each is a step of all 16 rows
watch = AdaptationEvalCallback(
    eval_freq=every, n_tasks=50, callback_after_eval=patience, log_path="log", best_model_save_path="log"
)
agent.learn(steps, [watch, CheckpointCallback(every, "checkpoints")])
agent.logger.close()
print(f"{len(watch.evaluations_timesteps)} evaluations, best {watch.best_mean_reward:.2f}; latest: {watch.last_curve}")
