"""What `benchmarks.study` measures: problems, budgets, and the settings of each learner."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BUDGETS", "INNER_RATES", "LEARNERS", "MEMORY", "MEMORY_TRIALS", "PROBLEMS", "ROWS", "Problem"]

EVAL_EPISODES = 5
"""Episodes whose mean return is one score; for RL², so many trials."""
BUDGETS = (0, 1, 2, 5, 10)
"""Episodes of experience of a task behind each entry."""
ROWS = 5
"""Most episodes that are played at the same time in adaptation, and so at most the episodes of one rollout."""
MEMORY = "RL²"
LEARNERS = ("Reptile", "joint training", "from scratch", MEMORY)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        title: as tables call it.
        env_id: id of the family.
        env_kwargs: its keywords.
        episode_length: steps; a budget of b episodes is b times as many.
        timesteps: environment steps of meta-training, the same for all that have one.
        n_tasks: held-out tasks of one split.
        splits: where those come from.
        digits: decimals in tables.
        policy: keywords of every learner's policy.
        inner: keywords of the PPO that adapts: Reptile's, joint training's and that from scratch.
        reptile: keywords of `Reptile`.
        joint: keywords of the PPO that trains on all tasks jointly, where they differ from `inner`.
        joint_rows: rows of joint training.
        rl2: keywords of `RL2`.
    """

    title: str
    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    episode_length: int
    timesteps: int
    n_tasks: int
    splits: tuple[str, ...] = ("test",)
    digits: int = 2
    policy: Mapping[str, Any] = field(default_factory=dict)
    inner: Mapping[str, Any]
    reptile: Mapping[str, Any]
    joint: Mapping[str, Any]
    joint_rows: int = 64
    rl2: Mapping[str, Any]


PROBLEMS: Mapping[str, Problem] = {
    "lakes": Problem(
        title="frozen lakes (4x4, firm ice, hidden map)",
        env_id="MetaFrozenLake-v0",
        env_kwargs={"is_slippery": False, "episode_length": 20},
        episode_length=20,
        timesteps=200_000,
        n_tasks=16,
        digits=3,
        inner={
            "n_steps": 20, "batch_size": 320, "n_epochs": 4, "learning_rate": 1e-2, "gamma": 0.97, "ent_coef": 0.01,
        },
        reptile={"n_envs": 32, "inner_timesteps": 1280, "meta_batch_size": 2, "learning_rate": 0.3},
        joint={"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 1e-3},
        rl2={"episodes_per_trial": 6, "n_envs": 32, "n_steps": 64, "batch_size": 512, "n_epochs": 8},
    ),
    "cart-poles": Problem(
        title="cart-poles (200 steps, hidden constants)",
        env_id="MetaCartPole-v0",
        env_kwargs={"episode_length": 200},
        episode_length=200,
        timesteps=60_000,
        n_tasks=4,
        splits=("test", "ood"),
        digits=1,
        inner={"n_steps": 200, "batch_size": 250, "n_epochs": 5, "learning_rate": 1e-2, "gamma": 0.98},
        reptile={"n_envs": 10, "inner_timesteps": 2000, "meta_batch_size": 2, "learning_rate": 0.3},
        joint={"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 1e-3},
        rl2={"episodes_per_trial": 2, "n_envs": 16, "n_steps": 128, "batch_size": 512, "n_epochs": 8},
    ),
    "points": Problem(
        title="2-D navigation (goals of MAML, 100 steps)",
        env_id="MetaPointGoal-v0",
        env_kwargs={"variant": "maml"},
        episode_length=100,
        timesteps=100_000,
        n_tasks=8,
        policy={"log_std_init": -2.0},
        inner={"n_steps": 100, "batch_size": 250, "n_epochs": 5, "learning_rate": 1e-3, "gamma": 0.95},
        reptile={"n_envs": 10, "inner_timesteps": 1000, "meta_batch_size": 2, "learning_rate": 0.3},
        joint={"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 1e-3},
        rl2={"episodes_per_trial": 2, "n_envs": 16, "n_steps": 200, "batch_size": 800, "n_epochs": 8},
    ),
}  # fmt: skip

INNER_RATES = (1e-3, 3e-3, 1e-2)
"""Step sizes of the PPO that adapts, tried in the pilot for each of the three learners that it serves."""
MEMORY_TRIALS: tuple[Mapping[str, Any], ...] = (
    {"learning_rate": 5e-3, "n_epochs": 4},
    {"learning_rate": 2e-3, "n_epochs": 4},
    {"learning_rate": 5e-3, "n_epochs": 8},
)
"""Settings of RL2 tried in the pilot."""
