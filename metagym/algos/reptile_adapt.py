"""Making the learner inside Reptile, and independent ones that adapt to a task."""

import copy
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from metagym.algos.reptile_env import copy_vec_env, give_task, require_env, vec_env, vec_env_of_copies
from metagym.algos.reptile_frozen import held
from metagym.algos.reptile_inner import adaptation_arguments, rollout_size
from metagym.algos.reptile_normalize import Normalization, forget_statistics, normalized
from metagym.errors import ConfigError, MetagymError
from metagym.learner_state import LearnerState, preserved_rng, reset_running_state

if TYPE_CHECKING:
    from metagym.algos.reptile import Reptile

__all__ = ["adapt_learner", "adaptation_env", "make_learner"]


def make_learner(agent: "Reptile", env: VecEnv | None, arguments: Mapping[str, Any]) -> BaseAlgorithm:
    """A new, silent learner of the agent's class; without an env it has the agent's spaces.

    Raises:
        ConfigError: if the class does not support the policy, the spaces or an argument.
    """
    make: Any = agent.learner_class  # the subclasses' signature, not BaseAlgorithm's
    try:
        learner: BaseAlgorithm = make(
            agent.policy_argument,
            env,
            # Learners write into what they are given.
            policy_kwargs=copy.deepcopy(agent.policy_kwargs),
            device=agent.device,
            _init_setup_model=False,
            **copy.deepcopy(dict(arguments)),
        )
        if env is None:
            learner.observation_space, learner.action_space = agent.observation_space, agent.action_space
            learner.n_envs = agent.n_envs
        learner._setup_model()
    except MetagymError:
        raise
    except (AssertionError, NotImplementedError, TypeError, ValueError) as refusal:
        spaces = "" if env is None else f", observations {env.observation_space} and actions {env.action_space}"
        raise ConfigError(
            f"{agent.learner_class.__name__} does not support policy {agent.policy_argument!r}{spaces}: {refusal}"
        ) from refusal
    learner.set_logger(Logger(None, []))
    return learner


def adapt_learner(
    agent: "Reptile",
    task: Any,
    budget: int,
    seed: int | None,
    *,
    frozen: Collection[str] = (),
    normalization: Normalization | None = None,
    is_new: bool = False,
) -> BaseAlgorithm:
    """An independent learner that starts from the meta-parameters and has learnt one task; see `Reptile.adapt`.

    Args:
        agent: whose meta-parameters.
        task: a task, or an env.
        budget: environment steps.
        seed: of the noise.
        frozen: names of tensors that stay as they are meanwhile.
        normalization: how an env is to normalise that does not by itself.
        is_new: it knows nothing, statistics of `VecNormalize` included: it gathers its own.
    """
    with preserved_rng():
        if seed is not None:
            set_random_seed(seed)
        env = adaptation_env(agent, task, seed)
        env = env if normalization is None else normalized(env, normalization, training=False)
        if is_new:
            forget_statistics(env)
        model = make_learner(agent, env, adaptation_arguments(agent._inner_arguments, env.num_envs, budget))
        theta = LearnerState.capture(agent.learner)
        theta.restore(model, optimizer="fresh" if agent.inner_optimizer == "fresh" else "snapshot")
        reset_running_state(model)
        unit = rollout_size(model)
        with held(model, frozen):
            model.learn(max(budget // unit, 1) * unit, log_interval=None)  # type: ignore[arg-type]
    # So that its next learn() sets up a logger, also after save and load.
    model._custom_logger = False
    return model


def adaptation_env(agent: "Reptile", task: Any, seed: int | None) -> VecEnv:
    """The env that an adaptation takes place in: a copy of the training env that holds the task, or the env given.

    Args:
        agent: whose training env.
        task: a task, or an env.
        seed: of the env; None: it goes on, and a copy is seeded from the process's random state.

    Raises:
        ConfigError: if the training env cannot be copied, or there is none.
    """
    if isinstance(task, gym.Env):
        # Copies, and not a native env of its family, because its pin counts here.
        env = vec_env_of_copies(task, agent.n_envs)
    elif isinstance(task, str | VecEnv | gym.vector.VectorEnv):
        env = vec_env(task, n_envs=agent.n_envs, split=agent.split)
    else:
        env = copy_vec_env(require_env(agent.env))
        give_task(env, task)
        seed = int(np.random.randint(2**31 - 1)) if seed is None else seed  # noqa: NPY002 (SB3's stream)
    if seed is not None:
        env.seed(seed)
        env.action_space.seed(seed)
    return env
