"""What all learners' checkpoints have in common: nothing of a file is executed, and faults are the file's."""

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import PPO

from metagym.algos import RL2, FromScratch, JointTraining, Reptile, RevealedTask
from metagym.algos.learner_checkpoint import (
    blaming,
    episode_records,
    kept_rng,
    require_kind,
    restore_episode_records,
    resume_rng,
)
from metagym.encoding import decode, encode
from metagym.errors import CheckpointError, ConfigError, TaskError
from metagym.learner_state import get_rng_state, preserved_rng, set_rng_state
from tests.algos.crafted_setup import ENVS, POLICIES, craft, nothing_imported
from tests.algos.multi_task_setup import tiny as tiny_multi_task
from tests.algos.reptile_setup import LAKE, line_env
from tests.algos.reptile_setup import tiny as tiny_reptile
from tests.algos.rl2_setup import lake
from tests.algos.rl2_window_setup import make as window

MAKERS = {
    "Reptile": (Reptile, lambda: tiny_reptile(LAKE)),
    "JointTraining": (JointTraining, lambda: tiny_multi_task(env=LAKE)),
    "RevealedTask": (RevealedTask, lambda: tiny_multi_task(env=LAKE, kind=RevealedTask)),
    "FromScratch": (FromScratch, lambda: tiny_multi_task(env=LAKE, kind=FromScratch)),
    "RL2": (RL2, lake),
    "RL2 with a window": (RL2, lambda: window("DQN")),
    "RL2 with a window and PPO": (RL2, lambda: window("PPO")),
}


@pytest.fixture(scope="module", params=MAKERS)
def saved(request, tmp_path_factory):
    """A learner's class, and a file of it."""
    kind, make = MAKERS[request.param]
    path = tmp_path_factory.mktemp("saved") / "agent.zip"
    make().save(path)
    return kind, path


@pytest.mark.parametrize("attack", ENVS)
def test_no_env_is_made_that_the_file_alone_asks_for(saved, attack, tmp_path, monkeypatch):
    kind, path = saved
    craft(path, tmp_path / "crafted", **ENVS[attack])
    with nothing_imported(tmp_path, monkeypatch), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The learner was trained in")
        assert kind.load(tmp_path / "crafted").env is None


def test_keywords_of_the_file_do_not_make_an_env_of_ones_own_import_anything(saved, tmp_path, monkeypatch):
    kind, path = saved
    craft(path, tmp_path / "crafted", **ENVS["a keyword that names a family"])
    with nothing_imported(tmp_path, monkeypatch), pytest.raises(ConfigError, match="another family"):
        kind.load(tmp_path / "crafted", env=LAKE)


@pytest.mark.parametrize("attack", POLICIES)
def test_no_algorithm_is_made_as_part_of_a_policy(saved, attack, tmp_path, monkeypatch):
    kind, path = saved
    craft(path, tmp_path / "crafted", policy_kwargs=POLICIES[attack])
    with nothing_imported(tmp_path, monkeypatch), pytest.raises(CheckpointError, match="may not name"):
        kind.load(tmp_path / "crafted")


def test_the_warning_of_an_env_that_starts_anew_points_to_who_loads(tmp_path):
    for make in (lambda: tiny_reptile(line_env()), lambda: tiny_multi_task(env=line_env()).learn(64)):
        agent = make()
        agent.save(tmp_path / "agent")
        with pytest.warns(UserWarning, match="starts anew") as caught:
            type(agent).load(tmp_path / "agent", env=line_env(), device="cpu")
        assert [warning.filename for warning in caught] == [__file__]


def test_faults_are_blamed_on_the_file_and_reported_ones_go_on_as_they_are():
    for fault in (KeyError("a"), TypeError(), IndexError(), RuntimeError(), AssertionError(), OverflowError()):
        with pytest.raises(CheckpointError, match=r"x\.zip is damaged") as caught, blaming("x.zip"):
            raise fault
        assert caught.value.__cause__ is fault
    with pytest.raises(TaskError, match="itself"), blaming("x.zip"):
        raise TaskError("itself")
    with pytest.raises(MemoryError), blaming("x.zip"):
        raise MemoryError


def test_a_file_of_another_kind_is_refused():
    require_kind("x.zip", {"kind": "RL2"}, "RL2")
    for meta in ({"kind": "Reptile"}, {}):
        with pytest.raises(CheckpointError, match=r"x.zip is a checkpoint of .* not of RL2"):
            require_kind("x.zip", meta, "RL2")


def test_random_states_are_set_once_and_kept_until_then():
    with preserved_rng():
        random.seed(1)
        waiting = SimpleNamespace(_resumed_rng=get_rng_state())
        expected = random.random()
        random.seed(2)
        np.testing.assert_array_equal(kept_rng(waiting)["rng/python"], waiting._resumed_rng["python"])
        resume_rng(waiting)
        assert random.random() == expected
        resume_rng(waiting)
        assert random.random() != expected
        here = kept_rng(waiting)
        set_rng_state({name.removeprefix("rng/"): array for name, array in here.items()})
    assert here.keys() == {f"rng/{name}" for name in get_rng_state()}


def test_episode_records_come_back_as_plain_numbers():
    learner = tiny_reptile(LAKE).learner
    learner.ep_info_buffer, learner.ep_success_buffer = [{"r": np.float32(0.5), "l": 3, "task": "x"}], [True]
    stored = episode_records(learner)
    assert stored == {"episodes": [{"r": 0.5, "l": 3.0}], "successes": [1.0]}
    restore_episode_records(learner, stored)
    assert list(learner.ep_info_buffer) == stored["episodes"]
    assert learner.ep_success_buffer.maxlen == learner._stats_window_size


@pytest.mark.parametrize("kind", [PPO, TRPO])
def test_an_algorithm_is_named_as_the_learner_class_and_nowhere_else(kind):
    named = encode({"learner_class": kind})
    assert decode(named) == {"learner_class": kind}
    elsewhere = {"policy_kwargs": {"features_extractor_class": kind}}
    with pytest.raises(CheckpointError, match=r"pass custom_objects with 'policy_kwargs.features_extractor_class'"):
        decode(encode(elsewhere))
    crafted = {"policy_kwargs": {"features_extractor_class": named["learner_class"]}}
    with pytest.raises(CheckpointError, match="may not name"):
        decode(crafted)
    with pytest.raises(CheckpointError, match="may not name"):
        decode({"learner_class": encode(th.nn.Tanh)})
