"""Collecting whole trials inside SB3's on-policy algorithms."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets import RNNState, TrialActorCriticPolicy
from metagym.rollout.buffer import TrialBuffer
from metagym.rollout.credits import Credits
from metagym.rollout.tasks import TaskReader
from metagym.sections import prefixed, section
from metagym.types import Array, Bool, Int

__all__ = ["TrialRollouts", "uninterrupted"]

_LAST_OBS = "last_obs"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, so that it cannot leave half a step or half an update behind.

    Does nothing outside the main thread, or where somebody else handles the signal.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pending: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pending:
        raise KeyboardInterrupt


class TrialRollouts(OnPolicyAlgorithm):
    """Mixed in before an SB3 on-policy class: collects whole trials with a memory, and trains as that class does.

    A rollout has `n_steps` steps in every row, and goes on after that until at least one trial is complete.
    Stopping `learn` at any step (a callback, Ctrl-C) leaves everything consistent: the next `learn` with
    ``reset_num_timesteps=False`` continues the rollout where it stopped.

    Attributes:
        expected_rewards: make returns and advantages from what an action pays on average in the hidden state of the
            hidden task, in place of what it happened to pay (`Credits`). What the policy observes and what is logged
            stays as it is. To be set before ``_setup_model``, and likewise
        regret: count every episode relative to the optimal return of its task.
    """

    policy: TrialActorCriticPolicy
    rollout_buffer: TrialBuffer
    expected_rewards: bool = False
    regret: bool = False

    @override
    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = TrialBuffer
        if not issubclass(self.rollout_buffer_class, TrialBuffer):
            raise ConfigError(f"rollout_buffer_class must be a TrialBuffer, not {self.rollout_buffer_class.__name__}.")
        task_size = self.policy_kwargs.get("critic_task_size", 0)
        if task_size:
            self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, "task_size": task_size}
        if self.expected_rewards or self.regret:
            self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, "credited": True}
        super()._setup_model()
        if not isinstance(self.policy, TrialActorCriticPolicy):
            raise ConfigError(
                f"the policy must be a TrialActorCriticPolicy ('MlpPolicy'), not {type(self.policy).__name__}."
            )
        self._rollout_step = 0
        n_rows = getattr(self, "n_envs", 1)
        self._memory: RNNState = self.policy.zero_state(n_rows)
        self._task_reader: TaskReader | None = None
        self._credits: Credits | None = None
        self._tasks: th.Tensor | None = th.zeros(n_rows, task_size, device=self.device) if task_size else None

    @override
    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        starts_anew = reset_num_timesteps or self._last_obs is None
        if starts_anew:
            self.rollout_buffer.reset()
            self._rollout_step = 0
        ready = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._credits = None if self.env is None else self._credits_in(self.env)
        if self._credits is not None:
            self._credits.start()
        if self._tasks is not None:
            self._find_tasks(self.env)
            if starts_anew:
                self._tasks[:] = self._tasks_of(np.arange(self.n_envs))
        return ready

    @override
    def set_env(self, env: Any, force_reset: bool = True) -> None:
        if self._tasks is not None:
            self._find_tasks(env)
        super().set_env(env, force_reset)

    def _credits_in(self, env: VecEnv) -> Credits | None:
        """What steps in this env are credited with; None: the rewards."""
        if not (self.expected_rewards or self.regret):
            return None
        return Credits(env, expected=self.expected_rewards, regret=self.regret)

    def _find_tasks(self, env: Any) -> None:
        """See to it that a privileged critic can be told the tasks of this env."""
        assert self._tasks is not None
        if self._task_reader is None or self._task_reader.env is not env:
            reader = TaskReader(env)
            if reader.size != self._tasks.shape[1]:
                raise ConfigError(
                    f"the privileged critic was built for tasks of {self._tasks.shape[1]} numbers; those of this env "
                    f"have {reader.size}."
                )
            self._task_reader = reader

    def _tasks_of(self, rows: Int) -> th.Tensor:
        """What a privileged critic is told of the tasks that some rows play now, (M, P)."""
        assert self._task_reader is not None
        return th.as_tensor(self._task_reader.read(rows), device=self.device)

    @override
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        self.policy.set_training_mode(False)
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        while self._rollout_step < n_rollout_steps or not self.rollout_buffer.completed:
            if self.use_sde and self.sde_sample_freq > 0 and self._rollout_step % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with uninterrupted():
                actions, new_obs, rewards, dones, infos = self._advance(env)
            # The step is on record, whole, before a callback may save, stop or raise.
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        self.rollout_buffer.compute_returns_and_advantage()
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _advance(self, env: VecEnv) -> tuple[Array, Any, Array, Bool, list[dict[str, Any]]]:
        """One step of every row, recorded."""
        obs, starts = self._last_obs, self._last_episode_starts
        if not isinstance(obs, np.ndarray | dict) or starts is None:
            raise ConfigError(f"rollouts of trials need arrays of observations, not {type(obs).__name__}.")
        with th.no_grad():
            chosen, values, log_probs, memory = self.policy.step(
                obs_as_tensor(_contiguous(obs), self.device),
                self._memory,
                th.as_tensor(starts, device=self.device) if starts.any() else None,
                tasks=self._tasks,
            )
        actions = chosen.cpu().numpy()
        told = None if self._tasks is None else self._tasks.cpu().numpy().copy()
        played = self._to_env(actions)
        expected = None if self._credits is None else self._credits.before_step(played)
        try:
            new_obs, rewards, dones, infos = env.step(played)
            ended = np.flatnonzero(dones)
            begun = self._tasks_of(ended) if self._tasks is not None and ended.size else None
            credit = None if self._credits is None else self._credits.after_step(rewards, expected, dones)
        except BaseException:
            self._last_obs = None  # env and learner may be a step apart: the next learn() resets the env
            raise
        self.num_timesteps += env.num_envs
        if ended.size:
            paid, rewards = rewards, self._finish_trials(rewards, ended, infos, memory)
            credit = None if credit is None else credit + (rewards - paid)
        if self._tasks is not None and begun is not None:
            self._tasks[ended] = begun
        self.rollout_buffer.add(obs, actions, rewards, dones, values, log_probs, tasks=told, credit=credit)
        self._memory = memory
        self._last_obs = new_obs  # type: ignore[assignment]
        self._last_episode_starts = dones
        self._rollout_step += 1
        return actions, new_obs, rewards, dones, infos

    def _to_env(self, actions: Array) -> Array:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _finish_trials(self, rewards: Array, ended: Array, infos: list[dict[str, Any]], memory: RNNState) -> Array:
        """Log the trials that ended; where one was only cut off, add the value of what it ended in (N,)."""
        self._update_info_buffer([infos[row] for row in ended], np.ones(len(ended), np.bool_))
        for row in ended:
            last_obs = infos[row].get("terminal_observation")
            if last_obs is None or not infos[row].get("TimeLimit.truncated", False):
                continue
            with th.no_grad():
                obs = self.policy.obs_to_tensor(last_obs)[0]
                tasks = None if self._tasks is None else self._tasks[row : row + 1]
                value = self.policy.value(obs, tuple(part[:, row : row + 1] for part in memory), tasks)
            rewards = rewards.copy()
            rewards[row] += self.gamma * float(value)
        return rewards

    @override
    def train(self) -> None:
        with uninterrupted():
            super().train()
            self.rollout_buffer.release()
            self._rollout_step = 0

    def get_rollout_state(self) -> dict[str, Array]:
        """What the next step depends on besides parameters and env, as a flat dict of arrays."""
        arrays = prefixed("buffer", self.rollout_buffer.get_state())
        arrays["rollout_step"] = np.array(self._rollout_step)
        for place, part in enumerate(self._memory):
            arrays[f"memory/{place}"] = part.cpu().numpy().copy()
        if self._tasks is not None:
            arrays["tasks"] = self._tasks.cpu().numpy().copy()
        if self._last_obs is not None and self._last_episode_starts is not None:
            arrays |= _named(self._last_obs)
            arrays["last_episode_starts"] = self._last_episode_starts.copy()
        return arrays

    def set_rollout_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_rollout_state` of an equal learner returned."""
        self.rollout_buffer.set_state(section("buffer", arrays))
        self._rollout_step = int(arrays["rollout_step"])
        parts = sorted(name for name in arrays if name.startswith("memory/"))
        self._memory = tuple(th.tensor(arrays[name], device=self.device) for name in parts)
        if self._tasks is not None:
            self._tasks = th.tensor(arrays["tasks"], device=self.device)
        entries = section(_LAST_OBS, arrays)
        single = arrays[_LAST_OBS].copy() if _LAST_OBS in arrays else None
        self._last_obs = {key: array.copy() for key, array in entries.items()} or single
        if "last_episode_starts" in arrays:
            self._last_episode_starts = arrays["last_episode_starts"].copy()


def _named(observations: Any) -> dict[str, Array]:
    """Observations of all rows as arrays of a checkpoint."""
    if not isinstance(observations, dict):
        return {_LAST_OBS: observations.copy()}
    return prefixed(_LAST_OBS, {key: values.copy() for key, values in observations.items()})


def _contiguous(obs: Any) -> Any:
    """Images with their axes in order in memory: convolutions round differently where axes lie otherwise.

    Copied, since an axis of length 1 may have any stride for NumPy, which PyTorch then takes for another order.
    """
    if isinstance(obs, dict):
        return {key: part.copy() if part.ndim == 4 else part for key, part in obs.items()}
    return obs.copy() if obs.ndim == 4 else obs
