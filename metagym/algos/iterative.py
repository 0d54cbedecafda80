"""Learners that learn in iterations, each an outer step on some tasks: their loop, and what their checkpoints share."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeAlias

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm
from typing_extensions import Self, override

from metagym.algos.learner_checkpoint import Checkpointed, kept_rng, resume_rng
from metagym.algos.reptile_env import draw_tasks, give_task, native_env, require_env
from metagym.algos.reptile_log import log_progress, start_counting
from metagym.algos.reptile_normalize import capture_statistics, restore_statistics
from metagym.algos.reptile_run import derived_seed, seed_run
from metagym.errors import CheckpointError
from metagym.learner_state import generator_state, preserved_rng, set_generator_state
from metagym.sections import prefixed, section
from metagym.types import Array

__all__ = ["Iteration", "IterativeLearner", "pin_any", "resume_training", "training_state"]

Iteration: TypeAlias = Callable[[Any], int]
"""Takes one outer step, reports environment steps to the progress bar it is given, and returns the episodes played."""

COUNTERS = (
    "num_timesteps", "_n_iterations", "_n_updates", "_total_timesteps", "_num_timesteps_at_start", "_entropy",
)  # fmt: skip


class IterativeLearner(Checkpointed):
    """A learner whose policy holds meta-parameters, which outer steps move; callbacks run once an iteration.

    Attributes:
        run_name: of TensorBoard runs; None: the name of the class.
    """

    run_name: ClassVar[str | None] = None
    _n_iterations: int
    _entropy: int

    @abstractmethod
    def _iterations(self, env: VecEnv) -> AbstractContextManager[Iteration]:
        """What takes outer steps in an env, and holds what they need from one to the next; a task is pinned."""

    def _seed_iterations(self) -> None:
        """Seed everything; iterations hang on the seed and their number."""
        self.set_random_seed(self.seed)
        if self.env is not None:
            self.env.reset()  # seeds take effect at a reset
        # Without a seed it hangs on the process's random state, as all of SB3 does.
        self._entropy = int(np.random.randint(2**31 - 1)) if self.seed is None else self.seed  # noqa: NPY002

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
        """Meta-train.

        Args:
            total_timesteps: environment steps, of all rows and tasks; the last iteration is completed.
            callback: SB3 callbacks, called once an iteration.
            log_interval: iterations between logs; None never logs.
            tb_log_name: name of the run in TensorBoard; that of the class by default.
            reset_num_timesteps: count from 0; False goes on, after `load` too, as if never interrupted.
            progress_bar: show one, in environment steps.

        Returns:
            Itself.

        Raises:
            ConfigError: if there is no env to learn in, or none that can be sent to workers, where there are some.
            DivergenceError: if learning left numbers that are not finite.
        """
        env = require_env(self.env)
        name = tb_log_name or self.run_name or type(self).__name__
        total_timesteps, callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, name)
        bar = tqdm(total=total_timesteps, initial=self.num_timesteps, unit="step", disable=not progress_bar)
        callback.on_training_start(locals(), globals())
        try:
            with self._iterations(env) as iterate:
                while self.num_timesteps < total_timesteps:
                    self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                    callback.on_rollout_start()
                    dones = np.ones(iterate(bar), dtype=np.bool_)  # SB3's callbacks count episodes
                    callback.on_rollout_end()
                    if log_interval is not None and self._n_iterations % log_interval == 0:
                        log_progress(self)
                    callback.update_locals(locals())
                    if not callback.on_step():
                        break
        finally:
            bar.close()
            give_task(env, None)
        callback.on_training_end()
        return self

    @override
    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # SB3's own would reset the env, whose random streams a resumed run must find as they were.
        total_timesteps = start_counting(self, total_timesteps, reset=reset_num_timesteps)
        resume_rng(self)
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        return total_timesteps, self._init_callback(callback)


def pin_any(agent: IterativeLearner, env: VecEnv) -> None:
    """Pin a task, as every iteration leaves one pinned: what a foreign env draws at a reset may hang on that."""
    statistics = capture_statistics(env)
    try:
        with preserved_rng():
            seed_run(agent.learner, env, derived_seed(agent._entropy, agent._n_updates))
            env.reset()
            give_task(env, draw_tasks(env, 1)[0])
    finally:
        restore_statistics(env, statistics)


def training_state(agent: IterativeLearner) -> tuple[dict[str, Any], dict[str, Array]]:
    """Counters, random states and the env, for a checkpoint: what JSON can express, and arrays."""
    meta = {
        "counters": {name: int(getattr(agent, name)) for name in COUNTERS},
        "action_rng": generator_state(agent.action_space.np_random),
    }
    arrays = kept_rng(agent)
    native = native_env(agent.env)
    if native is not None and hasattr(native, "get_state"):
        arrays |= prefixed("env", native.get_state())
    return meta, arrays


def resume_training(agent: IterativeLearner, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Put back what `training_state` returned; random states of the process follow when it learns on.

    To be called by what the learner's ``_restore`` calls: a warning names the caller of ``load``.

    Raises:
        CheckpointError: if it belongs to another env.
    """
    set_generator_state(agent.action_space.np_random, meta["action_rng"])
    for name in COUNTERS:
        setattr(agent, name, int(meta["counters"][name]))
    native, state = native_env(agent.env), section("env", arrays)
    if agent.env is None:
        return
    if native is not None and state:
        try:
            native.set_state(state)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise CheckpointError(f"the env does not take the stored state of the training env: {error!r}") from error
        return
    warnings.warn(
        "The state of this training env cannot be stored: it starts anew. Training seeds and resets it, so it goes on, "
        "but bit for bit only if nothing else in it outlives a reset.",
        stacklevel=5,  # the caller of load
    )
