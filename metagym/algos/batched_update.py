"""Rollouts and updates of PPO and A2C for many tasks at once, the loss of each task a function of its own parameters.

The formulas are those of Stable-Baselines3's ``OnPolicyAlgorithm.collect_rollouts``, ``RolloutBuffer``, ``PPO.train``
and ``A2C.train``, with one more axis; rewards, values and advantages are float32 there and here.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO

from metagym.algos.batched_actions import Actions
from metagym.algos.batched_policy import StackedPolicy
from metagym.algos.batched_rows import Moment, TaskRows
from metagym.types import Array, Bool

__all__ = ["Batch", "Collector", "Updater"]


_LOOPS = frozenset({"capturable", "differentiable", "foreach", "fused"})  # what an optimiser's loop may be asked for


class Batch(NamedTuple):
    """Transitions of K tasks, (K, B, ...)."""

    features: th.Tensor
    actions: th.Tensor
    old_values: th.Tensor
    old_logs: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor


class Collector:
    """Plays rollouts of all tasks in lock-step.

    Args:
        model: whose settings hold.
        policy: the policies.
        actions: how they act.
        rows: what they act in.
    """

    def __init__(self, model: PPO | A2C, policy: StackedPolicy, actions: Actions, rows: TaskRows) -> None:
        self._policy, self._actions, self._rows = policy, actions, rows
        self._num_steps, self._gamma, self._decay = model.n_steps, model.gamma, model.gamma * model.gae_lambda

    def collect(self, observations: Array, generators: Sequence[th.Generator]) -> tuple[Batch, Moment]:
        """One rollout, and what its last step led to.

        Args:
            observations: where it starts, (N, ...).
            generators: the K tasks' streams of actions.
        """
        policy, rows = self._policy, self._rows
        shape = (rows.num_tasks, rows.num_rows)
        noise = self._actions.noise(generators, self._num_steps, rows.num_rows, policy.flat.dtype)
        features, outputs, chosen, moments = [], [], [], []
        with th.no_grad():
            for draws in noise:
                features.append(policy.features(observations).view(*shape, -1))
                outputs.append(policy.actor(features[-1]))
                chosen.append(self._actions.act(policy, outputs[-1], draws))
                moments.append(rows.step(self._actions.for_env(chosen[-1])))
                observations = moments[-1].observations
            seen = _by_task(th.stack([*features, policy.features(observations).view(*shape, -1)]))
            logs, _ = self._actions.evaluate(policy, _by_task(th.stack(outputs)), _by_task(th.stack(chosen)))
            values = policy.critic(seen)
            rewards = self._rewards(moments)
        dones = np.stack([moment.dones for moment in moments])
        num_seen = self._num_steps * rows.num_rows
        after = _by_step(values.numpy(), rows.num_rows)
        columns = after[:-1].astype(np.float32)
        advantages = self._advantages(rewards, dones, columns, after[-1])
        batch = Batch(
            seen.view(*shape, self._num_steps + 1, -1)[:, :, :-1].reshape(rows.num_tasks, num_seen, -1),
            self._actions.stored(_by_task(th.stack(chosen))),
            _of_tasks(columns, rows.num_tasks),
            logs.float(),
            _of_tasks(advantages, rows.num_tasks),
            _of_tasks(advantages + columns, rows.num_tasks),
        )
        return batch, moments[-1]

    def _rewards(self, moments: Sequence[Moment]) -> Array:
        """Rewards (T, N), with what was to come where an episode was cut off."""
        rewards = np.stack([moment.rewards for moment in moments])
        steps = np.repeat(np.arange(len(moments)), [len(moment.cut) for moment in moments])
        if not steps.size:
            return rewards
        where = np.concatenate([moment.cut for moment in moments])
        last = np.concatenate([moment.last for moment in moments if len(moment.cut)])
        tasks = where // self._rows.num_rows
        # One product for all: each task's observations one after the other, and nothing in the places left over.
        counts = np.bincount(tasks, minlength=self._rows.num_tasks)
        order = np.argsort(tasks, kind="stable")
        places = np.arange(len(order)) - (np.cumsum(counts) - counts)[tasks[order]]
        padded = np.zeros((self._rows.num_tasks, int(counts.max()), *last.shape[1:]), last.dtype)
        padded[tasks[order], places] = last[order]
        values = self._policy.critic(self._policy.features(padded)).numpy()[tasks[order], places]
        rewards[steps[order], where[order]] += self._gamma * values
        return rewards

    def _advantages(self, rewards: Array, dones: Bool, values: Array, next_values: Array) -> Array:
        """Generalised advantages, (T, N), from values (T, N) and those after the last step, (N,)."""
        advantages = np.empty_like(rewards)
        goes_on = 1.0 - dones.astype(np.float32)
        running: Any = 0
        for step in reversed(range(len(rewards))):
            delta = rewards[step] + self._gamma * next_values * goes_on[step] - values[step]
            running = delta + self._decay * goes_on[step] * running
            advantages[step], next_values = running, values[step]
        return advantages


def _by_task(columns: th.Tensor) -> th.Tensor:
    """(T, K, n, ...) as (K, n * T, ...): a task's rows one after the other, as SB3's buffer has them."""
    swapped = columns.permute(1, 2, 0, *range(3, columns.ndim))
    return swapped.reshape(columns.shape[1], -1, *columns.shape[3:])


def _by_step(columns: Array, num_rows: int) -> Array:
    """(K, n * T) as (T, N)."""
    split = columns.reshape(len(columns) * num_rows, -1)
    return np.ascontiguousarray(split.T)


def _of_tasks(columns: Array, num_tasks: int) -> th.Tensor:
    """(T, N) as (K, n * T)."""
    return th.as_tensor(np.ascontiguousarray(columns.T).reshape(num_tasks, -1))


class Updater:
    """Updates the policies of all tasks with one rollout.

    Args:
        model: whose settings hold.
        policy: the policies.
        actions: how they act.
        shufflers: the tasks' streams of minibatches.
    """

    def __init__(
        self, model: PPO | A2C, policy: StackedPolicy, actions: Actions, shufflers: Sequence[np.random.RandomState]
    ) -> None:
        self._model, self._policy, self._actions, self._shufflers = model, policy, actions, shufflers
        self.num_updates = np.zeros(len(shufflers), np.int64)
        self.optimizer, self._parameters = _optimizer(model, policy)
        self._separate = len(self._parameters) > 1
        self._kept = [(columns, policy.flat[:, columns].clone()) for columns in policy.held_columns()]

    def update(self, batch: Batch) -> None:
        """What ``train`` does."""
        if isinstance(self._model, PPO):
            self._update_ppo(self._model, batch)
        else:
            self._update_a2c(self._model, batch)

    def moments_of(self, task: int) -> list[dict[str, Any]]:
        """What the optimiser remembers of each parameter of one task, copied, in the policy's order."""
        state = self.optimizer.state.get(self._parameters[task if self._separate else 0], {})
        row = {key: _row(value, task, self._separate) for key, value in state.items()}
        return [
            {key: _columns(value, columns, shape) for key, value in row.items()}
            for columns, shape in self._policy.places.values()
        ]

    def _update_a2c(self, model: A2C, batch: Batch) -> None:
        # SB3 shuffles the rollout too, which changes no sum but its rounding.
        outputs, values = self._policy.actor(batch.features), self._policy.critic(batch.features)
        logs, entropy = self._actions.evaluate(self._policy, outputs, batch.actions)
        advantages = _normalized(batch.advantages) if model.normalize_advantage else batch.advantages
        losses = -(advantages * logs).mean(1) - model.ent_coef * entropy.mean(1)
        losses = losses + model.vf_coef * (batch.returns - values).square().mean(1)
        self._descend(losses, None)
        self.num_updates += 1

    def _update_ppo(self, model: PPO, batch: Batch) -> None:
        active: Bool | None = np.ones(len(self._shufflers), np.bool_) if model.target_kl is not None else None
        for _ in range(model.n_epochs):
            self.num_updates += 1 if active is None else active
            for minibatch in self._minibatches(batch, model.batch_size, active):
                losses, divergences = self._losses(model, minibatch)
                if active is not None and model.target_kl is not None:
                    active = active & ~(divergences.numpy() > 1.5 * model.target_kl)
                    if not active.any():
                        return
                self._descend(losses, active)

    def _minibatches(self, batch: Batch, size: int, active: Bool | None) -> Iterator[Batch]:
        num_tasks, length = batch.advantages.shape
        order = np.empty((num_tasks, length), np.int64)
        for task, shuffler in enumerate(self._shufflers):
            # A task that has stopped draws nothing; its rows are computed with the others' and not used.
            order[task] = shuffler.permutation(length) if active is None or active[task] else np.arange(length)
        order += length * np.arange(num_tasks)[:, None]
        index = th.as_tensor(order.reshape(-1))
        shuffled = Batch(
            *(part.flatten(0, 1).index_select(0, index).view(num_tasks, length, *part.shape[2:]) for part in batch)
        )
        for start in range(0, length, size):
            yield Batch(*(part[:, start : start + size] for part in shuffled))

    def _losses(self, model: PPO, batch: Batch) -> tuple[th.Tensor, th.Tensor]:
        """Losses, and how far the policies have moved from those that acted; (K,) each."""
        outputs, values = self._policy.actor(batch.features), self._policy.critic(batch.features)
        logs, entropy = self._actions.evaluate(self._policy, outputs, batch.actions)
        advantages = batch.advantages
        if model.normalize_advantage and advantages.shape[1] > 1:
            advantages = _normalized(advantages)
        log_ratio = logs - batch.old_logs
        ratio, clip = log_ratio.exp(), _constant(model.clip_range)
        gains = th.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
        if model.clip_range_vf is not None:
            clip = _constant(model.clip_range_vf)
            values = batch.old_values + (values - batch.old_values).clamp(-clip, clip)
        errors = (batch.returns - values).square()
        losses = -gains.mean(1) - model.ent_coef * entropy.mean(1) + model.vf_coef * errors.mean(1)
        divergences = log_ratio
        if model.target_kl is not None:
            divergences = ((ratio - 1) - log_ratio).detach().mean(1)
        return losses, divergences

    def _descend(self, losses: th.Tensor, active: Bool | None) -> None:
        policy = self._policy
        policy.backward(losses)
        policy.clip_gradient(self._model.max_grad_norm)
        for index, parameter in enumerate(self._parameters):
            gradient = policy.gradient[index] if self._separate else policy.gradient
            parameter.grad = gradient if active is None or active[index] else None
        self.optimizer.step()
        with th.no_grad():
            for columns, values in self._kept:
                policy.flat[:, columns] = values


def _optimizer(model: PPO | A2C, policy: StackedPolicy) -> tuple[th.optim.Optimizer, list[th.Tensor]]:
    """The optimiser of all tasks, without moments, and the tensors that it steps on.

    Those are one for all tasks; one for each where tasks may stop at different times, and count their steps.
    """
    separate = isinstance(model, PPO) and model.target_kl is not None
    parameters = [row.detach() for row in policy.flat] if separate else [policy.flat]
    kind: Any = model.policy.optimizer_class
    kwargs = dict(model.policy.optimizer_kwargs)
    if kind in {th.optim.Adam, th.optim.AdamW} and not _LOOPS & kwargs.keys():
        kwargs = {"fused": True, **kwargs}
    return kind(parameters, lr=model.lr_schedule(1.0), **kwargs), parameters


def _row(value: Any, task: int, separate: bool) -> Any:
    """A moment of one task: a number of steps, or as many numbers as it has parameters."""
    return value[task] if isinstance(value, th.Tensor) and value.ndim and not separate else value


def _columns(value: Any, columns: slice, shape: th.Size) -> Any:
    if not isinstance(value, th.Tensor):
        return value
    return (value[columns].view(shape) if value.ndim else value).clone()


def _normalized(advantages: th.Tensor) -> th.Tensor:
    centred = advantages - advantages.mean(1, keepdim=True)
    return centred / (advantages.std(1, keepdim=True) + 1e-8)


def _constant(schedule: Any) -> float:
    return float(schedule(1.0))
