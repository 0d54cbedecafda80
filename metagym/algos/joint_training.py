"""Joint training: one learner on all tasks at once, then fine-tuned on one.

The plainest way to use a distribution of tasks, and hard to beat: where tasks differ a lot, pretraining on many of
them and fine-tuning does as well as meta-learning (Mandi, Abbeel & James 2022, "On the Effectiveness of Fine-tuning
Versus Meta-reinforcement Learning"). What adapts by gradient has to be compared with it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.ppo import PPO
from typing_extensions import override

from metagym.algos.multi_task import MultiTask
from metagym.algos.reptile_adapt import adapt_learner
from metagym.algos.reptile_inner import (
    OWN_ARGUMENTS,
    adaptable_arguments,
    adaptation_budget,
    check_counts,
    check_inner_optimizer,
    varies,
)
from metagym.algos.reptile_normalize import normalization_of
from metagym.errors import ConfigError
from metagym.replay import TaskReplayBuffer

__all__ = ["JointTraining"]

_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")


class JointTraining(MultiTask):
    """Multi-task training of any learner of Stable-Baselines3, and fine-tuning on one task.

    Every reset of every row draws another task; the policy is not told which. `predict` acts with what was learnt of
    all tasks; `adapt` returns a copy that has gone on learning on one of them. `learn` is the learner's own, with its
    own logs, and callbacks see this object as their ``model``.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class, as `learner_class` takes them.
        env: id, scalar env, Gymnasium vector env (SAME_STEP or DISABLED) or SB3 vector env; its envs have
            ``sample_task()`` and ``set_task(task)``. Scalar envs are copied, vector envs are used as they are.
        learner_class: any of SB3 and its contrib package, or its name.
        learner_kwargs: keywords of `learner_class`; its defaults are SB3's own.
        adapt_kwargs: keywords that differ in `adapt`, such as a smaller ``learning_rate``. Where neither says, defaults
            suit short runs, as in `Reptile`: four rollouts or a buffer for all of the run, ``learning_starts=0``.
        inner_timesteps: environment steps of `adapt`, unless it is told.
        inner_optimizer: "fresh" adapts with an optimiser without moments, "carry" with those of training.
        n_envs: rows, each with a task of its own, and in `adapt` all with the same; 8 by default.
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
        num_timesteps: environment steps of training so far, of all rows.

    Raises:
        ConfigError: if an argument is out of range, or the env has no tasks.
    """

    stored_arguments: ClassVar[tuple[str, ...]] = (
        *MultiTask.stored_arguments, "adapt_kwargs", "inner_timesteps", "inner_optimizer",
    )  # fmt: skip

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        *,
        learner_class: type[BaseAlgorithm] | str = PPO,
        learner_kwargs: Mapping[str, Any] | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        inner_timesteps: int = 1024,
        inner_optimizer: Literal["fresh", "carry"] = "fresh",
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
        check_inner_optimizer(inner_optimizer)
        self.inner_timesteps, self.inner_optimizer = inner_timesteps, inner_optimizer
        self.adapt_kwargs = dict(adapt_kwargs or {})
        if own := sorted(OWN_ARGUMENTS.intersection(self.adapt_kwargs)):
            raise ConfigError(f"adapt_kwargs may not hold {own}: they are the same in training and adaptation")
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
        given = {**self.learner_kwargs, **self.adapt_kwargs}
        if issubclass(given.get("replay_buffer_class") or object, TaskReplayBuffer):
            # One task needs none, and what adapt returns shall load without metagym.
            given.pop("replay_buffer_class")
            given.pop("replay_buffer_kwargs", None)
        self._inner_arguments = adaptable_arguments(self.learner_class, given, self.n_envs, self.inner_timesteps)
        super()._setup_model()

    def adapt(self, task: Any, total_timesteps: int | None = None, *, seed: int | None = None) -> BaseAlgorithm:
        """A learner that has gone on learning on one task; `self` stays as it is.

        What is returned is a plain learner of `learner_class`, independent of this one: it can learn on in its env
        (a copy of the training env whose rows hold the task), and its zip loads without metagym. Random draws go on
        from the process's random states, which are put back in the end: without a seed, two adaptations in a row see
        the same noise. Off-policy learners start with an empty replay buffer.

        Args:
            task: a task, as the env's ``set_task`` takes it; or an env (scalar, vector, or id) to adapt in as it is.
            total_timesteps: environment steps, over all rows; `inner_timesteps` by default. At most so many are
                used, rounded down to whole rollouts, shortened where not even one would fit.
            seed: of the noise of this adaptation.

        Raises:
            ConfigError: if the training env cannot be copied, or there is none: give an env instead of a task; or if
                a schedule would start anew.
        """
        for name in _SCHEDULES:
            if varies(self._inner_arguments.get(name)):
                raise ConfigError(
                    f"{name} changes during learning, and would do so anew in every adaptation: give the constant one "
                    f"to adapt with as adapt_kwargs={{{name!r}: ...}}"
                )
        budget = adaptation_budget(total_timesteps, self.inner_timesteps)
        agent: Any = self  # with all that adapt_learner reads
        return adapt_learner(agent, task, budget, seed, normalization=normalization_of(self.env))
