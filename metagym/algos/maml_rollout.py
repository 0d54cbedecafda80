"""What policies live through on their tasks: one episode in each of n rows a task, for K tasks at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.maml_actions import ActionLaw, Heads
from metagym.algos.maml_policy import Parameters, PolicyFunction, Seen
from metagym.algos.maml_rows import EpisodeRows, VecEnvRows, lock_step_rows, put
from metagym.types import Array, Bool, Float

__all__ = ["Collector", "Rollout", "Tape", "joined", "play"]

_BLOCK = 32
"""Steps that noise is drawn ahead for."""


@dataclass
class Tape:
    """Episodes as they were recorded, time-major; the N = K * n rows lie task by task.

    Attributes:
        observations: before each step, (T, N, ...), or a dict of those.
        actions: as they were drawn, (T, N) or (T, N, A).
        rewards: (T, N).
        mask: steps that belong to the row's episode, (T, N).
        last: the last observations of episodes that did not end by themselves, zeros elsewhere, (N, ...).
        cut: rows with such episodes, (N,).
        timesteps: environment steps taken.
        successes: whether the episodes that ended succeeded, where the family says.
    """

    observations: Any
    actions: Array
    rewards: Float
    mask: Bool
    last: Any
    cut: Bool
    timesteps: int
    successes: list[bool]


@dataclass
class Rollout:
    """What K policies lived through, B = n * T steps each, rows first.

    Attributes:
        seen: what the policies were shown, (K, B, ...).
        actions: what they did, (K, B) or (K, B, A).
        heads: what they said of their actions, (K, B, A).
        log_probs: of the actions, (K, B).
        weights: 1 / (number of steps of the task), and 0 after an episode's end, (K, B).
        rewards: (K, n, T).
        mask: steps that belong to the row's episode, (K, n, T).
        last_seen: the last observations of episodes that did not end by themselves, (K, n, ...).
        cut: where those are, (K, n).
        timesteps: environment steps taken.
        successes: whether the episodes that ended succeeded, where the family says.
    """

    seen: Seen
    actions: th.Tensor
    heads: Heads
    log_probs: th.Tensor
    weights: th.Tensor
    rewards: Float
    mask: Bool
    last_seen: Seen
    cut: Bool
    timesteps: int
    successes: list[bool]

    def tasks(self, part: slice) -> "Rollout":
        """That of some tasks; environment steps and successes remain those of all."""
        return Rollout(
            _each(self.seen, lambda steps: steps[part]), self.actions[part], self.heads.tasks(part),
            self.log_probs[part], self.weights[part], self.rewards[part], self.mask[part],
            _each(self.last_seen, lambda steps: steps[part]), self.cut[part], self.timesteps, self.successes,
        )  # fmt: skip

    def thinned(self, factor: int) -> "Rollout":
        """One of `factor` episodes of each task."""
        kept = (slice(None), slice(None, None, factor))
        weights = self.thin(self.weights, factor)
        return Rollout(
            _each(self.seen, lambda part: self.thin(part, factor)), self.thin(self.actions, factor),
            Heads(self.thin(self.heads.outputs, factor), self.heads.log_std), self.thin(self.log_probs, factor),
            weights / weights.sum(1, keepdim=True), self.rewards[kept], self.mask[kept],
            _each(self.last_seen, lambda part: part[kept]), self.cut[kept], self.timesteps, self.successes,
        )  # fmt: skip

    def thin(self, steps: th.Tensor, factor: int) -> th.Tensor:
        """What belongs to one of `factor` episodes, of (K, B, ...)."""
        num_tasks, num_rows, num_steps = self.mask.shape
        rows = steps.reshape(num_tasks, num_rows, num_steps, *steps.shape[2:])[:, ::factor]
        return rows.flatten(1, 2)

    @property
    def returns(self) -> Float:
        """Of the episodes, undiscounted, (K, n)."""
        total: Float = (self.rewards * self.mask).sum(axis=2)
        return total

    @property
    def lengths(self) -> Array:
        """Of the episodes, steps, (K, n)."""
        steps: Array = self.mask.sum(axis=2)
        return steps


class Collector:
    """Lets K policies play their tasks.

    All tasks play at once where the env is a native one of metagym's; in any other, one after the other. Noise hangs on
    each task's seed alone, so that a task's episodes are the same beside others as they are alone.

    Args:
        function: what the policies compute.
        law: how actions are drawn.
        env: n rows.
        num_tasks: K.
        max_steps: of an episode; None: until it ends.
    """

    def __init__(
        self, function: PolicyFunction, law: ActionLaw, env: VecEnv, num_tasks: int, max_steps: int | None = None
    ) -> None:
        self._function, self._law, self._max_steps = function, law, max_steps
        self.num_tasks = num_tasks
        self._rows: EpisodeRows = lock_step_rows(env, num_tasks) or VecEnvRows(env)

    def collect(self, parameters: Parameters, tasks: Sequence[Any], seeds: Sequence[int]) -> Rollout:
        """One episode in every row.

        Args:
            parameters: of K policies.
            tasks: K; None plays what the rows have.
            seeds: K.
        """
        rows, tapes = self._rows, []
        with th.no_grad():
            for first in range(0, len(tasks), rows.num_tasks):
                part = slice(first, first + rows.num_tasks)
                own = {name: tensor[part] for name, tensor in parameters.items()}
                observations = rows.reset(tasks[part], seeds[part])
                actor = _Actor(self._function, self._law, own, seeds[part], rows.num_rows)
                tapes.append(play(rows, actor, observations, self._max_steps))
            return self._read(parameters, joined(tapes))

    def _read(self, parameters: Parameters, tape: Tape) -> Rollout:
        function, num_tasks = self._function, len(next(iter(parameters.values())))
        seen = function.read(_each(tape.observations, lambda part: _by_task(part, num_tasks)))
        actions = th.as_tensor(_by_task(tape.actions, num_tasks), device=function.policy.device)
        heads = function.actor(parameters, seen).copy()
        mask = np.ascontiguousarray(tape.mask.T).reshape(num_tasks, -1, len(tape.mask))
        flat = mask.reshape(num_tasks, -1)
        weights = flat / flat.sum(axis=1, keepdims=True)
        return Rollout(
            seen, actions, heads, self._law.log_prob(heads, actions),
            th.as_tensor(weights, dtype=function.dtype, device=function.policy.device),
            np.ascontiguousarray(tape.rewards.T).reshape(mask.shape), mask,
            function.read(_each(tape.last, lambda part: part.reshape(num_tasks, -1, *part.shape[1:]))),
            tape.cut.reshape(num_tasks, -1), tape.timesteps, tape.successes,
        )  # fmt: skip


class _Actor:
    """Draws actions of K policies, for n rows each."""

    def __init__(
        self, function: PolicyFunction, law: ActionLaw, parameters: Parameters, seeds: Sequence[int], num_rows: int
    ) -> None:
        self._function, self._law, self._parameters, self._num_rows = function, law, parameters, num_rows
        self._generators = [th.Generator().manual_seed(seed) for seed in seeds]
        self._block: list[th.Tensor] = []

    def act(self, observations: Any) -> th.Tensor:
        """Actions (K, n) or (K, n, A) for observations (K * n, ...)."""
        num_tasks = len(self._generators)
        seen = self._function.read(_each(observations, lambda part: part.reshape(num_tasks, -1, *part.shape[1:])))
        heads = self._function.actor(self._parameters, seen)
        return self._law.act(heads, self._noise().to(heads.outputs.device))

    def for_env(self, actions: th.Tensor) -> Array:
        """What the env takes, (K * n, ...)."""
        return self._law.for_env(actions)

    def _noise(self) -> th.Tensor:
        if not self._block:
            dtype, rows = self._function.dtype, self._num_rows
            drawn = [self._law.noise(generator, _BLOCK, rows, dtype) for generator in self._generators]
            self._block = list(th.stack(drawn, dim=1).flip(0))
        return self._block.pop()


def play(rows: EpisodeRows, actor: Any, observations: Any, max_steps: int | None) -> Tape:
    """Let every row play one episode.

    Args:
        rows: just reset.
        actor: has ``act(observations)`` and ``for_env(actions)``.
        observations: that the reset returned.
        max_steps: of an episode; None: until it ends.
    """
    seen: list[Any] = []
    acted: list[Array] = []
    rewards: list[Float] = []
    masks: list[Bool] = []
    running = np.ones(rows.num_tasks * rows.num_rows, np.bool_)
    cut, last = np.zeros_like(running), _each(observations, np.zeros_like)
    while running.any() and (max_steps is None or len(masks) < max_steps):
        actions = actor.act(observations)
        outcome = rows.step(actor.for_env(actions), running)
        seen.append(observations)
        acted.append(actions.cpu().numpy().reshape(len(running), *actions.shape[2:]))
        rewards.append(outcome.rewards.astype(np.float64))
        masks.append(running)
        observations = outcome.observations
        ended = running[outcome.cut]
        chosen = outcome.cut[ended]
        if chosen.size:
            put(last, chosen, _each(outcome.last, lambda part, ended=ended: part[ended]))
            cut[chosen] = True
        running = running & ~outcome.dones
    rest = running.nonzero()[0]
    put(last, rest, _each(observations, lambda part: part[rest]))
    mask = np.stack(masks)
    return Tape(
        _stacked(seen), np.stack(acted), np.stack(rewards) * mask, mask, last, cut | running,
        mask.size if rows.steps_on else int(mask.sum()), rows.successes,
    )  # fmt: skip


def joined(tapes: Sequence[Tape]) -> Tape:
    """Tapes of several tasks as one, shorter ones with zeros at their end."""
    if len(tapes) == 1:
        return tapes[0]
    length = max(len(tape.mask) for tape in tapes)

    def longer(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: longer([part[key] for part in parts]) for key in parts[0]}
        padded = [np.pad(part, [(0, length - len(part))] + [(0, 0)] * (part.ndim - 1)) for part in parts]
        return np.concatenate(padded, axis=1)

    def side_by_side(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: side_by_side([part[key] for part in parts]) for key in parts[0]}
        return np.concatenate(parts)

    return Tape(
        longer([tape.observations for tape in tapes]), longer([tape.actions for tape in tapes]),
        longer([tape.rewards for tape in tapes]), longer([tape.mask for tape in tapes]),
        side_by_side([tape.last for tape in tapes]), side_by_side([tape.cut for tape in tapes]),
        sum(tape.timesteps for tape in tapes), [success for tape in tapes for success in tape.successes],
    )  # fmt: skip


def _each(observations: Any, change: Any) -> Any:
    """A function of observations, or of each part of a dict of them."""
    if isinstance(observations, dict):
        return {key: change(part) for key, part in observations.items()}
    return change(observations)


def _stacked(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _by_task(array: Array, num_tasks: int) -> Array:
    """(T, K * n, ...) as (K, n * T, ...)."""
    steps, rows = array.shape[:2]
    swapped = np.ascontiguousarray(array.swapaxes(0, 1))
    return swapped.reshape(num_tasks, rows // num_tasks * steps, *array.shape[2:])
