"""One run of Reptile: a learner learns one task from the meta-parameters, in whatever process it lives.

All randomness of a run hangs on its seed: the process's random states, the streams of the env's rows and those of the
action space start anew from it. Runs of an iteration therefore do not depend on each other, nor on their order.
"""

import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.reptile_env import give_task
from metagym.algos.reptile_frozen import held
from metagym.algos.reptile_log import EpisodeReturns
from metagym.algos.reptile_normalize import Statistics, capture_statistics, restore_statistics
from metagym.errors import DivergenceError
from metagym.learner_state import LearnerState, OptimizerMode, live_tensors, reset_running_state

__all__ = [
    "DivergenceError", "Finish", "Job", "Runs", "Start", "derived_seed", "diverged", "not_finite", "run_task",
    "seed_run",
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        index: its place in the iteration.
        task: what the learner learns.
        seed: of everything random in it.
    """

    index: int
    task: Any
    seed: int


@dataclass(frozen=True)
class Start:
    """Where all runs of an iteration start.

    Attributes:
        theta: the meta-parameters.
        statistics: those of `VecNormalize`, if the env has one.
        optimizer: what becomes of the learner's moments.
        timesteps: environment steps of a run.
    """

    theta: LearnerState
    statistics: Statistics
    optimizer: OptimizerMode
    timesteps: int


@dataclass
class Finish:
    """Where a run ended.

    Attributes:
        phi: what the learner has learnt, without moments.
        statistics: those of `VecNormalize`.
        timesteps: environment steps used.
        first: return of the first episode that each row finished.
        last: return of the last one.
        num_episodes: episodes finished in all rows.
        episodes: SB3's records of the latest episodes.
        successes: whether they succeeded, where the env says.
    """

    phi: LearnerState
    statistics: Statistics
    timesteps: int
    first: list[float]
    last: list[float]
    num_episodes: int
    episodes: list[dict[str, Any]] = field(default_factory=list)
    successes: list[Any] = field(default_factory=list)


def derived_seed(entropy: int, *place: int) -> int:
    """A seed of 31 bits for one place in training: an iteration, or an iteration and a run in it."""
    return int(np.random.SeedSequence(entropy, spawn_key=place).generate_state(1)[0]) >> 1


def seed_run(model: BaseAlgorithm, env: VecEnv, seed: int) -> None:
    """Start everything anew that a run draws random numbers from; the env's rows do so at their next reset."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the stream that SB3 draws from)
    if model.device.type == "cpu":
        # Milliseconds faster than th.manual_seed, which leaves a note for every kind of device that is not in use.
        th.default_generator.manual_seed(seed)
    else:
        th.manual_seed(seed)
    env.seed(seed)
    model.action_space.seed(seed)


def run_task(model: BaseAlgorithm, env: VecEnv, start: Start, job: Job, frozen: Collection[str]) -> Finish:
    """Let a learner learn one task from the start of an iteration.

    Args:
        model: the learner.
        env: its env.
        start: where it starts.
        job: what it learns.
        frozen: names of tensors that stay as they are.

    Raises:
        DivergenceError: if what it learnt is not finite.
    """
    start.theta.restore(model, optimizer=start.optimizer)
    restore_statistics(env, start.statistics)
    give_task(env, job.task)
    seed_run(model, env, job.seed)
    reset_running_state(model)
    returns = EpisodeReturns()
    try:
        with held(model, frozen):
            model.learn(start.timesteps, callback=returns, log_interval=None)  # type: ignore[arg-type]
    except Exception as error:
        _explain(model, start, job, error)
        raise
    phi = LearnerState.capture(model, moments=False)
    if broken := not_finite(phi, start.theta):
        raise DivergenceError(diverged(model, job, broken))
    return Finish(
        phi, capture_statistics(env), model.num_timesteps, list(returns.first.values()), list(returns.last.values()),
        returns.num_episodes, list(model.ep_info_buffer or ()), list(model.ep_success_buffer or ()),
    )  # fmt: skip


def not_finite(state: LearnerState, start: LearnerState) -> list[str]:
    """Names of tensors with NaN or infinity in them that they did not start with, as constants may (masks)."""
    return [
        name
        for name, tensor in state.tensors.items()
        if tensor.is_floating_point()
        and not bool(th.isfinite(tensor).all())
        and not th.equal(tensor, start.tensors[name])
    ]


def _explain(model: BaseAlgorithm, start: Start, job: Job, error: Exception) -> None:
    """Say what happened where: a loss that became NaN makes SB3's distributions complain, one rollout later."""
    broken = not_finite(LearnerState(live_tensors(model), {}), start.theta)
    if broken:
        raise DivergenceError(diverged(model, job, broken)) from error
    if hasattr(error, "add_note"):  # from Python 3.11 on
        error.add_note(f"while {type(model).__name__} learnt run {job.index} of an iteration, on {job.task!r}")


def diverged(model: BaseAlgorithm, job: Job, broken: list[str]) -> str:
    """What to say of a run that left tensors which are not finite."""
    return (
        f"{type(model).__name__} diverged in run {job.index} of an iteration, on {job.task!r}: NaN or infinity in "
        f"{broken[:4]}. The meta-parameters are those before this iteration; lower learning_rate in learner_kwargs"
    )


class Runs:
    """Runs of an iteration one after the other, in this process.

    Args:
        model: the learner.
        env: its env.
        frozen: names of tensors that stay as they are.
    """

    def __init__(self, model: BaseAlgorithm, env: VecEnv, frozen: Collection[str]) -> None:
        self._model, self._env, self._frozen = model, env, frozen

    def play(self, start: Start, jobs: Iterable[Job]) -> Iterator[Finish]:
        """Where the runs ended, in the order of the jobs."""
        for job in jobs:
            yield run_task(self._model, self._env, start, job, self._frozen)

    def close(self) -> None:
        """Nothing to do: there is no other process."""
