"""Adapt, then test: how learners do on tasks that they were not trained on, episode by episode.

Every learner of every method meets the same tasks, drawn from the split by the seed alone. The random streams
of environments and actions differ from run to run (noise that runs shared would be missing from intervals
over runs), and are the same for run i of every method. Four kinds of learner are told apart by what they see
and offer:

* *memory*: its observation space is that of `RL2Context`. It plays one trial of E episodes on every task, and
  whatever it learns it learns there.
* *gradient*: it sees the bare observation and has ``adapt(task, total_timesteps=...)``. For entry e it is
  adapted with a budget of e episodes, starting from the meta-learner each time, and the result plays other
  episodes.
* *fixed*: it sees the bare observation and has ``predict`` alone. It plays E episodes and does not adapt; a
  recurrent policy forgets at the end of each.
* *revealed*: its observation space is that of `RevealTask`. It plays as a fixed one does, and is shown the task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from metagym.algos.base import Policy
from metagym.algos.references import Random
from metagym.curves import AdaptationCurve
from metagym.distributions import TaskDistribution
from metagym.engine.drivers import PlayableFamily, distribution_of, is_playable, vector_env_of
from metagym.errors import ConfigError
from metagym.family import Family
from metagym.learner_state import preserved_rng
from metagym.registry import make_family
from metagym.tasks import Task
from metagym.types import Array, Float
from metagym.wrappers import RevealTask, RL2Context, Trial

__all__ = ["AdaptationCurve", "evaluate"]

Kind: TypeAlias = Literal["memory", "gradient", "fixed", "revealed"]
_RANDOM_EPISODES, _FOREIGN_RANDOM_EPISODES = 100, 10  # foreign envs are stepped one by one
# Streams that hang on the seed, one for each purpose; tasks are drawn from the seed itself.
_DYNAMICS, _ACTIONS, _ADAPTATION, _BASELINE = 1, 2, 3, 4


def evaluate(
    learner: Policy | Sequence[Policy],
    env: str | PlayableFamily,
    *,
    split: str | None = "test",
    n_tasks: int = 100,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = False,
    eval_episodes: int = 10,
    tasks: Sequence[Task] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    progress_bar: bool = False,
) -> AdaptationCurve:
    """Returns of learners on held-out tasks, episode by episode.

    The result is a function of the arguments: global random generators are seeded for each learner and put
    back afterwards. What a run scores depends on its place in the list, and not on the learners beside it.

    Args:
        learner: a learner, or several trained independently by one method: the runs.
        env: Gymnasium id of a family, or a family.
        split: part of the distribution the tasks are drawn from: "test", "train", "ood", or None for all.
        n_tasks: number of tasks, K.
        episodes: number of episodes, E. A gradient learner is adapted E - 1 times on every task.
        seed: of the tasks, the environments and the actions.
        deterministic: take the most probable action instead of sampling.
        eval_episodes: for gradient learners, episodes whose mean return is an entry; they teach nothing.
        tasks: play these instead of drawing; `split` and `n_tasks` are then ignored.
        env_kwargs: keywords of the family, with an id.
        name: of the method; default: the learner's class.
        progress_bar: show one.

    Returns:
        Scores (R, K, E) with the returns of random and of optimal behaviour.

    Raises:
        ConfigError: if an argument is out of range, the id is unknown, or a learner does not fit the env.
        TaskError: if one of `tasks` does not belong to the family.
    """
    _check_integers(1, n_tasks=n_tasks, episodes=episodes, eval_episodes=eval_episodes)
    _check_integers(0, seed=seed)
    family, env_id = _family(env, env_kwargs)
    distribution = distribution_of(family)
    if tasks is None:
        chosen = distribution.part(split).sample(np.random.default_rng(seed), int(n_tasks))
    else:
        chosen, split = [distribution.coerce(task) for task in tasks], "given"
    if not chosen:
        raise ConfigError("tasks must hold at least one task, got none")
    learners = list(learner) if isinstance(learner, Sequence) else [learner]
    kind = _common_kind(learners, family, env_id)
    protocol = _Protocol(distribution, chosen, int(episodes), int(eval_episodes), seed, deterministic)
    total = len(learners) * (len(chosen) * (episodes - 1) if kind == "gradient" else 1)
    with tqdm(total=total, disable=not progress_bar, desc="evaluating") as bar:
        play = {
            "memory": protocol.memory, "gradient": protocol.gradient, "fixed": protocol.fixed,
            "revealed": protocol.revealed,
        }[kind]  # fmt: skip
        scores = np.stack([play(one, run, bar.update) for run, one in enumerate(learners)])
    params = family.params_of(chosen)
    exact = family.random_return(params)
    settings = {
        "kind": kind, "seed": seed, "deterministic": deterministic, "episode_length": family.episode_length,
        "env_kwargs": dict(env_kwargs or {}), "random": "simulated" if exact is None else "exact",
        **({"eval_episodes": eval_episodes} if kind == "gradient" else {}),
    }  # fmt: skip
    return AdaptationCurve(
        scores=scores,
        name=name or type(learners[0]).__name__,
        env_id=env_id,
        split=split,
        task_ids=np.array([task.id for task in chosen]),
        random=protocol.random() if exact is None else exact,
        optimal=family.optimal_return(params),
        settings=settings,
    )


def _check_integers(least: int, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ConfigError(f"{name} must be an integer of at least {least}, got {value!r}")


def _family(env: str | PlayableFamily, env_kwargs: Mapping[str, Any] | None) -> tuple[PlayableFamily, str]:
    if isinstance(env, str):
        return make_family(env, **(env_kwargs or {})), env
    if not is_playable(env):
        raise ConfigError(f"env must be the id of a family or a family, got {type(env).__name__}")
    if env_kwargs:
        raise ConfigError(f"env_kwargs go with an id; {env.name} was given as a family, built already")
    return env, env.name


def _common_kind(learners: Sequence[Any], family: PlayableFamily, env_id: str) -> Kind:
    kinds = {_kind(learner, family, env_id) for learner in learners}
    if len(kinds) != 1:
        raise ConfigError(f"runs must be learners of one method, got {sorted(kinds) or 'none'}")
    return kinds.pop()


def _kind(learner: Any, family: PlayableFamily, env_id: str) -> Kind:
    label = type(learner).__name__
    if not callable(getattr(learner, "predict", None)):
        raise ConfigError(f"a learner must have predict(), {label} has none")
    context = _trials(vector_env_of(family, 1, split=None), 1).single_observation_space
    sees = getattr(learner, "observation_space", family.observation_space)
    acts = getattr(learner, "action_space", family.action_space)
    bare = sees in (family.observation_space, context)
    if not bare and acts == family.action_space and sees == _revealed_space(family):
        return "revealed"
    if acts != family.action_space or not bare:
        raise ConfigError(
            f"{label} sees {sees} and acts in {acts}; {env_id} offers {family.observation_space}, "
            f"with RL2Context {context}, with RevealTask that and the task, and acts in {family.action_space}"
        )
    if sees != family.observation_space:
        return "memory"
    adapt = getattr(learner, "adapt", None)
    return "gradient" if adapt is not None and "total_timesteps" in signature(adapt).parameters else "fixed"


def _revealed_space(family: PlayableFamily) -> Any:
    try:
        return _reveal(vector_env_of(family, 1, split=None)).single_observation_space
    except ConfigError:
        return None  # a space that cannot be flattened


def _reveal(env: Any) -> Any:
    return RevealTask(env)


def _trials(env: Any, episodes: int) -> Any:
    return RL2Context(Trial(env, episodes_per_trial=episodes))


class _Protocol:
    """The tasks and seeds that all learners share.

    Args:
        distribution: the whole distribution that the tasks belong to.
        tasks: K tasks.
        episodes: E.
        eval_episodes: episodes whose mean is one score of a gradient learner.
        seed: everything random hangs on it.
        deterministic: whether actions are sampled.
    """

    def __init__(
        self,
        distribution: TaskDistribution,
        tasks: Sequence[Task],
        episodes: int,
        eval_episodes: int,
        seed: int,
        deterministic: bool,
    ) -> None:
        self.distribution = distribution
        self.family: Any = distribution.family
        self.tasks, self.deterministic = tasks, deterministic
        self.episodes, self.eval_episodes, self.seed = episodes, eval_episodes, seed

    def memory(self, learner: Policy, run: int, done: Callable[[], Any]) -> Float:
        """Returns of the episodes of one trial a task, (K, E)."""
        env = self._vector_env(self.tasks)
        trials = _trials(env, self.episodes)
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play_trials(learner, trials, self._seeds(len(self.tasks), _DYNAMICS, run))
        done()
        return returns

    def fixed(self, learner: Policy, run: int, done: Callable[[], Any]) -> Float:
        """Returns of E episodes a task, (K, E)."""
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play(learner, self.tasks, self.episodes, _DYNAMICS, run)
        done()
        return returns

    def revealed(self, learner: Policy, run: int, done: Callable[[], Any]) -> Float:
        """Returns of E episodes a task, (K, E), of a learner that is shown the task."""
        with _seeded(self.seed, _ACTIONS, run):
            returns = self._play(learner, self.tasks, self.episodes, _DYNAMICS, run, reveal=True)
        done()
        return returns

    def gradient(self, learner: Any, run: int, done: Callable[[], Any]) -> Float:
        """Mean returns before adaptation and after budgets of 1 .. E - 1 episodes, (K, E)."""
        returns = np.empty((len(self.tasks), self.episodes))
        with _seeded(self.seed, _ACTIONS, run):
            returns[:, 0] = self._play(learner, self.tasks, self.eval_episodes, _DYNAMICS, run).mean(axis=1)
        for row, task in enumerate(self.tasks):
            for budget in range(1, self.episodes):
                with _seeded(self.seed, _ADAPTATION, run, row, budget):
                    adapted = learner.adapt(task, total_timesteps=budget * self.family.episode_length)
                with _seeded(self.seed, _ACTIONS, run, row, budget):
                    copies = [task] * self.eval_episodes
                    returns[row, budget] = self._play(adapted, copies, 1, _DYNAMICS, run, row, budget).mean()
                done()
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

    def _seeds(self, num_rows: int, *stream: int) -> list[int | None]:
        rng = np.random.default_rng([self.seed, *stream])
        return [int(seed) for seed in rng.integers(2**31, size=num_rows)]

    def _play(self, policy: Policy, tasks: Sequence[Task], episodes: int, *stream: int, reveal: bool = False) -> Float:
        """Returns of episodes in the bare environment, or with the task shown, one row a task, (N, episodes)."""
        env = _reveal(self._vector_env(tasks)) if reveal else self._vector_env(tasks)
        returns = np.zeros((len(tasks), episodes))
        episode = np.zeros(len(tasks), dtype=np.int64)
        observation, _ = env.reset(seed=self._seeds(len(tasks), *stream))
        state, starts = None, np.ones(len(tasks), dtype=np.bool_)
        # Rows that have played their episodes go on, and what they earn is ignored, until the last has.
        while (playing := episode < episodes).any():
            actions, state = policy.predict(observation, state, starts, self.deterministic)
            observation, reward, terminated, truncated, _ = env.step(actions)
            returns[playing, episode[playing]] += reward[playing]
            starts = terminated | truncated
            episode += starts
        return returns

    def _play_trials(self, policy: Policy, env: Any, seeds: list[int | None]) -> Float:
        """Returns of the episodes of one trial a row, (N, E)."""
        returns = np.zeros((len(seeds), self.episodes))
        playing = np.ones(len(seeds), dtype=np.bool_)
        observation, _ = env.reset(seed=seeds)
        state, starts = None, np.ones(len(seeds), dtype=np.bool_)
        while playing.any():
            actions, state = policy.predict(observation, state, starts, self.deterministic)
            observation, _, terminated, truncated, infos = env.step(actions)
            rows = np.flatnonzero(playing & _of_step(infos, "episode_end"))
            episode = _of_step(infos, "trial_episode")[rows]
            returns[rows, episode] = _of_step(infos, "last_episode_return")[rows]
            starts = terminated | truncated
            playing &= ~starts
        return returns


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
