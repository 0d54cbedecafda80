"""Meta-SGD and ProMP beside Reptile, joint training and learning from scratch, on lakes, cart-poles and pendulums.

    python -m benchmarks.maml_study        # prints the table and writes docs/results/maml_study.json

All that train are given the same number of environment steps on training tasks; all meet the same held-out tasks, and
are measured after 0, 1, 3 and 10 episodes of each, with the same networks. Meta-SGD and ProMP take one step of the
policy gradient on all episodes of a budget; the others adapt with PPO, as in `benchmarks.study`. Finished trainings are
kept in ``--work``: an interrupted command goes on where it was.
"""

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import FloatSchedule
from typing_extensions import override

from benchmarks import study, trainings
from benchmarks.maml_runs import interval_cells, shown
from benchmarks.stored import parser, store
from benchmarks.study_settings import PROBLEMS, Problem
from benchmarks.trainings import Journal, add_options, by_agent, measure_all, minutes, trainings_of
from metagym.algos import MetaSGD, ProMP
from metagym.evaluation import evaluate
from metagym.tasks import Task

BUDGETS = (0, 1, 3, 10)
"""Episodes of a task that were learnt from."""
EPISODES = 10
"""Episodes whose mean return is a score."""
GRADIENT: Mapping[str, type[Any]] = {"Meta-SGD": MetaSGD, "ProMP": ProMP}
"""Those whose training looks through steps of the policy gradient."""
LEARNERS = (*GRADIENT, "Reptile", "joint training", "from scratch")
LAKES = replace(PROBLEMS["lakes"], timesteps=400_000, reptile={**PROBLEMS["lakes"].reptile, "meta_batch_size": 4})
CART_POLES = replace(
    PROBLEMS["cart-poles"],
    splits=("test",),
    timesteps=100_000,
    joint={"n_steps": 32, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3},
)
PENDULUMS = Problem(
    title="pendulums (200 steps, hidden constants)",
    env_id="MetaPendulum-v0",
    env_kwargs={"episode_length": 200},
    episode_length=200,
    timesteps=400_000,
    n_tasks=40,
    digits=0,
    inner={"n_steps": 200, "batch_size": 250, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.9},
    reptile={"n_envs": 5, "inner_timesteps": 2000, "meta_batch_size": 2, "learning_rate": 0.7, "batched": True},
    joint={"n_steps": 64, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3},
    joint_rows=32,
    rl2={},
)
PROBLEM: Mapping[str, Problem] = {"lakes": LAKES, "cart-poles": CART_POLES, "pendulums": PENDULUMS}
ADAPTATION: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("lakes", "joint training"): {"learning_rate": 3e-3, "n_epochs": 10},
    ("cart-poles", "joint training"): {"learning_rate": 1e-3},
    ("pendulums", "joint training"): {"learning_rate": 3e-4},
}
"""Where the PPO that adapts has other settings for one learner than for the rest."""
SAME: dict[str, Any] = {
    "gae_lambda": 0.95,
    "inner_objective": "likelihood_ratio",
    "outer": "ppo",
    "clip_range": 0.3,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "lakes": SAME
    | {
        "meta_batch_size": 20, "n_envs": 10, "gamma": 0.97, "learning_rate": 3e-3, "inner_learning_rate": 5.0,
        "baseline": "value_net", "normalize_advantage": False,
    },
    "cart-poles": SAME
    | {
        "meta_batch_size": 5, "n_envs": 5, "gamma": 0.98, "learning_rate": 5e-3, "n_epochs": 20,
        "inner_learning_rate": 0.1,
    },
    "pendulums": SAME
    | {
        "meta_batch_size": 4, "n_envs": 10, "gamma": 0.9, "learning_rate": 5e-3, "n_epochs": 30,
        "inner_learning_rate": 0.01, "normalize_advantage": False,
    },
}  # fmt: skip
"""What the two gradient meta-learners are told of each problem; their learning rate falls to zero."""


@dataclass(frozen=True, kw_only=True)
class Training(trainings.Training):
    """One training of one learner, `column`, on one problem, `row`, and its measurement.

    Attributes:
        problem: with the settings of the three that adapt with PPO; `keywords` are those of gradient meta-learners.
    """

    problem: Problem

    @property
    @override
    def settings(self) -> list[Any]:
        own = {name: value for name, value in asdict(self.problem).items() if name not in _UNUSED[self.column]}
        return [own, sorted(self.keywords.items()), self.tasks, BUDGETS, EPISODES]

    @override
    def trained(self) -> Any:
        agent = self.made()
        if self.path(".zip").exists() and self.journal():
            return type(agent).load(self.path(".zip"), device="cpu")
        self.path(".jsonl").unlink(missing_ok=True)
        journal = StudyJournal(self)
        agent.learn(self.problem.timesteps, callback=journal, log_interval=None)
        if not self.journal():
            # Learning from scratch takes no step here, and calls nobody.
            journal.init_callback(agent)
            journal.on_training_start({}, {})
            journal.on_training_end()
        return agent

    def made(self) -> Any:
        """The learner, not trained yet."""
        problem = self.problem
        if self.column not in GRADIENT:
            return study.make(study.Job(key=self.row, problem=problem, learner=self.column, seed=self.seed))
        return GRADIENT[self.column](
            "MlpPolicy", self.env_id, env_kwargs=dict(problem.env_kwargs), policy_kwargs=dict(problem.policy),
            seed=self.seed, device="cpu", **self.keywords,
        )  # fmt: skip

    @override
    def tested(self, agent: Any) -> dict[str, Any]:
        measured = (OneStep if self.column in GRADIENT else study.WholeEpisodes)(agent, self.problem, self.seed)
        # Tasks are given, and not drawn by the seed, because the noise is to differ from run to run.
        curve = evaluate(
            measured, self.env_id, env_kwargs=self.problem.env_kwargs, tasks=study.tasks_of(self.problem, "test"),
            budgets=BUDGETS, seed=self.seed, eval_episodes=EPISODES,
        )  # fmt: skip
        return {
            "scores": curve.scores[0].round(4).tolist(),
            "random": float(curve.random.mean()),
            "optimal": None if curve.optimal is None else float(curve.optimal.mean()),
        }


_UNUSED: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(GRADIENT, ("inner", "reptile", "joint", "joint_rows", "rl2")),
    "Reptile": ("joint", "joint_rows", "rl2"),
    "joint training": ("reptile", "rl2"),
    "from scratch": ("joint", "joint_rows", "rl2"),
}
"""Settings of problems that do not concern a learner."""


class StudyJournal(Journal):
    """Writes one line, in the end; and lets the outer learning rate of gradient meta-learners fall to zero, linearly.

    Args:
        training: whose files are written.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training, seconds_between=math.inf)
        self._steps = training.problem.timesteps
        self._rate = training.keywords["learning_rate"] if training.column in GRADIENT else None

    @override
    def _on_rollout_start(self) -> None:
        if self._rate is not None:
            left = 1.0 - self.model.num_timesteps / self._steps
            self.model.lr_schedule = FloatSchedule(self._rate * left)


class OneStep(study.WholeEpisodes):
    """A gradient meta-learner that takes one step on all episodes of a budget, each in a row of its own.

    The step is as long as in training, or shorter in proportion if it sees fewer episodes: an episode moves the policy
    equally far however few there are.
    """

    @override
    def adapt(self, task: Task, total_timesteps: int) -> Any:
        budget = total_timesteps // self._problem.episode_length
        adapted = self._learner.adapt(task, 1, n_envs=budget, seed=self._seed_of(task))
        missing = max(0.0, 1.0 - budget / self._learner.n_envs)
        with th.no_grad():
            for own, before in zip(adapted.policy.parameters(), self._learner.policy.parameters(), strict=True):
                own.lerp_(before, missing)
        return adapted


def training(key: str, learner: str, seed: int, *, tasks: int, work: Path) -> Training:
    """One training of a learner on a problem."""
    problem = PROBLEM[key]
    problem = replace(problem, n_tasks=tasks, inner={**problem.inner, **ADAPTATION.get((key, learner), {})})
    return Training(
        row=key, column=learner, seed=seed, env_id=problem.env_id, problem=problem,
        keywords=SETTINGS[key] if learner in GRADIENT else {}, tasks=tasks, work=work,
    )  # fmt: skip


def measure(trainings: Sequence[Training], given: Namespace) -> dict[str, Any]:
    """All trainings, as `benchmarks.trainings.measure_all`."""
    return measure_all(trainings, given, shown)


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/maml-results.md."""
    heads = " | ".join(f"after {budget}" for budget in BUDGETS)
    lines = [f"| problem | learner | {heads} | seeds | steps | minutes |", "|---" * 9 + "|"]
    runs, given = by_agent(result["runs"]), [f"{problem.timesteps:,} on {key}" for key, problem in PROBLEM.items()]
    for key, problem in PROBLEM.items():
        rows = {learner: runs[key, learner] for learner in LEARNERS if (key, learner) in runs}
        for learner, own in rows.items():
            steps = np.mean([one["steps"] for one in own])
            lines.append(
                f"| {problem.title} | {learner} | {interval_cells(own, problem.digits)} | {len(own)} "
                f"| {steps:,.0f} | {minutes(own)} |"
            )
        if rows:
            lines.append(f"| {problem.title} | {_limits(next(iter(rows.values()))[0], problem.digits)} |" + " |" * 7)
    return "\n".join(
        [
            *lines,
            "",
            f"Mean return of sampled actions on {result['tasks']} held-out tasks [95 % CI over seeds] after so many "
            "episodes of the task, final weights. Steps of the environment are those taken in meta-training, where "
            f"{', '.join(given)} are asked for and the last rollout or iteration is completed; minutes are its "
            "processor time.",
        ]
    )


def _limits(one: Mapping[str, Any], digits: int) -> str:
    random, optimal = one["test"]["random"], one["test"]["optimal"]
    found = f"random {random:.{digits}f}"
    return found if optimal is None else f"{found}, optimum {optimal:.{digits}f}"


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_study")
    arguments.add_argument("--problems", nargs="+", default=list(PROBLEM), choices=list(PROBLEM))
    arguments.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=list(LEARNERS))
    add_options(arguments, "maml_study")
    arguments.set_defaults(tasks=40)
    given = arguments.parse_args()
    store(measure(trainings_of(given, training, "problems", "learners"), given), given.out, render)


if __name__ == "__main__":
    main()
