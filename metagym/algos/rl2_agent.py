"""What agents of trials share: their envs, adapting within a trial, and their checkpoints.

RL² with a memory and RL² with a window learn differently, and are used alike: both train in trials made of one
`TrialSource`, act in scalar envs of the same trials, adapt by playing episodes, and resume to the bit.
"""

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from typing_extensions import Self, override

from metagym.algos.learner_checkpoint import (
    blaming,
    episode_records,
    kept_rng,
    require_kind,
    restore_episode_records,
    resume_rng,
)
from metagym.algos.pretrained import pretrained_path
from metagym.algos.reptile_env import is_builtin
from metagym.algos.rl2_adapted import AdaptedPolicy, play_episodes
from metagym.algos.rl2_env import TrialSource, require_same_observations
from metagym.encoding import decode, encode
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import flatten_state, load_state, preserved_rng
from metagym.rollout import env_layers
from metagym.saving import read_archive, write_archive
from metagym.sections import prefixed, section
from metagym.tasks import Task
from metagym.types import Array
from metagym.wrappers.sb3 import VectorEnvAdapter

__all__ = ["RL2Agent", "env_state", "restore_env_state", "warn_of_new_trials"]

MONITOR = ("episode_returns", "episode_lengths")
# SB3's, which have no meaning here.
IGNORED = frozenset({"print_system_info", "force_reset"})


class RL2Agent(BaseAlgorithm):
    """Mixed in before what collects: an agent whose episodes, to Stable-Baselines3, are trials.

    Attributes:
        learner_class: the algorithm that the agent is joined with.
        stored_counters: names of the numbers that a checkpoint stores, of those that the algorithm has.
    """

    learner_class: ClassVar[type[BaseAlgorithm]]
    stored_counters: ClassVar[tuple[str, ...]] = (
        "num_timesteps", "_n_updates", "_episode_num", "_total_timesteps", "_current_progress_remaining",
    )  # fmt: skip
    _source: TrialSource
    _settings: dict[str, Any]
    _resumed_rng: dict[str, Array] | None

    # --- envs ----------------------------------------------------------------------------------------------------

    @property
    def env_id(self) -> str | None:
        """Id that the learner was built with, or None if it was given an env."""
        return self._source.env_id

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keywords of the family, with an id."""
        return dict(self._source.env_kwargs)

    @override
    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Train in another env, with as many rows.

        Args:
            env: as for the constructor; trials have the same length as before, but for a VecEnv.
            force_reset: begin it anew at the next `learn`.

        Raises:
            ConfigError: if it does not fit.
        """
        source = self._source
        vec_env = source.check_vec_env(env) if isinstance(env, VecEnv) else source.vec_env(env, self.n_envs)
        self._check_env(vec_env)
        super().set_env(vec_env, force_reset)

    def _check_env(self, vec_env: VecEnv | None) -> None:
        """Refuse an env of trials that this agent cannot learn in."""

    def make_env(
        self,
        task: Task | Mapping[str, Any] | None = None,
        *,
        split: str | object | None = ...,
        render_mode: str | None = None,
    ) -> gym.Env[Any, Any]:
        """A scalar env that this learner can act in: its observations and trials are those of training.

        Args:
            task: the task of every trial; None: each reset draws one.
            split: what resets draw from: "train", "test", "ood", or None for all; default: as in training.
            render_mode: of the env.

        Raises:
            ConfigError: if the learner was built on a foreign VecEnv.
            TaskError: if the task does not belong to the family.
        """
        own = split is ...
        env = self._source.scalar_env(
            split=None if own else split,  # type: ignore[arg-type]
            own_split=own,
            render_mode=render_mode,
        )
        require_same_observations(env, self)
        if task is not None:
            env.unwrapped.set_task(task)
        return env  # type: ignore[no-any-return]

    # --- learning ------------------------------------------------------------------------------------------------

    def _begin_learning(self) -> None:
        """What `learn` does first.

        Raises:
            ConfigError: if the learner has no env.
        """
        if self.env is None:
            raise ConfigError("this learner has no env to train in: pass env= to load, or call set_env.")
        resume_rng(self)

    def adapt(
        self,
        task: Task | Mapping[str, Any] | gym.Env[Any, Any],
        *,
        episodes: int | None = None,
        deterministic: bool = False,
        seed: int | None = None,
    ) -> AdaptedPolicy:
        """Play some episodes of one task; what was learnt of it is in the memory of the policy returned.

        The learner does not change, nor do the random states of the process. These steps are not counted.

        Args:
            task: a task, or a scalar metagym env, whose task (pinned or drawn) is played.
            episodes: how many (those of a training trial; with steps_per_trial it must be given).
            deterministic: take the best actions instead of sampling.
            seed: of the env and of the actions.

        Raises:
            ConfigError: if `episodes` is missing or below 1, or the env is of no task.
            TaskError: if the task does not belong to the family.
        """
        if episodes is None:
            episodes = self._source.episodes_per_trial
        if not isinstance(episodes, int) or isinstance(episodes, bool) or episodes < 1:
            raise ConfigError(f"episodes must be an integer of at least 1, not {episodes!r}.")
        return play_episodes(self, task, episodes, deterministic=deterministic, seed=seed)

    @abstractmethod
    def copied_policy(self) -> Any:
        """A copy of what acts within trials, with the interface of SB3's recurrent policies."""

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _write(self, path: Any, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Write a checkpoint of what all agents of trials store, and of what this kind has besides.

        Raises:
            ConfigError: if the file cannot be written, or `path` is no path.
        """
        if not isinstance(path, str | Path):
            raise ConfigError(f"RL2 saves to a path, not to a {type(path).__name__}.")
        source = self._source
        shared: dict[str, Any] = {
            "kind": self._kind(),
            "settings": encode(self._settings | {"learner_class": self.learner_class}),
            "spaces": encode([self.observation_space, self.action_space]),
            "n_envs": int(self.n_envs),
            "counters": {name: getattr(self, name) for name in self.stored_counters if hasattr(self, name)},
            "env": encode(
                {
                    "id": source.env_id,
                    "env_kwargs": source.env_kwargs,
                    "split": source.split,
                    "episodes_per_trial": source.episodes_per_trial,
                    "steps_per_trial": source.steps_per_trial,
                }
            ),
            **episode_records(self),
        }
        own = prefixed("learner", flatten_state(self)) | kept_rng(self)
        write_archive(path, meta={**shared, **meta}, arrays={**own, **arrays})

    @classmethod
    @override
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A learner that predicts as the saved one did, and trains on as it would have.

        Nothing in the file is executed.

        Training goes on with ``learn(n, reset_num_timesteps=False)`` as if it had never stopped: parameters, optimiser,
        counters, unfinished trials, the process's random states (set when `learn` starts) and metagym's own envs
        continue to the bit. Another env starts anew, and a warning says so.

        Args:
            path: what `save` wrote.
            env: as for the constructor; default: made anew from the id the learner was built with, if it was one of a
                registered family.
            device: where to put the networks.
            custom_objects: what the file could not hold (say, a schedule that is a function), by keyword.
            **kwargs: keywords of the learner class to change. (SB3's ``print_system_info`` and ``force_reset`` are
                accepted, and not used.)

        Raises:
            CheckpointError: if it is no checkpoint of such a learner, or needs `custom_objects`.
            ConfigError: if the env does not fit.
        """
        changes = {name: value for name, value in kwargs.items() if name not in IGNORED}
        meta, arrays = read_archive(path)
        other = cls._other_kind(meta.get("kind"))
        if other is not None:
            loaded: Self = other.load(path, env, device, custom_objects, **changes)
            return loaded
        require_kind(path, meta, cls._kind())
        with blaming(path):
            settings = decode(meta["settings"], custom_objects) | {**changes, "device": device}
            with preserved_rng():
                agent = cls._rebuild(meta, env, settings)
            load_state(agent, section("learner", arrays))
            agent._set_counters(meta["counters"])
            restore_episode_records(agent, meta)
            agent._restore(meta, arrays)
            agent._resumed_rng = section("rng", arrays)
        return agent

    @classmethod
    def from_pretrained(cls, name: str, env: Any = None, device: th.device | str = "auto") -> Self:
        """An agent that ships with metagym, trained. What it learns further begins with new trials.

        Args:
            name: which; `metagym.algos.pretrained` lists them, with their families, seeds and scores.
            env: as for `load`.
            device: where to put the networks.

        Raises:
            ConfigError: if there is none of this name, or the env does not fit.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The state of this training env was not saved")
            return cls.load(pretrained_path(name), env, device)

    @classmethod
    @abstractmethod
    def _kind(cls) -> str:
        """What a checkpoint says it is of."""

    @classmethod
    def _other_kind(cls, kind: Any) -> Any:
        """The class that loads checkpoints of another kind in place of this one, or None."""
        del kind

    @abstractmethod
    def _restore(self, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Put back what this kind of agent stores besides. Called by `load` itself."""

    def _set_counters(self, stored: Mapping[str, Any]) -> None:
        if unknown := sorted(set(stored) - set(self.stored_counters)):
            raise CheckpointError(f"the checkpoint holds the unknown counter {unknown[0]!r}.")
        for name in self.stored_counters:
            if hasattr(self, name):
                setattr(self, name, stored[name])

    @classmethod
    def _rebuild(cls, meta: Mapping[str, Any], env: Any, settings: dict[str, Any]) -> Self:
        """A learner with the stored spaces and settings, whose parameters are still fresh."""
        source = decode(meta["env"])
        env_id = source.pop("id")
        env = env_id if env is None and _can_make(env_id, source["env_kwargs"]) else env
        kwargs: dict[str, Any] = {}
        if isinstance(env, str):
            kwargs = source | {"n_envs": meta["n_envs"]}
        elif not isinstance(env, VecEnv):
            kwargs = {name: source[name] for name in ("episodes_per_trial", "steps_per_trial")}
        seed = settings.pop("seed", None)
        make: Any = cls  # the subclasses' signature, not BaseAlgorithm's
        agent: Self = make(settings.pop("policy"), env, _init_setup_model=False, **kwargs, **settings)
        found = (agent.observation_space, agent.action_space) if env is not None else None
        stored = tuple(decode(meta["spaces"]))
        if found is None:
            agent.observation_space, agent.action_space = stored
            agent.n_envs = meta["n_envs"]
        elif found != stored:
            raise ConfigError(f"the env has spaces {found}; the learner was trained with {stored}.")
        agent._setup_model()
        # Only now: setting up with a seed would restart the process's random streams.
        agent.seed = agent._settings["seed"] = seed
        return agent


def _can_make(env_id: Any, env_kwargs: Any) -> bool:
    """Whether the env of a checkpoint may be made: an id alone could make Gymnasium import what it names."""
    if env_id is None or is_builtin(env_id, env_kwargs):
        return env_id is not None
    warnings.warn(
        f"The learner was trained in {env_id!r}, which is not registered as a family's, or with keywords that name "
        "another family: it is loaded without an env. Import what registers it first, or pass env=.",
        stacklevel=4,  # the caller of load
    )
    return False


def warn_of_new_trials() -> None:
    """Say that trials start anew, to the caller of `load`, from what `RL2Agent._restore` calls."""
    warnings.warn(
        "The state of this training env was not saved or cannot be restored: its trials start anew, so training "
        "goes on, but not bit for bit.",
        stacklevel=5,
    )


def env_state(env: Any) -> dict[str, Array]:
    """State of the outermost native env inside, and of SB3's monitor; nothing if there is no native env."""
    arrays: dict[str, Array] = {}
    for layer in env_layers(env):
        if isinstance(layer, VecMonitor) and layer.episode_returns is not None:
            arrays |= {f"monitor/{name}": np.array(getattr(layer, name)) for name in MONITOR}
        if isinstance(layer, VectorEnvAdapter) and None not in layer._seeds:
            arrays["seeds"] = np.array(layer._seeds)  # given, and waiting for the first reset
        if hasattr(layer, "get_state") and hasattr(layer, "set_state"):
            return arrays | prefixed("native", layer.get_state())
    return {}


def restore_env_state(env: Any, arrays: Mapping[str, Array]) -> bool:
    """Put back what `env_state` returned of an env like this one; False if it cannot be."""
    native = section("native", arrays)
    if not native:
        return False
    for layer in env_layers(env):
        if isinstance(layer, VecMonitor):
            layer.reset()
            for name, array in section("monitor", arrays).items():
                setattr(layer, name, array)
        if isinstance(layer, VectorEnvAdapter) and "seeds" in arrays:
            layer._seeds = arrays["seeds"].tolist()
        if hasattr(layer, "set_state"):
            layer.set_state(native)
            return True
    return False
