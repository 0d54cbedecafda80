"""One iteration of Reptile: tasks are drawn, runs are played, and the meta-parameters take one step, or none."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch as th
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.batched_run import BatchedRuns
from metagym.algos.iterative import pin_any
from metagym.algos.reptile_env import draw_tasks, give_task
from metagym.algos.reptile_log import record_run
from metagym.algos.reptile_normalize import capture_statistics, merge_statistics, restore_statistics
from metagym.algos.reptile_run import (
    Finish,
    Job,
    Runs,
    Start,
    derived_seed,
    not_finite,
    seed_run,
)
from metagym.algos.reptile_workers import WorkerPool, parcel_of
from metagym.errors import DivergenceError
from metagym.learner_state import LearnerState, OptimizerMode, preserved_rng

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metagym.algos.reptile import Reptile

__all__ = ["iterate", "runs_of"]

Player: TypeAlias = Runs | BatchedRuns | WorkerPool


@contextmanager
def runs_of(agent: "Reptile", env: VecEnv) -> "Iterator[Player]":
    """What plays the runs of an agent: this process, one by one or all at once, or workers that end with the block.

    Raises:
        ConfigError: if there are to be workers, and the env or the learner's arguments cannot be sent to them.
    """
    num_workers = min(agent.n_workers, agent.meta_batch_size)
    runs: Player
    if agent.batched:
        runs = BatchedRuns(agent.learner, env, agent._frozen_names)
    elif num_workers == 1:
        runs = Runs(agent.learner, env, agent._frozen_names)
    else:
        runs = WorkerPool(num_workers, parcel_of(agent, env, agent._frozen_names))
    try:
        pin_any(agent, env)
        yield runs
    finally:
        runs.close()


def iterate(agent: "Reptile", env: VecEnv, runs: Player, bar: Any) -> int:
    """One outer step; returns the number of episodes played.

    On any exception the meta-parameters, the moments of both optimisers and the statistics of `VecNormalize` are what
    they were before. The process's random states are so in any case.

    Raises:
        DivergenceError: if a run or the outer step left numbers that are not finite.
    """
    rate = agent.lr_schedule(agent._current_progress_remaining)
    theta, statistics, moments = LearnerState.capture(agent.learner), capture_statistics(env), agent._outer.capture()
    optimizer: OptimizerMode = "fresh" if agent.inner_optimizer == "fresh" else "keep"
    try:
        with preserved_rng():
            jobs = _draw_jobs(agent, env)
            start = Start(theta, statistics, optimizer, agent.inner_timesteps)
            finishes = []
            for finish in runs.play(start, jobs):
                bar.update(finish.timesteps)
                finishes.append(finish)
            after = agent._outer.apply(theta, _mean(theta, finishes), rate)
        _require_finite(theta, after, rate)
        after.restore(agent.learner, optimizer=optimizer)
        restore_statistics(env, merge_statistics(statistics, [finish.statistics for finish in finishes]))
        # As after the last run in this process: what an unseeded row would do next may hang on its task.
        give_task(env, jobs[-1].task)
    except BaseException:
        theta.restore(agent.learner, optimizer="snapshot")
        restore_statistics(env, statistics)
        agent._outer.restore(moments)
        raise
    return _count(agent, finishes, rate)


def _draw_jobs(agent: "Reptile", env: VecEnv) -> list[Job]:
    place = agent._n_updates
    seed_run(agent.learner, env, derived_seed(agent._entropy, place))
    env.reset()  # seeds take effect at a reset
    tasks = draw_tasks(env, agent.meta_batch_size)
    return [Job(index, task, derived_seed(agent._entropy, place, index)) for index, task in enumerate(tasks)]


def _mean(theta: LearnerState, finishes: list[Finish]) -> LearnerState:
    """The mean of where the runs ended, added up in the order of the tasks: rounding must not hang on who was first."""
    total = finishes[0].phi.copy()
    for finish in finishes[1:]:
        total.add_(finish.phi)
    total.div_(len(finishes))
    for name, tensor in theta.tensors.items():
        if all(th.equal(finish.phi.tensors[name], tensor) for finish in finishes):
            total.tensors[name] = tensor.clone()  # constants do not drift by rounding
    return total


def _require_finite(theta: LearnerState, after: LearnerState, rate: float) -> None:
    if broken := not_finite(after, theta):
        raise DivergenceError(
            f"the outer step with learning_rate={rate:g} left NaN or infinity in {broken[:4]}; the meta-parameters are "
            "those before it"
        )


def _count(agent: "Reptile", finishes: list[Finish], rate: float) -> int:
    for finish in finishes:
        record_run(agent, finish)
    agent.num_timesteps += sum(finish.timesteps for finish in finishes)
    agent._n_iterations += 1
    agent._n_updates += 1
    agent.logger.record("meta/learning_rate", rate)
    return sum(finish.num_episodes for finish in finishes)
