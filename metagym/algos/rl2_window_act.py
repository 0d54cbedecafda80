"""Acting with a window: the policy that holds one between calls, and the vector env that makes them."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from typing_extensions import override

from metagym.algos.rl2_adapted import ENDLESS, AdaptedPolicy
from metagym.algos.rl2_env import TrialSource
from metagym.engine import TaskEnv
from metagym.errors import ConfigError
from metagym.learner_state import preserved_rng
from metagym.nets.extractors import GRUExtractor
from metagym.tasks import Task
from metagym.types import Array, Bool
from metagym.wrappers.window import no_windows, pushed

__all__ = ["WindowARSPolicy", "WindowActor", "WindowVecEnv", "play_episodes"]


class WindowActor:
    """A policy of windows that is given single observations: its state is the window.

    Args:
        policy: SB3's, over windows.
        space: of windows, (K, D + 1).
        exploration_rate: share of uniformly random actions where actions are sampled (DQN), drawn for every row by
            itself from NumPy's global generator.
    """

    def __init__(self, policy: BasePolicy, space: spaces.Box, exploration_rate: float = 0.0) -> None:
        self.policy, self.space, self.exploration_rate = policy, space, exploration_rate

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Actions, and the windows after seeing the observation.

        Args:
            observation: the newest, (D,) or (N, D), or whole windows, (K, D + 1) or (N, K, D + 1).
            state: the windows so far, (N, K, D + 1); None: nothing was seen.
            episode_start: True where a trial starts, (N,).
            deterministic: the most probable action instead of a sampled one.

        Raises:
            ConfigError: if the observation has another width.
        """
        array = np.asarray(observation, np.float32)
        shape = self.space.shape
        if array.shape[-2:] == shape:
            windows = array.reshape(-1, *shape)
            is_single = array.ndim == len(shape)
        elif array.shape[-1:] == (shape[1] - 1,) and array.ndim <= 2:
            rows = array.reshape(-1, shape[1] - 1)
            before = no_windows(len(rows), self.space) if state is None else state[0]
            starts = None if episode_start is None else np.asarray(episode_start, np.bool_)
            windows, is_single = pushed(before, rows, starts), array.ndim == 1
        else:
            raise ConfigError(f"an observation has shape ({shape[1] - 1},), or as a window {shape}, not {array.shape}")
        actions = self._actions(windows, deterministic)
        return (actions.squeeze(axis=0) if is_single else actions), (windows,)

    def _actions(self, windows: Array, deterministic: bool) -> Array:
        space = self.policy.action_space
        if deterministic or self.exploration_rate <= 0 or not isinstance(space, spaces.Discrete):
            chosen: Array = self.policy.predict(windows, None, None, deterministic)[0]
            return chosen
        # SB3 draws once for all rows, and from a generator that seeding the process does not reach.
        explores = np.random.rand(len(windows)) < self.exploration_rate  # noqa: NPY002
        actions: Array = space.start + np.random.randint(int(space.n), size=len(windows))  # noqa: NPY002
        if not explores.all():
            greedy = ~explores
            actions[greedy] = self.policy.predict(windows[greedy], None, None, deterministic)[0]
        return actions


class WindowVecEnv(VecEnvWrapper):
    """SB3's vector env of trials with windows for observations, for learners that store what they see.

    Args:
        venv: of flat observations.
        space: of windows.
        after_step: called with the ends of trials (N,) after each step.
    """

    def __init__(self, venv: VecEnv, space: spaces.Box, after_step: Callable[[Bool], None]) -> None:
        super().__init__(venv, observation_space=space)
        self._space, self._after_step = space, after_step
        self.windows = no_windows(self.num_envs, space)
        self.starts: Bool = np.ones(self.num_envs, np.bool_)

    @override
    def reset(self) -> VecEnvObs:
        self.starts = np.ones(self.num_envs, np.bool_)
        self.windows = pushed(no_windows(self.num_envs, self._space), np.asarray(self.venv.reset()))
        return self.windows

    @override
    def step_wait(self) -> VecEnvStepReturn:
        observation, rewards, dones, infos = self.venv.step_wait()
        before = self.windows
        for row in np.flatnonzero(dones):
            last = infos[row]["terminal_observation"]
            infos[row]["terminal_observation"] = pushed(before[row : row + 1], last[None])[0]
        self.windows, self.starts = pushed(before, np.asarray(observation), dones), dones
        self._after_step(dones)
        return self.windows, rewards, dones, infos


class WindowARSPolicy(ARSPolicy):
    """The policy of ARS over a features extractor of one's own; SB3's takes none.

    Args:
        observation_space: of windows.
        action_space: of one env.
        features_extractor_class: what reads windows.
        features_extractor_kwargs: its keywords.
        **kwargs: those of `ARSPolicy`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] = GRUExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._extractor = (features_extractor_class, dict(features_extractor_kwargs or {}))
        super().__init__(observation_space, action_space, **kwargs)

    @override
    def make_features_extractor(self) -> BaseFeaturesExtractor:
        kind, kwargs = self._extractor
        return kind(self.observation_space, **kwargs)


class _Agent(Protocol):
    policy: BasePolicy
    window_space: spaces.Box
    _source: TrialSource

    @property
    def current_exploration(self) -> float: ...


def play_episodes(
    agent: _Agent,
    task: Task | Mapping[str, Any] | gym.Env[Any, Any],
    episodes: int,
    *,
    deterministic: bool,
    seed: int | None,
) -> AdaptedPolicy:
    """Play episodes of one task with a copy of the agent's policy, and leave everything else as it was."""
    env = _env_of(agent._source, task)
    with preserved_rng():
        if seed is not None:
            set_random_seed(seed)
        observation, _ = env.reset(seed=seed)
        actor: Any = WindowActor(_copied(agent.policy), agent.window_space, agent.current_exploration)
        adapted = AdaptedPolicy(actor, env, observation)
        returns: list[float] = []
        while len(returns) < episodes:
            action, _ = adapted.predict(adapted.observation, deterministic=deterministic)
            adapted.observation, _, _, _, info = env.step(action)
            if info["episode_end"]:
                returns.append(float(info["last_episode_return"]))
    adapted.returns = np.array(returns)
    return adapted


def _env_of(source: TrialSource, task: Task | Mapping[str, Any] | gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    if not isinstance(task, gym.Env):
        env: gym.Env[Any, Any] = source.scalar_env(split=None, own_split=True, render_mode=None, episodes=ENDLESS)
        env.unwrapped.set_task(task)  # type: ignore[attr-defined]
        return env
    if not isinstance(task.unwrapped, TaskEnv):
        raise ConfigError(f"adapt needs a task or a scalar metagym env, not {type(task.unwrapped).__name__}.")
    wrapped: gym.Env[Any, Any] = source.wrap(task.unwrapped, ENDLESS)
    return wrapped


def _copied(policy: BasePolicy) -> BasePolicy:
    # What training left in the distributions are tensors of a graph, which cannot be copied.
    for module in policy.modules():
        distribution = vars(module).get("action_dist")
        kept = {} if distribution is None else vars(distribution)
        for name, value in list(kept.items()):
            if isinstance(value, th.Tensor):
                kept[name] = value.detach()
            elif name == "distribution" or isinstance(value, th.distributions.Distribution):
                del kept[name]  # made anew when it is next needed
    copied = copy.deepcopy(policy)
    copied.set_training_mode(False)
    return copied
