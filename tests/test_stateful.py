"""Any order of calls, against `SyncVectorEnv` of scalar envs; and the faults that this machine must catch."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium import error
from gymnasium.vector import AutoresetMode
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults import FAULTS
from tests.parity import MODES, Pair, assert_same
from tests.strategies import Drift, FoggyHall, Hall, TollHall, has_simulator, scalar_env, vector_env

NUM_ENVS = 3
masks = st.lists(st.booleans(), min_size=NUM_ENVS, max_size=NUM_ENVS).map(np.array)
some_rows = masks.filter(np.any)
some_seeds = st.one_of(
    st.none(),
    st.integers(0, 2**32),
    st.lists(st.one_of(st.none(), st.integers(0, 2**70)), min_size=NUM_ENVS, max_size=NUM_ENVS),
)


class VectorMachine(RuleBasedStateMachine):
    """Drives a vector env and as many scalar ones alike; every call compares all that they return."""

    setting = None

    @initialize(mode=st.sampled_from(MODES), seed=st.integers(0, 1000))
    def start(self, mode, seed):
        self.kept = []
        self.pair = Pair(vector_env(self.setting, NUM_ENVS, autoreset_mode=mode), lambda: scalar_env(self.setting))
        self.pair.actual.action_space.seed(seed)
        self.keep(self.pair.reset(seed=seed))

    def keep(self, result):
        self.kept = [*self.kept[-3:], (result, copy.deepcopy(result))]

    def new_tasks(self):
        """One task a row; the two kinds of env must agree on them."""
        tasks = self.pair.expected.envs[0].unwrapped.sample_tasks(NUM_ENVS)
        assert self.pair.actual.sample_tasks(NUM_ENVS) == tasks
        return tasks

    def tasks_where(self, mask):
        return [task if given else None for task, given in zip(self.new_tasks(), mask, strict=True)]

    @rule(num_steps=st.integers(1, 4), stop=st.booleans())
    def step(self, num_steps, stop):
        for _ in range(num_steps):
            if self.pair.finished.any():
                with pytest.raises(error.ResetNeeded):
                    self.pair.actual.step(self.pair.actual.action_space.sample())
                self.keep(self.pair.reset(reset_mask=self.pair.finished.copy()))
            result = self.pair.step(self.pair.actual.action_space.sample())
            self.keep(result)
            if stop and (result[2] | result[3]).any():
                break  # what comes next finds finished rows

    @rule(seed=some_seeds)
    def reset(self, seed):
        self.keep(self.pair.reset(seed=seed))

    @rule(seed=some_seeds, mask=some_rows)
    def partial_reset(self, seed, mask):
        self.keep(self.pair.reset(seed=seed, reset_mask=mask))

    @rule(mask=some_rows, given=masks)
    def reset_with_tasks(self, mask, given):
        self.keep(self.pair.reset(reset_mask=mask, tasks=self.tasks_where(given)))

    @rule(mask=some_rows)
    def reset_with_one_task(self, mask):
        self.keep(self.pair.reset(reset_mask=mask, task=self.new_tasks()[0]))

    @rule(mask=some_rows)
    def repeat_task(self, mask):
        self.keep(self.pair.reset(reset_mask=mask, repeat_task=True))

    @rule(given=masks)
    def set_tasks(self, given):
        self.pair.set_tasks(self.tasks_where(given))

    @rule(given=masks, rows=st.permutations(range(NUM_ENVS)), num_rows=st.integers(1, NUM_ENVS))
    def set_some_tasks(self, given, rows, num_rows):
        tasks, rows = self.tasks_where(given)[:num_rows], rows[:num_rows]
        self.pair.actual.set_tasks(tasks, env_ids=rows)
        for row, task in zip(rows, tasks, strict=True):
            self.pair.pins[row] = task
            self.pair.expected.envs[row].unwrapped.set_task(task)

    @rule()
    def unset_tasks(self):
        self.pair.set_tasks([None] * NUM_ENVS)

    @rule()
    def refuse_nonsense(self):
        before = self.pair.actual.get_state()
        for call in (
            lambda: self.pair.actual.reset(seed=3, options={"task": {"nothing": 1}}),
            lambda: self.pair.actual.reset(seed=[1, 2, -3]),
            lambda: self.pair.actual.set_tasks([self.pair.actual.get_tasks()[0], None, {"nothing": 1}]),
            lambda: self.pair.actual.sample_tasks(0),
        ):
            with pytest.raises(ValueError, match=r"nothing|-3|at least 1"):
                call()
        assert_same(self.pair.actual.get_state(), before)

    @rule(how=st.sampled_from([copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]))
    def replace_by_copy(self, how):
        self.abandon(how(self.pair.actual))

    @rule()
    def replace_by_state(self):
        other = vector_env(self.setting, NUM_ENVS, autoreset_mode=self.pair.mode)
        state = self.pair.actual.get_state()
        other.reset(seed=1)
        self.pair.actual.sample_tasks(2)
        other.set_state(state)
        other.action_space.seed(len(state))
        self.abandon(other)
        assert_same(other.get_state(), state)

    def abandon(self, replacement):
        abandoned, self.pair.actual = self.pair.actual, replacement
        abandoned.set_tasks(abandoned.sample_tasks(NUM_ENVS))
        abandoned.reset(seed=99)
        abandoned.step(abandoned.action_space.sample())

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def the_tasks_are_the_same(self):
        assert self.pair.actual.get_tasks() == self.pair.expected.get_attr("task")

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def nothing_returned_has_changed(self):
        for result, copied in self.kept:
            assert_same(result, copied, "kept")


MACHINES = {
    "FrozenLake": ("MetaFrozenLake-v0", {"size": 3, "episode_length": 4, "success_rate": (0.3, 0.9)}),
    "PointGoal": ("MetaPointGoal-v0", {"variant": "pearl", "episode_length": 3}),
    "CliffWalking": ("MetaCliffWalking-v0", {"is_slippery": True, "random_goal": True, "episode_length": 4}),
    "Harlow": ("MetaHarlow-v0", {"num_objects": 7, "episode_length": 5}),
    "CartPole": ("MetaCartPole-v0", {"episode_length": 5}),
    "TMaze": ("MetaTMaze-v0", {"variant": "active", "corridor_length": 2}),
    "Drift": Drift,
    "Hall": Hall,
    "FoggyHall": FoggyHall,
    "TollHall": TollHall,
}
SIMULATORS = {"HalfCheetahVel": ("MetaHalfCheetahVel-v0", {"episode_length": 4})}
EXAMPLES = dict.fromkeys(MACHINES, 5) | {"FrozenLake": 15, "PointGoal": 15, "Drift": 8, "Hall": 8}


def _machine(name):
    return type(f"{name}Machine", (VectorMachine,), {"setting": (MACHINES | SIMULATORS)[name]})


def _run(name, max_examples, num_rules=30):
    run_state_machine_as_test(
        _machine(name),
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=num_rules,
            derandomize=True,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


@pytest.mark.parametrize(("name", "max_examples"), EXAMPLES.items())
def test_any_order_of_calls_gives_what_scalar_envs_give(name, max_examples):
    _run(name, max_examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_any_longer_order_of_calls_gives_what_scalar_envs_give(name):
    _run(name, 150, 60)


@pytest.mark.slow
@pytest.mark.skipif(not has_simulator, reason="mujoco is not installed")
@pytest.mark.parametrize("name", SIMULATORS)
def test_any_order_of_calls_gives_what_scalar_envs_give_in_simulators(name):
    _run(name, 10)


# --- faults that must be caught --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_the_machine_catches(fault, monkeypatch):
    monkeypatch.setattr(*fault())
    with pytest.raises((AssertionError, error.ResetNeeded, pytest.fail.Exception)):
        _run("FrozenLake", 200)


def test_the_list_of_faults_is_long():
    assert len(FAULTS) >= 20
    assert AutoresetMode.SAME_STEP in MODES
