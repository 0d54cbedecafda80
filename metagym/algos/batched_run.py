"""Runs of an iteration all at once: the tasks' rows step together, and one batched update moves all learners.

The result is that of the runs one after the other, up to the rounding of sums: each task has the random streams that
its run would have had alone.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.batched_actions import actions_of
from metagym.algos.batched_policy import StackedPolicy, require_mlp
from metagym.algos.batched_rows import TaskRows, clock_of, require_native
from metagym.algos.batched_update import Collector, Updater
from metagym.algos.reptile_run import Finish, Job, Start, diverged, not_finite
from metagym.errors import ConfigError, DivergenceError
from metagym.learner_state import LearnerState
from metagym.types import Array

__all__ = ["BatchedRuns", "Learnt", "Streams", "check_batched", "learn_tasks", "require_batchable", "streams_of"]

_OPTIMIZERS = (th.optim.Adam, th.optim.AdamW, th.optim.RMSprop, RMSpropTFLike, th.optim.SGD)


def check_batched(batched: Any, n_workers: int, inner_optimizer: str) -> None:
    """Refuse settings of Reptile under which tasks cannot be adapted at once.

    Raises:
        ConfigError: if there are workers, or moments are carried from task to task.
    """
    if not isinstance(batched, bool):
        raise ConfigError(f"batched must be True or False, got {batched!r}")
    if batched and n_workers > 1:
        raise ConfigError(f"batched=True adapts all tasks in this process: it does not work with n_workers={n_workers}")
    if batched and inner_optimizer != "fresh":
        raise ConfigError(
            f"batched=True with inner_optimizer={inner_optimizer!r}: moments go from each task to the next, which must "
            "wait for them; use inner_optimizer='fresh'"
        )


def require_batchable(model: BaseAlgorithm, env: VecEnv | None) -> None:
    """Refuse learners and envs that cannot adapt to many tasks at once.

    Args:
        model: the inner learner.
        env: its env, or None if there is none yet.

    Raises:
        ConfigError: if something is not supported; it says what.
    """
    if type(model) not in {PPO, A2C}:
        raise ConfigError(f"batched=True takes the learners PPO and A2C themselves, got {type(model).__name__}")
    assert isinstance(model, PPO | A2C)
    refused = {
        "use_sde=True": model.use_sde,
        f"rollout_buffer_class={model.rollout_buffer_class!r}": model.rollout_buffer_class is not RolloutBuffer,
        f"device={model.device.type!r}: it computes on the CPU": model.device.type != "cpu",
    }
    if reasons := [reason for reason, applies in refused.items() if applies]:
        raise ConfigError(f"batched=True does not work with {'; '.join(reasons)}")
    require_mlp(model.policy)
    if model.policy.optimizer_class not in _OPTIMIZERS:
        known = [kind.__name__ for kind in _OPTIMIZERS]
        raise ConfigError(f"batched=True knows the optimizers {known}, got {model.policy.optimizer_class.__name__}")
    actions_of(model.action_space)
    if env is not None:
        require_native(env)


class Streams(NamedTuple):
    """What one task's run draws random numbers from.

    Attributes:
        actions: the noise of actions.
        minibatches: their order.
        rows: the seed of the env's rows.
    """

    actions: th.Generator
    minibatches: np.random.RandomState
    rows: int


def streams_of(seed: int) -> Streams:
    """The streams that the process has, and the rows, after `seed_run`."""
    return Streams(th.Generator().manual_seed(seed), np.random.RandomState(seed), seed)


class Learnt(NamedTuple):
    """What was learnt on K tasks.

    Attributes:
        policy: the parameters.
        updater: with the optimiser's moments.
        rows: in the state that learning left them in.
        observations: what the rows show now, (N, ...).
        dones: rows whose episode starts now, (N,).
        timesteps: environment steps on each task.
    """

    policy: StackedPolicy
    updater: Updater
    rows: TaskRows
    observations: Array
    dones: Array
    timesteps: int


def learn_tasks(
    model: PPO | A2C,
    rows: TaskRows,
    theta: Mapping[str, th.Tensor],
    tasks: Sequence[Any],
    streams: Sequence[Streams],
    timesteps: int,
    frozen: Collection[str],
) -> Learnt:
    """Learn K tasks at once; the learner itself does not change.

    Args:
        model: whose architecture and settings hold.
        rows: of K tasks.
        theta: parameters to start from.
        tasks: K.
        streams: K.
        timesteps: environment steps on each task; rollouts are completed.
        frozen: names of parameters that stay as they are.
    """
    policy, actions = StackedPolicy(model.policy, len(tasks), frozen), actions_of(model.action_space)
    policy.load(theta)
    collector = Collector(model, policy, actions, rows)
    updater = Updater(model, policy, actions, [stream.minibatches for stream in streams])
    generators = [stream.actions for stream in streams]
    observations = rows.reset(tasks, [stream.rows for stream in streams])
    used = 0
    while used < timesteps:
        batch, moment = collector.collect(observations, generators)
        observations = moment.observations
        used += model.n_steps * rows.num_rows
        updater.update(batch)
        if not bool(th.isfinite(policy.flat).all()):
            break  # which task it was, the caller finds out
    return Learnt(policy, updater, rows, observations, moment.dones, used)


class BatchedRuns:
    """Runs of an iteration all at once, in this process. Use it like `Runs`.

    Args:
        model: the learner, which stays as it is.
        env: its env, which stays as it is.
        frozen: names of tensors that stay as they are.
    """

    def __init__(self, model: BaseAlgorithm, env: VecEnv, frozen: Collection[str]) -> None:
        require_batchable(model, env)
        assert isinstance(model, PPO | A2C)
        self._model, self._frozen = model, frozen
        self._native = require_native(env)
        self._clock = clock_of(env)
        self._rows: TaskRows | None = None

    def play(self, start: Start, jobs: Iterable[Job]) -> Iterator[Finish]:
        """Where the runs ended, in the order of the jobs.

        Raises:
            DivergenceError: if what a run learnt is not finite.
        """
        ordered, model = list(jobs), self._model
        if self._rows is None or self._rows.num_tasks != len(ordered):
            self._rows = TaskRows(self._native, len(ordered), start=self._clock, window=model._stats_window_size)
        learnt = learn_tasks(
            model, self._rows, start.theta.tensors, [job.task for job in ordered],
            [streams_of(job.seed) for job in ordered], start.timesteps, self._frozen,
        )  # fmt: skip
        phis = [LearnerState(learnt.policy.tensors_of(index), {}) for index in range(len(ordered))]
        for job, phi in zip(ordered, phis, strict=True):
            if broken := not_finite(phi, start.theta):
                raise DivergenceError(diverged(model, job, broken))
        for phi, episodes in zip(phis, learnt.rows.episodes, strict=True):
            yield Finish(
                phi, [], learnt.timesteps, list(episodes.first.values()), list(episodes.last.values()),
                episodes.number, list(episodes.latest), list(episodes.successes),
            )  # fmt: skip

    def close(self) -> None:
        """Nothing to do: there is no other process."""
