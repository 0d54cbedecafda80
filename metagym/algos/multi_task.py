"""What the reference learners share: one learner of Stable-Baselines3, trained in an env that draws many tasks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.ppo import PPO
from typing_extensions import Self, override

from metagym.algos.keywords import keywords_of
from metagym.algos.learner_checkpoint import Checkpointed, resume_rng
from metagym.algos.multi_task_checkpoint import contents, restore
from metagym.algos.multi_task_state import Position, forget_episode, take_position
from metagym.algos.reptile_adapt import make_learner
from metagym.algos.reptile_env import task_vec_env
from metagym.algos.reptile_inner import OWN_ARGUMENTS, find_learner_class, require_support
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState
from metagym.replay import TaskReplayBuffer
from metagym.types import Array

__all__ = ["MultiTask"]


class MultiTask(Checkpointed):
    """A learner of Stable-Baselines3 in an env whose every reset draws another task, and that learner's interface.

    Its `learn` is that of the learner inside, with all that it does: callbacks see this object as their ``model``, at
    the moments and with the locals that they would see there.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class, as `learner_class` takes them.
        env: id, scalar env, Gymnasium vector env (SAME_STEP or DISABLED) or SB3 vector env.
        learner_class: any of SB3 and its contrib package, or its name.
        learner_kwargs: keywords of `learner_class`, whose defaults are SB3's own.
        n_envs: rows, each with a task of its own; 8 by default.
        env_kwargs: keywords of the family, with an id.
        split: part of the distribution that training tasks come from, with an id of metagym's.
        stats_window_size: episodes that ``rollout/...`` averages over.
        tensorboard_log: folder for TensorBoard.
        policy_kwargs: keywords of the policy.
        verbose: 1 prints what is logged.
        seed: of everything random; None leaves the process's random states as they are.
        device: of the learner.
        _init_setup_model: build the learner now.

    Attributes:
        learner: the learner inside, a plain one of `learner_class`.
        num_timesteps: environment steps so far, of all rows.

    Raises:
        ConfigError: if an argument is out of range, or the env has no tasks.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (
        "learner_class", "learner_kwargs", "policy_kwargs", "env_kwargs", "split", "tensorboard_log", "verbose",
    )  # fmt: skip

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        learner_class: type[BaseAlgorithm] | str = PPO,
        learner_kwargs: Mapping[str, Any] | None = None,
        n_envs: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        split: str | None = "train",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.learner_class = find_learner_class(learner_class)
        self.learner_kwargs = dict(learner_kwargs or {})
        if own := sorted(OWN_ARGUMENTS.intersection(self.learner_kwargs)):
            raise ConfigError(f"learner_kwargs may not hold {own}: they are arguments of {type(self).__name__} itself")
        self.env_kwargs, self.split = env_kwargs, split
        needs_env = env is not None or _init_setup_model
        super().__init__(
            policy,
            self._make_vec_env(env, n_envs, env_kwargs) if needs_env else None,
            0.0,  # the learner has its own
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=None if tensorboard_log is None else str(tensorboard_log),
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.policy_argument = policy
        self.env_id = env if isinstance(env, str) else None
        self._mark: Position | None = None
        self._resumed_rng: dict[str, Array] | None = None
        if _init_setup_model:
            self._setup_model()

    def _make_vec_env(self, env: Any, n_envs: int | None, env_kwargs: dict[str, Any] | None) -> VecEnv:
        learner = type(self).__name__
        return task_vec_env(env, n_envs=n_envs, split=self.split, env_kwargs=env_kwargs, learner=learner)

    @override
    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        require_support(self.learner_class, self.env)
        self.learner = self._new_learner(self.env)

    def _new_learner(self, env: VecEnv | None) -> BaseAlgorithm:
        agent: Any = self  # with all that make_learner reads
        arguments = dict(self.learner_kwargs)
        automatic = arguments.get("target_entropy", "auto") == "auto"
        if env is None and automatic and "target_entropy" in keywords_of(self.learner_class).names:
            # SB3 would ask the env for the dimension.
            arguments["target_entropy"] = -float(np.prod(self.action_space.shape or ()))
        learner = make_learner(agent, env, arguments)
        learner.verbose, learner.tensorboard_log = self.verbose, self.tensorboard_log
        learner._stats_window_size = self._stats_window_size
        learner._custom_logger = False
        self.policy = learner.policy
        self.learning_rate, self.lr_schedule = learner.learning_rate, learner.lr_schedule
        _watch(learner)
        return learner

    # --- learning ----------------------------------------------------------------------------------------------

    @override
    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train on the tasks that the env draws.

        If it is interrupted (Ctrl-C, an error in a callback), the exception goes on, the learner keeps all complete
        updates and can be saved; its next `learn` begins with new episodes.

        Args:
            total_timesteps: environment steps, over all rows; rounded up as `learner_class` does.
            callback: SB3 callbacks. What they `save` in the middle of a rollout is the learner at its beginning.
            log_interval: updates (episodes for off-policy learners) between logs; None never logs.
            tb_log_name: name of the run in TensorBoard; that of the class by default.
            reset_num_timesteps: count from 0, and begin new episodes; False goes on, after `load` too, as if never
                interrupted.
            progress_bar: show one, in environment steps.

        Returns:
            Itself.

        Raises:
            ConfigError: if there is no env to learn in.
        """
        if self.env is None:
            raise ConfigError(f"this {type(self).__name__} has no env to learn in: pass one to load or to set_env")
        resume_rng(self)
        try:
            with self._marking(callback is not None):
                self.learner.learn(
                    total_timesteps,
                    callback=_Outer(self, callback),
                    log_interval=log_interval,  # type: ignore[arg-type]
                    tb_log_name=tb_log_name or type(self).__name__,
                    reset_num_timesteps=reset_num_timesteps,
                    progress_bar=progress_bar,
                )
        except BaseException:
            forget_episode(self.learner)
            # ARS may have got new weights and not yet the policy that acts with them.
            LearnerState.capture(self.learner).restore(self.learner, optimizer="keep")
            raise
        finally:
            self._follow_learner()
        return self

    @contextmanager
    def _marking(self, wanted: bool) -> Iterator[None]:
        """Remember where the learner stood before the rollout that runs: only there can training be taken up again."""
        # SB3 calls back inside rollouts alone, when the env, but not the learner, has moved on.
        name = "_do_one_update" if isinstance(self.learner, ARS) else "collect_rollouts"
        method = getattr(self.learner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            self._mark = take_position(self.learner)
            result = method(*args, **kwargs)
            self._mark = None
            if result is False or getattr(result, "continue_training", True) is False:
                # A callback stopped it: the env is one step ahead of the learner.
                forget_episode(self.learner)
            return result

        if wanted:
            vars(self.learner)[name] = marked
        try:
            yield
        finally:
            vars(self.learner).pop(name, None)
            self._mark = None

    def _follow_learner(self) -> None:
        learner = self.learner
        self.num_timesteps, self._total_timesteps = learner.num_timesteps, learner._total_timesteps
        self._num_timesteps_at_start = learner._num_timesteps_at_start
        self._episode_num, self._n_updates = learner._episode_num, learner._n_updates
        self._current_progress_remaining = learner._current_progress_remaining
        self.ep_info_buffer, self.ep_success_buffer = learner.ep_info_buffer, learner.ep_success_buffer

    @override
    def set_logger(self, logger: Logger) -> None:
        super().set_logger(logger)
        self.learner.set_logger(logger)

    # --- acting ------------------------------------------------------------------------------------------------

    @override
    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions of the learner; arguments as in SB3."""
        return self.learner.predict(observation, state, episode_start, deterministic)

    @override
    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Learn in another env of tasks with the same spaces and as many rows; arguments as in SB3.

        Raises:
            ConfigError: if the env has no tasks or another number of rows.
        """
        super().set_env(self._make_vec_env(env, self.n_envs if isinstance(env, str) else None, None), force_reset)
        assert self.env is not None
        self.learner.set_env(self.env, force_reset)
        _watch(self.learner)
        self.env_id, self.env_kwargs = (env if isinstance(env, str) else None), None

    # --- checkpoints -------------------------------------------------------------------------------------------

    @override
    def _contents(self) -> tuple[dict[str, Any], dict[str, Array]]:
        return contents(self)

    @override
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        restore(self, meta, arrays)


class _Outer(BaseCallback):
    """Runs the user's callbacks for a learner as if the one around it ran them."""

    def __init__(self, agent: MultiTask, callback: MaybeCallback) -> None:
        super().__init__()
        self.agent, self.given = agent, callback

    @override
    def _init_callback(self) -> None:
        if not self.agent._custom_logger:
            self.agent._logger = self.model.logger
        self.callback = self.agent._init_callback(self.given)

    @override
    def _on_training_start(self) -> None:
        self.agent._follow_learner()
        self.callback.on_training_start(self.locals, self.globals)

    @override
    def _on_rollout_start(self) -> None:
        self.callback.on_rollout_start()

    @override
    def _on_step(self) -> bool:
        self.agent._follow_learner()
        self.callback.update_locals(self.locals)
        return self.callback.on_step()

    @override
    def _on_rollout_end(self) -> None:
        self.callback.update_locals(self.locals)
        self.callback.on_rollout_end()

    @override
    def _on_training_end(self) -> None:
        self.callback.on_training_end()


def _watch(learner: BaseAlgorithm) -> None:
    buffer = vars(learner).get("replay_buffer")
    if isinstance(buffer, TaskReplayBuffer):
        buffer.watch(learner.env)
