"""Learning every task from scratch: the control that shows what training on other tasks is worth."""

import copy
import pickle
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.ppo import PPO
from typing_extensions import Self, override

from metagym.algos.multi_task import MultiTask
from metagym.algos.reptile_adapt import adapt_learner, make_learner
from metagym.algos.reptile_env import native_env
from metagym.algos.reptile_inner import adaptable_arguments, adaptation_budget, check_counts
from metagym.learner_state import preserved_rng
from metagym.tasks import Task

__all__ = ["FromScratch"]


class FromScratch(MultiTask):
    """No meta-training: `adapt` trains a freshly initialised learner on the task.

    Every task gets an initialisation of its own, from a stream that hangs on ``(seed, the task's id)``, and on the
    seed given to `adapt` if there is one. It does not hang on the budget, on the order of calls, or on the process's
    random states: a task is learnt from the same initialisation whenever it is asked for. `predict` acts with another
    one, which has learnt nothing.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class, as `learner_class` takes them.
        env: as for `JointTraining`; it gives the spaces, and copies of it are what `adapt` learns in.
        learner_class: any of SB3 and its contrib package, or its name.
        learner_kwargs: keywords of `learner_class`. Where they do not say, defaults suit short runs, as in `Reptile`.
        inner_timesteps: environment steps of `adapt`, unless it is told.
        n_envs: rows that play the task at the same time; 8 by default.
        env_kwargs: keywords of the family, with an id.
        split: ignored unless `adapt` is given an id.
        stats_window_size: ignored.
        tensorboard_log: ignored.
        policy_kwargs: keywords of the policy.
        verbose: ignored.
        seed: of the initialisations, and of the process's random states; None draws one from the latter.
        device: of the learners.
        _init_setup_model: build the learner now.

    Attributes:
        learner: the untrained learner that `predict` acts with.
        num_timesteps: environment steps of meta-training: none.

    Raises:
        ConfigError: if an argument is out of range, or the env has no tasks.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (*MultiTask.stored_arguments, "inner_timesteps")
    inner_optimizer = "fresh"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        learner_class: type[BaseAlgorithm] | str = PPO,
        learner_kwargs: Mapping[str, Any] | None = None,
        inner_timesteps: int = 1024,
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
        check_counts(inner_timesteps=inner_timesteps)
        self.inner_timesteps = inner_timesteps
        super().__init__(
            policy,
            env,
            learner_class=learner_class,
            learner_kwargs=learner_kwargs,
            n_envs=n_envs,
            env_kwargs=env_kwargs,
            split=split,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    @override
    def _setup_model(self) -> None:
        self._inner_arguments = adaptable_arguments(
            self.learner_class, self.learner_kwargs, self.n_envs, self.inner_timesteps
        )
        super()._setup_model()
        if self.seed is None:
            self.seed = int(np.random.randint(2**31 - 1))  # noqa: NPY002 (SB3's stream)

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
        """Nothing: it takes no step. Arguments are ignored."""
        del total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        return self

    def adapt(self, task: Any, total_timesteps: int | None = None, *, seed: int | None = None) -> BaseAlgorithm:
        """A learner that has learnt one task, from a new initialisation; `self` stays as it is.

        What is returned is a plain learner of `learner_class`, as `JointTraining.adapt` says; but where the env is a
        `VecNormalize`, its statistics begin anew and are gathered on the task.

        Args:
            task: a task, as the env's ``set_task`` takes it; or an env (scalar, vector, or id) to adapt in as it is.
                All envs count as one task where initialisations are concerned.
            total_timesteps: environment steps, over all rows; `inner_timesteps` by default. At most so many are
                used, rounded down to whole rollouts, shortened where not even one would fit.
            seed: of the noise of this adaptation, and of another initialisation.

        Raises:
            ConfigError: if the env cannot be copied, or there is none: give an env instead of a task.
        """
        budget = adaptation_budget(total_timesteps, self.inner_timesteps)
        fresh: Any = copy.copy(self)
        with preserved_rng():
            set_random_seed(self._initialisation(task, seed))
            fresh.learner = make_learner(fresh, self.env, self._inner_arguments)
        return adapt_learner(fresh, task, budget, seed, is_new=True)

    def _initialisation(self, task: Any, seed: int | None) -> int:
        """Seed of the initial parameters."""
        # Shifted, since numpy's seed sequences do not tell a last 0 from nothing.
        assert self.seed is not None
        words = [self.seed, self._task_number(task), 0 if seed is None else seed + 1]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _task_number(self, task: Any) -> int:
        if isinstance(task, gym.Env | gym.vector.VectorEnv | VecEnv | str):
            return 0
        native = native_env(self.env)
        if isinstance(task, Mapping) and not isinstance(task, Task) and native is not None:
            task = native.coerce(task)
        return task.id if isinstance(task, Task) else zlib.crc32(pickle.dumps(task))
