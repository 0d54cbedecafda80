"""What the tests of the core share: envs to test, families made to be difficult, and Hypothesis strategies."""

import importlib.util
import re
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import strategies as st

import metagym
from metagym.engine import TaskEnv, TaskVectorEnv
from metagym.family import Family, Params, Step
from metagym.registry import BUILTIN, make_family
from metagym.tabular import Cell, TabularFamily, at_states

IDS = ["MetaBandit-v0", "MetaFrozenLake-v0", "MetaPointGoal-v0"]
"""Ids whose families differ most from each other, for tests of what is the same code for all families."""
SETTINGS = [
    *((name, {}) for name in IDS),
    ("MetaFrozenLake-v0", {"size": 2, "remap_actions": True, "success_rate": (0.5, 0.9)}),
    ("MetaFrozenLake-v0", {"size": 5, "is_slippery": False, "random_goal": True, "episode_length": 9}),
    ("MetaBandit-v0", {"num_arms": 3, "reward": "gaussian", "reward_std": 0.5}),
    ("MetaPointGoal-v0", {"variant": "pearl"}),
    ("MetaPointGoal-v0", {"variant": "semicircle", "episode_length": 6}),
]
EVERY_ID = sorted(BUILTIN)
"""All ids that metagym ships."""
SIMULATED = [name for name in EVERY_ID if ".mujoco." in BUILTIN[name][0]]
"""Those whose families run a simulator row by row: slower, and behind an optional package."""
PLAIN = [name for name in EVERY_ID if name not in SIMULATED]
has_simulator = importlib.util.find_spec("mujoco") is not None


def some_ids(names, *, slow=()):
    """Parameters `name`: simulated families are skipped where their package is missing, `slow` ones left to -m slow."""
    missing = pytest.mark.skipif(not has_simulator, reason="mujoco is not installed")
    marks = {name: [missing] for name in SIMULATED} | {name: [pytest.mark.slow, missing] for name in slow}
    marks |= {name: [pytest.mark.slow] for name in slow if name not in SIMULATED}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks.get(name, ())) for name in names])


def plainly(value):
    """The text of a value without addresses in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def label(setting):
    """The name of a test of one of `SETTINGS`."""
    name, kwargs = setting
    return "-".join([name, *(f"{key}={value}" for key, value in kwargs.items())])


# --- families made to be difficult -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftParams(Params):
    """Columns of N drifts: fields of several kinds, dtypes and shapes."""

    push: np.ndarray
    pattern: np.ndarray
    kind: np.ndarray


class DriftState(NamedTuple):
    """Columns of different shapes and dtypes."""

    position: np.ndarray
    visits: np.ndarray


class Drift(Family[DriftState, DriftParams]):
    """Uses all that the contract allows: starts that depend on the task, several draws a step, random ends."""

    name = "Drift"
    params_type = DriftParams
    structural = ("push", "kind")
    has_success = True
    initial_needs_task = True
    episode_length = 6
    num_structure_draws = 3
    num_detail_draws = 4
    num_initial_draws = 2
    num_step_draws = 3

    def __init__(self):
        self.observation_space = spaces.Box(-50.0, 50.0, (2, 2), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.task_space = spaces.Dict(
            push=spaces.Box(-1.0, 1.0, (2,), np.float32),
            pattern=spaces.MultiBinary((2, 2)),
            kind=spaces.Discrete(3),
        )

    def draw_structure(self, noise, region):
        scale = 0.5 if region == "train" else 1.0
        return {
            "push": (scale * (2.0 * noise[:, :2] - 1.0)).astype(np.float32),
            "kind": (noise[:, 2] * 3).astype(np.int64),
        }

    def draw_details(self, noise, region):
        return {"pattern": (noise < 0.5).astype(np.int8).reshape(-1, 2, 2)}

    def accept(self, structure):
        return structure["push"][:, 0] + structure["push"][:, 1] > -0.6

    def initial(self, params, noise):
        return DriftState(noise + params.push, np.zeros((len(noise), 2, 2), np.int32))

    def step(self, state, action, params, noise):
        position = state.position + np.clip(action.astype(np.float64), -1.0, 1.0) * params.push + noise[:, :2] - 0.5
        visits = state.visits + params.pattern
        reward = position[:, 0] * (1 + params.kind) - noise[:, 2]
        terminated = noise[:, 2] < 0.15
        return Step(DriftState(position, visits), reward, terminated, terminated & (position[:, 0] > 0.0))

    def observe(self, state, params):
        return np.stack([state.position, state.visits[:, 0].astype(np.float64)], axis=1).astype(np.float32)

    def draw(self, state, params):
        return np.zeros((4, 4, 3), np.uint8)

    def describe(self, state, params):
        return f"{state.position[0].tolist()}\n"


@dataclass(frozen=True)
class HallParams(Params):
    """Columns of N halls."""

    kinds: np.ndarray
    labels: np.ndarray


class Hall(TabularFamily[HallParams]):
    """A corridor of eight states with random starts and shuffled actions."""

    name = "Hall"
    params_type = HallParams
    structural = ("kinds",)
    has_success = True
    cells = (Cell(-0.25, False, False), Cell(1.0, True, True), Cell(0.5, False, False))
    episode_length = 7
    num_structure_draws = 8
    num_detail_draws = 1
    num_initial_draws = 3

    def __init__(self):
        states = np.arange(8)
        left, right = np.maximum(states - 1, 0), np.minimum(states + 1, 7)
        self.successors = np.stack([np.stack([left, states], axis=1), np.stack([right, left], axis=1)], axis=1)
        self.observation_space, self.action_space = spaces.Discrete(8), spaces.Discrete(2)
        self.task_space = spaces.Dict(kinds=spaces.Box(0, 2, (8,), np.uint8), labels=spaces.Box(0, 1, (2,), np.uint8))
        self._compile()

    def draw_structure(self, noise, region):
        return {"kinds": (noise * 3).astype(np.uint8)}

    def draw_details(self, noise, region):
        first = (noise[:, 0] < 0.5).astype(np.uint8)
        return {"labels": np.stack([first, 1 - first], axis=1)}

    def kinds(self, params, states):
        return at_states(params.kinds, states)

    def probabilities(self, params):
        return np.full(len(params), 0.75), np.full(len(params), 0.25)

    def effects(self, params, states, actions):
        return at_states(params.labels, actions)

    def initial(self, params, noise):
        state = super().initial(params, noise)
        return state._replace(cell=(noise[:, 2] * 8).astype(np.int64))

    def draw(self, state, params):
        return np.zeros((4, 4, 3), np.uint8)

    def describe(self, state, params):
        return f"{state.cell[0]}\n"


class FoggyHall(Hall):
    """A hall in which pairs of states look alike: a tabular family with an observation of its own."""

    name = "FoggyHall"

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Discrete(4)

    def observe(self, state, params):
        return state.cell // 2


class TollHall(Hall):
    """A hall whose rewards also depend on the action: a tabular family with a step of its own."""

    name = "TollHall"

    def step(self, state, action, params, noise):
        step = super().step(state, action, params, noise)
        return step._replace(reward=step.reward - 0.125 * action)


FAMILIES = [Drift, Hall, FoggyHall, TollHall]


def family_of(setting):
    """The family of one of `SETTINGS`, or of a class."""
    return setting() if isinstance(setting, type) else make_family(setting[0], **setting[1])


# --- envs ------------------------------------------------------------------------------------------------------------


def scalar_env(setting, **kwargs):
    """The bare scalar env of one of `SETTINGS`, or of a family class."""
    if isinstance(setting, type):
        return TaskEnv(setting(), **kwargs)
    name, family_kwargs = setting
    return TaskEnv(make_family(name, **family_kwargs), **kwargs)


def vector_env(setting, num_envs, **kwargs):
    """The vector env of one of `SETTINGS`, or of a family class."""
    if isinstance(setting, type):
        return TaskVectorEnv(setting(), num_envs, **kwargs)
    name, family_kwargs = setting
    return TaskVectorEnv(make_family(name, **family_kwargs), num_envs, **kwargs)


def rollout(env, actions, seed=None, options=None):
    """All that one env, scalar or vector, returns; scalar ones are reset when they finish."""
    results = [env.reset(seed=seed, options=options)]
    is_vector = hasattr(env, "num_envs")
    for action in actions:
        results.append(env.step(action))
        if not is_vector and (results[-1][2] or results[-1][3]):
            results.append(env.reset())
    return results


def random_actions(env, num_steps, seed=0):
    """Actions of `num_steps` steps."""
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(num_steps)]


def arrays_in(value):
    """All arrays in nested results."""
    if isinstance(value, np.ndarray):
        found = [value]
        if value.dtype == object:
            found += [array for item in value for array in arrays_in(item)]
        return found
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [array for item in items for array in arrays_in(item)]


def everything(name):
    """What an id gives for one seed, scalar and vector, as JSON takes it."""
    env = gym.make(name).unwrapped
    vector = gym.make_vec(name, num_envs=2)
    actions = random_actions(env, 25)
    both = random_actions(vector, 25)
    results = [rollout(env, actions, seed=3), rollout(vector, both, seed=3)]
    return {
        "bytes": [array.tobytes().hex() for array in arrays_in(results) if array.dtype != object],
        "rewards": [result[1] for result in results[0] if len(result) == 5],
        "ids": [task.id for task in (*env.sample_tasks(3), *vector.sample_tasks(3), *vector.get_tasks())],
    }


# --- Hypothesis ------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**63)
settings_of_ids = st.sampled_from([*SETTINGS, *((name, {}) for name in PLAIN if name not in IDS)])
families = st.sampled_from(FAMILIES)
anything = st.one_of(settings_of_ids, families)


@st.composite
def arrays(draw):
    """Small arrays of the dtypes that tasks may have, every bit pattern included but NaN."""
    dtype = np.dtype(draw(st.sampled_from(["?", "u1", "i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8"])))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        return (np.frombuffer(raw, np.uint8) % 2 == 1).reshape(shape)
    value = np.frombuffer(raw, dtype).reshape(shape)
    return np.where(np.isnan(value), dtype.type(0), value) if dtype.kind == "f" else value


names = st.text(min_size=1, max_size=8)
fields = st.dictionaries(names, arrays(), min_size=1, max_size=4)
tasks = st.builds(metagym.Task, names, fields)


def make_sync(name, num_envs, mode, **kwargs):
    """Gymnasium's `SyncVectorEnv` of an id."""
    return gym.make_vec(
        name, num_envs=num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **kwargs
    )
