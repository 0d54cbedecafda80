"""Every learner with every observation, every action and every method; the rest is refused by name.

A plain run takes each learner with each method twice, and PPO, DQN and SAC with their spaces; the rest is slow.
"""

import re

import pytest
from stable_baselines3 import DQN, PPO, SAC

from metagym.errors import ConfigError
from tests.matrix.cycles import make, run
from tests.matrix.support import IMAGES, LEARNERS, METHODS, REFUSED, SUPPORTED, Cell


def covering():
    """Each learner with each method twice, with other spaces each time; three learners with all of theirs."""
    chosen = [cell for cell in SUPPORTED if cell.learner in (PPO, DQN, SAC) and cell.method in {"Reptile", "RL2"}]
    chosen = [cell for cell in chosen if cell.observation == "box" or cell.action in {"box", "discrete"}]
    chosen = [cell for cell in chosen if cell.observation not in IMAGES or (cell.learner, cell.method) != (SAC, "RL2")]
    for place, (method, learner) in enumerate((method, learner) for method in METHODS for learner in LEARNERS):
        own = [cell for cell in SUPPORTED if (cell.method, cell.learner) == (method, learner)]
        small = [cell for cell in own if "image" not in cell.observation]
        chosen += [small[0], small[1 + place % (len(small) - 1)]] if len(small) > 1 else small
    return set(chosen)


PLAIN = covering()


def parameters(cells, plain):
    return [pytest.param(cell, marks=[] if cell in plain else pytest.mark.slow, id=str(cell)) for cell in cells]


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("cell", parameters(SUPPORTED, PLAIN))
def test_a_cell_trains_saves_loads_goes_on_adapts_acts_and_is_evaluated(cell, tmp_path):
    run(cell, tmp_path)


def is_plain_refusal(cell):
    return (cell.observation, cell.method) in {("box", method) for method in METHODS} | {("dict", "Reptile")}


NAMES = {
    "box": "Box", "discrete": "Discrete", "multi_discrete": "MultiDiscrete", "multi_binary": "MultiBinary",
    "image_last": "Box", "image_first": "Box", "dict": "Dict",
}  # fmt: skip


@pytest.mark.parametrize("cell", parameters(REFUSED, {cell for cell in REFUSED if is_plain_refusal(cell)}))
def test_what_is_not_supported_is_refused_by_name(cell):
    """The message names the learner, and a space or the policy that it would need."""
    with pytest.raises(ConfigError) as refusal:
        make(cell)
    said = str(refusal.value)
    assert re.search(rf"\b{cell.learner.__name__}\b", said) or (cell.method, cell.observation) == (
        "RevealedTask",
        "dict",
    )
    named = {NAMES[cell.observation], NAMES[cell.action], "Policy'", "action_masks()", "learner_class"}
    assert any(name in said for name in named), said


def test_the_plain_cells_cover_what_they_should():
    for method in METHODS:
        for learner in LEARNERS:
            own = [cell for cell in SUPPORTED if (cell.method, cell.learner) == (method, learner)]
            played = {(cell.observation, cell.action) for cell in own if cell in PLAIN}
            assert len(played) >= min(2, len(own)), (method, learner)
    assert Cell("Reptile", PPO, "image_last", "discrete") in PLAIN
    assert len(SUPPORTED) > 700
