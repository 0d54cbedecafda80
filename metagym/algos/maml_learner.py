"""What learners share that are trained through gradient steps within tasks; see `maml.py` for the algorithm."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.a2c import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from metagym.algos.iterative import Iteration, IterativeLearner, pin_any
from metagym.algos.maml_adapt import adapt_tasks
from metagym.algos.maml_arguments import (
    actor_critic_class,
    check_settings,
    inner_rates,
    learner_arguments,
    step_count,
    tasks_env,
)
from metagym.algos.maml_checkpoint import contents, restore
from metagym.algos.maml_inner import InnerLosses, Objective
from metagym.algos.maml_iteration import iterate
from metagym.algos.maml_objective import Batch
from metagym.algos.maml_outer import Report
from metagym.algos.maml_parts import make_parts
from metagym.algos.maml_policy import PolicyFunction
from metagym.algos.maml_start import Start
from metagym.algos.reptile_adapt import make_learner
from metagym.algos.reptile_env import require_env
from metagym.types import Array

__all__ = ["GradientMetaLearner"]

_SET_ELSEWHERE = frozenset({"learner_class", "learning_rate", "policy_kwargs", "tensorboard_log", "verbose"})
"""Stored arguments that are set elsewhere."""


class GradientMetaLearner(IterativeLearner):
    """Meta-parameters from which a few policy-gradient steps on a task's own episodes lead to a good policy.

    The policy holds the meta-parameters. `predict` acts with them, before any adaptation; `adapt` returns a plain
    learner of Stable-Baselines3 that has taken some steps on one task. All tasks of an iteration play in one vector env
    and take their steps at once. Callbacks run once an iteration, so that ``eval_freq`` and ``save_freq`` count
    iterations. If `learn` is interrupted (Ctrl-C) or fails, the meta-parameters of the last complete iteration are put
    back before the exception goes on, and can be saved.

    Everything random in an iteration hangs on the seed and the iteration's number. `learn` leaves the process's random
    states as they are, and what callbacks draw changes nothing.

    Logged: ``meta/iterations``, ``meta/pre_adapt_return`` and ``meta/post_adapt_return`` (mean return before the first
    and after the last inner step), ``meta/divergence`` (mean KL of an outer step), ``meta/outer_loss``,
    ``meta/line_search`` (tries not taken), ``train/std``, ``rollout/...``, ``time/...``.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a class derived from SB3's `ActorCriticPolicy`.
        env: id, scalar env, Gymnasium vector env (SAME_STEP or DISABLED) or SB3 vector env; its envs have
            ``sample_task()`` and ``set_task(task)``. Rows of metagym's families play all tasks of an iteration at once;
            any other vector env plays them one after the other.
        learner_class: what `adapt` returns: A2C, PPO, TRPO or a subclass, or its name.
        learning_rate: of Adam, which makes the outer steps of ``outer="ppo"`` and trains a value network: a number, or
            a function of the fraction of training that remains.
        inner_learning_rate: size of a step within a task: a number, or one for each step, of which the last is that of
            all further ones.
        n_inner_steps: steps within a task in training.
        meta_batch_size: tasks of one iteration.
        n_envs: episodes of one task between two steps, each in a row of its own; 20, or the rows of a vector env.
        n_steps: of an episode at most; None: until it ends.
        gamma: discount factor.
        gae_lambda: of generalised advantages.
        normalize_advantage: give the advantages of each task mean 0 and standard deviation 1.
        normalize_actions: count inner step sizes, and the standard deviation that training begins with, in half the
            width of the action space, as if the env took actions in [-1, 1].
        inner_objective: "log_likelihood" is MAML's; "likelihood_ratio" has ProMP's curvature.
        baseline: "linear" fits features to each task's returns; "value_net" is the policy's critic.
        ent_coef: weight of the entropy, in inner and outer losses.
        vf_coef: weight of the critic's squared error in inner losses, with ``baseline="value_net"``.
        outer: "trpo" or "ppo".
        target_kl: how far adapted policies may move in an iteration, mean KL summed over dimensions of actions; "trpo".
        cg_max_steps: iterations of conjugate gradients; "trpo".
        cg_damping: added to the Hessian's diagonal; "trpo".
        sub_sampling_factor: the Hessian is that of one of so many episodes, which is faster; "trpo".
        line_search_max_iter: tries; "trpo".
        line_search_shrinking_factor: of each try; "trpo".
        clip_range: of likelihood ratios; "ppo".
        n_epochs: outer steps on the same episodes; "ppo". With a value network, its steps in any case.
        first_order: leave out how inner gradients depend on where they are taken.
        learner_kwargs: keywords of `learner_class`, for what `adapt` returns to go on learning with.
        env_kwargs: keywords of the family, with an id.
        split: part of the distribution that training tasks come from, with an id of metagym's.
        stats_window_size: episodes that ``rollout/...`` averages over.
        tensorboard_log: folder for TensorBoard.
        policy_kwargs: keywords of the policy.
        verbose: 1 prints what is logged.
        seed: of everything random; None leaves the process's random states as they are.
        device: of the policy.
        _init_setup_model: build the learner now.

    Attributes:
        learner: a plain learner whose policy holds the meta-parameters.
        num_timesteps: environment steps so far, of all tasks, before and after adaptation.

    Raises:
        ConfigError: if an argument is out of range, the env has no tasks, or the policy is no function of observations
            and parameters alone: recurrent, batch-normalised, with gSDE.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (
        "learner_class", "learning_rate", "inner_learning_rate", "n_inner_steps", "meta_batch_size", "n_steps", "gamma",
        "gae_lambda", "normalize_advantage", "normalize_actions", "inner_objective", "baseline", "ent_coef", "vf_coef",
        "outer", "target_kl", "cg_max_steps", "cg_damping", "sub_sampling_factor", "line_search_max_iter",
        "line_search_shrinking_factor",
        "clip_range", "n_epochs", "first_order", "learner_kwargs", "policy_kwargs", "env_kwargs", "split",
        "tensorboard_log", "verbose",
    )  # fmt: skip
    inner_learning_rate: tuple[float, ...]
    learner_kwargs: dict[str, Any]
    n_inner_steps: int
    meta_batch_size: int
    n_steps: int | None
    gamma: float
    gae_lambda: float
    normalize_advantage: bool
    normalize_actions: bool
    inner_objective: Objective
    baseline: Literal["linear", "value_net"]
    ent_coef: float
    vf_coef: float
    outer: Literal["trpo", "ppo"]
    target_kl: float
    cg_max_steps: int
    cg_damping: float
    sub_sampling_factor: int
    line_search_max_iter: int
    line_search_shrinking_factor: float
    clip_range: float
    n_epochs: int
    first_order: bool
    env_kwargs: dict[str, Any] | None
    split: str | None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        learner_class: type[BaseAlgorithm] | str = A2C,
        learning_rate: float | Schedule = 1e-3,
        inner_learning_rate: float | Sequence[float] = 0.1,
        n_inner_steps: int = 1,
        meta_batch_size: int = 20,
        n_envs: int | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        normalize_advantage: bool = True,
        normalize_actions: bool = True,
        inner_objective: Objective = "log_likelihood",
        baseline: Literal["linear", "value_net"] = "linear",
        ent_coef: float = 0.0,
        vf_coef: float = 0.05,
        outer: Literal["trpo", "ppo"] = "trpo",
        target_kl: float = 0.01,
        cg_max_steps: int = 10,
        cg_damping: float = 1e-2,
        sub_sampling_factor: int = 1,
        line_search_max_iter: int = 15,
        line_search_shrinking_factor: float = 0.8,
        clip_range: float = 0.2,
        n_epochs: int = 5,
        first_order: bool = False,
        learner_kwargs: Mapping[str, Any] | None = None,
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
        settings = {name: value for name, value in locals().items() if name in self.stored_arguments}
        check_settings(settings)
        self.learner_class = actor_critic_class(learner_class)
        needs_env = env is not None or _init_setup_model
        vec_env = tasks_env(type(self).__name__, env, n_envs, split, env_kwargs) if needs_env else None
        folder = None if tensorboard_log is None else str(tensorboard_log)
        super().__init__(
            policy, vec_env, learning_rate, policy_kwargs=dict(policy_kwargs or {}), tensorboard_log=folder,
            stats_window_size=stats_window_size, verbose=verbose, device=device, support_multi_env=True, seed=seed,
        )  # fmt: skip
        vars(self).update({name: value for name, value in settings.items() if name not in _SET_ELSEWHERE})
        self.inner_learning_rate = inner_rates(inner_learning_rate)
        self.learner_kwargs = dict(learner_kwargs or {})
        self.policy_argument = policy
        self.env_id = env if isinstance(env, str) else None
        self._n_iterations = 0
        self._resumed_rng: dict[str, Array] | None = None
        if _init_setup_model:
            self._setup_model()

    @override
    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._seed_iterations()
        agent: Any = self  # with all that make_learner reads
        self._inner_arguments = learner_arguments(self.learner_class, self.learner_kwargs, self.n_envs)
        self.learner = make_learner(agent, self.env, self._inner_arguments)
        self.policy = self.learner.policy
        self._parts = make_parts(self)

    def _make_start(self, function: PolicyFunction, names: Sequence[str], units: Mapping[str, th.Tensor]) -> Start:
        """What is meta-learned."""
        return Start(function, names, units, self.inner_learning_rate)

    def _extra_loss(self, before: list[InnerLosses], batch: Batch) -> th.Tensor | float:
        """What a method adds to the outer loss."""
        del before, batch
        return 0.0

    def _after_outer_step(self, report: Report) -> None:
        """What a method changes from iteration to iteration."""
        del report

    # --- learning ----------------------------------------------------------------------------------------------

    @override
    @contextmanager
    def _iterations(self, env: VecEnv) -> Iterator[Iteration]:
        pin_any(self, env)
        yield partial(iterate, self, env)

    def adapt(
        self, task: Any, n_steps: int | None = None, *, n_envs: int | None = None, seed: int | None = None
    ) -> BaseAlgorithm:
        """A learner that has taken some gradient steps on one task from the meta-parameters; `self` stays as it is.

        What is returned is a plain learner of `learner_class`, independent of this one: it can learn on in its env (a
        copy of the training env whose rows hold the task), and its zip loads without metagym. Its ``num_timesteps``
        says how many environment steps it has taken. The process's random states are put back in the end: without a
        seed, two adaptations in a row see the same noise.

        Args:
            task: a task, as the env's ``set_task`` takes it; or an env (scalar, vector, or id) to adapt in as it is.
            n_steps: gradient steps, each on fresh episodes, one in every row; `n_inner_steps` by default.
            n_envs: rows, where a task is given and the training env is of one of metagym's families; as many as in
                training by default.
            seed: of the noise of this adaptation.

        Raises:
            ConfigError: if the training env cannot be copied, or there is none: give an env instead of a task.
            DivergenceError: if what was learnt is not finite.
        """
        return adapt_tasks(self, [task], step_count(n_steps, self.n_inner_steps), n_envs, seed)[0]

    def adapt_many(
        self, tasks: Sequence[Any], n_steps: int | None = None, *, n_envs: int | None = None, seed: int | None = None
    ) -> list[BaseAlgorithm]:
        """A learner for each task, as `adapt` returns them; tasks of metagym's families are played all at once.

        Args:
            tasks: tasks, as the env's ``set_task`` takes them; or envs, which are adapted in one after the other.
            n_steps: gradient steps on each task.
            n_envs: rows of each, as in `adapt`.
            seed: of the noise; each task's hangs on it and on the task's place.

        Raises:
            ConfigError: as `adapt`.
            DivergenceError: if what a learner learnt is not finite.
        """
        return adapt_tasks(self, tasks, step_count(n_steps, self.n_inner_steps), n_envs, seed)

    @override
    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions of the meta-parameters, before any adaptation; arguments as SB3's own."""
        return self.learner.predict(observation, state, episode_start, deterministic)

    @override
    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Learn in another env of tasks with the same spaces and as many rows; arguments as in SB3.

        Raises:
            ConfigError: if the env has no tasks or another number of rows.
        """
        made = tasks_env(type(self).__name__, env, self.n_envs, self.split, None)
        super().set_env(made, force_reset)
        self.learner.set_env(require_env(self.env), force_reset)
        self._parts.collector = None
        self.env_id, self.env_kwargs = (env if isinstance(env, str) else None), None

    # --- checkpoints -------------------------------------------------------------------------------------------

    @override
    def _contents(self) -> tuple[dict[str, Any], dict[str, Array]]:
        return contents(self)

    @override
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        restore(self, meta, arrays)

    def _method_state(self) -> dict[str, Any]:
        """What a method remembers from iteration to iteration, as JSON can express it."""
        return {}

    def _restore_method_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `_method_state` returned."""
        del state
