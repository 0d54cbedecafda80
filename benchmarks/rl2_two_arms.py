"""RL² on bandits with two arms, 100 pulls, as in Wang et al. 2016, against the exact limits: plain, and with helps.

    python -m benchmarks.rl2_two_arms                   # prints the tables and writes docs/results/rl2_two_arms.json
    python -m benchmarks.rl2_two_arms --rows hard --columns plain --seeds 1

All seeds count, and the final weights are what is measured: the expected regret of a trial, with sampled actions, on
held-out tasks where there are any. Each agent also plays the bandits that it was not trained on. Checkpoints, journals
and results of finished runs are kept in ``runs/rl2_two_arms`` (``--work``): an interrupted command goes on where it
was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.rl2_runs import PLAIN_LAST_LAMBDA, Training, measure, plain_settings, summary, trials
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym.algos import RL2
from metagym.nets import ExchangeableMDPPolicy, ExchangeableTrialPolicy

__all__ = ["COLUMNS", "ROWS", "Row", "regrets", "render", "tested", "training"]

ENV_ID = "MetaBandit-v0"
PULLS = 100
STEPS, FEW_STEPS = 1_996_800, 500_000
"""Of training, rounded up to whole rollouts: no more than two million pulls, as published, and where less will do."""
ALLOWED = 1.1
"""A seed is near enough to the limit if its regret is at most so many times the limit."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bandits of one kind.

    Attributes:
        name: as Wang et al. call them.
        means: of the two arms.
        limit: cumulative expected regret of the Bayes-optimal agent in 100 pulls, exact.
        split: where tasks of the test come from; None where there are two tasks, which cannot be held out.
    """

    name: str
    means: str
    limit: float
    split: str | None

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Keywords of the family."""
        return {"variant": self.name} | ({"num_arms": 2} if self.name == "independent" else {})


_ALL = (
    Row(name="independent", means="p, q uniform", limit=1.7482, split="test"),
    Row(name="uniform", means="p, 1 - p, p uniform", limit=1.2214, split="test"),
    Row(name="easy", means="0.1, 0.9", limit=0.625, split=None),
    Row(name="medium", means="0.25, 0.75", limit=1.0, split=None),
    Row(name="hard", means="0.4, 0.6", limit=2.3121, split=None),
)
ROWS: Mapping[str, Row] = {row.name: row for row in _ALL}

CAPTION = (
    "Cumulative expected regret of {pulls} pulls, final weights, sampled actions, mean over all seeds ± 95 % CI, on "
    "{tasks:,} tasks: held out for independent and uniform; the others have two tasks, mirror images, so that those of "
    "training are those of the test. The limit is that of the Bayes-optimal agent, exact; what is measured can lie "
    "below it within the CI. Published are curves without numbers, of the best five of 100 settings (LSTM, A2C, 2M "
    "pulls). plain: a GRU that learns from what was paid. exchangeable: one small GRU shared by both arms. counts: one "
    "small network that reads, of each arm, how often it was pulled and what it paid. expected regret: advantages are "
    "made of the mean of the arm pulled less that of the best one, which the trainer knows and no agent sees. Where "
    "arms mirror each other both tell the same about the task, and the discount is 0.5. Minutes of processor time, of "
    "one training. Below: agents on bandits they were not trained on, {few:,} tasks."
)

COUNTS = "counts, expected regret"
COLUMNS = ("plain", "exchangeable, expected regret", COUNTS)
"""Agents by their helps: a memory shared by the arms, and advantages made of the expected regret of what was pulled."""


def keywords(row: str, column: str) -> tuple[Any, dict[str, Any]]:
    """The policy and the settings of `RL2`."""
    if column == COUNTS:
        return ExchangeableMDPPolicy, _counting(row)
    if _explores_plainly(row, column):
        settings = plain_settings(PULLS, rows=128, minibatches=16, units=48, vf_coef=5e-3)
        return "MlpPolicy", settings | {"env_kwargs": ROWS[row].env_kwargs, "episodes_per_trial": PULLS}
    helped = column != "plain"
    rate = 1e-2 if helped else 3e-3
    settings = {
        "env_kwargs": ROWS[row].env_kwargs,
        "episodes_per_trial": PULLS,
        "n_envs": 64,
        "n_steps": PULLS,
        "batch_size": 16 * PULLS,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(rate, rate / 100.0, 1.0),
        "expected_rewards": helped,
        "regret": helped,
        "policy_kwargs": {"trial_steps": PULLS} if helped else {"rnn_hidden_size": 48},
    }
    if row == "independent":
        # A pull pays by what it tells, which takes a long horizon.
        settings |= {"gamma": 1.0, "gae_lambda": 0.7}
    else:
        # Both arms tell the same about the task, so that the best pull is the best of its moment: a short horizon loses
        # nothing, and is less noisy.
        settings |= {"gamma": 0.5, "gae_lambda": 1.0}
    return (ExchangeableTrialPolicy if helped else "MlpPolicy"), settings


def _explores_plainly(row: str, column: str) -> bool:
    """Whether a plain GRU has to learn that a pull pays by what it tells; it then takes `plain_settings`."""
    return (row, column) == ("independent", "plain")


def _counting(row: str) -> dict[str, Any]:
    """Settings where memories are counts: a bandit is a decision process of one state, with episodes of one step."""
    return {
        "env_kwargs": ROWS[row].env_kwargs,
        "episodes_per_trial": PULLS,
        "n_envs": 128,
        "n_steps": PULLS,
        "batch_size": 32 * PULLS,
        "n_epochs": 10,
        "learning_rate": LinearSchedule(5e-3, 1e-4, 1.0),
        "expected_rewards": True,
        "regret": True,
        "gamma": 1.0,
        # What a pull tells pays until the trial ends, and values are not exact enough to say so early.
        "gae_lambda": 0.98,
        "vf_coef": 5e-3,
        "policy_kwargs": {"trial_steps": PULLS, "episode_steps": 1, "n_backups": 1, "pooled_values": True},
    }


def training(row: str, column: str, seed: int, *, tasks: int, work: Path, steps: int | None = None) -> Training:
    """One training and its measurement."""
    policy, settings = keywords(row, column)
    helped = column != "plain"
    return Training(
        row=row,
        column=column,
        seed=seed,
        steps=steps or (STEPS if row == "independent" or column != COLUMNS[1] else FEW_STEPS),
        env_id=ENV_ID,
        policy=policy,
        keywords=settings,
        entropy=0.03 if helped or row == "independent" else 0.01,
        last_gae_lambda=PLAIN_LAST_LAMBDA if _explores_plainly(row, column) else None,
        test=partial(tested, row=row),
        tasks=tasks,
        work=work,
    )


def regrets(agent: RL2, row: Row, num_tasks: int, *, rows: int = 2500, seed: int = 0) -> np.ndarray[Any, Any]:
    """Expected regret of every pull of one trial on each task, (num_tasks, PULLS), with sampled actions.

    A pull counts as the mean of the best arm less that of the arm pulled: as much as what was paid on average, with
    less noise.

    Args:
        agent: what plays.
        row: the bandits.
        num_tasks: trials, in groups of `rows`.
        rows: trials played side by side; at most `num_tasks`.
        seed: of tasks and actions.
    """
    rows = min(rows, num_tasks)
    env = trials(ENV_ID, rows, PULLS, split=row.split, **row.env_kwargs)
    params_type, every = env.unwrapped.family.params_type, np.arange(rows)
    th.manual_seed(seed)
    observations, _ = env.reset(seed=seed)
    groups = []
    for _ in range(num_tasks // rows):
        means = params_type(**env.unwrapped.task_columns(every)).means
        missed, state = means.max(axis=1, keepdims=True) - means, None
        group = np.empty((rows, PULLS))
        for pull in range(PULLS):
            actions, state = agent.policy.predict(observations, state)
            group[:, pull] = missed[every, actions]
            observations, _, _, _, _ = env.step(actions)
        groups.append(group)
        observations, _ = env.reset()
    return np.concatenate(groups)


def tested(agent: RL2, num_tasks: int, *, row: str) -> dict[str, Any]:
    """Regret on the bandits that the agent was trained on, its error, and the regret on all kinds of bandits.

    On the kinds that it was not trained on, it plays a quarter of the tasks.
    """
    totals = {
        name: regrets(agent, other, num_tasks if name == row else num_tasks // 4).sum(axis=1)
        for name, other in ROWS.items()
    }
    own = totals[row]
    return {
        "regret": float(own.mean()),
        "regret_error": float(own.std() / len(own) ** 0.5),
        "on": {name: float(total.mean()) for name, total in totals.items()},
    }


def render(result: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    runs, tasks = result["runs"], result["tasks"]
    agents = by_agent(runs)
    heads = ["bandit", "means", "published", "limit", "agent", "regret", "of the limit", "worst seed"]
    heads += [f"seeds within {ALLOWED}x", "pulls", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [_line(ROWS[name], column, own) for (name, column), own in agents.items()]
    lines += ["", CAPTION.format(pulls=PULLS, tasks=tasks, few=tasks // 4)]
    for column in dict.fromkeys(column for _, column in agents):
        lines += ["", *_matrix(column, [one for one in runs if one["column"] == column])]
    return "\n".join(lines)


def _line(row: Row, column: str, own: Sequence[Mapping[str, Any]]) -> str:
    mean, half = summary(own, "regret")
    scores = [one["test"]["regret"] for one in own]
    near = sum(score <= ALLOWED * row.limit for score in scores)
    cells = (
        row.name, row.means, "curve", f"{row.limit:.3f}", column,
        f"{mean:.3f} ± {half:.3f}", f"{mean / row.limit:.2f}x", f"{max(scores):.3f} ({max(scores) / row.limit:.2f}x)",
        f"{near} of {len(own)}", f"{own[0]['steps'] / 1e6:.1f}M", minutes(own),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _matrix(column: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Regret of agents trained on one kind of bandit on all kinds, mean over seeds."""
    trained_on = [name for name in ROWS if any(one["row"] == name for one in runs)]
    lines = [
        "| " + " | ".join([f"{column}: trained on", *(f"tested on {name}" for name in ROWS)]) + " |",
        "|---" * (len(ROWS) + 1) + "|",
    ]
    for name in trained_on:
        own = [one["test"]["on"] for one in runs if one["row"] == name]
        cells = [f"{np.mean([on[other] for on in own]):.2f}" for other in ROWS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_two_arms")
    arguments.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    add_options(arguments, "rl2_two_arms")
    given = arguments.parse_args()
    trainings = trainings_of(given, training, "rows", "columns")
    store(measure(trainings, given, "regret"), given.out, render)


if __name__ == "__main__":
    main()
