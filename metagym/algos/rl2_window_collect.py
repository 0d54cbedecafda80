"""Collecting with windows, for each kind of Stable-Baselines3's algorithms."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from metagym.algos.rl2_window_act import WindowVecEnv
from metagym.algos.rl2_window_arguments import POLICIES
from metagym.errors import ConfigError
from metagym.rollout import env_layers, uninterrupted
from metagym.sections import prefixed, section
from metagym.types import Array, Bool
from metagym.window_replay import WindowReplayBuffer
from metagym.wrappers.sb3 import VectorEnvAdapter
from metagym.wrappers.window import WindowSpace, newest, no_windows, on_parts, pushed, window_space

__all__ = ["ARSWindows", "OffPolicyWindows", "OnPolicyWindows", "Windows"]


class Windows(BaseAlgorithm):
    """What the three kinds share: networks over windows, in an env of single observations.

    Attributes:
        window: K, length of the windows.
        window_space: the space the networks read: (K, D + 1), or a `WindowSpace`.
        is_whole: whether env and windows stand where a checkpoint can go on from.
    """

    window: int
    window_space: spaces.Box | WindowSpace
    is_whole = True
    _windows: Any

    def __init__(self, policy: Any, env: Any, **kwargs: Any) -> None:
        # The class, not its alias: SB3 would refuse "MlpPolicy" for a Dict, though it reads windows of one.
        policy_class = self._get_policy_from_name(policy) if isinstance(policy, str) else policy
        super().__init__(policy_class, env, **kwargs)

    @override
    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        # The names stand for what reads an observation by default, and an extractor of windows does that here.
        return super()._get_policy_from_name("MlpPolicy" if policy_name in POLICIES else policy_name)

    @override
    def _setup_model(self) -> None:
        assert self.observation_space is not None
        row_space = self.observation_space
        self.window_space = self.observation_space = window_space(row_space, self.window)
        try:
            super()._setup_model()  # type: ignore[safe-super]
        finally:
            self.observation_space = row_space
        self._windows = no_windows(getattr(self, "n_envs", 1), self.window_space)

    @override
    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        starts = reset_num_timesteps or self._last_obs is None
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if starts:
            self._start_trials()
        return result

    def _start_trials(self) -> None:
        """The env was reset: every window holds the first observation alone."""
        assert self.env is not None
        self._windows = pushed(no_windows(self.env.num_envs, self.window_space), self._last_obs)

    def _record_returns(self, dones: Bool) -> None:
        """Log the first and the last episode of trials."""
        infos = _infos_of_step(self.env)
        if "trial_episode" not in infos:
            return
        first = infos["episode_end"] & (infos["trial_episode"] == 0)
        for name, rows in (("first", first), ("last", dones)):
            if rows.any():
                mean = float(infos["last_episode_return"][rows].mean())
                self.logger.record_mean(f"meta/{name}_episode_return", mean)

    def get_rollout_state(self) -> dict[str, Array]:
        """What the next step depends on besides parameters and env, as a flat dict of arrays."""
        values = {name: getattr(self, name) for name in _LAST} | {"windows": self._windows}
        arrays: dict[str, Array] = {}
        for name, value in values.items():
            parts = prefixed(name, value) if isinstance(value, dict) else {} if value is None else {name: value}
            arrays |= {key: part.copy() for key, part in parts.items()}
        return arrays

    def set_rollout_state(self, arrays: dict[str, Array]) -> None:
        """Continue from what `get_rollout_state` of an equal learner returned."""
        for name in (*_LAST, "windows"):
            value: Any = arrays.get(name, section(name, arrays))
            present = value is not None and len(value) > 0
            setattr(self, "_windows" if name == "windows" else name, on_parts(np.copy, value) if present else None)

    @staticmethod
    def num_rows_of(arrays: Mapping[str, Array]) -> int:
        """Rows of the env that a state is of."""
        return len(next(array for name, array in arrays.items() if name.partition("/")[0] == "windows"))


_LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def _infos_of_step(env: Any) -> dict[str, Any]:
    for layer in env_layers(env):
        if isinstance(layer, VectorEnvAdapter):
            return layer.last_infos
    return {}


class OffPolicyWindows(Windows, OffPolicyAlgorithm):
    """Off-policy algorithms: single observations are stored, and windows are rebuilt when sampling.

    A step is on record, whole, before a callback may save, stop or raise, so that learning goes on from there to the
    bit. (SB3 calls callbacks with the env one step ahead of the buffer.)
    """

    @override
    def _setup_model(self) -> None:
        if self.replay_buffer_class is None:
            self.replay_buffer_class = WindowReplayBuffer
        if not issubclass(self.replay_buffer_class, WindowReplayBuffer):
            raise ConfigError(f"replay_buffer_class must be a WindowReplayBuffer, not {self.replay_buffer_class}")
        if self.n_steps > 1:
            raise ConfigError(f"n_steps must be 1 with a window, got {self.n_steps}")
        self.optimize_memory_usage = False  # it is optimised anyway
        self._collected = (0, 0)
        super()._setup_model()

    @override
    def _start_trials(self) -> None:
        super()._start_trials()
        self._collected = (0, 0)
        assert isinstance(self.replay_buffer, WindowReplayBuffer)
        self.replay_buffer.cut()

    @override
    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        if env.num_envs > 1 and train_freq.unit is TrainFrequencyUnit.EPISODE:
            raise ConfigError("train_freq in episodes needs n_envs=1")
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        while should_collect_more_steps(train_freq, *self._collected):
            self._reset_noise(env.num_envs)
            with uninterrupted():
                actions, new_obs, rewards, dones, infos = self._advance(env, action_noise, learning_starts)
            num_collected_steps, num_collected_episodes = self._collected
            callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)
            if log_interval is not None:
                before = self._episode_num - int(dones.sum())
                if self._episode_num // log_interval > before // log_interval:
                    self.dump_logs()
        callback.on_rollout_end()
        steps, episodes = self._collected
        self._collected = (0, 0)
        return RolloutReturn(steps * env.num_envs, episodes, True)

    def _reset_noise(self, n_envs: int) -> None:
        steps = self._collected[0]
        if self.use_sde and (steps == 0 or (self.sde_sample_freq > 0 and steps % self.sde_sample_freq == 0)):
            self.actor.reset_noise(n_envs)  # type: ignore[operator]

    def _advance(
        self, env: VecEnv, action_noise: ActionNoise | None, learning_starts: int
    ) -> tuple[Array, Any, Array, Bool, list[dict[str, Any]]]:
        """One step of every row, recorded."""
        rows, self._last_obs = self._last_obs, self._windows
        try:
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
        finally:
            self._last_obs = rows
        try:
            new_obs, rewards, dones, infos = env.step(actions)
        except BaseException:
            self._last_obs = None  # env and learner may be a step apart: the next learn() resets the env
            raise
        assert self.replay_buffer is not None
        self.num_timesteps += env.num_envs
        self._update_info_buffer(infos, dones)
        self._store_transition(self.replay_buffer, buffer_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
        self._windows = pushed(self._windows, new_obs, dones)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self._on_step()
        steps, episodes = self._collected
        ended = np.flatnonzero(dones)
        self._collected = (steps + 1, episodes + len(ended))
        self._episode_num += len(ended)
        if action_noise is not None:
            for row in ended.tolist():
                action_noise.reset(**({"indices": [row]} if env.num_envs > 1 else {}))
        self._record_returns(dones)
        return actions, new_obs, rewards, dones, infos

    @override
    def train(self, gradient_steps: int, batch_size: int) -> None:
        with uninterrupted():
            super().train(gradient_steps, batch_size)

    @override
    def get_rollout_state(self) -> dict[str, Array]:
        arrays = super().get_rollout_state() | {"collected": np.array(self._collected)}
        for name in ("_n_calls", "exploration_rate"):
            if hasattr(self, name):
                arrays[name] = np.array(getattr(self, name))
        return arrays

    @override
    def set_rollout_state(self, arrays: dict[str, Array]) -> None:
        super().set_rollout_state(arrays)
        self._collected = (int(arrays["collected"][0]), int(arrays["collected"][1]))


class OnPolicyWindows(Windows, OnPolicyAlgorithm):
    """On-policy algorithms: a rollout stores windows."""

    @override
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        windowed = WindowVecEnv(env, self.window_space, self._record_returns)
        assert self._last_episode_starts is not None
        windowed.windows, windowed.starts = self._windows, self._last_episode_starts
        self._last_obs, self.is_whole = self._windows, False
        try:
            goes_on = super().collect_rollouts(windowed, callback, rollout_buffer, n_rollout_steps)
        except BaseException:
            self._last_obs = None  # env and windows may be a step apart: the next learn() resets the env
            raise
        finally:
            self.is_whole = True
        # Also where a callback stopped in mid-rollout, this is where the env stands.
        self._windows, self._last_episode_starts = windowed.windows, windowed.starts
        assert self.observation_space is not None
        self._last_obs = newest(windowed.windows, self.observation_space)
        return goes_on


class ARSWindows(Windows, ARS):
    """ARS: candidates are evaluated in an env of windows."""

    @override
    def evaluate_candidates(self, candidate_weights: th.Tensor, callback: BaseCallback, async_eval: Any) -> th.Tensor:
        if async_eval is not None:
            raise ConfigError("async_eval is not supported with a window; use n_envs")
        env = self.env
        assert env is not None
        self.env, self.is_whole = WindowVecEnv(env, self.window_space, self._record_returns), False
        try:
            return super().evaluate_candidates(candidate_weights, callback, None)
        finally:
            self.env, self.is_whole = env, True
