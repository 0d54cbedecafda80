"""How each kind of learner is played in an evaluation: envs, seeds, budgets; see `metagym.evaluation`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecTransposeImage

from metagym.algos.base import Policy
from metagym.algos.references import Random
from metagym.distributions import TaskDistribution
from metagym.engine.drivers import PlayableFamily, vector_env_of
from metagym.errors import ConfigError
from metagym.family import Family, TaskFamily
from metagym.learner_state import preserved_rng
from metagym.tasks import Task
from metagym.types import Array, Float
from metagym.wrappers import RevealTask, RL2Context, Trial

__all__ = ["EPISODES", "UNITS", "Kind", "Protocol", "budget_keyword", "common_kind"]

EPISODES = "episodes"
# What `adapt` is asked for its budget by, and what that counts; the first that a learner has.
UNITS = {"total_timesteps": EPISODES, "n_steps": "gradient steps"}
Kind: TypeAlias = Literal["memory", "gradient", "fixed", "revealed"]
_RANDOM_EPISODES, _FOREIGN_RANDOM_EPISODES = 100, 10  # foreign envs are stepped one by one
# Streams that hang on the seed, one for each purpose; tasks are drawn from the seed itself.
_DYNAMICS, _ACTIONS, _ADAPTATION, _BASELINE = 1, 2, 3, 4


def common_kind(learners: Sequence[Any], family: PlayableFamily, env_id: str) -> tuple[Kind, str]:
    """What the learners are, and the unit of their budgets.

    Raises:
        ConfigError: if they are of several kinds, or one does not fit the env.
    """
    kinds = {_kind(learner, family, env_id) for learner in learners}
    units = {UNITS.get(budget_keyword(learner) or "", EPISODES) for learner in learners}
    if len(kinds) != 1:
        raise ConfigError(f"runs must be learners of one method, got {sorted(kinds) or 'none'}")
    kind = kinds.pop()
    if kind == "gradient" and len(units) != 1:
        raise ConfigError(f"runs must be learners of one method, got budgets in {sorted(units)}")
    return kind, units.pop() if kind == "gradient" else EPISODES


def budget_keyword(learner: Any) -> str | None:
    """The keyword by which ``adapt`` is told how much it may learn from; None for learners without one."""
    adapt = getattr(learner, "adapt", None)
    accepted = {} if adapt is None else signature(adapt).parameters
    return next((keyword for keyword in UNITS if keyword in accepted), None)


def _kind(learner: Any, family: PlayableFamily, env_id: str) -> Kind:
    label = type(learner).__name__
    if not callable(getattr(learner, "predict", None)):
        raise ConfigError(f"a learner must have predict(), {label} has none")
    context = _trials(vector_env_of(family, 1, split=None), 1).single_observation_space
    sees = getattr(learner, "observation_space", family.observation_space)
    acts = getattr(learner, "action_space", family.action_space)
    is_bare, is_context = sees in _as_seen(family.observation_space), sees in _as_seen(context)
    if not (is_bare or is_context) and acts == family.action_space and sees == _revealed_space(family):
        return "revealed"
    if acts != family.action_space or not (is_bare or is_context):
        raise ConfigError(
            f"{label} sees {sees} and acts in {acts}; {env_id} offers {family.observation_space}, "
            f"with RL2Context {context}, with RevealTask that and the task, and acts in {family.action_space}"
        )
    if is_context and not is_bare:
        return "memory"
    return "fixed" if budget_keyword(learner) is None else "gradient"


def _as_seen(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], ...]:
    """A space as it is, and as SB3's learners name it, who move the channels of images to the front."""
    if isinstance(space, spaces.Dict):
        return space, spaces.Dict({name: _channels_first(part) for name, part in space.items()})
    return space, _channels_first(space)


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def _revealed_space(family: PlayableFamily) -> Any:
    try:
        return _reveal(vector_env_of(family, 1, split=None)).single_observation_space
    except ConfigError:
        return None  # a space that cannot be flattened


def _reveal(env: Any) -> Any:
    return RevealTask(env)


def _trials(env: Any, episodes: int) -> Any:
    return RL2Context(Trial(env, episodes_per_trial=episodes))


class Protocol:
    """The tasks and seeds that all learners share.

    Args:
        distribution: the whole distribution that the tasks belong to.
        tasks: K tasks.
        entries: experience of the task behind each entry, (E,).
        unit: what that counts.
        eval_episodes: episodes whose mean is one score of a gradient learner.
        seed: everything random hangs on it.
        deterministic: whether actions are sampled.
    """

    def __init__(
        self,
        distribution: TaskDistribution,
        tasks: Sequence[Task],
        entries: list[int],
        unit: str,
        eval_episodes: int,
        seed: int,
        deterministic: bool,
    ) -> None:
        self.distribution = distribution
        self.family: Any = distribution.family
        self.tasks, self.deterministic = tasks, deterministic
        self.entries, self.eval_episodes, self.seed = entries, eval_episodes, seed
        self.unit, self.episodes = unit, entries[-1] + 1
        self._bare_envs: dict[int, Any] = {}

    def limits(self, split: str | None) -> dict[str, Any]:
        """Returns of random, optimal and Bayes-optimal behaviour, and where the first is from."""
        params = self.family.params_of(self.tasks)
        exact, optimal, bayes = self.family.random_return(params), self.family.optimal_return(params), None
        # The Bayes optimum is that of the training distribution, which both its parts stand for; and of episodes.
        if split in {None, "train", "test"} and self.unit == EPISODES and isinstance(self.family, TaskFamily):
            bayes = self.family.bayes_return(self.episodes)
        return {
            "random": self.random() if exact is None else exact,
            "optimal": optimal,
            "bayes": None if bayes is None else bayes[self.entries],
            "source": "simulated" if exact is None else "exact",
        }

    def memory(self, learner: Policy, run: int, done: Callable[[int], Any]) -> Float:
        """Returns of the episodes of one trial a task, (K, E)."""
        env = self._vector_env(self.tasks)
        trials = _trials(env, self.episodes)
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play_trials(learner, trials, self._seeds(len(self.tasks), _DYNAMICS, run), done)
        return returns[:, self.entries]

    def fixed(self, learner: Policy, run: int, done: Callable[[int], Any]) -> Float:
        """Returns of E episodes a task, (K, E)."""
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play(learner, self.tasks, self.episodes, _DYNAMICS, run, done=done)
        return returns[:, self.entries]

    def revealed(self, learner: Policy, run: int, done: Callable[[int], Any]) -> Float:
        """Returns of E episodes a task, (K, E), of a learner that is shown the task."""
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play(learner, self.tasks, self.episodes, _DYNAMICS, run, reveal=True, done=done)
        return returns[:, self.entries]

    def gradient(self, learner: Any, run: int, done: Callable[[int], Any]) -> Float:
        """Mean returns after adapting with each of the budgets, (K, E)."""
        returns = np.empty((len(self.tasks), len(self.entries)))
        if self.entries[0] == 0:
            with _seeded(self.seed, _ACTIONS, run):
                returns[:, 0] = self._play(learner, self.tasks, self.eval_episodes, _DYNAMICS, run).mean(axis=1)
        keyword = budget_keyword(learner) or ""
        size = self.family.episode_length if keyword == "total_timesteps" else 1
        for row, task in enumerate(self.tasks):
            for entry, budget in enumerate(self.entries):
                if budget == 0:
                    continue
                with _seeded(self.seed, _ADAPTATION, run, row, budget):
                    adapted = learner.adapt(task, **{keyword: budget * size})
                with _seeded(self.seed, _ACTIONS, run, row, budget):
                    copies = [task] * self.eval_episodes
                    returns[row, entry] = self._play(adapted, copies, 1, _DYNAMICS, run, row, budget).mean()
                done(1)
        return returns

    def random(self) -> Float:
        """Simulated mean return of random actions, (K,)."""
        learner = Random.of_spaces(self.family.observation_space, self.family.action_space)
        with _seeded(self.seed, _BASELINE):
            episodes = _RANDOM_EPISODES if isinstance(self.family, Family) else _FOREIGN_RANDOM_EPISODES
            returns = self._play(learner, self.tasks, episodes, _BASELINE)
        average: Float = returns.mean(axis=1)
        return average

    def _vector_env(self, tasks: Sequence[Task]) -> Any:
        mode = AutoresetMode.SAME_STEP
        env = vector_env_of(self.family, len(tasks), autoreset_mode=mode, distribution=self.distribution)
        env.set_tasks(tasks)
        return env

    def _bare_env(self, tasks: Sequence[Task]) -> Any:
        """An env that was used before, where there is one: seeds at its reset make it as good as new."""
        env = self._bare_envs.get(len(tasks))
        if env is None:
            env = self._bare_envs[len(tasks)] = self._vector_env(tasks)
        env.set_tasks(tasks)
        return env

    def _seeds(self, num_rows: int, *stream: int) -> list[int | None]:
        rng = np.random.default_rng([self.seed, *stream])
        return [int(seed) for seed in rng.integers(2**31, size=num_rows)]

    def _play(
        self,
        policy: Policy,
        tasks: Sequence[Task],
        episodes: int,
        *stream: int,
        reveal: bool = False,
        done: Callable[[int], Any] | None = None,
    ) -> Float:
        """Returns of episodes in the bare environment, or with the task shown, one row a task, (N, episodes)."""
        env = _reveal(self._vector_env(tasks)) if reveal else self._bare_env(tasks)
        with _seeded_space(getattr(policy, "action_space", None), self.seed, *stream):
            return self._returns(policy, env, episodes, self._seeds(len(tasks), *stream), done)

    def _returns(
        self, policy: Policy, env: Any, episodes: int, seeds: list[int | None], done: Callable[[int], Any] | None
    ) -> Float:
        see = _eye_of(policy)
        returns = np.zeros((len(seeds), episodes))
        episode = np.zeros(len(seeds), dtype=np.int64)
        observation, _ = env.reset(seed=seeds)
        state, starts = None, np.ones(len(seeds), dtype=np.bool_)
        # Rows that have played their episodes go on, and what they earn is ignored, until the last has.
        while (playing := episode < episodes).any():
            actions, state = policy.predict(see(observation), state, starts, self.deterministic)
            observation, reward, terminated, truncated, _ = env.step(actions)
            returns[playing, episode[playing]] += reward[playing]
            starts = terminated | truncated
            episode += starts
            if done is not None:
                done(int(np.count_nonzero(starts & (episode == episodes))))
        return returns

    def _play_trials(self, policy: Policy, env: Any, seeds: list[int | None], done: Callable[[int], Any]) -> Float:
        """Returns of the episodes of one trial a row, (N, E)."""
        returns, see = np.zeros((len(seeds), self.episodes)), _eye_of(policy)
        playing = np.ones(len(seeds), dtype=np.bool_)
        observation, _ = env.reset(seed=seeds)
        state, starts = None, np.ones(len(seeds), dtype=np.bool_)
        while playing.any():
            actions, state = policy.predict(see(observation), state, starts, self.deterministic)
            observation, _, terminated, truncated, infos = env.step(actions)
            rows = np.flatnonzero(playing & _of_step(infos, "episode_end"))
            episode = _of_step(infos, "trial_episode")[rows]
            returns[rows, episode] = _of_step(infos, "last_episode_return")[rows]
            starts = terminated | truncated
            done(int(np.count_nonzero(playing & starts)))
            playing &= ~starts
        return returns


def _eye_of(policy: Any) -> Callable[[Array], Array]:
    """What a policy makes of observations before it looks at them: its training env may have normalised them."""
    layer = policy.get_vec_normalize_env() if hasattr(policy, "get_vec_normalize_env") else None
    return _as_they_are if layer is None else layer.normalize_obs


def _as_they_are(observation: Array) -> Array:
    return observation


def _of_step(infos: Mapping[str, Any], key: str) -> Array:
    """A value as the step left it: where a row was reset within the step, its info tells of the new trial."""
    value: Array = infos[key]
    if "final_info" in infos:
        value = np.where(infos["_final_info"], infos["final_info"][key], value)
    return value


@contextmanager
def _seeded(*stream: int) -> Iterator[None]:
    """Seed the global generators, from which policies sample, and put their states back afterwards."""
    seed = int(np.random.SeedSequence(stream).generate_state(1)[0])
    with preserved_rng():
        set_random_seed(seed)
        yield


@contextmanager
def _seeded_space(space: Any, *stream: int) -> Iterator[None]:
    """Seed the generator of an action space, from which DQN explores, and put it back afterwards."""
    before = getattr(space, "_np_random", None)
    if space is not None:
        space.seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
    try:
        yield
    finally:
        if space is not None:
            space._np_random = before
