"""Ids: making, registering, refusing; what importing metagym loads."""

import subprocess
import sys
import time

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

import metagym
from metagym.envs import FrozenLake
from metagym.errors import ConfigError
from metagym.registry import BUILTIN, family_ids, load_family, make_family, register, register_builtin
from tests.strategies import EVERY_ID as IDS


@pytest.fixture
def _clean_registry():
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


# --- making ----------------------------------------------------------------------------------------------------------


def test_the_builtin_ids_are_registered():
    assert set(BUILTIN) <= set(family_ids())
    assert family_ids() == sorted(family_ids())
    assert set(IDS) == set(BUILTIN)
    assert {"MetaBandit-v0", "MetaFrozenLake-v0", "MetaPointGoal-v0"} <= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_make_and_make_vec_make_metagyms_envs(name):
    env, vector = gym.make(name), gym.make_vec(name, num_envs=3)
    assert isinstance(env.unwrapped, metagym.TaskEnv)
    assert isinstance(vector, metagym.TaskVectorEnv)
    assert type(env.unwrapped.family) is type(vector.family) is type(make_family(name))
    assert env.spec.id == vector.spec.id == name
    assert env.spec.max_episode_steps is None
    assert vector.autoreset_mode is AutoresetMode.NEXT_STEP
    assert type(make_family(f"metagym:{name}")) is type(make_family(name))


def test_keywords_reach_the_family_and_the_env():
    kwargs = {"size": 5, "split": "test", "render_mode": "ansi", "reveal_task": True}
    for env in (
        gym.make("MetaFrozenLake-v0", **kwargs).unwrapped,
        gym.make_vec("MetaFrozenLake-v0", num_envs=2, **kwargs),
    ):
        assert env.family.size == 5
        assert (env.render_mode, env.reveal_task) == ("ansi", True)
        assert "test" in repr(env.task_distribution)
    assert make_family("MetaFrozenLake-v0", size=6).size == 6


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("make", [gym.make, gym.make_vec, make_family])
def test_unknown_keywords_are_refused_by_name(make, name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        make(name, frameskip=1)


def test_an_unknown_id_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'MetaNothing-v0' is no id of a family.*MetaBandit-v0, .*MetaFrozenLake-v0"):
        make_family("MetaNothing-v0")
    with pytest.raises(ConfigError, match="'CartPole-v1' is no id of a family"):
        make_family("CartPole-v1")
    with pytest.raises(gym.error.NameNotFound):
        gym.make("MetaNothing-v0")


# --- registering -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_clean_registry")
def test_families_of_users_get_an_id():
    metagym.register("Drift-v3", "tests.strategies:Drift")
    register("Hall-v0", "tests.strategies:Hall")
    assert {"Drift-v3", "Hall-v0"} <= set(family_ids())
    env = gym.make("Drift-v3", split="test")
    assert env.reset(seed=0)[1]["trial_start"] is True
    assert gym.make_vec("Hall-v0", num_envs=2).reset(seed=0)[0].shape == (2,)
    assert make_family("Drift-v3").name == "Drift"


@pytest.mark.usefixtures("_clean_registry")
def test_default_keywords_are_defaults():
    register("BigLake-v0", "metagym.envs:FrozenLake", size=7, is_slippery=False)
    assert gym.make("BigLake-v0").unwrapped.family.size == 7
    assert gym.make("BigLake-v0", size=3).unwrapped.family.size == 3
    assert make_family("BigLake-v0").size == 7
    assert make_family("BigLake-v0", size=3).is_slippery is False
    assert make_family("BigLake-v0").size == 7


@pytest.mark.usefixtures("_clean_registry")
def test_registering_the_same_again_says_nothing_and_anything_else_warns():
    register_builtin()
    register("Hall-v0", "tests.strategies:Hall")
    register("Hall-v0", "tests.strategies:Hall")
    with pytest.warns(UserWarning, match="Overriding environment Hall-v0"):
        register("Hall-v0", "tests.strategies:FoggyHall")


@pytest.mark.parametrize(
    "entry_point",
    [
        "",
        "nonsense",
        "no.such.module:Family",
        "metagym.envs:NoSuchFamily",
        ":FrozenLake",
        ".envs:FrozenLake",
        "metagym.envs",
        "numpy:ndarray",
        "metagym.registry:make_env",
    ],
)
def test_an_entry_point_that_is_no_family_is_refused(entry_point):
    with pytest.raises(ConfigError, match=r"no family at|no subclass"):
        load_family(entry_point)
    assert load_family("metagym.envs.frozen_lake:FrozenLake") is FrozenLake


# --- importing -------------------------------------------------------------------------------------------------------


def _python(code):
    output = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return output.stdout.strip()


def test_importing_and_stepping_load_neither_torch_nor_sb3_nor_matplotlib_nor_pygame():
    code = """
import sys, metagym, gymnasium as gym
for name, (place, _) in metagym.registry.BUILTIN.items():
    if ".mujoco." in place or name == "MetaTabularMDP-v0":  # MuJoCo loads SciPy; the normal quantile is SciPy's
        continue
    for mode in ("rgb_array", "ansi"):
        env = gym.make(name, render_mode=mode)
        env.reset(seed=0)
        env.render()
        env.step(env.action_space.sample())
    vector = gym.make_vec(name, num_envs=2)
    vector.reset(seed=0)
    vector.step(vector.action_space.sample())
heavy = ["torch", "stable_baselines3", "sb3_contrib", "matplotlib", "pygame", "pandas", "scipy", "rich", "typer"]
print([name for name in heavy if name in sys.modules])
"""
    assert _python(code) == "[]"


def test_importing_metagym_takes_little_more_than_importing_gymnasium():
    code = "import time, gymnasium.vector as g; t = time.process_time(); import metagym; print(time.process_time() - t)"
    assert min(float(_python(code)) for _ in range(2)) < 0.25


def test_an_id_with_the_module_in_it_needs_no_import():
    code = "import gymnasium as gym; print(gym.make('metagym:MetaFrozenLake-v0').spec.id)"
    assert _python(code) == "MetaFrozenLake-v0"


@pytest.mark.parametrize("name", IDS)
def test_making_an_env_is_quick(name):
    gym.make(name)
    start = time.process_time()
    for _ in range(3):
        gym.make(name).reset(seed=0)
        gym.make_vec(name, num_envs=4).reset(seed=0)
    assert time.process_time() - start < 3.0
