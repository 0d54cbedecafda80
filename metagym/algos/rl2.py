"""RL²: fast reinforcement learning via slow reinforcement learning (Duan et al. 2016; Wang et al. 2016).

    1. repeat
    2.     every row starts a trial: a task drawn from the distribution, and an empty memory
    3.     act for n_steps; within a trial the memory lives on from episode to episode, and the policy sees the
           previous action, the previous reward and where episodes begin
    4.     advantages over whole trials: an episode's end does not cut them, so exploring is paid for by what
           later episodes earn with it
    5.     improve the policy by any on-policy learner (PPO), back-propagating through whole trials

What is learnt is itself a learning algorithm: on a new task the weights stay, and only the memory changes.

Differs from the papers: PPO by default, with TRPO (of the first paper) and A2C as choices, and a learnt value
function; the learner minimises through complete trials only, so a trial longer than a rollout is carried over and
trained on when it has ended.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar

from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from typing_extensions import Self, override

from metagym.algos.rl2_adapted import copy_policy
from metagym.algos.rl2_agent import RL2Agent
from metagym.algos.rl2_checkpoint import KIND, contents, restore
from metagym.algos.rl2_env import TrialSource
from metagym.algos.rl2_learners import check_keywords, defaults_of, joined, learner_class_of, maker_of, other_kind
from metagym.errors import ConfigError
from metagym.nets import TrialActorCriticPolicy
from metagym.rollout import TaskReader, TrialRollouts, TrialTRPO
from metagym.types import Array
from metagym.wrappers.context import CONTEXT

__all__ = ["RL2", "RL2A2C", "RL2PPO", "RL2TRPO"]

DEFAULT_N_ENVS = 64
POLICIES: dict[str, type[BasePolicy]] = dict.fromkeys(
    ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"), TrialActorCriticPolicy
)


class RL2(RL2Agent, TrialRollouts):
    """A learner whose memory learns: SB3's PPO (or A2C, or sb3-contrib's TRPO) on trials, with a recurrent policy.

    ``RL2(...)`` makes an instance of both RL2 and `learner_class`, so callbacks, loggers, ``evaluate_policy`` and
    all of SB3's keywords work as they do there. What SB3 calls an episode is a trial: ``rollout/ep_rew_mean`` is
    the mean return of whole trials. In addition it logs

    * ``meta/trials``: trials trained on in the last update,
    * ``meta/first_episode_return``, ``meta/last_episode_return``: mean return of the first and of the last episode
      of these trials: what the policy does before and after it has learnt a task.

    Args:
        policy: "MlpPolicy" (or, the same, "CnnPolicy" or "MultiInputPolicy": what reads an observation follows from
            its space), or a `TrialActorCriticPolicy` class. ``policy_kwargs`` takes ``rnn_type`` ("gru" or "lstm"),
            ``rnn_hidden_size`` (64), ``n_rnn_layers`` (1) and everything of SB3's ActorCriticPolicy.
        env: an id of metagym's, a scalar metagym env, a metagym vector env (autoreset SAME_STEP or DISABLED), or an
            SB3 VecEnv that emits whole trials. All but the last are wrapped in `Trial` and `RL2Context` here.
        learner_class: PPO (default), A2C, TRPO, a subclass of one of them, or its name. Off-policy algorithms and ARS
            learn with a window in place of a memory: RL2 then makes a `metagym.algos.rl2_window.WindowRL2`, whose
            keywords these are.
        episodes_per_trial: number of episodes of a trial; this or the next is required, but not with a VecEnv.
        steps_per_trial: number of steps of a trial.
        n_envs: trials played in parallel (64).
        env_kwargs: keywords of the family, with an id.
        split: part of the distribution that training tasks come from, with an id.
        privileged_critic: tell the value function the task, in training. The policy and `predict` never see it. The
            critic then has a memory of its own, unless policy_kwargs say ``share_features_extractor=True``.
        expected_rewards: learn from what an action pays on average in the hidden task and state, where the family can
            tell (`metagym.family.Family.expected_reward`), in place of what it happened to pay: advantages with less
            noise. The policy observes, and logs show, what was paid.
        regret: count every episode relative to the optimal return of its task, where the family knows it, which takes
            out of the advantages how much there is to earn in a task. For trials of a fixed number of episodes. The
            policy observes, and logs show, what was paid.
        **kwargs: those of `learner_class`. These differ from SB3's defaults: ``n_steps`` such that a rollout has about
            4096 steps over all rows, a whole number of trials if these have a fixed length; with PPO and TRPO also
            ``batch_size`` (a quarter of a rollout; minibatches are whole trials of about so many steps),
            ``learning_rate`` 5e-3, ``gamma`` 0.97, ``gae_lambda`` 0.7, with PPO ``n_epochs`` 4 and ``ent_coef`` 0.01.
            They suit memories of about 64 units; larger ones, and long training, want a lower or a decaying learning
            rate. With TRPO the critic has a memory of its own (``share_features_extractor`` is False).

    Attributes:
        env: the training env, SB3's.
        num_timesteps: environment steps taken in training.

    Raises:
        ConfigError: if an argument is out of range, the env does not emit trials, or cannot tell its tasks to a
            privileged critic, or expected rewards.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    learner_class: ClassVar[type[OnPolicyAlgorithm]] = PPO

    def __new__(cls, policy: Any = "MlpPolicy", env: Any = None, *, learner_class: Any = None, **kwargs: Any) -> Any:
        """An instance of the class that joins RL2 and the learner class."""
        wanted, learner = learner_class_of(cls.learner_class if learner_class is None else learner_class)
        maker = maker_of(learner)
        if maker is not None and cls is RL2:
            return maker(policy, env, learner_class=wanted, **kwargs)
        return super().__new__(joined(cls, wanted, _JOINED))

    def __init__(
        self,
        policy: str | type[TrialActorCriticPolicy] = "MlpPolicy",
        env: Any = None,
        *,
        learner_class: type[OnPolicyAlgorithm] | str | None = None,
        episodes_per_trial: int | None = None,
        steps_per_trial: int | None = None,
        n_envs: int | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        split: str | None = "train",
        privileged_critic: bool = False,
        expected_rewards: bool = False,
        regret: bool = False,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        del learner_class
        check_keywords(self, policy, n_envs, privileged_critic, kwargs)
        helps = {"privileged_critic": privileged_critic, "expected_rewards": expected_rewards, "regret": regret}
        for name, value in helps.items():
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}.")
        self.expected_rewards, self.regret = expected_rewards, regret
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
        self._check_env(vec_env)
        settings = copy.deepcopy(kwargs)
        if vec_env is not None:
            n_envs = vec_env.num_envs
            settings = defaults_of(
                self.learner_class,
                settings,
                n_steps=self._source.rollout_steps(n_envs),
                n_envs=n_envs,
                task_size=TaskReader(vec_env).size if privileged_critic else 0,
            )
        self._resumed_rng: dict[str, Array] | None = None
        self._settings = copy.deepcopy(settings) | {"policy": policy, **helps}
        with warnings.catch_warnings():
            # Minibatches are whole trials, dealt evenly: that batch_size does not divide the rollout is no matter.
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            # The class, not its alias: SB3 would refuse "CnnPolicy" for an image beside its context.
            policy_class: Any = self.policy_aliases[policy] if isinstance(policy, str) else policy
            super().__init__(policy_class, vec_env, _init_setup_model=False, **settings)  # type: ignore[arg-type]
        if _init_setup_model:
            self._setup_model()

    @override
    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RL2",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for at least so many environment steps.

        Args:
            total_timesteps: steps, over all rows; rounded up to whole rollouts.
            callback: SB3 callbacks; every call sees a consistent learner, which it may save.
            log_interval: updates between log lines; None: none.
            tb_log_name: name of the TensorBoard run.
            reset_num_timesteps: start counting, and the trials, anew.
            progress_bar: show one.

        Raises:
            ConfigError: if the learner has no env.
        """
        self._begin_learning()
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return self

    @override
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        trials = self.rollout_buffer.trials
        self.logger.record("meta/trials", len(trials.env))
        entries = self.observation_space.spaces if isinstance(self.observation_space, spaces.Dict) else None
        if self._source.family is not None and (entries is None or CONTEXT in entries):
            # RL2Context's last number is 1 on the first observation of every episode.
            key = None if entries is None else CONTEXT
            first, last = self.rollout_buffer.first_and_last_returns(boundary=-1, key=key)
            self.logger.record("meta/first_episode_return", float(first.mean()))
            self.logger.record("meta/last_episode_return", float(last.mean()))
        return True

    @override
    def _check_env(self, vec_env: VecEnv | None) -> None:
        normaliser = None if vec_env is None else unwrap_vec_normalize(vec_env)
        if normaliser is not None and normaliser.norm_obs:
            raise ConfigError(
                "RL2 in a VecNormalize(norm_obs=True) is not accepted: it would also normalise the previous action, "
                "the previous reward and the flag that says where episodes begin; accepted is norm_obs=False."
            )
        if vec_env is not None:
            self._credits_in(vec_env)

    @override
    def copied_policy(self) -> TrialActorCriticPolicy:
        return copy_policy(self.policy)

    @override
    def save(
        self,
        path: str | Path | BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save in metagym's own format, whose loading executes nothing.

        Everything is saved that further training depends on: parameters, optimiser, counters, random states, unfinished
        trials, and a native env. So a learner loaded from it goes on, with ``learn(..., reset_num_timesteps=False)``,
        exactly as this one would.

        Args:
            path: file; ".zip" is added where there is no suffix.
            exclude: not supported; there because SB3 has it.
            include: likewise.

        Raises:
            ConfigError: if the file cannot be written, or `path` is no path.
        """
        if exclude or include:
            raise ConfigError("a metagym checkpoint has fixed contents: exclude and include are not supported.")
        self._write(path, {}, contents(self))

    @classmethod
    @override
    def _kind(cls) -> str:
        return KIND

    @classmethod
    @override
    def _other_kind(cls, kind: Any) -> Any:
        return other_kind(kind)

    @override
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        restore(self, arrays)


class RL2PPO(RL2, PPO):
    """`RL2` with PPO; what ``RL2(..., learner_class=PPO)`` returns."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES


class RL2A2C(RL2, A2C):
    """`RL2` with A2C; what ``RL2(..., learner_class=A2C)`` returns."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    learner_class: ClassVar[type[OnPolicyAlgorithm]] = A2C


class RL2TRPO(RL2, TrialTRPO):
    """`RL2` with TRPO; what ``RL2(..., learner_class=TRPO)`` returns."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    learner_class: ClassVar[type[OnPolicyAlgorithm]] = TRPO


_JOINED: dict[type[Any], type[RL2]] = {PPO: RL2PPO, A2C: RL2A2C, TRPO: RL2TRPO}
