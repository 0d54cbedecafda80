"""Every gradient meta-learner with every observation and every action; what its policies cannot be is refused by name.

A plain run takes MAML with each observation and with each action, and the others once; the rest is slow.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO

from metagym.algos import EMAML, FOMAML, MAML, MetaSGD, ProbabilisticMAML, ProMP
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from tests.matrix.cycles import acts_without_metagym, assert_same_archives, contents, left_alone
from tests.matrix.support import ACTIONS, IMAGES, LEARNERS, OBSERVATIONS, policy_of
from tests.matrix.worlds import dict_rows, env_id, family

KINDS = (MAML, FOMAML, ProMP, EMAML, MetaSGD, ProbabilisticMAML)
EXPERTS = (A2C, PPO, TRPO)
"""Learners with the actor and the critic that a policy gradient steps."""
ITERATION = 32
"""Steps of an iteration: two tasks, two episodes of four steps, before and after the inner step."""


class Cell(NamedTuple):
    """One gradient meta-learner, what it adapts into, and the spaces."""

    kind: Any
    learner: Any
    observation: str
    action: str

    def __str__(self) -> str:
        return f"{self.kind.__name__}-{self.learner.__name__}-{self.observation}-{self.action}"


def make(cell):
    """A tiny learner of the cell."""
    env = dict_rows(cell.action) if cell.observation == "dict" else env_id(cell.observation, cell.action)
    nets = {"net_arch": [4]} | (
        {"features_extractor_kwargs": {"features_dim": 4}} if cell.observation in IMAGES else {}
    )
    return cell.kind(
        policy_of(cell.learner, cell.observation), env, learner_class=cell.learner, policy_kwargs=nets,
        meta_batch_size=2, n_envs=2, seed=0, device="cpu",
    )  # fmt: skip


CELLS = [
    Cell(kind, EXPERTS[place % 3], observation, action)
    for place, (kind, observation, action) in enumerate(product(KINDS, OBSERVATIONS, ACTIONS))
]


def is_plain(cell):
    if cell.kind is MAML:
        return cell.action == "discrete" or cell.observation == "box"
    return (cell.observation, cell.action) == ("discrete", "multi_binary")


def parameters():
    return [pytest.param(cell, marks=[] if is_plain(cell) else pytest.mark.slow, id=str(cell)) for cell in CELLS]


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("cell", parameters())
def test_a_cell_trains_saves_loads_goes_on_adapts_and_is_evaluated(cell, tmp_path):
    agent = make(cell).learn(ITERATION)
    assert agent.num_timesteps == ITERATION
    first = contents(agent, tmp_path, "half")
    env = dict_rows(cell.action) if cell.observation == "dict" else None
    loaded = cell.kind.load(tmp_path / "half", env=env, device="cpu")
    for each in (agent, loaded):
        each.learn(ITERATION, reset_num_timesteps=False)
    whole = contents(agent, tmp_path, "whole")
    assert_same_archives(whole, contents(loaded, tmp_path, "parts"))
    assert any(not np.array_equal(array, first[1][name]) for name, array in whole[1].items())
    if cell.observation == "dict":
        return
    _adapts(cell, agent, tmp_path)
    curve = evaluate(agent, family(cell.observation, cell.action), n_tasks=2, budgets=(0, 1), eval_episodes=1)
    assert curve.scores.shape == (1, 2, 2)
    assert np.isfinite(curve.scores).all()


def _adapts(cell, agent, folder):
    task = family(cell.observation, cell.action).make(split="test").sample_task()
    with left_alone(agent, folder):
        expert = agent.adapt(task, n_steps=2, seed=1)
    acts_without_metagym(cell, expert, folder)
    before, after = agent.policy.action_net.state_dict(), expert.policy.action_net.state_dict()
    assert any(not th.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", [MAML, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
@pytest.mark.parametrize("learner", [each for each in LEARNERS if each not in EXPERTS])
def test_learners_without_the_policy_that_a_gradient_steps_are_refused_by_name(kind, learner):
    action = "discrete" if learner in {MaskablePPO, RecurrentPPO} or "DQN" in learner.__name__ else "box"
    # Of the first two it is the policy that cannot be.
    named = {RecurrentPPO: "RecurrentActorCritic", MaskablePPO: "MaskableActorCritic"}.get(learner, learner.__name__)
    with pytest.raises(ConfigError, match=named):
        make(Cell(kind, learner, "box", action))
