"""RL² for learners without a recurrent policy: they see a window of the trial's last transitions.

    1. repeat
    2.     every row plays trials; what it acts on are the last K observations of its trial, each with the action, the
           reward and the boundary before it
    3.     a GRU, convolutions with attention (SNAIL) or a Transformer reads the window in place of a memory
    4.     improve the policy as the learner does; off-policy ones store every row once and rebuild windows

Within a trial an episode's end is no end: values go on across it, so that exploring is paid for by later episodes.

Source: Duan et al. 2016 for trials; Mishra et al. 2018 for reading windows of them with attention. Differs: off-policy
learners (DQN, SAC, ...) in place of TRPO, and a window that may be shorter than a trial, in which case what is older
is forgotten.
"""

import copy
import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from sb3_contrib import ARS
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from typing_extensions import Self, override

from metagym.algos.rl2_agent import RL2Agent
from metagym.algos.rl2_env import TrialSource
from metagym.algos.rl2_learners import naming_refusals
from metagym.algos.rl2_window_act import WindowActor, WindowARSPolicy, copy_policy
from metagym.algos.rl2_window_arguments import BY_NAME, ON_POLICY, check_arguments, default_window, with_extractor
from metagym.algos.rl2_window_checkpoint import KIND, contents, restore
from metagym.algos.rl2_window_collect import ARSWindows, OffPolicyWindows, OnPolicyWindows, Windows
from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["WindowRL2", "window_class"]

DEFAULT_N_ENVS = 8
_PREFIX = "RL2Window"


class WindowRL2(RL2Agent, Windows):
    """A learner that learns within trials by looking back: any algorithm of SB3, with a window in place of a memory.

    ``WindowRL2(..., learner_class=SAC)`` makes an instance of both WindowRL2 and SAC, so callbacks, loggers,
    ``evaluate_policy`` and all of SB3's keywords work as they do there. What SB3 calls an episode is a trial.

    To its user it is a recurrent policy: it is given single observations, those of `RL2Context`, and the window is the
    state that ``predict`` returns. In addition to SB3's keys it logs ``meta/first_episode_return`` and
    ``meta/last_episode_return``: mean return of the first and of the last episode of trials.

    Args:
        policy: "MlpPolicy" (or, the same, "CnnPolicy" or "MultiInputPolicy": what reads an observation follows from
            its space), or a policy class of the learner's. ``policy_kwargs`` takes ``extractor`` ("gru", "snail" or
            "transformer"; default "gru") and everything that the learner's policies take, such as
            ``features_extractor_kwargs`` for the extractor: its sizes, and for Dicts and images ``encoder_class`` and
            ``encoder_kwargs``, which read one observation of the window.
        env: an id of metagym's, a scalar metagym env, a metagym vector env (autoreset SAME_STEP or DISABLED), or an
            SB3 VecEnv that emits whole trials. All but the last are wrapped in `Trial` and `RL2Context` here.
        learner_class: DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ, ARS, PPO, A2C or TRPO, a subclass of one of them, or
            its name.
        window: K, length of the window; default: the most steps that a trial can have, but at most 32.
        episodes_per_trial: number of episodes of a trial; this or the next is required, but not with a VecEnv.
        steps_per_trial: number of steps of a trial.
        n_envs: trials played in parallel (8).
        env_kwargs: keywords of the family, with an id.
        split: part of the distribution that training tasks come from, with an id.
        **kwargs: those of `learner_class`, with SB3's defaults, but for ARS: ``zero_policy`` False, and
            ``n_eval_episodes`` as many trials as there are envs. ``replay_buffer_class`` is `WindowReplayBuffer`.

    Attributes:
        env: the training env, SB3's, of single observations.
        window: K.
        num_timesteps: environment steps taken in training.

    Raises:
        ConfigError: if an argument is out of range, or the env does not emit trials.
    """

    learner_class: ClassVar[type[BaseAlgorithm]] = DQN
    stored_counters: ClassVar[tuple[str, ...]] = (*RL2Agent.stored_counters, "_n_calls", "exploration_rate")

    def __new__(cls, policy: Any = None, env: Any = None, *, learner_class: Any = None, **kwargs: Any) -> Self:
        """An instance of the class that joins WindowRL2 and the learner class."""
        del policy, env, kwargs
        joined = cls if learner_class is None and cls is not WindowRL2 else window_class(learner_class, on_policy=True)
        if joined is None:
            shown = learner_class.__name__ if isinstance(learner_class, type) else repr(learner_class)
            raise ConfigError(f"learner_class must be one of {sorted(BY_NAME)}, a subclass or its name; not {shown}.")
        if not issubclass(joined, cls):
            raise ConfigError(f"{cls.__name__} has its learner class already; use WindowRL2(learner_class=...).")
        made: Self = super().__new__(joined)
        return made

    def __init__(
        self,
        policy: str | type[BasePolicy] = "MlpPolicy",
        env: Any = None,
        *,
        learner_class: type[BaseAlgorithm] | str | None = None,
        window: int | None = None,
        episodes_per_trial: int | None = None,
        steps_per_trial: int | None = None,
        n_envs: int | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        split: str | None = "train",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        del learner_class
        check_arguments(self.learner_class, policy, window, n_envs, kwargs)
        if env is None and _init_setup_model:
            raise ConfigError("RL2 needs an env: an id, an env of tasks, or a VecEnv that emits whole trials.")
        self._source = TrialSource(
            env_kwargs=dict(env_kwargs or {}),
            split=split,
            n_envs=n_envs,
            episodes_per_trial=episodes_per_trial,
            steps_per_trial=steps_per_trial,
        )
        vec_env = None if env is None else self._source.vec_env(env, DEFAULT_N_ENVS)
        self.window = default_window(self._source) if window is None else window
        settings = copy.deepcopy(kwargs)
        if vec_env is not None and issubclass(self.learner_class, ARS):
            settings = {"zero_policy": False, "n_eval_episodes": vec_env.num_envs} | settings
        self._resumed_rng: dict[str, Array] | None = None
        self._settings = copy.deepcopy(settings) | {"policy": policy, "window": self.window}
        settings["policy_kwargs"] = with_extractor(self.learner_class, settings.get("policy_kwargs"))
        with naming_refusals(self.learner_class, vec_env):
            super().__init__(policy, vec_env, _init_setup_model=False, **settings)
            if _init_setup_model:
                self._setup_model()

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        if self.verbose:
            sys.stdout.write(f"{self}\n")

    @property
    def variant(self) -> str:
        """What was chosen for RL²: the learner, the window and what reads it."""
        reader = self.policy_kwargs["features_extractor_class"].__name__
        return f"{self.learner_class.__name__} with a window of {self.window} steps, read by {reader}"

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.variant})"

    @override
    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "RL2",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; arguments as in SB3.

        Args:
            total_timesteps: environment steps; rollouts are completed.
            callback: SB3 callbacks, called once a step of all rows.
            log_interval: trials (off-policy) or updates between log lines; None: none.
            tb_log_name: name of the TensorBoard run.
            reset_num_timesteps: start counting, and the trials, anew.
            progress_bar: show one.

        Raises:
            ConfigError: if the learner has no env.
        """
        self._begin_learning()
        super().learn(  # type: ignore[safe-super]
            total_timesteps,
            callback,
            log_interval=log_interval,  # type: ignore[arg-type]
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
        return self

    @property
    def current_exploration(self) -> float:
        """Share of random actions where actions are sampled: DQN's and QR-DQN's; 0 for others."""
        return float(getattr(self, "exploration_rate", 0.0))

    @override
    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Actions for the next observations of trials; arguments as for SB3's recurrent policies.

        Args:
            observation: what RL2Context emits, (D,) or (N, D), or a dict of (...) or (N, ...); or windows of it,
                (K, D + 1) or (N, K, D + 1), or a dict of (K, ...) or (N, K, ...).
            state: what the last call returned; None at the start.
            episode_start: True where a trial starts, (N,).
            deterministic: the best action instead of one as in training.
        """
        return WindowActor(self.policy, self.window_space, self.current_exploration).predict(
            observation, state, episode_start, deterministic
        )

    @override
    def copied_policy(self) -> WindowActor:
        return WindowActor(copy_policy(self.policy), self.window_space, self.current_exploration)

    @override
    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save in metagym's own format, whose loading executes nothing.

        Everything is saved that further training depends on, the replay buffer too, so that it goes on from there, with
        ``learn(..., reset_num_timesteps=False)``, to the bit. Three things begin anew: the noise of
        Ornstein-Uhlenbeck, the exploration matrices of gSDE if saved by a callback between two draws of them, and the
        unfinished rollout of PPO, A2C, TRPO and ARS if saved by a callback.

        Args:
            path: file; ".zip" is added where there is no suffix.
            exclude: nothing, or ``["replay_buffer"]``: a small file, from which training goes on with an empty buffer.
            include: not supported; there because SB3 has it.

        Raises:
            ConfigError: if the file cannot be written, or `path` is no path.
        """
        left_out = set(exclude or ())
        if include or left_out - {"replay_buffer"}:
            raise ConfigError("a metagym checkpoint has fixed contents: only 'replay_buffer' can be excluded.")
        self._write(path, *contents(self, with_buffer=not left_out))

    @classmethod
    @override
    def _kind(cls) -> str:
        return KIND

    @override
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        restore(self, meta, arrays)


_JOINED: dict[type[BaseAlgorithm], type[WindowRL2]] = {}


def window_class(learner_class: Any, *, on_policy: bool = False) -> type[WindowRL2] | None:
    """The class that is both `WindowRL2` and a learner class.

    Args:
        learner_class: of SB3 or its contrib package, or the name of one.
        on_policy: also for PPO, A2C and TRPO, for which a recurrent policy is the better choice.

    Returns:
        None for whatever has no variant with a window.
    """
    found = BY_NAME.get(learner_class) if isinstance(learner_class, str) else learner_class
    if not isinstance(found, type) or issubclass(found, WindowRL2):
        return None
    if issubclass(found, OffPolicyAlgorithm):
        kind: type[Windows] = OffPolicyWindows
    elif issubclass(found, ARS):
        kind = ARSWindows
    elif on_policy and issubclass(found, ON_POLICY):
        kind = OnPolicyWindows
    else:
        return None
    if found not in _JOINED:
        members: dict[str, Any] = {"learner_class": found, "__doc__": WindowRL2.__doc__, "__module__": __name__}
        if kind is ARSWindows:
            members["policy_aliases"] = {"MlpPolicy": WindowARSPolicy}
        _JOINED[found] = type(f"{_PREFIX}{found.__name__}", (WindowRL2, kind, found), members)
    return _JOINED[found]


def __getattr__(name: str) -> Any:
    # The classes have names in this module, as pickle wants it.
    found = window_class(name.removeprefix(_PREFIX), on_policy=True) if name.startswith(_PREFIX) else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
