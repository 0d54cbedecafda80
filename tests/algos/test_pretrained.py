"""Agents that ship trained: they load, act as well as the index says, and learn on."""

import json

import pytest

from benchmarks import rl2_bandits
from benchmarks.rl2_settings import CELLS
from metagym.algos import RL2
from metagym.algos.pretrained import pretrained, pretrained_path
from metagym.errors import ConfigError

every_agent = pytest.mark.parametrize("name", pretrained())


def test_there_are_some_and_the_index_knows_them_all():
    assert len(pretrained()) >= 5
    folder = pretrained_path(next(iter(pretrained()))).parent
    assert {path.stem for path in folder.glob("*.zip")} == set(pretrained())
    assert set(json.loads((folder / "index.json").read_text())) == set(pretrained())


@every_agent
def test_an_agent_is_a_small_file_of_the_steps_that_the_index_says(name):
    entry = pretrained()[name]
    assert pretrained_path(name).stat().st_size < 500_000
    agent = RL2.from_pretrained(name, device="cpu")
    assert agent.num_timesteps == entry.steps
    assert (agent.env_id, agent.env_kwargs) == (entry.env_id, entry.env_kwargs)
    assert entry.limit == CELLS[name].limit
    assert entry.score > 0.98 * entry.limit


@pytest.mark.parametrize("name", ["bandit-k10-n10", pytest.param("bandit-k10-n100", marks=pytest.mark.slow)])
def test_an_agent_scores_what_the_index_says(name):
    entry = pretrained()[name]
    found = rl2_bandits.tested(RL2.from_pretrained(name, device="cpu"), CELLS[name], 2000)
    assert abs(found["score"] - entry.score) < 4.0 * (found["score_error"] ** 2 + entry.error**2) ** 0.5


def test_an_agent_learns_on():
    agent = RL2.from_pretrained("bandit-k10-n10", device="cpu")
    before = agent.num_timesteps
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps > before


def test_unknown_names_are_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="no trained agent 'bandit'; there are bandit-k10-n10"):
        RL2.from_pretrained("bandit")
