"""Plain learners for many tasks, from one meta-learner: all at once where it adapts so, else one after the other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metagym.algos.batched_rows import TaskRows, clock_of, require_native
from metagym.algos.batched_run import Learnt, Streams, learn_tasks
from metagym.algos.reptile_adapt import adapt_learner, make_learner
from metagym.algos.reptile_env import copy_vec_env, give_task, require_env
from metagym.algos.reptile_inner import adaptation_arguments, rollout_size
from metagym.algos.reptile_run import derived_seed, not_finite
from metagym.engine import TaskVectorEnv
from metagym.errors import DivergenceError
from metagym.learner_state import LearnerState, live_tensors, preserved_rng, reset_running_state, restore_tensors

if TYPE_CHECKING:
    from metagym.algos.reptile import Reptile

__all__ = ["adapt_learners"]

_NOT_OF_ROWS = frozenset({"sampling", "finished"})


def adapt_learners(agent: "Reptile", tasks: Sequence[Any], budget: int, seed: int | None) -> list[BaseAlgorithm]:
    """Independent learners that have learnt one task each; see `Reptile.adapt_many`.

    Args:
        agent: whose meta-parameters they start from.
        tasks: what they learn.
        budget: environment steps on each task.
        seed: of the noise.

    Raises:
        DivergenceError: if what one of them learnt is not finite.
    """
    if not tasks:
        return []
    with preserved_rng():
        entropy = int(np.random.randint(2**31 - 1)) if seed is None else seed  # noqa: NPY002 (SB3's stream)
    seeds = [derived_seed(entropy, place) for place in range(len(tasks))]
    if agent.batched and not any(isinstance(task, str | gym.Env | VecEnv | VectorEnv) for task in tasks):
        models = _all_at_once(agent, tasks, budget, seeds)
    else:
        like = agent._normalization()
        models = [
            adapt_learner(agent, task, budget, own, frozen=agent._frozen_names, normalization=like)
            for task, own in zip(tasks, seeds, strict=True)
        ]
    theta = LearnerState(live_tensors(agent.learner), {})
    for task, model in zip(tasks, models, strict=True):
        if broken := not_finite(LearnerState(live_tensors(model), {}), theta):
            raise DivergenceError(
                f"{type(model).__name__} diverged on {task!r}: NaN or infinity in {broken[:4]}; lower learning_rate in "
                "learner_kwargs"
            )
    return models


def _all_at_once(agent: "Reptile", tasks: Sequence[Any], budget: int, seeds: Sequence[int]) -> list[BaseAlgorithm]:
    env = require_env(agent.env)
    with preserved_rng():
        made = [_newborn(agent, env, task, budget, seed) for task, seed in zip(tasks, seeds, strict=True)]
        models, streams = [model for model, _ in made], [own for _, own in made]
        first, unit = models[0], rollout_size(models[0])
        rows = TaskRows(
            require_native(env), len(tasks), start=clock_of(first.get_env()), window=first._stats_window_size
        )
        theta = LearnerState.capture(agent.learner, moments=False)
        timesteps = max(budget // unit, 1) * unit
        learnt = learn_tasks(first, rows, theta.tensors, tasks, streams, timesteps, agent._frozen_names)
        for place, model in enumerate(models):
            _bring_up(model, learnt, place, timesteps)
    return list(models)


def _newborn(agent: "Reptile", env: VecEnv, task: Any, budget: int, seed: int) -> tuple[PPO | A2C, Streams]:
    """A learner as `adapt_learner` makes it, and the streams that its run would go on with."""
    set_random_seed(seed)
    own = copy_vec_env(env)
    give_task(own, task)
    own.seed(seed)
    own.action_space.seed(seed)
    model = make_learner(agent, own, adaptation_arguments(agent._inner_arguments, own.num_envs, budget))
    assert isinstance(model, PPO | A2C)
    reset_running_state(model)
    generator, shuffler = th.Generator(), np.random.RandomState()
    generator.set_state(th.get_rng_state())
    shuffler.set_state(np.random.get_state())  # noqa: NPY002 (SB3's stream)
    return model, Streams(generator, shuffler, seed)


def _bring_up(model: PPO | A2C, learnt: Learnt, place: int, timesteps: int) -> None:
    """Make a new learner what it would be had it learnt by itself; only the rollout and the logs are not kept."""
    env, rows, updater = require_env(model.get_env()), learnt.rows, learnt.updater
    model._setup_learn(timesteps)
    restore_tensors(model, learnt.policy.tensors_of(place))
    for parameter, moments in zip(model.policy.parameters(), updater.moments_of(place), strict=True):
        if moments:
            model.policy.optimizer.state[parameter] = moments
    model.policy.set_training_mode(True)
    chosen = slice(place * rows.num_rows, (place + 1) * rows.num_rows)
    _bring_up_rows(require_native(env), rows, chosen)
    if isinstance(env, VecMonitor):
        env.episode_returns[:], env.episode_lengths[:] = rows.returns[chosen], rows.lengths[chosen]
        env.episode_count = rows.episodes[place].number
    model._last_obs, model._last_episode_starts = learnt.observations[chosen].copy(), learnt.dones[chosen].copy()
    model.num_timesteps, model._n_updates = learnt.timesteps, int(updater.num_updates[place])
    model._update_current_progress_remaining(learnt.timesteps, timesteps)
    episodes = rows.episodes[place]
    model.ep_info_buffer, model.ep_success_buffer = episodes.latest, episodes.successes
    # So that its next learn() sets up a logger, also after save and load.
    model._custom_logger = False


def _bring_up_rows(native: TaskVectorEnv, rows: TaskRows, chosen: slice) -> None:
    own, common = native.get_state(), rows.env.get_state()
    native.set_state({name: value if name in _NOT_OF_ROWS else common[name][chosen] for name, value in own.items()})
