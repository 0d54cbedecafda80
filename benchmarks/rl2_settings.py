"""What `benchmarks.rl2_bandits` trains: cells of the published table, helps, and the settings of each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from benchmarks.rl2_runs import PLAIN_FIRST_LAMBDA, plain_settings
from metagym.nets import ExchangeableMDPPolicy, ExchangeableTrialPolicy

__all__ = ["CELLS", "COLUMNS", "Cell", "keywords"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of Table 1 of Duan et al. 2016.

    Attributes:
        arms: K.
        pulls: n, of a trial.
        limit: return of the Bayes-optimal agent; from 100 pulls on that of finite-horizon Gittins indices.
        published: return of RL², the best of five seeds.
        steps: environment steps of training with the exchangeable policy.
        counting_steps: with the one that counts.
        plain_steps: with a GRU that reads all arms.
        plain_rows: trials of its rollouts, all at the same time.
        plain_minibatches: of its rollouts.
        plain_lambda: lambda at the start of its training.
        rows: trials of a rollout with the exchangeable policy.
        rate: learning rate at the start; it falls to a tenth linearly.
        entropy: coefficient of the entropy bonus at the start; it falls to zero linearly.
        minibatches: of a rollout.
        bootstrap: lambda of the exchangeable policy that learns from regret, if it learns as long trials want it: with
            a memory that lasts at first, values by the step that is left and, mostly, less bootstrapping from them.
    """

    arms: int
    pulls: int
    limit: float
    published: float
    steps: int
    plain_steps: int
    plain_rows: int
    plain_minibatches: int
    plain_lambda: float = PLAIN_FIRST_LAMBDA
    counting_steps: int = 4_000_000
    rows: int = 64
    rate: float = 3e-3
    entropy: float = 0.03
    minibatches: int = 4
    bootstrap: float | None = None

    def steps_of(self, column: str) -> int:
        """Environment steps of the training of a column."""
        helps = COLUMNS[column]
        return self.counting_steps if "counts" in helps else self.steps if "exchangeable" in helps else self.plain_steps

    @property
    def key(self) -> str:
        """Name, as in ``bandit-k10-n100``."""
        return f"bandit-k{self.arms}-n{self.pulls}"


# Each of many arms is seldom taken: what a pull pays at once must be learnt before what it is worth later on.
_PLAIN_K50: dict[str, Any] = {"plain_lambda": 0.0}
_SHORT: dict[str, Any] = {
    "steps": 2_000_000, "rows": 512, "rate": 5e-3, "plain_steps": 2_000_000, "plain_rows": 512, "plain_minibatches": 4,
}  # fmt: skip
_LONG: dict[str, Any] = {
    "steps": 5_000_000, "plain_steps": 10_000_000, "plain_rows": 1024, "plain_minibatches": 32,
}  # fmt: skip
_LONGEST: dict[str, Any] = {
    "entropy": 0.05, "bootstrap": 0.95, "plain_steps": 12_000_000, "plain_rows": 256, "plain_minibatches": 32,
}  # fmt: skip
_K50: dict[str, Any] = _LONGEST | _PLAIN_K50 | {"steps": 1_000_000, "minibatches": 16, "rate": 4e-3, "bootstrap": 0.9}
_ALL = (
    Cell(arms=5, pulls=10, limit=6.6600, published=6.7, **_SHORT),
    Cell(arms=10, pulls=10, limit=6.7140, published=6.7, **_SHORT),
    Cell(arms=50, pulls=10, limit=6.7140, published=6.8, **_SHORT | _PLAIN_K50),
    Cell(arms=5, pulls=100, limit=78.650, published=78.7, **_LONG),
    Cell(arms=10, pulls=100, limit=83.763, published=83.5, **_LONG | {"plain_steps": 20_000_000}),
    Cell(arms=50, pulls=100, limit=85.547, published=84.9, **_LONG | _PLAIN_K50 | {"plain_steps": 20_000_000}),
    Cell(arms=5, pulls=500, limit=408.59, published=401.6, steps=2_000_000, **_LONGEST),
    Cell(arms=10, pulls=500, limit=442.17, published=432.5, steps=1_200_000, minibatches=8, **_LONGEST),
    Cell(arms=50, pulls=500, limit=464.86, published=438.9, **_K50),
)
CELLS: Mapping[str, Cell] = {cell.key: cell for cell in _ALL}

COLUMNS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "plain, vf_coef 0.5": frozenset({"vf_coef 0.5"}),
    "privileged critic": frozenset({"privileged"}),
    "expected regret": frozenset({"expected", "regret"}),
    "exchangeable": frozenset({"exchangeable"}),
    "exchangeable, expected rewards": frozenset({"exchangeable", "expected"}),
    "exchangeable, regret": frozenset({"exchangeable", "regret"}),
    "exchangeable, expected regret": frozenset({"exchangeable", "expected", "regret"}),
    "counts, expected regret": frozenset({"counts", "expected", "regret"}),
    "counts, expected regret, privileged critic": frozenset({"counts", "expected", "regret", "privileged"}),
}
"""Helps by the name of a column; the agent sees no more in any of them than RL² does.

``vf_coef`` 0.5 is no help: it shows what the weight of the loss of values is worth."""


def keywords(cell: Cell, column: str) -> tuple[Any, dict[str, Any]]:
    """The policy, and the keywords of `RL2`."""
    helps = COLUMNS[column]
    if "counts" in helps:
        return ExchangeableMDPPolicy, _counting_told(cell) if "privileged" in helps else _counting(cell)
    shared: dict[str, Any] = {
        "ent_coef": cell.entropy,
        "expected_rewards": "expected" in helps,
        "regret": "regret" in helps,
        "privileged_critic": "privileged" in helps,
    }
    if "exchangeable" in helps:
        return ExchangeableTrialPolicy, shared | _exchangeable(cell, helps)
    return "MlpPolicy", shared | _plain(cell, helps)


def _plain(cell: Cell, helps: Collection[str]) -> dict[str, Any]:
    return plain_settings(
        cell.pulls,
        rows=cell.plain_rows,
        minibatches=cell.plain_minibatches,
        units=64,
        gae_lambda=cell.plain_lambda,
        vf_coef=0.5 if "vf_coef 0.5" in helps else 0.5 / cell.pulls,
        gamma=1.0 if "regret" in helps else 0.99,
    )


def _exchangeable(cell: Cell, helps: Collection[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "n_envs": cell.rows,
        "n_steps": cell.pulls,
        "batch_size": cell.rows * cell.pulls // cell.minibatches,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(cell.rate, cell.rate / 10.0, 1.0),
        # Undiscounted, as returns are measured, where less noise allows it.
        "gamma": 1.0 if "regret" in helps else 0.99,
        # Where what can be earned in a task is not taken off, returns vary too much for a larger one.
        "gae_lambda": 0.7 if "regret" in helps else 0.3,
        "policy_kwargs": {"trial_steps": cell.pulls},
    }
    if cell.bootstrap is not None and "regret" in helps:
        settings |= _for_long_trials(cell.pulls, cell.bootstrap)
    return settings


def _for_long_trials(pulls: int, bootstrap: float) -> dict[str, Any]:
    scale = pulls / 10.0
    own = {"trial_steps": pulls, "value_scale": scale, "value_per_step": True, "memory_steps": pulls}
    return {"gae_lambda": bootstrap, "vf_coef": 0.5 / scale**2, "policy_kwargs": own}


def _counting(cell: Cell) -> dict[str, Any]:
    """Settings where memories are counts: a bandit is a decision process of one state, with episodes of one step."""
    return {
        "n_envs": cell.rows,
        "n_steps": cell.pulls,
        "batch_size": cell.rows * cell.pulls // 4,
        "n_epochs": 4,
        "learning_rate": LinearSchedule(5e-3, 1e-4, 1.0),
        "expected_rewards": True,
        "regret": True,
        "gamma": 1.0,
        # What a pull tells pays until the trial ends, and values are not exact enough to say so early.
        "gae_lambda": 1.0,
        "vf_coef": 50.0 / cell.pulls**2,
        "ent_coef": cell.entropy,
        "policy_kwargs": {"trial_steps": cell.pulls, "episode_steps": 1, "n_backups": 1, "pooled_values": True},
    }


def _counting_told(cell: Cell) -> dict[str, Any]:
    """As `_counting`, with a wider network, and values so exact that they can say early what a pull is worth."""
    settings = _counting(cell)
    return settings | {
        "privileged_critic": True,
        "batch_size": cell.rows * cell.pulls // 8,
        "learning_rate": LinearSchedule(3e-3, 6e-5, 1.0),
        "gae_lambda": 0.97,
        "policy_kwargs": settings["policy_kwargs"] | {"pair_size": 48, "head_size": 64},
    }
