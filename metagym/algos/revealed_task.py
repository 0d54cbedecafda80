"""The oracle control: joint training of a learner that is told which task it plays."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from numpy.typing import ArrayLike
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from typing_extensions import override

from metagym.algos.multi_task import MultiTask
from metagym.algos.reptile_env import native_env, vec_env_of_copies
from metagym.engine import RowsVectorEnv
from metagym.engine.drivers import env_of
from metagym.errors import ConfigError
from metagym.tasks import Task
from metagym.wrappers import RevealTask
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["RevealedTask"]


class RevealedTask(MultiTask):
    """Multi-task training of any learner of Stable-Baselines3 that sees the task beside the observation.

    It need not find out which task it plays, so its score is what the same learner, network and budget could reach if
    adaptation were perfect and free. What it falls short of the optimum is due to learning, not to the tasks being
    hidden. It does not adapt, and has no ``adapt``: `evaluate` shows it the tasks that it plays.

    Its observations are those of `RevealTask`: ``[observation | task]``, one flat float32 vector.

    Args:
        policy: as `learner_class` takes it.
        env: id, scalar env of tasks, or metagym's vector env (SAME_STEP or DISABLED), none of them wrapped in
            `RevealTask` yet.
        learner_class: any of SB3 and its contrib package, or its name.
        learner_kwargs: keywords of `learner_class`; its defaults are SB3's own.
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
        learner: the learner, a plain one of `learner_class`.
        num_timesteps: environment steps so far, of all rows.

    Raises:
        ConfigError: if an argument is out of range, or the env has no tasks that can be shown.
    """

    @override
    def _make_vec_env(self, env: Any, n_envs: int | None, env_kwargs: dict[str, Any] | None) -> VecEnv:
        made = super()._make_vec_env(env, n_envs, env_kwargs)
        native = native_env(made)
        if isinstance(native, RowsVectorEnv) and not isinstance(env, VecEnv):
            rows: Any = native  # for which RevealTask makes a vector env
            return VecMonitor(VectorEnvAdapter(RevealTask(rows)))  # type: ignore[arg-type]
        if isinstance(env, gym.Env):
            return vec_env_of_copies(RevealTask(env), made.num_envs)
        raise ConfigError(
            "RevealedTask needs an id of metagym's, a scalar env of tasks or metagym's vector env, whose observations "
            f"it extends itself; got {env!r}"
        )

    def make_env(
        self,
        task: Task | Mapping[str, ArrayLike] | None = None,
        *,
        split: str | None = "train",
        render_mode: str | None = None,
    ) -> RevealTask:
        """A scalar env that this learner can act in: its observations show the task.

        Args:
            task: the task of every trial; None: each reset draws one.
            split: what resets draw from: "train", "test", "ood", or None for all.
            render_mode: of the env.

        Raises:
            ConfigError: if the training env is not metagym's.
            TaskError: if the task does not belong to the family.
        """
        native = native_env(self.env)
        if not isinstance(native, RowsVectorEnv):
            raise ConfigError("only a learner that was given a metagym env can make another one like it")
        family: Any = native.family  # type: ignore[attr-defined]
        env = env_of(family, split=split, render_mode=render_mode)
        env.set_task(task)
        return RevealTask(env)
