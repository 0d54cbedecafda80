"""A buffer of whole trials, which hands them out packed."""

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from typing_extensions import override

from metagym.nets import PackedTrials
from metagym.types import Array, Bool, Int

__all__ = ["TrialBuffer", "Trials", "split_by_size"]

_OBSERVED = "observations"


class Trials(NamedTuple):
    """Where complete trials lie in the rows of a rollout.

    Attributes:
        env: row of the vector env, (K,).
        start: time of the first step, (K,).
        length: number of steps, (K,).
    """

    env: Int
    start: Int
    length: Int


class TrialBuffer(RolloutBuffer):
    """A rollout buffer that yields whole trials as packed sequences.

    It grows as long as steps are added. `compute_returns_and_advantage` finds the trials that are complete; after
    they were trained on `release` forgets them, and what belongs to unfinished ones stays.

    After `compute_returns_and_advantage`, `trials` says where the complete trials lie and `values`, `returns` and
    `advantages` (n,) hold all their steps, trial after trial.

    Args:
        buffer_size: steps of a rollout, per row; more may be added.
        *args: those of ``RolloutBuffer``; observations may be a Dict.
        task_size: P, numbers by which a privileged critic is told the task of each step; 0: none.
        credited: whether each step comes with a credit, from which returns and advantages are made in place of rewards.
        **kwargs: those of ``RolloutBuffer``.
    """

    trials: Trials

    def __init__(self, buffer_size: int, *args: Any, task_size: int = 0, credited: bool = False, **kwargs: Any) -> None:
        self.task_size, self.credited = task_size, credited
        super().__init__(buffer_size, *args, **kwargs)

    @override
    def reset(self) -> None:
        """Forget everything, unfinished trials too."""
        self.pos = 0
        self.full = False
        self.completed = False
        self._columns = self._allocate(self.buffer_size)
        self._first = np.zeros(self.n_envs, np.int64)
        self._next_first = self._first
        self._flat: dict[str, th.Tensor] = {}

    def _allocate(self, n_steps: int) -> dict[str, Array]:
        shape = (n_steps, self.n_envs)
        scalars = ("rewards", "values", "log_probs", "advantages", "returns")
        columns: dict[str, Array] = {name: np.zeros(shape, np.float32) for name in scalars}
        if self.credited:
            columns["credits"] = np.zeros(shape, np.float32)
        columns["dones"] = np.zeros(shape, np.bool_)
        columns["actions"] = np.zeros((*shape, self.action_dim), self.action_space.dtype)
        for name, space in self._observed.items():
            columns[name] = np.zeros((*shape, *(space.shape or ())), space.dtype)
        if self.task_size:
            columns["tasks"] = np.zeros((*shape, self.task_size), np.float32)
        return columns

    @property
    def _observed(self) -> dict[str, spaces.Space[Any]]:
        """Columns of observations: one, or one for each entry of a Dict."""
        if isinstance(self.observation_space, spaces.Dict):
            return {f"{_OBSERVED}/{key}": space for key, space in self.observation_space.items()}
        return {_OBSERVED: self.observation_space}

    @override
    def add(
        self,
        obs: Array | dict[str, Array],
        action: Array,
        reward: Array,
        done: Bool,
        value: th.Tensor,
        log_prob: th.Tensor,
        *,
        tasks: Array | None = None,
        credit: Array | None = None,
    ) -> None:
        """Append one step of every row.

        Args:
            obs: what was observed, (N, D), or a dict of (N, ...).
            action: what was done, (N, ...).
            reward: what it earned, (N,).
            done: whether the trial ended with it, (N,) (SB3's own buffer takes the *start* of the step instead).
            value: estimated value of `obs`, (N,).
            log_prob: log-probability of `action`, (N,).
            tasks: what a privileged critic was told, (N, P).
            credit: what is to be learnt from in place of the reward, (N,), where the buffer was made for it.
        """
        if self.pos == len(self._columns["rewards"]):
            grown = self._allocate(2 * self.pos)
            for name, column in self._columns.items():
                grown[name][: self.pos] = column
            self._columns = grown
        step, columns = self.pos, self._columns
        for key, values in (obs if isinstance(obs, dict) else {"": obs}).items():
            column = columns[f"{_OBSERVED}/{key}" if key else _OBSERVED]
            column[step] = values.reshape(column.shape[1:])
        if tasks is not None:
            columns["tasks"][step] = tasks
        if credit is not None:
            columns["credits"][step] = credit
        columns["actions"][step] = action.reshape(self.n_envs, self.action_dim)
        columns["rewards"][step] = reward
        columns["dones"][step] = done
        columns["values"][step] = value.cpu().numpy()
        columns["log_probs"][step] = log_prob.cpu().numpy()
        self.pos += 1
        self.completed = self.completed or bool(done.any())

    @override
    def compute_returns_and_advantage(self, last_values: th.Tensor | None = None, dones: Bool | None = None) -> None:
        """GAE(lambda) within each trial (Schulman et al. 2016, eq. 16), over the ends of its episodes.

        Nothing is trained on before its trial is complete, so no value beyond the rollout is needed: SB3's
        arguments are accepted and not used.
        """
        columns = {name: column[: self.pos] for name, column in self._columns.items()}
        rewards = columns["credits" if self.credited else "rewards"]
        advantage: Array = np.zeros(self.n_envs, np.float32)
        next_value: Array = np.zeros(self.n_envs, np.float32)
        for step in reversed(range(self.pos)):
            done, value = columns["dones"][step], columns["values"][step]
            # Chosen, not multiplied by zero: what follows a trial cannot reach it, whatever it is.
            next_value, advantage = np.where(done, 0.0, next_value), np.where(done, 0.0, advantage)
            delta = rewards[step] + self.gamma * next_value - value
            advantage = delta + self.gamma * self.gae_lambda * advantage
            columns["advantages"][step] = advantage
            next_value = value
        columns["returns"][:] = columns["advantages"] + columns["values"]
        self.trials, self._next_first = _complete_trials(columns["dones"], self._first)
        self._flat = {name: self._flatten(column) for name, column in columns.items()}
        order = self._steps_of(np.arange(len(self.trials.env)), time_major=False)
        for name in ("values", "returns", "advantages"):
            setattr(self, name, columns[name].reshape(-1)[order])
        self.full = True

    def _flatten(self, column: Array) -> th.Tensor:
        flat = column.reshape(self.pos * self.n_envs, *column.shape[2:])
        return self.to_torch(flat.astype(np.float32) if flat.dtype == np.float64 else flat, copy=False)

    def _steps_of(self, chosen: Int, *, time_major: bool) -> Int:
        """Indices into the flattened rows of every step of some trials, (n,)."""
        env, start, length = (field[chosen] for field in self.trials)
        times = np.arange(length.max(initial=0))
        inside = times < length[:, None]  # (K, T)
        index = (start[:, None] + times) * self.n_envs + env[:, None]
        return index.T[inside.T] if time_major else index[inside]

    @override
    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches of whole trials in random order, each with about `batch_size` steps (None: one with all).

        Observations are `PackedTrials`; everything else is flat, (n, ...), in the same order.
        """
        order = np.random.permutation(len(self.trials.env))  # noqa: NPY002 - the stream that SB3 seeds
        for chosen in split_by_size(order, self.trials.length, batch_size):
            yield self._minibatch(chosen)

    def _minibatch(self, chosen: Int) -> RolloutBufferSamples:
        lengths = self.trials.length[chosen]
        by_length = np.argsort(-lengths, kind="stable")
        index = th.as_tensor(self._steps_of(chosen[by_length], time_major=True), device=self.device)
        alive = len(chosen) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
        flat = {name: column.index_select(0, index) for name, column in self._flat.items() if name != "dones"}
        seen: Any = flat.get(_OBSERVED)
        if seen is None:
            seen = {name.removeprefix(f"{_OBSERVED}/"): flat[name] for name in self._observed}
        return RolloutBufferSamples(
            observations=PackedTrials(seen, tuple(alive.tolist()), flat.get("tasks")),  # type: ignore[arg-type]
            actions=flat["actions"].float(),
            old_values=flat["values"],
            old_log_prob=flat["log_probs"],
            advantages=flat["advantages"],
            returns=flat["returns"],
        )

    def first_and_last_returns(self, boundary: int, key: str | None = None) -> tuple[Array, Array]:
        """Returns of the first and of the last episode of each complete trial, undiscounted, both (K,).

        Args:
            boundary: index of the observed number that is 1 on an episode's first observation.
            key: the entry it lies in, where observations are a Dict.
        """
        order = self._steps_of(np.arange(len(self.trials.env)), time_major=False)
        observations = self._columns[_OBSERVED if key is None else f"{_OBSERVED}/{key}"]
        starts = observations[..., boundary].reshape(-1)[order] == 1.0
        trial_starts = np.cumsum(self.trials.length) - self.trials.length
        starts[trial_starts] = True
        episodes = np.flatnonzero(starts)
        returns = np.add.reduceat(self._columns["rewards"].reshape(-1)[order], episodes)
        first = np.searchsorted(episodes, trial_starts)
        last = np.append(first[1:], len(episodes)) - 1
        return returns[first], returns[last]

    def release(self) -> None:
        """Forget the trials of the last `compute_returns_and_advantage`; unfinished ones move to the front."""
        low = int(self._next_first.min())
        kept = self.pos - low
        for column in self._columns.values():
            column[:kept] = column[low : self.pos].copy()
        self._first = self._next_first - low
        self._next_first = self._first
        self.pos = kept
        self.full = False
        self.completed = False
        self._flat = {}

    def get_state(self) -> dict[str, Array]:
        """Everything that was collected and not trained on, as a flat dict of arrays."""
        names = [name for name in self._columns if name not in {"advantages", "returns"}]
        arrays = {name: self._columns[name][: self.pos].copy() for name in names}
        return arrays | {"first": self._first.copy(), "completed": np.array(self.completed)}

    def set_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_state` of a buffer of the same shape returned."""
        self.reset()
        pos = len(arrays["rewards"])
        self._columns = self._allocate(max(self.buffer_size, pos))
        for name, column in self._columns.items():
            if name in arrays:
                column[:pos] = arrays[name]
        self.pos = pos
        self._first = np.array(arrays["first"], np.int64)
        self._next_first = self._first
        self.completed = bool(arrays["completed"])


def _complete_trials(dones: Bool, first: Int) -> tuple[Trials, Int]:
    """Complete trials in `dones` (T, N) from time `first` (N,) on, and where each row's next trial starts, (N,)."""
    env, last = np.nonzero(dones.T)
    valid = last >= first[env]
    env, last = env[valid], last[valid]
    previous = np.empty_like(last)
    previous[1:] = last[:-1]
    new_env = np.ones(len(env), np.bool_)
    new_env[1:] = env[1:] != env[:-1]
    start = np.where(new_env, first[env], previous + 1)
    next_first = first.copy()
    next_first[env] = last + 1  # the last write of each row wins: its latest end
    return Trials(env, start, last - start + 1), next_first


def split_by_size(order: Int, lengths: Int, batch_size: int | None) -> list[Int]:
    """Cut trials into minibatches of about equal numbers of steps.

    Args:
        order: trials in the order they are dealt, (K,).
        lengths: steps of each trial, (K,).
        batch_size: steps wanted in a minibatch; None: everything in one.

    Returns:
        As many non-empty groups as `batch_size` fits into the steps, rounded, and at least one.
    """
    ends = np.cumsum(lengths[order])
    total = int(ends[-1])
    n_batches = 1 if batch_size is None else max(1, round(total / batch_size))
    cuts = np.searchsorted(ends, np.arange(1, n_batches) * (total / n_batches))
    return [group for group in np.split(order, np.unique(cuts + 1)) if len(group)]
