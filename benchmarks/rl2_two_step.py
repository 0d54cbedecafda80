"""RL² on the two-step task, 100 rounds, as in Wang et al. 2016, against the exact limit: plain, and with helps.

    python -m benchmarks.rl2_two_step                       # prints the table and writes docs/results/rl2_two_step.json
    python -m benchmarks.rl2_two_step --columns plain --seeds 1

All seeds count, and the final weights are what is measured: the expected reward of a trial, with sampled actions.
Checkpoints, journals and results of finished runs are kept in ``runs/rl2_two_step`` (``--work``): an interrupted
command goes on where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.rl2_runs import Training, measure, summary, trials
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym.algos import RL2

__all__ = ["COLUMNS", "LIMIT", "expected", "render", "tested", "training"]

ENV_ID = "MetaTwoStep-v0"
ROUNDS = 100
STEPS = 1_000_000
LIMIT, ORACLE, RANDOM = 69.6875, 70.0, 50.0
"""Expected reward of 100 rounds: of the Bayes-optimal agent, of one that knows the task, and of random choices."""
COLUMNS = ("plain", "expected regret")
"""Agents by their helps: advantages made of the expected reward of what was done, less the task's optimum."""

CAPTION = (
    "Total expected reward of {rounds} rounds, final weights, sampled actions, mean over all seeds ± 95 % CI, on "
    "{tasks:,} trials of the two tasks, which cannot be held out. The limit is that of the Bayes-optimal agent, exact; "
    "one that knows the task earns {oracle:.0f}, random choices {random:.0f}. Published is a curve, no numbers (LSTM, "
    "A2C). plain: a GRU that learns from what was paid. expected regret: advantages are made of what the state reached "
    "pays on average less the optimum of the task, which the trainer knows and no agent sees. The discount is 0.5. "
    "Minutes of processor time, of one training."
)


def keywords(column: str) -> dict[str, Any]:
    """The settings of `RL2`."""
    helped = column != "plain"
    return {
        "episodes_per_trial": ROUNDS,
        "n_envs": 32,
        "n_steps": 2 * ROUNDS,
        "batch_size": 8 * 2 * ROUNDS,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(3e-3, 3e-5, 1.0),
        # All choices tell the same about the task, so that the best one is the best of its round: a short horizon
        # loses nothing, and with a long one (0.99) this many steps taught nothing.
        "gamma": 0.5,
        "gae_lambda": 1.0,
        "expected_rewards": helped,
        "regret": helped,
        "policy_kwargs": {"rnn_hidden_size": 64},
    }


def training(column: str, seed: int, *, tasks: int, work: Path, steps: int = STEPS) -> Training:
    """One training and its measurement."""
    return Training(
        row="two-step",
        column=column,
        seed=seed,
        steps=steps,
        env_id=ENV_ID,
        keywords=keywords(column),
        entropy=0.01,
        test=tested,
        tasks=tasks,
        work=work,
    )


def expected(agent: RL2, num_tasks: int, *, rows: int = 2500, seed: int = 0) -> np.ndarray[Any, Any]:
    """Expected reward of every round of one trial on each task, (num_tasks, ROUNDS), with sampled actions.

    A round counts as what its choice at the first stage pays on average: as much as what was paid, with less noise.

    Args:
        agent: what plays.
        num_tasks: trials, in groups of `rows`.
        rows: trials played side by side; at most `num_tasks`.
        seed: of tasks and actions.
    """
    rows = min(rows, num_tasks)
    env = trials(ENV_ID, rows, ROUNDS, split=None)
    th.manual_seed(seed)
    observations, _ = env.reset(seed=seed)
    groups = []
    for _ in range(num_tasks // rows):
        pays, state = _worth(env.unwrapped.task_columns(np.arange(rows))), None
        group = np.empty((rows, ROUNDS))
        for step in range(2 * ROUNDS):
            actions, state = agent.policy.predict(observations, state)
            if step % 2 == 0:
                group[:, step // 2] = pays[np.arange(rows), actions]
            observations, _, _, _, _ = env.step(actions)
        groups.append(group)
        observations, _ = env.reset()
    return np.concatenate(groups)


def _worth(task: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What each action at the first stage pays on average, (N, 2)."""
    common, likely = task["common_probability"], task["reward_probability"]
    reached = np.where(task["good_state"] == task["common_state"], common, 1.0 - common)
    good = np.stack([reached, 1.0 - reached], axis=1)
    worth: np.ndarray[Any, Any] = good * likely[:, None] + (1.0 - good) * (1.0 - likely[:, None])
    return worth


def tested(agent: RL2, num_tasks: int) -> dict[str, Any]:
    """Expected reward of a trial, its error, and that of the first and of the last ten rounds, each round."""
    rounds = expected(agent, num_tasks)
    totals = rounds.sum(axis=1)
    return {
        "reward": float(totals.mean()),
        "reward_error": float(totals.std() / len(totals) ** 0.5),
        "first_ten": float(rounds[:, :10].mean()),
        "last_ten": float(rounds[:, -10:].mean()),
    }


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = ("agent", "published", "limit", "reward", "% of the limit", "worst seed", "seeds", "steps", "minutes")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [_line(column, own) for (_, column), own in by_agent(result["runs"]).items()]
    lines += ["", CAPTION.format(rounds=ROUNDS, tasks=result["tasks"], oracle=ORACLE, random=RANDOM)]
    return "\n".join(lines)


def _line(column: str, own: Sequence[Mapping[str, Any]]) -> str:
    mean, half = summary(own, "reward")
    worst = min(one["test"]["reward"] for one in own)
    cells = (
        column, "curve", f"{LIMIT:.3f}", f"{mean:.3f} ± {half:.3f}", f"{100.0 * mean / LIMIT:.2f}",
        f"{worst:.3f} ({100.0 * worst / LIMIT:.2f} %)", str(len(own)), f"{own[0]['steps'] / 1e6:.1f}M",
        minutes(own),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_two_step")
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    add_options(arguments, "rl2_two_step")
    given = arguments.parse_args()
    trainings = trainings_of(given, training, "columns")
    store(measure(trainings, given, "reward"), given.out, render)


if __name__ == "__main__":
    main()
