"""Reptile for any SB3 learner (Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", Alg. 2).

    1  initialise theta
    2  for iteration = 1, 2, ... do
    3      sample tasks tau_1, ..., tau_n
    4      for i = 1, ..., n do
    5          phi_i = the learner's parameters after k steps on tau_i, starting from theta
    6      theta <- theta + epsilon * (1/n) * sum_i (phi_i - theta)

Differs from the paper: a run on a task is counted in environment steps (`inner_timesteps`), of which the learner makes
as many updates as it does; the inner learner is any of Stable-Baselines3 (the paper's experiments are supervised);
everything the learner learns moves (critics, target networks, entropy coefficients, running statistics), integers
among it are copied; the inner optimiser starts afresh for each task unless ``inner_optimizer="carry"``, which is what
the authors' code does; line 6 may be the step of an optimiser on the gradient ``theta - mean(phi)``, as in its text.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.ppo import PPO
from typing_extensions import Self, override

from metagym.algos.batched_adapt import adapt_learners
from metagym.algos.batched_run import check_batched, require_batchable
from metagym.algos.iterative import Iteration, IterativeLearner
from metagym.algos.reptile_adapt import adapt_learner, make_learner
from metagym.algos.reptile_checkpoint import ARGUMENTS, KIND, contents, normalized_alike, restore
from metagym.algos.reptile_env import task_vec_env
from metagym.algos.reptile_frozen import check_prefixes, frozen_names
from metagym.algos.reptile_inner import (
    adaptation_budget,
    check_counts,
    check_outer,
    check_workers,
    find_learner_class,
    inner_arguments,
    reptile_arguments,
    require_constant_schedules,
    require_support,
)
from metagym.algos.reptile_iteration import iterate, runs_of
from metagym.algos.reptile_normalize import Normalization, normalization_of
from metagym.algos.reptile_outer import OuterStep, find_optimizer
from metagym.learner_state import LearnerState
from metagym.types import Array

__all__ = ["Reptile"]


class Reptile(IterativeLearner):
    """An initialisation from which a learner of Stable-Baselines3 learns new tasks fast.

    The meta-parameters are the parameters of `learner`. `predict` acts with them, before any adaptation; `adapt`
    returns another learner that has learnt one task. Callbacks run once an iteration, when the meta-parameters are
    installed, so that ``eval_freq`` and ``save_freq`` count iterations. If `learn` is interrupted (Ctrl-C) or fails,
    the meta-parameters of the last complete iteration are put back before the exception goes on, and can be saved.

    Everything random in an iteration hangs on the seed and the iteration's number: its tasks, and the noise of each
    run. `learn` leaves the process's random states as they are, and what callbacks draw changes nothing.

    Logged: ``meta/iterations``, ``meta/learning_rate``, ``meta/pre_adapt_return`` and ``meta/post_adapt_return``
    (mean return of the first and of the last episode that each row finishes on a task), ``rollout/ep_rew_mean``,
    ``rollout/ep_len_mean``, ``rollout/success_rate``, ``time/...``.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class, as `learner_class` takes them.
        env: id, scalar env, Gymnasium vector env (SAME_STEP or DISABLED) or SB3 vector env; its envs have
            ``sample_task()`` and ``set_task(task)``. Scalar envs are copied, vector envs are used as they are.
        learner_class: the inner learner, any of SB3 and its contrib package, or its name.
        learning_rate: epsilon, the outer step size: a number, or a function of the fraction of training that remains.
            Runs of reinforcement learning are noisy: small steps such as 0.1, with several tasks an iteration, learn
            more than 1.0, which goes all the way to the mean. With an outer optimiser it is that one's ``lr``.
        outer_optimizer: "sgd" is line 6 as it stands; or an optimiser class of torch, or its name, that steps on the
            gradient ``theta - mean(phi)``. Running statistics become the mean of the runs' then.
        outer_optimizer_kwargs: its keywords.
        inner_timesteps: environment steps on one task, over all rows together; rounded up to whole rollouts. Every row
            should play some episodes in it.
        meta_batch_size: n, tasks of one iteration.
        inner_optimizer: "fresh" starts every task with an optimiser without moments; "carry" hands them on from task
            to task.
        frozen: prefixes of names of parameters that neither inner nor outer steps change, nor `adapt`, such as
            ``["features_extractor"]``; names as in ``learner.policy.named_parameters()``, or "log_ent_coef".
        n_workers: processes that play an iteration's tasks; 1 plays them here, one after the other, with the same
            result to the bit if one PyTorch thread is used here as there. They start with `learn`, import the main
            script again (guard it by ``if __name__ == "__main__":``), and make learners from `learner_kwargs`.
        batched: adapt all tasks of an iteration at once, with one update for all of them. Takes PPO and A2C with SB3's
            MlpPolicy, on the CPU, in vector envs of metagym's families; the result is that of one task after the other
            up to rounding, with the same random draws.
        learner_kwargs: keywords of `learner_class`. Where they do not say, defaults suit short runs: ``n_steps`` and
            ``batch_size`` such that a run has four rollouts if SB3's own exceed it; off-policy ``learning_starts=0``
            (with hindsight SB3's own: it must exceed an episode of each row), ``buffer_size=inner_timesteps``, and a
            ``target_update_interval`` below the run's length.
        n_envs: rows that play a task at the same time; 8 by default.
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
        learner: the inner learner; between iterations it holds the meta-parameters.
        num_timesteps: environment steps so far, of all rows and all tasks.

    Raises:
        ConfigError: if an argument is out of range, the env has no tasks, the learner does not support its spaces, or
            an inner schedule is not constant.
    """

    run_name: ClassVar[str | None] = "Reptile"
    stored_arguments: ClassVar[tuple[str, ...]] = ARGUMENTS

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        learner_class: type[BaseAlgorithm] | str = PPO,
        learning_rate: float | Schedule = 1.0,
        inner_timesteps: int = 1024,
        meta_batch_size: int = 4,
        outer_optimizer: str | type[th.optim.Optimizer] = "sgd",
        outer_optimizer_kwargs: Mapping[str, Any] | None = None,
        inner_optimizer: Literal["fresh", "carry"] = "fresh",
        frozen: Sequence[str] = (),
        n_workers: int = 1,
        batched: bool = False,
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
        check_counts(inner_timesteps=inner_timesteps, meta_batch_size=meta_batch_size)
        check_outer(learning_rate, inner_optimizer)
        check_workers(n_workers, inner_optimizer)
        check_batched(batched, n_workers, inner_optimizer)
        find_optimizer(outer_optimizer, outer_optimizer_kwargs)
        needs_env = env is not None or _init_setup_model
        super().__init__(
            policy,
            task_vec_env(env, n_envs=n_envs, split=split, env_kwargs=env_kwargs) if needs_env else None,
            learning_rate,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=None if tensorboard_log is None else str(tensorboard_log),
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.policy_argument, self.learner_kwargs = policy, dict(learner_kwargs or {})
        self.inner_timesteps, self.meta_batch_size = inner_timesteps, meta_batch_size
        self.inner_optimizer: Literal["fresh", "carry"] = inner_optimizer
        self.outer_optimizer, self.outer_optimizer_kwargs = outer_optimizer, dict(outer_optimizer_kwargs or {})
        self.frozen, self.n_workers, self.batched = check_prefixes(frozen), n_workers, batched
        self.env_id = env if isinstance(env, str) else None
        self.env_kwargs, self.split = env_kwargs, split
        self._n_iterations = 0
        self._resumed_rng: dict[str, Array] | None = None
        self._resumed_normalization: Normalization = Normalization()
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def from_learner(cls, learner: BaseAlgorithm, env: Any = None, **kwargs: Any) -> Self:
        """A Reptile whose initialisation is what a learner has learnt so far.

        The learner is copied, with its hyperparameters and, for ``inner_optimizer="carry"``, the moments of its
        optimisers: its own parameters, optimisers and counters never change. Its env is shared unless `env` is given:
        meta-training resets and steps it.

        Args:
            learner: of SB3 or its contrib package.
            env: what to meta-train on; by default the learner's env, which then must have tasks.
            **kwargs: those of `Reptile`; ``inner_timesteps`` is at least one rollout of the learner by default.

        Raises:
            ConfigError: if the learner has no env, or its arguments are not accepted.
        """
        arguments = {**reptile_arguments(learner), **kwargs}
        agent = cls(type(learner.policy), learner.get_env() if env is None else env, **arguments)
        LearnerState.capture(learner).restore(agent.learner, optimizer="snapshot")
        return agent

    @override
    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._seed_iterations()
        require_support(self.learner_class, self.env)
        self._inner_arguments = inner_arguments(
            self.learner_class, self.learner_kwargs, self.n_envs, self.inner_timesteps
        )
        self.learner = make_learner(self, self.env, self._inner_arguments)
        require_constant_schedules(self.learner)
        if self.batched:
            require_batchable(self.learner, self.env)
        self.policy = self.learner.policy
        self._frozen_names = frozen_names(self.learner, self.frozen)
        optimizer_class = find_optimizer(self.outer_optimizer, self.outer_optimizer_kwargs)
        self._outer = OuterStep(self.learner, optimizer_class, self.outer_optimizer_kwargs, self._frozen_names)

    @override
    @contextmanager
    def _iterations(self, env: VecEnv) -> Iterator[Iteration]:
        with runs_of(self, env) as runs:
            yield partial(iterate, self, env, runs)

    def adapt(self, task: Any, total_timesteps: int | None = None, *, seed: int | None = None) -> BaseAlgorithm:
        """A learner that has learnt one task, starting from the meta-parameters; `self` stays as it is.

        What is returned is a plain learner of `learner_class`, independent of this one: it can learn on in its env
        (a copy of the training env whose rows hold the task), and its zip loads without metagym. Where the training
        env is a `VecNormalize`, the learner's env is one too, with the training statistics, which do not change; save
        it beside the zip, as SB3 asks. Random draws go on from the process's random states, which are put back in the
        end: without a seed, two adaptations in a row see the same noise.

        Args:
            task: a task, as the env's ``set_task`` takes it; or an env (scalar, vector, or id) to adapt in as it is.
            total_timesteps: environment steps, over all rows; `inner_timesteps` by default. At most so many are
                used, rounded down to whole rollouts, shortened where not even one would fit.
            seed: of the noise of this adaptation.

        Raises:
            ConfigError: if the training env cannot be copied, or there is none: give an env instead of a task.
        """
        budget = adaptation_budget(total_timesteps, self.inner_timesteps)
        like = self._normalization()
        return adapt_learner(self, task, budget, seed, frozen=self._frozen_names, normalization=like)

    def adapt_many(
        self, tasks: Sequence[Any], total_timesteps: int | None = None, *, seed: int | None = None
    ) -> list[BaseAlgorithm]:
        """A learner for each task, as `adapt` returns them; all at once with ``batched=True``.

        Args:
            tasks: tasks, as the env's ``set_task`` takes them; or envs, which are adapted in one after the other.
            total_timesteps: environment steps on each task, as in `adapt`.
            seed: of the noise; each task's hangs on it and on the task's place.

        Raises:
            ConfigError: as `adapt`.
            DivergenceError: if what a learner learnt is not finite.
        """
        budget = adaptation_budget(total_timesteps, self.inner_timesteps)
        return adapt_learners(self, tasks, budget, seed)

    def _normalization(self) -> Normalization:
        return self._resumed_normalization if self.env is None else normalization_of(self.env)

    @override
    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
        **kwargs: Any,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions of the meta-parameters, before any adaptation; arguments as the learner's own (``action_masks``)."""
        return self.learner.predict(observation, state, episode_start, deterministic, **kwargs)

    @override
    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Learn in another env of tasks with the same spaces and as many rows; arguments as in SB3.

        Raises:
            ConfigError: if the env has no tasks or another number of rows.
        """
        made = task_vec_env(env, n_envs=self.n_envs, split=self.split, env_kwargs=None)
        if self.batched:
            require_batchable(self.learner, made)
        super().set_env(made, force_reset)
        require_support(self.learner_class, self.env)
        # A new learner, since buffers of hindsight keep the env that they were made with.
        before = LearnerState.capture(self.learner)
        self.learner = make_learner(self, self.env, self._inner_arguments)
        before.restore(self.learner, optimizer="snapshot")
        self.policy = self.learner.policy
        self.env_id, self.env_kwargs = (env if isinstance(env, str) else None), None

    @classmethod
    @override
    def _kind(cls) -> str:
        return KIND

    @classmethod
    @override
    def _env_like(
        cls, env: Any, meta: Mapping[str, Any], stored: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> Any:
        return normalized_alike(env, meta, stored, arrays)

    @override
    def _contents(self) -> tuple[dict[str, Any], dict[str, Array]]:
        return contents(self)

    @override
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        restore(self, meta, arrays)
