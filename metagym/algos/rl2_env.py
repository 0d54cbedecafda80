"""What RL² trains and acts in: vector envs whose SB3 episodes are trials, and scalar ones like them."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium import error
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import HumanRendering, OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, RecordVideo
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecTransposeImage

from metagym.algos.reptile_env import check_env_kwargs
from metagym.distributions import TaskDistribution
from metagym.engine import RowsVectorEnv, TaskEnv, TaskVectorEnv
from metagym.engine.drivers import PlayableFamily, env_of, vector_env_of
from metagym.errors import ConfigError
from metagym.rollout import env_layers
from metagym.wrappers import RL2Context, Trial
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["TrialSource", "is_of_trials", "require_same_observations"]

# Steps of a rollout over all rows, unless that is less than a trial in each.
ROLLOUT_STEPS = 4096
# Of a scalar env: whatever else is around it would be lost in rows of its family.
_WITHOUT_EFFECT = (OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, HumanRendering, RecordVideo)
_ACCEPTED = (
    "an id of metagym's, a scalar metagym env, a metagym vector env, or an SB3 VecEnv that emits whole trials "
    "(metagym.parameterize makes a family of any other environment)"
)


@dataclass
class TrialSource:
    """How an `RL2` learner gets its envs.

    Attributes:
        env_id: Gymnasium id, or None if objects were given.
        env_kwargs: keywords of the family, with an id.
        split: part of the distribution that training tasks come from, with an id.
        n_envs: rows; None: the learner's default.
        episodes_per_trial: episodes of a trial, or None.
        steps_per_trial: steps of a trial, or None.
        family: the physics, once an env was made; None for foreign envs.
        distribution: what training tasks are drawn from, likewise.
    """

    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    split: str | None = "train"
    n_envs: int | None = None
    episodes_per_trial: int | None = None
    steps_per_trial: int | None = None
    family: PlayableFamily | None = None
    distribution: TaskDistribution | None = None

    def vec_env(self, env: Any, default_n_envs: int) -> VecEnv:
        """The SB3 vector env of trials to train in.

        Args:
            env: id, scalar metagym env, metagym vector env, or SB3 VecEnv of whole trials.
            default_n_envs: rows where neither the env nor `n_envs` says.

        Raises:
            ConfigError: if it is none of these, or does not fit the other arguments.
        """
        if isinstance(env, VecEnv):
            if self.episodes_per_trial is not None or self.steps_per_trial is not None:
                raise ConfigError(
                    "an SB3 VecEnv decides itself how long its trials are: "
                    "give neither episodes_per_trial nor steps_per_trial."
                )
            return self.check_vec_env(env)
        self._check_trial()
        if isinstance(env, VectorEnv):
            vector_env: Any = env
            self._check_rows(vector_env.num_envs)
        else:
            vector_env = self._make_vector_env(env, self.n_envs or default_n_envs)
        self._remember_tasks(vector_env)
        # SB3's Monitor must count trials, so it goes outside the wrapper that makes them.
        return VecMonitor(VectorEnvAdapter(self.wrap(vector_env)))

    def scalar_env(
        self, *, split: str | None, own_split: bool, render_mode: str | None, episodes: int | None = None
    ) -> Any:
        """A scalar env like those trained in.

        Args:
            split: part of the distribution its resets draw tasks from, unless `own_split`.
            own_split: draw from what training draws from.
            render_mode: of the env.
            episodes: episodes of a trial; None: as in training.

        Raises:
            ConfigError: if the learner was not given tasks it could make another env of.
        """
        if self.family is None:
            raise ConfigError(f"only a learner that was given tasks can make an env: pass {_ACCEPTED}.")
        kwargs: dict[str, Any] = {"distribution": self.distribution} if own_split else {"split": split}
        return self.wrap(env_of(self.family, render_mode=render_mode, **kwargs), episodes)

    def wrap(self, env: Any, episodes: int | None = None) -> Any:
        """Trials with RL²'s observations, over a scalar env or a vector env of tasks."""
        trial = self._trial(env) if episodes is None else Trial(env, episodes_per_trial=episodes)
        return RL2Context(trial)

    def rollout_steps(self, n_envs: int) -> int:
        """Steps of a rollout in each of so many rows, by default."""
        n_steps = max(1, ROLLOUT_STEPS // n_envs)
        trial_steps = self._trial_steps()
        if trial_steps is not None and (trial_steps <= n_steps or self.steps_per_trial is not None):
            # Trials of fixed length then leave nothing to carry over.
            return trial_steps * -(-n_steps // trial_steps)
        return n_steps

    def _trial_steps(self) -> int | None:
        """The most steps a trial can have, or None where only the env knows."""
        if self.steps_per_trial is not None:
            return self.steps_per_trial
        if self.family is None or self.episodes_per_trial is None:
            return None
        return self.episodes_per_trial * self.family.episode_length

    def _trial(self, env: Any) -> Any:
        if self.steps_per_trial is not None:
            return Trial(env, steps_per_trial=self.steps_per_trial)
        return Trial(env, episodes_per_trial=self.episodes_per_trial)

    def _check_trial(self) -> None:
        given = (self.episodes_per_trial, self.steps_per_trial)
        if (given[0] is None) == (given[1] is None):
            raise ConfigError(
                "give exactly one of episodes_per_trial and steps_per_trial, "
                f"not episodes_per_trial={given[0]!r} and steps_per_trial={given[1]!r}."
            )
        for name, value in zip(("episodes_per_trial", "steps_per_trial"), given, strict=True):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name} must be an integer of at least 1, not {value!r}.")

    def _check_rows(self, n_envs: int) -> None:
        if self.n_envs not in {None, n_envs}:
            raise ConfigError(f"n_envs={self.n_envs}, but the vector env that was given has {n_envs} rows.")

    def check_vec_env(self, env: VecEnv) -> VecEnv:
        """The same SB3 vector env, if its episodes are trials.

        Raises:
            ConfigError: if they are not.
        """
        if not is_of_trials(env):
            raise ConfigError(
                f"this {type(env).__name__} does not emit whole trials, whose ends alone may be `done`: put metagym's "
                "Trial and RL2Context inside it; one that emits trials by itself has an attribute episodes_per_trial."
            )
        self._check_rows(env.num_envs)
        self._remember_tasks(env)
        for layer in env_layers(env):
            if isinstance(layer, RowsVectorEnv) and hasattr(layer, "episodes_per_trial"):
                self.episodes_per_trial = layer.episodes_per_trial
                self.steps_per_trial = layer.steps_per_trial  # type: ignore[attr-defined]
        return env

    def _make_vector_env(self, env: Any, n_envs: int) -> VectorEnv[Any, Any, Any]:
        if isinstance(env, str):
            self.env_id = env
            return self._from_id(env, n_envs)
        if isinstance(env, gym.Env) and isinstance(env.unwrapped, TaskEnv):
            bare = env.unwrapped
            _refuse_wrappers(env)
            return vector_env_of(
                bare.family,
                n_envs,
                distribution=bare.task_distribution,
                autoreset_mode=AutoresetMode.SAME_STEP,
            )
        raise ConfigError(f"RL2 needs an environment of tasks: {_ACCEPTED}; not {_name(env)}.")

    def _from_id(self, env_id: str, n_envs: int) -> VectorEnv[Any, Any, Any]:
        check_env_kwargs(self.env_kwargs)
        try:
            spec = gym.spec(env_id)
        except error.Error as unknown:
            raise ConfigError(f"{env_id!r} is no registered environment id: {unknown}") from unknown
        if spec.vector_entry_point is None:
            raise ConfigError(f"{env_id!r} is no environment of tasks. RL2 needs {_ACCEPTED}.")
        try:
            return gym.make_vec(
                env_id,
                num_envs=n_envs,
                vectorization_mode="vector_entry_point",
                autoreset_mode=AutoresetMode.SAME_STEP,
                split=self.split,
                **self.env_kwargs,
            )
        except TypeError as wrong:
            raise ConfigError(f"{env_id!r} is no environment of tasks, or env_kwargs do not fit it: {wrong}") from wrong

    def _remember_tasks(self, env: Any) -> None:
        for layer in env_layers(env):
            if isinstance(layer, TaskVectorEnv):
                self.family, self.distribution = layer.family, layer.task_distribution
                return
        if not isinstance(env, VecEnv):
            raise ConfigError(f"RL2 needs an environment of tasks: {_ACCEPTED}; not {_name(env)}.")


def require_same_observations(env: Any, agent: Any) -> None:
    """Refuse a scalar env whose observations are not those that an agent was trained on.

    Raises:
        ConfigError: if they are not. (Channels of images may be last: SB3 brings them to the front, also to predict.)
    """
    seen = [agent.observation_space]
    seen += [layer.venv.observation_space for layer in env_layers(agent.env) if isinstance(layer, VecTransposeImage)]
    if env.observation_space not in seen:
        raise ConfigError(
            f"the training env was wrapped in something that make_env and adapt cannot repeat: {env.observation_space} "
            f"is not {agent.observation_space}."
        )


def is_of_trials(env: Any) -> bool:
    """Whether the episodes of a vector env are trials: whether it, or what it wraps, has ``episodes_per_trial``.

    metagym's `Trial` has that attribute, also inside the scalar envs of a ``DummyVecEnv``. A vector env of one's own
    that emits trials declares it too; its value may be None.
    """
    if any(hasattr(layer, "episodes_per_trial") for layer in env_layers(env)):
        return True
    try:
        return isinstance(env, VecEnv) and len(env.get_attr("episodes_per_trial")) > 0
    except (AttributeError, NotImplementedError, ConfigError):
        return False


def _refuse_wrappers(env: Any) -> None:
    """Refuse wrappers of a scalar env that would be lost, since what is trained in are rows of its family."""
    lost = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, _WITHOUT_EFFECT):
            lost.append(type(env).__name__)
        env = env.env
    if lost:
        raise ConfigError(
            "give the scalar env without wrappers that change observations, actions, rewards or lengths, not in "
            f"{', '.join(lost)}: RL2 trains in many rows of its family, and adds Trial and RL2Context itself. "
            "`metagym.parameterize(..., wrappers=[...])` makes wrappers part of a family."
        )


def _name(env: Any) -> str:
    return repr(env) if env is None or isinstance(env, int | float) else type(env).__name__
