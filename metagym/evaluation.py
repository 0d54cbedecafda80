"""Adapt, then test: how learners do on tasks that they were not trained on, episode by episode.

Every learner of every method meets the same tasks, drawn from the split by the seed alone. The random streams
of environments and actions differ from run to run (noise that runs shared would be missing from intervals
over runs), and are the same for run i of every method. Four kinds of learner are told apart by what they see
and offer:

* *memory*: its observation space is that of `RL2Context`. It plays one trial of E episodes on every task, and
  whatever it learns it learns there.
* *gradient*: it sees the bare observation and has ``adapt(task, total_timesteps=...)``. For entry e it is
  adapted with a budget of e episodes, starting from the meta-learner each time, and the result plays other
  episodes. One with ``adapt(task, n_steps=...)`` gets its budget in its own unit: e gradient steps.
* *fixed*: it sees the bare observation and has ``predict`` alone. It plays E episodes and does not adapt; a
  recurrent policy forgets at the end of each.
* *revealed*: its observation space is that of `RevealTask`. It plays as a fixed one does, and is shown the task.

Where the env that a learner was trained in is a `VecNormalize`, its observations are normalised as they were there, by
statistics that do not change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from metagym.algos.base import Policy
from metagym.curves import AdaptationCurve
from metagym.engine.drivers import PlayableFamily, distribution_of, is_playable
from metagym.errors import ConfigError
from metagym.protocol import EPISODES, Protocol, common_kind
from metagym.registry import make_family
from metagym.tasks import Task

__all__ = ["AdaptationCurve", "evaluate"]


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
    budgets: Sequence[int] | None = None,
    tasks: Sequence[Task] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    limits: AdaptationCurve | None = None,
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
        budgets: instead of `episodes`, the experience of the task that each entry has behind it, such as
            ``(0, 1, 2, 5, 10)``, increasing. A gradient learner is adapted once for each but 0; any other plays
            ``budgets[-1] + 1`` episodes, of which those with these numbers (from 0) are kept.
        seed: of the tasks, the environments and the actions.
        deterministic: take the most probable action instead of sampling.
        eval_episodes: for gradient learners, episodes whose mean return is an entry; they teach nothing.
        tasks: play these instead of drawing; `split` and `n_tasks` are then ignored.
        env_kwargs: keywords of the family, with an id.
        name: of the method; default: the learner's class.
        limits: an earlier result on the same tasks and entries, whose random, optimal and Bayes-optimal returns are
            taken over instead of being computed again.
        progress_bar: show one.

    Returns:
        Scores (R, K, E) with the returns of random, of optimal and of Bayes-optimal behaviour.

    Raises:
        ConfigError: if an argument is out of range, the id is unknown, a learner does not fit the env, or `limits`
            are of other tasks or entries.
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
    kind, unit = common_kind(learners, family, env_id)
    entries = _entries(budgets, int(episodes))
    protocol = Protocol(distribution, chosen, entries, unit, int(eval_episodes), seed, deterministic)
    known = protocol.limits(split) if limits is None else _taken_over(limits, chosen, entries, unit)
    parts = int(np.count_nonzero(entries)) if kind == "gradient" else 1
    with tqdm(total=len(learners) * len(chosen) * parts, disable=not progress_bar, desc="evaluating") as bar:
        play = {
            "memory": protocol.memory, "gradient": protocol.gradient, "fixed": protocol.fixed,
            "revealed": protocol.revealed,
        }[kind]  # fmt: skip
        scores = np.stack([play(one, run, bar.update) for run, one in enumerate(learners)])
    settings = {
        "kind": kind, "seed": seed, "deterministic": deterministic, "episode_length": family.episode_length,
        "env_kwargs": dict(env_kwargs or {}), "random": known.pop("source"),
        **({"eval_episodes": eval_episodes} if kind == "gradient" else {}),
        **({} if budgets is None else {"budgets": entries}),
        **({} if unit == EPISODES else {"budget_unit": unit}),
    }  # fmt: skip
    return AdaptationCurve(
        scores=scores,
        name=name or type(learners[0]).__name__,
        env_id=env_id,
        split=split,
        task_ids=np.array([task.id for task in chosen]),
        settings=settings,
        **known,
    )


def _entries(budgets: Sequence[int] | None, episodes: int) -> list[int]:
    if budgets is None:
        return list(range(episodes))
    for budget in budgets:
        _check_integers(0, budgets=budget)
    entries = [int(budget) for budget in budgets]
    if not entries or entries != sorted(set(entries)):
        raise ConfigError(f"budgets must be one or more increasing integers, got {entries}")
    return entries


def _taken_over(known: AdaptationCurve, tasks: Sequence[Task], entries: list[int], unit: str) -> dict[str, Any]:
    """Limits of an earlier result, after making sure that they are those of these tasks."""
    same = known.task_ids.tolist() == [task.id for task in tasks] and known.experience.tolist() == entries
    if not same or known.unit != unit or known.settings.get("normalized"):
        raise ConfigError(f"limits must be a result on the same tasks and entries, not normalized; got {known}")
    source = known.settings.get("random", "exact")
    return {"random": known.random, "optimal": known.optimal, "bayes": known.bayes, "source": source}


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
