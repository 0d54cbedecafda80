"""What Reptile counts and logs."""

import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from typing_extensions import override

if TYPE_CHECKING:
    from metagym.algos.iterative import IterativeLearner
    from metagym.algos.reptile import Reptile
    from metagym.algos.reptile_run import Finish

__all__ = ["EpisodeReturns", "log_progress", "record_run", "start_counting"]


class EpisodeReturns(BaseCallback):
    """Records the first and the last episode that each row finishes during one run.

    Attributes:
        first: return of the first episode, by row.
        last: return of the last one.
        num_episodes: how many episodes ended in all rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.num_episodes = 0

    @override
    def _on_step(self) -> bool:
        dones = self.locals.get("dones")
        rows = () if dones is None else dones.nonzero()[0].tolist()
        if not rows:
            return True
        infos = self.locals["infos"]
        for row in rows:
            self.num_episodes += 1
            episode = infos[row].get("episode")
            if episode is not None:
                self.last[row] = float(episode["r"])
                self.first.setdefault(row, self.last[row])
        return True


def start_counting(agent: "IterativeLearner", total_timesteps: int, *, reset: bool) -> int:
    """Set the counters for a call of ``learn``; returns the count of steps at which it ends."""
    agent.start_time = time.time_ns()
    if agent.ep_info_buffer is None or reset:
        agent.ep_info_buffer = deque(maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
    if reset:
        agent.num_timesteps = agent._n_iterations = 0
    agent._total_timesteps = total_timesteps + agent.num_timesteps
    agent._num_timesteps_at_start = agent.num_timesteps
    return agent._total_timesteps


def record_run(agent: "Reptile", finish: "Finish") -> None:
    """Record what the inner learner's episodes on one task returned."""
    if agent.ep_info_buffer is not None and agent.ep_success_buffer is not None:
        agent.ep_info_buffer.extend(finish.episodes)
        agent.ep_success_buffer.extend(finish.successes)
    if finish.first:
        agent.logger.record_mean("meta/pre_adapt_return", float(np.mean(finish.first)))
        agent.logger.record_mean("meta/post_adapt_return", float(np.mean(finish.last)))


def log_progress(agent: "IterativeLearner") -> None:
    """Write one line of logs."""
    seconds = max((time.time_ns() - agent.start_time) / 1e9, 1e-9)
    logger = agent.logger
    if agent.ep_info_buffer:
        logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in agent.ep_info_buffer]))
        logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in agent.ep_info_buffer]))
    if agent.ep_success_buffer:
        logger.record("rollout/success_rate", safe_mean(agent.ep_success_buffer))
    logger.record("meta/iterations", agent._n_iterations)
    logger.record("time/fps", int((agent.num_timesteps - agent._num_timesteps_at_start) / seconds))
    logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
    logger.record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")
    logger.dump(step=agent.num_timesteps)
