"""The classical columns of RL²'s tables, measured beside what was published.

    python -m benchmarks.classical   # prints the tables and writes docs/results/classical.json; 10 minutes on one core

Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", Tables 1 and 2, give the mean
total reward over 1,000 test tasks. Here every agent plays other tasks, the same for all agents, of the test split. What
the paper tuned without giving the value is tuned here, for every cell, on tasks of the train split: the best mean of
the grid that an entry below holds. The paper took the best of its grid on the test tasks themselves.

z is the difference from the published mean over its standard error: of the mean measured here, and of one over 1,000
tasks (its standard deviation is that measured here). Published means are rounded to 0.1, which z does not allow for.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch as th

from benchmarks.stored import parser, store
from metagym.algos import Gittins, Random
from metagym.algos.bandit_agents import (
    UCB1,
    EpsilonGreedyBandit,
    GreedyBandit,
    OptimisticThompsonSampling,
    ThompsonSampling,
)
from metagym.algos.mdp_agents import BEB, OPSRL, PSRL, UCRL2, EpsilonGreedyMDP, GreedyMDP, QLearning
from metagym.evaluation import evaluate
from metagym.types import Array

ARMS, PULLS = (5, 10, 50), (10, 100, 500)
EPISODES = (10, 25, 50, 75, 100)
BANDITS, PROCESSES = "MetaBandit-v0", "MetaTabularMDP-v0"
TENTHS = tuple(round(0.1 * step, 1) for step in range(11))
SCALINGS = tuple(float(value) for value in np.geomspace(1e-4, 1.0, 11))
SAMPLES = (1, 2, 5, 10, 20)
PUBLISHED_TASKS = 1000


class Entry(NamedTuple):
    """One column: an agent, and what is tuned."""

    label: str
    kind: Any
    grid: Mapping[str, tuple[Any, ...]] = {}
    options: Mapping[str, Any] = {}


BANDIT_ENTRIES = (
    Entry("Random", Random),
    Entry("Gittins", Gittins),
    Entry("TS", ThompsonSampling),
    Entry("OTS", OptimisticThompsonSampling, {"num_samples": SAMPLES}),
    Entry("UCB1", UCB1, {"exploration": TENTHS}),
    Entry("ε-greedy", EpsilonGreedyBandit, {"epsilon": TENTHS}),
    Entry("Greedy", GreedyBandit),
)
MDP_ENTRIES = (
    Entry("Random", Random),
    Entry("PSRL", PSRL),
    Entry("OPSRL", OPSRL, {"num_samples": SAMPLES}),
    Entry("UCRL2", UCRL2, {"scaling": SCALINGS}, {"cumulative": True}),
    Entry("BEB", BEB, {"scaling": SCALINGS}),
    Entry("ε-greedy", EpsilonGreedyMDP, {"epsilon": TENTHS[1:]}),
    Entry("Greedy", GreedyMDP),
)
BESIDE = (
    Entry("UCRL2, not cumulative", UCRL2, {"scaling": SCALINGS}),
    Entry("PSRL, prior mean 1", PSRL, {}, {"prior_mean": 1.0}),
    Entry("BEB, prior mean 1", BEB, {"scaling": SCALINGS}, {"prior_mean": 1.0}),
    Entry("ε-greedy, prior mean 1", EpsilonGreedyMDP, {"epsilon": TENTHS[1:]}, {"prior_mean": 1.0}),
    Entry("Greedy, prior mean 1", GreedyMDP, {}, {"prior_mean": 1.0}),
    Entry(
        "Q-learning",
        QLearning,
        {"learning_rate": (0.2, 0.5, 0.8), "discount": (0.0, 0.3, 0.5, 0.8), "epsilon": (0.05, 0.1, 0.2)},
    ),
)
"""What the paper has no column for."""

PUBLISHED: dict[str, dict[tuple[int, ...], tuple[float, ...]]] = {
    "bandits": {
        (5, 10): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6),
        (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6),
        (50, 10): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5),
        (5, 100): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8),
        (10, 100): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1),
        (50, 100): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0),
        (5, 500): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6),
        (10, 500): (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0),
        (50, 500): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8),
    },
    "mdps": {
        (10,): (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8),
        (25,): (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8),
        (50,): (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3),
        (75,): (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9),
        (100,): (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5),
    },
}  # fmt: skip
"""By cell, in the order of the entries."""


# --- measuring -------------------------------------------------------------------------------------------------------


def totals(
    entry: Entry, setting: Mapping[str, Any], env_id: str, episodes: int, split: str, num_tasks: int, arms: int | None
) -> Array:
    """Reward of each task summed up to each episode, (N, E)."""
    env_kwargs = {} if arms is None else {"num_arms": arms}
    options = {**entry.options, **setting}
    if entry.kind is not Random:
        options["episodes_per_trial"] = episodes
    agent = entry.kind(env=env_id, env_kwargs=env_kwargs, **options)
    curve = evaluate(
        agent,
        env_id,
        split=split,
        n_tasks=num_tasks,
        episodes=episodes,
        env_kwargs=env_kwargs,
        seed=int(split == "train"),
    )
    summed: Array = curve.scores[0].cumsum(axis=1)
    return summed


def tuning_tasks(num_tasks: int) -> dict[str, int]:
    """Number of training tasks by id: pulls are cheap, and tell little."""
    return {BANDITS: 4 * num_tasks, PROCESSES: num_tasks}


def settings_of(entry: Entry) -> list[dict[str, Any]]:
    """All settings of the grid; the empty one without a grid."""
    return [dict(zip(entry.grid, values, strict=True)) for values in product(*entry.grid.values())]


def tuned(entry: Entry, env_id: str, cells: tuple[int, ...], num_tasks: int, arms: int | None) -> list[dict[str, Any]]:
    """The best setting of the grid on training tasks, for each number of episodes."""
    settings = settings_of(entry)
    if len(settings) == 1:
        return settings * len(cells)
    means = np.array(
        [totals(entry, setting, env_id, max(cells), "train", num_tasks, arms).mean(axis=0) for setting in settings]
    )
    return [settings[int(means[:, episodes - 1].argmax())] for episodes in cells]


def cells_of(
    entry: Entry, env_id: str, cells: tuple[int, ...], options: Any, arms: int | None = None
) -> Iterator[dict[str, Any]]:
    """What one agent earns in every cell."""
    best = tuned(entry, env_id, cells, tuning_tasks(options.tuning_tasks)[env_id], arms)
    played: dict[tuple[Any, ...], Array] = {}
    for episodes, setting in zip(cells, best, strict=True):
        # Gittins indices depend on the number of pulls; all others play a long trial as they play a short one.
        length = episodes if entry.kind is Gittins else max(cells)
        key = (length, *setting.values())
        if key not in played:
            played[key] = totals(entry, setting, env_id, length, "test", options.tasks, arms)
        total = played[key][:, episodes - 1]
        print(entry.label, arms or "", episodes, setting, round(float(total.mean()), 2), flush=True)
        yield {
            "agent": entry.label,
            "cell": [episodes] if arms is None else [arms, episodes],
            "setting": setting,
            "mean": float(total.mean()),
            "std": float(total.std(ddof=1)),
        }


def measure(options: Any) -> dict[str, Any]:
    """All cells of both tables."""
    th.set_num_threads(1)
    bandits = [
        row for arms in ARMS for entry in BANDIT_ENTRIES for row in cells_of(entry, BANDITS, PULLS, options, arms)
    ]
    mdps = [row for entry in MDP_ENTRIES + BESIDE for row in cells_of(entry, PROCESSES, EPISODES, options)]
    return {
        "bandits": bandits, "mdps": mdps, "num_tasks": options.tasks, "tuning_tasks": options.tuning_tasks,
    }  # fmt: skip


# --- showing ---------------------------------------------------------------------------------------------------------


def z_score(row: Mapping[str, Any], published: float, num_tasks: int) -> float:
    """Difference from what was published, over its standard error."""
    error = row["std"] * np.sqrt(1.0 / num_tasks + 1.0 / PUBLISHED_TASKS)
    return float((row["mean"] - published) / error)


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 20.0 else f"{value:.2f}"


def _shown(row: Mapping[str, Any], num_tasks: int) -> str:
    error = row["std"] / np.sqrt(num_tasks)
    return f"{_number(row['mean'])} ± {error:.2f}"


def _name(cell: list[int]) -> str:
    return f"n = {cell[0]}" if len(cell) == 1 else f"n = {cell[1]}, k = {cell[0]}"


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:.2g}" if isinstance(value, float) else str(value) for value in setting.values()) or "-"


def _table(result: Mapping[str, Any], part: str, entries: tuple[Entry, ...]) -> list[str]:
    """Measured, published and z of one table."""
    found = {(row["agent"], tuple(row["cell"])): row for row in result[part]}
    cells = sorted({cell for _, cell in found}, key=lambda cell: cell[::-1])
    lines = [
        "| | " + " | ".join(entry.label for entry in entries) + " |",
        "|---|" + "---|" * len(entries),
    ]
    for cell in cells:
        rows = [found[entry.label, cell] for entry in entries]
        numbers = [_shown(row, result["num_tasks"]) for row in rows]
        if entries is not BESIDE:
            published = PUBLISHED[part][cell]
            for place, (row, value) in enumerate(zip(rows, published, strict=True)):
                z = z_score(row, value, result["num_tasks"])
                mark = f"**z {z:+.1f}**" if abs(z) > 3.0 else f"z {z:+.1f}"
                numbers[place] += f"; {value:,.1f}, {mark}"
        lines.append(f"| {_name(list(cell))} | " + " | ".join(numbers) + " |")
    return lines


def _tuned_table(result: Mapping[str, Any], part: str) -> list[str]:
    """Settings chosen on training tasks."""
    rows = [row for row in result[part] if row["setting"]]
    found = {(row["agent"], tuple(row["cell"])): _setting(row["setting"]) for row in rows}
    cells = sorted({cell for _, cell in found}, key=lambda cell: cell[::-1])
    labels = list(dict.fromkeys(row["agent"] for row in rows))
    lines = ["| setting | " + " | ".join(_name(list(cell)) for cell in cells) + " |", "|---|" + "---|" * len(cells)]
    return lines + [f"| {label} | " + " | ".join(found[label, cell] for cell in cells) + " |" for label in labels]


def _verdict(result: Mapping[str, Any]) -> str:
    scores = []
    for part, entries in (("bandits", BANDIT_ENTRIES), ("mdps", MDP_ENTRIES)):
        places = {entry.label: place for place, entry in enumerate(entries)}
        for row in result[part]:
            if row["agent"] in places:
                published = PUBLISHED[part][tuple(row["cell"])][places[row["agent"]]]
                scores.append((abs(z_score(row, published, result["num_tasks"])), row))
    outside = [f"{row['agent']} at {_name(row['cell'])} ({z:.2f})" for z, row in scores if z > 3.0]
    inside = len(scores) - len(outside)
    text = f"Within three standard errors of what was published: {inside} of {len(scores)} cells; "
    text += f"within two: {sum(z <= 2.0 for z, _ in scores)}."
    return text + (f" Outside: {', '.join(outside)}." if outside else "")


def render(result: dict[str, Any]) -> str:
    """The tables of docs/classical-agents.md."""
    head = (
        f"Mean total reward over {result['num_tasks']:,} test tasks ± standard error; the published mean; z. "
        f"Tuned on training tasks: OTS, UCB1 and ε-greedy for bandits ({4 * result['tuning_tasks']:,} tasks); OPSRL, "
        f"UCRL2, BEB, ε-greedy and Q-learning for processes ({result['tuning_tasks']:,})."
    )
    return "\n".join(
        [
            head, "", _verdict(result), "",
            *_table(result, "bandits", BANDIT_ENTRIES), "",
            *_table(result, "mdps", MDP_ENTRIES), "",
            "Not in the paper:", "",
            *_table(result, "mdps", BESIDE), "",
            "The settings: draws of OTS and OPSRL, c of UCB1, ε, scaling of UCRL2 and BEB; learning rate, discount and "
            "ε of Q-learning.", "",
            *_tuned_table(result, "bandits"), "",
            *_tuned_table(result, "mdps"),
        ]
    )  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "classical")
    arguments.add_argument("--tasks", type=int, default=1000)
    arguments.add_argument("--tuning-tasks", type=int, default=250)
    options = arguments.parse_args()
    store(measure(options), options.out, render)


if __name__ == "__main__":
    main()
