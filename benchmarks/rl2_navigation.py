"""RL² on MAML's 2-D navigation: what it earns in the first episode, in which it has to find out where the goal is.

    python -m benchmarks.rl2_navigation               # prints the table, writes docs/results/rl2_navigation.json
    python -m benchmarks.rl2_navigation --columns plain --seeds 1

All seeds count, and the final weights are what is measured: the return of one episode of 100 steps on held-out goals,
with sampled actions. Checkpoints, journals and results of finished runs are kept in ``runs/rl2_navigation``
(``--work``): an interrupted command goes on where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from typing_extensions import override

from benchmarks.rl2_runs import Training, measure, summary, trials
from benchmarks.stored import parser, store
from benchmarks.trainings import add_options, by_agent, minutes, trainings_of
from metagym.algos import RL2
from metagym.types import Bool, Float

__all__ = ["COLUMNS", "KNOWN", "Scaled", "render", "returns", "tested", "training"]

ENV_ID = "MetaPointGoal-v0"
LENGTH = 100
STEPS = 2_500_000
KNOWN, STILL = -0.506, -38.26
"""Mean return of an episode: of an agent that knows the goal, and of standing still."""
BY_HAND = -1.48
"""Of an agent made by hand, which triangulates: the tests have it."""
COLUMNS: Mapping[str, Mapping[str, Any]] = {"privileged critic": {"privileged_critic": True}, "plain": {}}
"""Agents by their helps, and the keywords of `RL2` that give them."""


class Scaled(BaseFeaturesExtractor):
    """What RL2Context emits, in units that a network can read: moves are a tenth of a metre, distances half of one.

    Args:
        observation_space: of place (2), last move (2), last reward and flag.
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[0])
        self.scale: th.Tensor
        self.register_buffer("scale", th.tensor([5.0, 5.0, 10.0, 10.0, 5.0, 1.0]))

    @override
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations * self.scale


def keywords(column: str) -> dict[str, Any]:
    """The settings of `RL2`."""
    rows, steps = 256, 32
    return {
        "episodes_per_trial": 1,
        "n_envs": rows,
        "n_steps": steps,
        "batch_size": rows * steps // 4,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(1.5e-3, 4.5e-5, 1.0),
        "gamma": 0.9,
        "gae_lambda": 0.9,
        "vf_coef": 0.05,
        "max_grad_norm": 1.0,
        "policy_kwargs": {
            "rnn_hidden_size": 64,
            "share_features_extractor": False,
            "net_arch": {"pi": [], "vf": [64]},
            "features_extractor_class": Scaled,
            # Moves are at most 0.1 m: sampled ones start at 0.06 around their means.
            "log_std_init": -2.75,
        },
        **COLUMNS[column],
    }


def training(column: str, seed: int, *, tasks: int, work: Path, steps: int = STEPS) -> Training:
    """One training and its measurement."""
    return Training(
        row="navigation",
        column=column,
        seed=seed,
        steps=steps,
        env_id=ENV_ID,
        keywords=keywords(column),
        # Less noise than the policy would keep: near the goal, all of it costs.
        entropy=-0.01,
        test=tested,
        tasks=tasks,
        work=work,
        custom_objects={"policy_kwargs.features_extractor_class": Scaled},
    )


def returns(agent: Any, num_tasks: int, *, deterministic: bool = False, seed: int = 0) -> tuple[Float, Bool]:
    """Return of the first episode on each of so many held-out tasks, and whether the goal was reached, (num_tasks,).

    Args:
        agent: what plays: an RL2, or anything whose `policy` has its `predict`.
        num_tasks: tasks, played side by side.
        deterministic: take the means of the actions; else sample.
        seed: of tasks and actions.
    """
    env = trials(ENV_ID, num_tasks, 1, autoreset_mode=AutoresetMode.NEXT_STEP)
    th.manual_seed(seed)
    observations, _ = env.reset(seed=seed)
    earned, arrived, state = np.zeros(num_tasks), np.zeros(num_tasks, np.bool_), None
    running = ~arrived
    while running.any():
        actions, state = agent.policy.predict(observations, state, deterministic=deterministic)
        observations, rewards, ended, _, infos = env.step(actions)
        earned[running] += rewards[running]
        arrived |= running & infos["is_success"]
        # Rows that are done play on with other tasks, and are not looked at.
        running &= ~ended
    return earned, arrived


def tested(agent: RL2, num_tasks: int) -> dict[str, Any]:
    """Mean return of the first episode on held-out tasks, with sampled actions and with their means, and arrivals."""
    earned, arrived = returns(agent, num_tasks)
    means, _ = returns(agent, num_tasks, deterministic=True)
    return {
        "score": float(earned.mean()),
        "score_error": float(earned.std() / num_tasks**0.5),
        "arrived": float(arrived.mean()),
        "of_means": float(means.mean()),
    }


CAPTION = (
    "Return of the first episode (100 steps, each paid minus the distance to the goal, until the goal is reached to "
    "0.01 m), final weights, sampled actions, mean over all seeds ± 95 % CI, on {tasks:,} held-out goals; arrived: in "
    "so many of them the goal is reached; of means: the return with the means of the actions in place of samples. An "
    "agent that knows the goal earns {known:.3f}, one that stands still {still:.2f}, and one made by hand, which moves "
    "twice at right angles and then straight to where the circles of its distances meet, {by_hand:.2f}; the "
    "Bayes-optimal return is not known. MAML's are the published ones, before adaptation and after 3 gradient steps on "
    "40 episodes each. plain: a GRU for the policy and one for the value function, which read places and rewards times "
    "5 and moves times 10; no help. privileged critic: the value function is also told the goal, in training. Minutes "
    "of processor time, of one training."
)


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    heads = ("agent", "MAML before, after", "known goal", "return", "worst seed", "of means", "arrived", "seeds",
             "steps", "minutes")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [_line(column, own) for (_, column), own in by_agent(result["runs"]).items()]
    return "\n".join([*lines, "", CAPTION.format(tasks=result["tasks"], known=KNOWN, still=STILL, by_hand=BY_HAND)])


def _line(column: str, own: Sequence[Mapping[str, Any]]) -> str:
    tests = [one["test"] for one in own]
    mean, half = summary(own)
    cells = (
        column, "-40.41, -3.23", f"{KNOWN:.3f}", f"{mean:.3f} ± {half:.3f}",
        f"{min(test['score'] for test in tests):.3f}", f"{np.mean([test['of_means'] for test in tests]):.3f}",
        f"{100.0 * np.mean([test['arrived'] for test in tests]):.1f} %", str(len(own)),
        f"{own[0]['steps'] / 1e6:.1f}M", minutes(own),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "rl2_navigation")
    arguments.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    add_options(arguments, "rl2_navigation")
    given = arguments.parse_args()
    trainings = trainings_of(given, training, "columns")
    store(measure(trainings, given), given.out, render)


if __name__ == "__main__":
    main()
