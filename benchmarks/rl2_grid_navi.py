r"""RL² on VariBAD's grid navigation, trials of four episodes: how many seeds end up exactly Bayes-optimal?

    # prints a table, writes docs/results/rl2_grid_navi.json
    python -m benchmarks.rl2_grid_navi --columns "privileged critic" --first-seed 25 --seeds 20
    python -m benchmarks.rl2_grid_navi --columns "privileged critic, episodes alike" --first-seed 5 --seeds 20
    # both in one table, of what is finished
    python -m benchmarks.rl2_grid_navi --columns "privileged critic" "privileged critic, episodes alike" \
        --first-seed 5 --seeds 40 --finished

All seeds count, and the final weights are what is measured: the return of one trial on every one of the 21 goals, with
the most probable actions. The task is deterministic, so that is exact. Checkpoints, journals and results of finished
runs are kept in ``runs/rl2_grid_navi`` (``--work``): an interrupted command goes on where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.rl2_runs import Training, measure, summary, trials
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym.algos import RL2
from metagym.tasks import Task
from metagym.types import Float

__all__ = ["COLUMNS", "GOALS", "LIMIT", "render", "returns", "tested", "training"]

ENV_ID = "MetaGridNavi-v0"
EPISODES, LENGTH = 4, 15
STEPS = 5_000_000
ENTROPY = 0.2
"""Coefficient of the bonus at the start: what the search settles on early is seldom the best one."""
LATER_ENTROPY = 0.3
"""Weight of that bonus in the episodes after the first: they shall show early what each way to search is worth."""
LIMIT = 521.0 / 14.0
"""Return of a trial of the Bayes-optimal agent, averaged over the goals: 4 + 3 * 155 / 14 = 37.2143."""
EXACT = 1e-6
"""Returns closer than this are the same; the smallest difference between two walks is 1.1 / 21 in the mean."""
GOALS = tuple(x * 5 + y for x in range(5) for y in range(5) if x > 1 or y > 1)
"""Cells where the goal may be: all but the four of the corner where episodes start."""
_PRIVILEGED, _LATER = {"privileged_critic": True}, {"later_entropy": LATER_ENTROPY}
COLUMNS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "privileged critic": (_PRIVILEGED, _LATER),
    "privileged critic, episodes alike": (_PRIVILEGED, {}),
    "plain": ({}, _LATER),
}
"""Keywords of `RL2`, and of its policy, by the name of an agent; "episodes alike" is no help less."""

CAPTION = (
    "Return of a trial of four episodes of 15 steps, exact mean over all 21 goals, which are trained on too, as in the "
    "publication: the question is whether the search is the best one. Final weights, most probable actions, mean over "
    "all seeds ± 95 % CI. A seed is optimal if its mean is that of the Bayes-optimal agent, 37.2143 (4.0000 + 3 x "
    "11.0714), to a millionth. Published: of 20 seeds each, after 20M steps, RL² was optimal on none and VariBAD on "
    "four (VariBAD, as told by others; the paper has curves). plain: a GRU for the policy and one for the value "
    "function, no help. privileged critic: the value function is told the goal, in training. In both the bonus on "
    "entropy counts less in episodes after the first; episodes alike: it counts the same in all. Minutes of processor "
    "time, of one training."
)


def keywords(column: str) -> dict[str, Any]:
    """The settings of `RL2`."""
    rows, steps = 256, EPISODES * LENGTH
    own, of_policy = COLUMNS[column]
    return {
        "split": None,
        "episodes_per_trial": EPISODES,
        "n_envs": rows,
        "n_steps": steps,
        "batch_size": rows * steps // 8,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(2e-3, 6e-5, 1.0),
        "gamma": 0.98,
        "gae_lambda": 0.98,
        # Returns of up to 44 make the loss of values large: it must not drown the policy's gradient.
        "vf_coef": 0.05,
        "max_grad_norm": 2.0,
        "policy_kwargs": {
            "rnn_hidden_size": 64,
            "share_features_extractor": False,
            **of_policy,
            "net_arch": {"pi": [], "vf": [64]},
        },
        **own,
    }


def training(column: str, seed: int, *, tasks: int = len(GOALS), work: Path, steps: int = STEPS) -> Training:
    """One training and its measurement."""
    return Training(
        row="grid navigation",
        column=column,
        seed=seed,
        steps=steps,
        env_id=ENV_ID,
        keywords=keywords(column),
        entropy=ENTROPY,
        test=tested,
        tasks=tasks,
        work=work,
    )


def returns(agent: Any) -> Float:
    """Return of each episode of one trial on every goal, (EPISODES, 21), with the most probable actions.

    Args:
        agent: what plays: an RL2, or anything whose `policy` has its `predict`.
    """
    env = trials(ENV_ID, len(GOALS), EPISODES, split=None)
    env.unwrapped.set_tasks([Task("GridNavi", {"goal": goal}) for goal in GOALS])
    observations, _ = env.reset(seed=0)
    earned, state = np.zeros((EPISODES, len(GOALS))), None
    for step in range(EPISODES * LENGTH):
        actions, state = agent.policy.predict(observations, state, deterministic=True)
        observations, rewards, _, _, _ = env.step(actions)
        earned[step // LENGTH] += rewards
    return earned


def tested(agent: RL2, num_tasks: int) -> dict[str, Any]:
    """Mean return of a trial over all goals, whether it is the Bayes-optimal one, and that of each episode."""
    assert num_tasks == len(GOALS)
    episodes = returns(agent).mean(axis=1)
    score = float(episodes.sum())
    return {"score": score, "optimal": abs(score - LIMIT) < EXACT, "episodes": episodes.tolist()}


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = ("agent", "optimal seeds", "published", "limit", "return", "% of the limit", "worst seed", "by episode",
             "steps", "minutes")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [_line(column, own) for (_, column), own in by_agent(result["runs"]).items()]
    return "\n".join([*lines, "", CAPTION])


def _line(column: str, own: Sequence[Mapping[str, Any]]) -> str:
    mean, half = summary(own)
    worst = min(one["test"]["score"] for one in own)
    episodes = np.mean([one["test"]["episodes"] for one in own], axis=0)
    cells = (
        column, f"{sum(one['test']['optimal'] for one in own)} of {len(own)}", "RL² 0, VariBAD 4 of 20",
        f"{LIMIT:.4f}", f"{mean:.4f} ± {half:.4f}", f"{100.0 * mean / LIMIT:.2f}", f"{worst:.4f}",
        " ".join(f"{value:.3f}" for value in episodes), f"{own[0]['steps'] / 1e6:.1f}M", minutes(own),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_grid_navi")
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    add_options(arguments, "rl2_grid_navi")
    arguments.set_defaults(tasks=len(GOALS))
    given = arguments.parse_args()
    store(measure(trainings_of(given, training, "columns"), given), given.out, render)


if __name__ == "__main__":
    main()
