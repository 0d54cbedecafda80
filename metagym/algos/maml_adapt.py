"""Plain learners of Stable-Baselines3 that have taken gradient steps on tasks, from a meta-learner's parameters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.maml_arguments import learner_arguments
from metagym.algos.maml_iteration import Played, play_and_adapt
from metagym.algos.maml_rollout import Collector
from metagym.algos.maml_rows import lock_step_rows, require_plain_env, with_rows
from metagym.algos.reptile_adapt import adaptation_env, make_learner
from metagym.algos.reptile_env import give_task, require_env
from metagym.algos.reptile_inner import check_counts
from metagym.algos.reptile_run import derived_seed
from metagym.errors import ConfigError
from metagym.learner_state import preserved_rng, reset_running_state

if TYPE_CHECKING:
    from metagym.algos.maml_learner import GradientMetaLearner

__all__ = ["adapt_tasks"]


def adapt_tasks(
    agent: "GradientMetaLearner", tasks: Sequence[Any], n_steps: int, n_envs: int | None, seed: int | None
) -> list[BaseAlgorithm]:
    """Independent learners that have adapted to one task each; see `GradientMetaLearner.adapt_many`.

    Args:
        agent: whose meta-parameters they start from.
        tasks: tasks or envs.
        n_steps: gradient steps.
        n_envs: rows of each task; None: those of the env.
        seed: of the noise.
    """
    with preserved_rng():
        entropy = int(np.random.randint(2**31 - 1)) if seed is None else seed  # noqa: NPY002 (SB3's stream)
        # One more than there are steps: what is random where tasks begin hangs on the first, also without a step.
        seeds = [[derived_seed(entropy, place, step) for step in range(n_steps + 1)] for place in range(len(tasks))]
        envs = [_env(agent, task, n_envs, own[0]) for task, own in zip(tasks, seeds, strict=True)]
        if tasks and _play_together(envs, tasks):
            played = _play(agent, envs[0], tasks, seeds, n_steps)
            return [_model(agent, env, played, place) for place, env in enumerate(envs)]
        # The envs hold the tasks.
        return [
            _model(agent, env, _play(agent, env, [None], [own], n_steps), 0)
            for env, own in zip(envs, seeds, strict=True)
        ]


def _play_together(envs: Sequence[VecEnv], tasks: Sequence[Any]) -> bool:
    return not any(map(_is_env, tasks)) and lock_step_rows(envs[0], 1) is not None


def _is_env(task: Any) -> bool:
    return isinstance(task, str | gym.Env | VecEnv | VectorEnv)


def _env(agent: "GradientMetaLearner", task: Any, n_envs: int | None, seed: int) -> VecEnv:
    """An env of its own for one adaptation."""
    reads: Any = agent  # with all that adaptation_env reads
    if n_envs is None:
        env = adaptation_env(reads, task, seed)
    else:
        check_counts(n_envs=n_envs)
        if _is_env(task):
            raise ConfigError(f"n_envs={n_envs} goes with a task: the env given has the rows that it has")
        env = with_rows(require_env(agent.env), n_envs)
        give_task(env, task)
        env.seed(seed)
        env.action_space.seed(seed)
    require_plain_env(env)
    return env


def _play(
    agent: "GradientMetaLearner", env: VecEnv, tasks: Sequence[Any], seeds: Sequence[Sequence[int]], n_steps: int
) -> Played:
    collector = Collector(agent._parts.function, agent._parts.law, env, len(tasks), agent.n_steps)
    return play_and_adapt(agent, collector, tasks, seeds, n_steps, plays_on=False)


def _model(agent: "GradientMetaLearner", env: VecEnv, played: Played, place: int) -> BaseAlgorithm:
    """A plain learner with the parameters that one task led to."""
    like: Any = agent  # with all that make_learner reads
    arguments = agent._inner_arguments
    if env.num_envs != agent.n_envs:
        arguments = learner_arguments(agent.learner_class, agent.learner_kwargs, env.num_envs)
    model = make_learner(like, env, arguments)
    own: dict[str, th.Tensor] = dict(model.policy.named_parameters())
    with th.no_grad():
        for name, tensor in agent.learner.policy.named_parameters():
            own[name].copy_(played.parameters[name][place] if name in played.parameters else tensor)
        for buffer, value in zip(model.policy.buffers(), agent.learner.policy.buffers(), strict=True):
            buffer.copy_(value)
    reset_running_state(model)
    model.num_timesteps = played.timesteps // len(next(iter(played.parameters.values())))
    # So that its next learn() sets up a logger, also after save and load.
    model._custom_logger = False
    return model
