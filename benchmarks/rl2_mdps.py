"""RL² on random tabular decision processes: the agent that counts and plans, beside what was published.

    python -m benchmarks.rl2_mdps                         # prints the table and writes docs/results/rl2_mdps.json
    python -m benchmarks.rl2_mdps --rows mdp-n10 --columns "exchangeable, expected regret" --seeds 1

All seeds count, and the final weights are what is measured, on held-out tasks with sampled actions. Checkpoints, logs
and results of finished runs are kept in ``runs/rl2_mdps`` (``--work``): an interrupted command goes on where it was.
Settings were chosen on other seeds than those reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.rl2_runs import PLAIN_LAST_LAMBDA, Training, measure, plain_settings, summary, trials
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym import TaskDistribution, make_family
from metagym.algos import RL2
from metagym.nets import ExchangeableMDPPolicy

ENV_ID = "MetaTabularMDP-v0"
STEPS = 10
"""Of an episode."""
BATCH = 1000
OPTIMA = 100_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell of Table 2 of Duan et al. 2016.

    Attributes:
        episodes: n, of a trial.
        published: return of RL² (Duan et al., the best of five seeds), of the best reproduction and of SNAIL.
        steps: environment steps of training, exchangeable.
        plain_steps: with a plain GRU.
        rate: learning rate at the start, exchangeable; it falls to a tenth linearly.
        vf_coef: weight of the loss of values, which are of the size of a trial's regret, exchangeable.
        rows: trials of a rollout, all at the same time, exchangeable.
        plain_rows: with a plain GRU.
    """

    episodes: int
    published: str
    steps: int
    plain_steps: int
    rate: float
    vf_coef: float
    rows: int = 128
    plain_rows: int = 1024


ROWS: Mapping[str, Row] = {
    "mdp-n10": Row(
        episodes=10,
        published="156.2, 157.3, 160.1",
        steps=1_000_000,
        plain_steps=10_000_000,
        rate=1e-2,
        vf_coef=0.02,
    ),
    "mdp-n25": Row(
        episodes=25,
        published="445.7, -, 447.2",
        steps=1_500_000,
        plain_steps=10_000_000,
        rate=5e-3,
        vf_coef=0.01,
    ),
}
COLUMNS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "exchangeable": frozenset({"exchangeable"}),
    "exchangeable, expected regret": frozenset({"exchangeable", "expected", "regret"}),
}
"""Helps by the name of a column; the agent sees no more in any of them than RL² does."""


def keywords(row: Row, column: str) -> dict[str, Any]:
    """The keywords of `RL2`."""
    trial = row.episodes * STEPS
    helps = COLUMNS[column]
    if "exchangeable" not in helps:
        settings = plain_settings(trial, rows=row.plain_rows, minibatches=32, units=128, vf_coef=0.1 / trial)
        return settings | {"episodes_per_trial": row.episodes}
    return {
        "episodes_per_trial": row.episodes,
        "n_steps": trial,
        "n_epochs": 4,
        "n_envs": row.rows,
        "batch_size": row.rows * trial // 4,
        "vf_coef": row.vf_coef,
        "learning_rate": LinearSchedule(row.rate, row.rate / 10.0, 1.0),
        # Undiscounted, as returns are measured, where less noise allows it.
        "gamma": 1.0 if "regret" in helps else 0.99,
        "gae_lambda": 0.95 if "regret" in helps else 0.3,
        "expected_rewards": "expected" in helps,
        "regret": "regret" in helps,
        "policy_kwargs": {"trial_steps": trial, "episode_steps": STEPS},
    }


def training(name: str, column: str, seed: int, *, tasks: int, work: Path) -> Training:
    """One training of a row and a column."""
    row, symmetric = ROWS[name], "exchangeable" in COLUMNS[column]
    return Training(
        row=name,
        column=column,
        seed=seed,
        steps=row.steps if symmetric else row.plain_steps,
        env_id=ENV_ID,
        policy=ExchangeableMDPPolicy if symmetric else "MlpPolicy",
        keywords=keywords(row, column),
        entropy=0.02,
        last_gae_lambda=None if symmetric else PLAIN_LAST_LAMBDA,
        test=partial(tested, episodes=row.episodes),
        tasks=tasks,
        work=work,
    )


@cache
def mean_optimum() -> tuple[float, float]:
    """Mean optimal return of an episode over many held-out tasks, and its standard error."""
    family: Any = make_family(ENV_ID)
    part, rng = TaskDistribution(family).part("test"), np.random.default_rng(0)
    optima = [
        family.optimal_return(part.draw(rng.integers(0, 2**64, 10_000, np.uint64))[0]) for _ in range(OPTIMA // 10_000)
    ]
    every = np.concatenate(optima)
    return float(every.mean()), float(every.std() / len(every) ** 0.5)


def tested(agent: RL2, num_tasks: int, *, episodes: int) -> dict[str, float]:
    """Returns of one trial on each held-out task, sampled actions.

    "paid" is what was paid. "score" has less noise and the same mean: the mean optimum less what actions gave away
    (`metagym.family.Family.solve`).
    """
    env = trials(ENV_ID, BATCH, episodes)
    rows, paid, lost = np.arange(BATCH), [], []
    th.manual_seed(0)
    observations, _ = env.reset(seed=0)
    for _ in range(max(1, num_tasks // BATCH)):
        solutions = env.unwrapped.solutions(rows)
        total, regret, state = np.zeros(BATCH), np.zeros(BATCH), None
        for _ in range(episodes * STEPS):
            actions, state = agent.policy.predict(observations, state)
            regret += env.unwrapped.shortfalls(solutions, actions)
            observations, rewards, _, _, _ = env.step(actions)
            total += rewards
        paid.append(total)
        lost.append(regret)
        observations, _ = env.reset()
    every, regrets = np.concatenate(paid), np.concatenate(lost)
    best, error = mean_optimum()
    return {
        "paid": float(every.mean()),
        "paid_error": float(every.std() / len(every) ** 0.5),
        "score": float(episodes * best - regrets.mean()),
        "score_error": float(np.hypot(episodes * error, regrets.std() / len(regrets) ** 0.5)),
    }


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = ("episodes", "published", "knows the task", "agent", "return", "worst seed", "seeds", "steps", "minutes")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (name, column), own in by_agent(result["runs"]).items():
        row, (mean, half) = ROWS[name], summary(own)
        lines.append(
            f"| {row.episodes} | {row.published} | {row.episodes * result['optimum']:.1f} | {column} "
            f"| {mean:.1f} ± {half:.1f} | {min(one['test']['score'] for one in own):.1f} | {len(own)} "
            f"| {own[0]['steps'] / 1e6:.1f}M | {minutes(own)} |"
        )
    lines += [
        "",
        f"Mean return of a trial ± 95 % CI on {result['tasks']:,} held-out tasks, final weights, sampled actions; "
        "minutes of processor time of one training. Published are RL² (Duan et al. 2016, best of five seeds), the best "
        "reproduction (pytorch_rl2, the best moment of training) and SNAIL. What the best agent that does not know the "
        "task can reach is unknown.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_mdps")
    arguments.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=["exchangeable, expected regret"])
    add_options(arguments, "rl2_mdps")
    given = arguments.parse_args()
    trainings = trainings_of(given, training, "rows", "columns")
    result = measure(trainings, given) | {"optimum": mean_optimum()[0]}
    store(result, given.out, render)


if __name__ == "__main__":
    main()
