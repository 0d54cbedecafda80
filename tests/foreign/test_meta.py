"""Meta-World behind the task API: parity with its own envs, its published splits, and its defects left behind."""

import importlib.util
import pickle
import random
import sys
from functools import partial
from importlib.machinery import ModuleSpec

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import metagym
from metagym.errors import ConfigError, TaskError
from metagym.foreign.meta_world import ML1, ML10, ML45, SawyerEnv
from metagym.foreign.meta_world_classes import CLASSES, ML10_TEST, ML10_TRAIN, ML45_TEST, ML45_TRAIN
from tests.parity import assert_parity, assert_same

needs_metaworld = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="Meta-World is an extra")
pytestmark = needs_metaworld


@pytest.fixture(scope="module")
def ml10():
    return ML10()


def drawn(family, split, n=400, seed=0):
    return family.distribution(split).sample(np.random.default_rng(seed), n)


def theirs(env_name, vector):
    """Meta-World's own env, given the task as Meta-World gives it."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task

    kind = ALL_V3_ENVIRONMENTS[env_name]
    env = kind()
    data = {"rand_vec": vector, "env_cls": kind, "partially_observable": True}
    env.set_task(Task(env_name=env_name, data=pickle.dumps(data)))
    return env


def assert_plays_as_theirs(family, task, num_steps=40):
    name = family.env_name(task)
    env, other = family.make(), theirs(name, task["vector"][: len(CLASSES[name].low)])
    env.set_task(task)
    np.testing.assert_array_equal(env.reset(seed=0)[0], other.reset()[0])
    actions = np.random.default_rng(1).uniform(-1, 1, (num_steps, 4)).astype(np.float32)
    for action in actions:
        observation, reward, *_, info = env.step(action)
        expected, their_reward, _, _, their_info = other.step(action)
        np.testing.assert_array_equal(observation, expected)
        assert reward == their_reward
        assert info["is_success"] == bool(their_info["success"])
        assert info["obj_to_target"] == float(their_info["obj_to_target"])
    env.close()
    other.close()


@pytest.mark.parametrize("env_name", ["reach-v3", "door-open-v3"])
def test_a_task_plays_as_in_meta_world(env_name):
    family = ML1(env_name=env_name)

    assert_plays_as_theirs(family, drawn(family, None, 1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("env_name", list(CLASSES))
def test_every_class_plays_as_in_meta_world_and_after_other_tasks(env_name):
    family = ML1(env_name=env_name)

    assert_plays_as_theirs(family, drawn(family, None, 1)[0])
    family.check_application(num_tasks=2, num_steps=30)


@pytest.mark.slow
def test_the_benchmarks_own_tasks_may_be_played():
    import metaworld

    benchmark = metaworld.ML1("push-v3", seed=3)
    family = ML1(env_name="push-v3")
    for published in (benchmark.train_tasks[0], benchmark.test_tasks[49]):
        vector = pickle.loads(published.data)["rand_vec"]
        assert_plays_as_theirs(family, family.distribution().coerce({"vector": vector}))


@pytest.mark.slow
def test_classes_and_lists_are_those_of_the_installed_package():
    import inspect
    import re

    from metaworld import env_dict

    assert list(CLASSES) == list(env_dict.ALL_V3_ENVIRONMENTS)
    for name, kind in env_dict.ALL_V3_ENVIRONMENTS.items():
        space = kind()._random_reset_space
        assert (CLASSES[name].low, CLASSES[name].high) == (tuple(space.low.tolist()), tuple(space.high.tolist()))
        distances = re.findall(r"while .*?< ([0-9.]+):", inspect.getsource(kind.reset_model), re.DOTALL)
        assert [CLASSES[name].distance] == ([float(distance) for distance in distances] or [0.0])
    for ours, published in (
        ((ML10_TRAIN, ML10_TEST), env_dict.ML10_V3),
        ((ML45_TRAIN, ML45_TEST), env_dict.ML45_V3),
    ):
        assert [set(part) for part in ours] == [set(published["train"]), set(published["test"])]


def test_ml10_trains_and_tests_on_the_published_classes(ml10):
    assert {ml10.env_name(task) for task in drawn(ml10, "train")} == set(ML10_TRAIN)
    assert {ml10.env_name(task) for task in drawn(ml10, "test")} == set(ML10_TEST)
    assert not set(ML10_TRAIN) & set(ML10_TEST)
    assert {ml10.env_name(task) for task in drawn(ml10, None)} == set(ML10_TRAIN) | set(ML10_TEST)


def test_ml45_has_all_classes(ml10):
    family = ML45()

    assert len(set(ML45_TRAIN)) == 45
    assert set(ML45_TRAIN) | set(ML45_TEST) == set(CLASSES)
    assert {family.env_name(task) for task in drawn(family, "test", 100)} == set(ML45_TEST)


def test_tasks_know_their_part(ml10):
    train, test = drawn(ml10, "train", 1)[0], drawn(ml10, "test", 1)[0]

    assert train in ml10.distribution("train")
    assert train not in ml10.distribution("test")
    assert test not in ml10.distribution("train")
    assert test in ml10.distribution()
    assert "text" not in ml10.distribution("train")


def test_ml1_trains_and_tests_on_other_vectors():
    family = ML1(env_name="pick-place-v3")
    train, test = drawn(family, "train", 200), drawn(family, "test", 200)

    assert not {task.id for task in train} & {task.id for task in test}
    assert all(task in family.distribution("train") for task in train)
    assert not any(task in family.distribution("train") for task in test)


@pytest.mark.parametrize("make", [partial(ML1, env_name="box-close-v3"), ML10, ML45])
def test_vectors_lie_where_the_class_draws_them(make):
    family = make()
    for task in drawn(family, None, 300):
        kind = CLASSES[family.env_name(task)]
        width = len(kind.low)
        vector = task["vector"]
        assert (np.array(kind.low) <= vector[:width]).all()
        assert (vector[:width] <= np.array(kind.high)).all()
        assert not vector[width:].any()
        assert width == 3 or np.linalg.norm(vector[:2] - vector[3:5]) >= kind.distance


def test_vectors_that_an_env_would_reject_for_ever_are_refused():
    env = ML1(env_name="box-close-v3").make()

    with pytest.raises(TaskError, match=r"object and target of box-close-v3 are closer than 0\.25"):
        env.set_task({"vector": [0.0, 0.55, 0.02, 0.0, 0.7, 0.133]})


def test_tasks_of_other_classes_are_refused(ml10):
    task = drawn(ml10, "test", 1)[0]

    with pytest.raises(TaskError, match=r"env=0 is no class of ML10"):
        ml10.make().set_task({"env": 0, "vector": task["vector"]})
    with pytest.raises(TaskError, match="is out of range for"):
        ml10.make().set_task({"env": task["env"], "vector": ml10.task_space["vector"].high})


def test_the_goal_is_in_no_observation_and_the_space_says_so():
    family = ML1()
    env = family.make()
    tasks = family.distribution().sample(np.random.default_rng(0), 2)
    pair = [dict(tasks[0]), dict(tasks[0])]
    pair[1]["vector"] = np.concatenate([tasks[0]["vector"][:3], tasks[1]["vector"][3:]])
    seen = [env.reset(options={"task": task})[0] for task in pair]

    np.testing.assert_array_equal(*seen)
    assert seen[0].dtype == env.observation_space.dtype == np.float64
    assert seen[0] in env.observation_space
    np.testing.assert_array_equal(seen[0][36:], 0.0)
    assert env.step(env.action_space.sample())[0] in env.observation_space
    np.testing.assert_array_equal(env.observation_space.high[36:], 0.0)


def test_rows_equal_scalar_envs():
    family = ML1(env_name="drawer-open-v3")

    assert_parity(
        family.make_vec(2, max_episode_steps=6), lambda: gym.wrappers.TimeLimit(family.make(), 6), num_steps=14
    )


def test_rows_have_tasks_of_their_own_from_seeds_of_their_own():
    env = gym.make_vec("metaworld/ML1-v0", env_name="reach-v3", num_envs=3)
    _, infos = env.reset(seed=0)

    assert len(set(infos["task_id"].tolist())) == 3


def test_no_global_generator_is_touched():
    family = ML1()
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 (the one that must stay)
    env = family.make()
    env.reset(seed=0)
    env.step(env.action_space.sample())

    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]


@pytest.mark.slow
def test_episodes_are_cut_at_500_steps():
    env = ML1().make()
    env.reset(seed=0)
    cut = [env.step(np.zeros(4))[2:4] for _ in range(500)]

    assert set(cut[:-1]) == {(False, False)}
    assert cut[-1] == (False, True)


def test_a_copy_goes_on_as_the_env_does(ml10):
    env = ml10.make_vec(2, split="test", autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 4))
    for action in actions:
        env.step(action)
    twin = pickle.loads(pickle.dumps(env))

    for action in actions:
        assert_same(twin.step(action), env.step(action))


def test_the_ids_make_the_families():
    assert gym.make("metaworld/ML1-v0", env_name="push-v3").unwrapped.family.name == "ML1/push-v3"
    assert gym.make("metaworld/ML10-v0", split="test").unwrapped.family.name == "ML10"
    assert metagym.make_family("metaworld/ML45-v0", reward_function_version="v1").name == "ML45"


def test_wrong_keywords_are_named():
    with pytest.raises(ConfigError, match=r"env_name='reach' is no class of Meta-World; accepted are .*reach-v3"):
        metagym.make_family("metaworld/ML1-v0", env_name="reach")
    with pytest.raises(ConfigError, match="reward_function_version='v9'"):
        ML10(reward_function_version="v9")
    with pytest.raises(ConfigError, match="ML10 has no ood region"):
        drawn(ML10(), "ood", 1)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("metagym.foreign.meta_world.find_spec", lambda name: None)

    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "metagym-rl\[metaworld\]"'):
        gym.make("metaworld/ML1-v0")


def test_another_version_of_meta_world_is_noticed(monkeypatch):
    changed = CLASSES["reach-v3"]._replace(low=(0.0,) * 6)
    monkeypatch.setitem(CLASSES, "reach-v3", changed)

    with pytest.raises(ConfigError, match=r"this version of Meta-World draws reach-v3 from"):
        ML1().make().reset(seed=0)


class Hidden:
    """Lets imports of some packages fail, as where they are broken."""

    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is hidden")


def test_a_broken_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Hidden("metaworld"), *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "metagym-rl\[metaworld\]"'):
        ML1()
    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "metagym-rl\[metaworld\]"'):
        SawyerEnv("reach-v3", np.zeros(6))


def test_a_folder_of_that_name_is_no_meta_world(monkeypatch, tmp_path):
    (tmp_path / "metaworld").mkdir()
    monkeypatch.setattr("metagym.foreign.meta_world.find_spec", lambda name: ModuleSpec(name, None))

    with pytest.raises(gym.error.DependencyNotInstalled, match="Meta-World is missing"):
        ML10()
