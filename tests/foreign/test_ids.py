import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import metagym
from metagym.errors import ConfigError
from metagym.foreign.ids import FOREIGN, foreign_family, is_foreign
from metagym.registry import family_ids
from tests.foreign.worlds import carts, walks

ID = "MetaTestCart-v0"


@pytest.fixture
def family():
    made = carts(id=ID)
    yield made
    gym.registry.pop(ID, None)


def test_make_and_make_vec_make_envs_of_the_family(family):
    env, vector_env = gym.make(ID, split="test"), gym.make_vec(ID, num_envs=3, split="ood", reveal_task=True)
    env.reset(seed=0)
    _, infos = vector_env.reset(seed=0)

    assert env.unwrapped.family is vector_env.family is metagym.make_family(ID) is family
    assert env.unwrapped.task in family.distribution("test")
    assert (infos["task"]["gravity"] >= 15.0).all()


def test_the_spec_makes_the_env_again_and_goes_through_json(family):
    env = gym.make(ID, split="test")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))

    assert again.reset(seed=5)[1] == env.reset(seed=5)[1]


def test_pictures_come_through_make_as_one_or_as_a_list(family):
    for mode, kind in (("rgb_array", np.ndarray), ("rgb_array_list", list)):
        env = gym.make(ID, render_mode=mode)
        env.reset(seed=0)
        assert isinstance(env.render(), kind)
    with pytest.raises(ConfigError, match="'ansi' is unknown to CartPole-v1"):
        gym.make(ID, render_mode="ansi")


def test_max_episode_steps_cuts_both(family):
    env, vector_env = gym.make(ID, max_episode_steps=2), gym.make_vec(ID, num_envs=1, max_episode_steps=2)
    env.reset(seed=0)
    vector_env.reset(seed=0)

    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    assert [vector_env.step(np.array([0]))[3].item() for _ in range(2)] == [False, True]


def test_gymnasiums_own_vector_envs_take_the_tasks(family):
    tasks = family.make().sample_tasks(2)
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        vector_env = kind([family.make] * 2)
        metagym.set_tasks(vector_env, tasks)
        _, infos = vector_env.reset(seed=0)
        assert infos["task_id"].tolist() == [task.id for task in tasks]
        vector_env.close()


def test_registering_again_replaces_the_family(family):
    other = walks(id=ID)

    assert metagym.make_family(ID) is other


def test_ids_of_others_are_not_taken():
    with pytest.raises(ConfigError, match="'CartPole-v1' belongs to another env"):
        carts(id="CartPole-v1")
    with pytest.raises(ConfigError, match="'MetaBandit-v0' belongs to another env"):
        carts().register("MetaBandit-v0")


def test_foreign_ids_are_no_families_of_metagyms(family):
    assert ID not in family_ids()
    assert not FOREIGN.keys() & set(family_ids())
    assert is_foreign(ID)
    assert not is_foreign("MetaBandit-v0")
    assert not is_foreign("no_such_package:Id-v0")


def test_a_parameterized_id_takes_no_keywords_and_another_none_at_all(family):
    with pytest.raises(ConfigError, match=r"takes no keywords \['size'\]"):
        metagym.make_family(ID, size=4)
    with pytest.raises(ConfigError, match="is no id of a foreign family"):
        foreign_family("MetaBandit-v0")


def test_an_id_from_another_process_says_what_to_do():
    gym.register("MetaGone-v0", entry_point="metagym.foreign.ids:make_env", kwargs={"family": "MetaGone-v0"})

    with pytest.raises(ConfigError, match="parameterize"):
        gym.make("MetaGone-v0")
    gym.registry.pop("MetaGone-v0")


def test_the_ids_that_ship_are_registered_by_importing_metagym():
    code = f"import metagym, gymnasium, sys; print({list(FOREIGN)} == [i for i in {list(FOREIGN)} if i in "
    code += "gymnasium.registry], 'metaworld' in sys.modules, 'mujoco' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["True", "False", "False"]


def test_sb3_makes_vector_envs_of_ids_and_of_makers_in_other_processes(family):
    walk = walks(id="MetaTestWalk-v0")  # which cannot be drawn in pixels, as SB3 would like
    one_process = make_vec_env("MetaTestWalk-v0", n_envs=2, seed=0)
    gym.registry.pop("MetaTestWalk-v0")
    processes = SubprocVecEnv([walk.make] * 2, start_method="fork")
    tasks = walk.make().sample_tasks(2)
    for vector_env in (one_process, processes):
        metagym.set_tasks(vector_env, tasks)
        vector_env.reset()
        assert [info["task_id"] for info in vector_env.reset_infos] == [task.id for task in tasks]
        vector_env.close()


@pytest.mark.parametrize("path", ["os:system", "metagym.envs.bandit:Bandit", "metagym.foreign.ids:make_env"])
def test_what_is_no_foreign_family_is_not_called(path):
    with pytest.raises(ConfigError, match=r"is no subclass of metagym\.foreign\.ForeignFamily"):
        gym.make("metaworld/ML1-v0", family=path)


def test_metagym_and_its_other_families_work_without_the_extras():
    code = """
import sys, metagym, gymnasium
from metagym.registry import family_ids
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mujoco", "metaworld", "numba"}:
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
for env_id in [*family_ids(), "metaworld/ML1-v0"]:
    try:
        gymnasium.make(env_id, disable_env_checker=True).reset(seed=0)
    except gymnasium.error.DependencyNotInstalled as missing:
        assert 'pip install "metagym-rl[' in str(missing), missing
        print(env_id)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {"MetaAntDir-v0", "MetaHopperParams-v0"} <= set(output)
    assert not {"MetaCartPole-v0", "MetaLQR-v0", "MetaPointWalls-v0"} & set(output)
