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

from metagym.engine import RowsVectorEnv, TaskEnv, TaskVectorEnv, autoreset
from metagym.engine.row import TableRow
from metagym.engine.rows import Rows
from metagym.engine.streams import TaskRing
from tests.parity import MODES, Pair, assert_same
from tests.strategies import Drift, Hall, scalar_env, vector_env

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
            with pytest.raises(ValueError, match="nothing|-3|at least 1"):
                call()
        assert_same(self.pair.actual.get_state(), before)

    @rule(how=st.sampled_from([copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]))  # noqa: S301
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
    "Drift": Drift,
    "Hall": Hall,
}


def _machine(name):
    return type(f"{name}Machine", (VectorMachine,), {"setting": MACHINES[name]})


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


@pytest.mark.parametrize(("name", "max_examples"), [("FrozenLake", 25), ("PointGoal", 25), ("Drift", 10), ("Hall", 10)])
def test_any_order_of_calls_gives_what_scalar_envs_give(name, max_examples):
    _run(name, max_examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_any_longer_order_of_calls_gives_what_scalar_envs_give(name):
    _run(name, 150, 60)


# --- faults that must be caught --------------------------------------------------------------------------------------


def _after(kind, name, do):
    """Replace a method by itself and `do` after it."""
    original = getattr(kind, name)

    def method(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        return do(self, result, *args, **kwargs)

    return kind, name, method


def _without(kind, name):
    return kind, name, lambda self, *args, **kwargs: None


def _pin_stays():
    return _without(Rows, "unpin")


def _inactive_rows_draw():
    original = Rows._step_noise
    return Rows, "_step_noise", lambda self, active: original(self, None)


def _option_sticks_in_pinned_rows():
    def assign(self, rows, params, ids):
        self.params.put(rows, params)
        self.task_ids[rows] = ids

    return Rows, "assign", assign


def _option_sticks_in_all_rows():
    def do(self, result, rows, params, ids):
        self.pin(rows, params, ids)

    return _after(Rows, "assign", do)


def _sampling_moves_the_stream_of_resets():
    def do(self, result, num_tasks):
        self.ring.pop(np.array([0]))
        return result

    return _after(Rows, "sample", do)


def _drawing_for_resets_moves_sampling():
    def do(self, result, rows):
        self.num_sampled += 1

    return _after(Rows, "next_tasks", do)


def _trial_start_missing_at_autoreset():
    original = RowsVectorEnv.step

    def step(self, actions):
        result = original(self, actions)
        result[4]["trial_start"][...] = False
        return result

    return RowsVectorEnv, "step", step


def _clock_runs_on():
    original = Rows.begin

    def begin(self, rows, *, new_task=True):
        elapsed = self.elapsed.copy()
        original(self, rows, new_task=new_task)
        if len(rows) < self.num_rows:
            self.elapsed[rows] = elapsed[rows]

    return Rows, "begin", begin


def _observations_are_written_to_one_buffer():
    def do(self, result, rows):
        if rows is not None:
            return result
        if not hasattr(self, "buffer"):
            self.buffer = result.copy()
        self.buffer[...] = result
        return self.buffer

    return _after(TaskVectorEnv, "observe_rows", do)


def _pin_acts_at_once():
    def do(self, result, rows, params, ids):
        self.params.put(rows, params)
        self.task_ids[rows] = ids

    return _after(Rows, "pin", do)


def _partial_reset_forgets_who_is_finished():
    def do(self, result, **kwargs):
        self._finished = np.empty(0, np.int64)
        return result

    return _after(RowsVectorEnv, "reset", do)


def _partial_reset_keeps_its_rows_finished():
    original = RowsVectorEnv.reset

    def reset(self, **kwargs):
        finished = self._finished
        result = original(self, **kwargs)
        if finished is not None:
            self._finished = finished
        return result

    return RowsVectorEnv, "reset", reset


def _seeds_reach_rows_that_are_not_reset():
    original = RowsVectorEnv.reset

    def reset(self, *, seed=None, options=None):
        if isinstance(seed, int):
            self.seed_rows(np.arange(self.num_envs), [seed + row for row in range(self.num_envs)])
        return original(self, seed=seed, options=options)

    return RowsVectorEnv, "reset", reset


def _seed_forgets_the_stream_of_tasks():
    return _without(TaskRing, "seed")


def _state_shares_memory():
    def do(self, result):
        return result | {"dynamics": self.dynamics}

    return _after(Rows, "get_state", do)


def _state_forgets_the_pins():
    def do(self, result, arrays):
        self._pins.put(np.arange(self.num_rows), self.params)

    return _after(Rows, "set_state", do)


def _repeating_draws_anew():
    original = Rows.begin
    return Rows, "begin", lambda self, rows, *, new_task=True: original(self, rows)


def _final_observation_is_of_the_next_episode():
    original = RowsVectorEnv._reset_same_step

    def reset(self, *args):
        result = original(self, *args)
        rows = np.flatnonzero(result[4]["_final_obs"])
        for row, observation in zip(rows, self.observe_rows(rows), strict=True):
            result[4]["final_obs"][row] = observation
        return result

    return RowsVectorEnv, "_reset_same_step", reset


def _rewards_survive_the_reset_step():
    original = RowsVectorEnv.step

    def step(self, actions):
        finished = self._finished
        result = original(self, actions)
        result[1][finished] = -1.0
        return result

    return RowsVectorEnv, "step", step


def _terminated_rows_are_truncated_too():
    def do(self, result, actions, active):
        reward, terminated, _, info = result
        return reward, terminated, self._rows.elapsed >= self.family.episode_length, info

    return _after(TaskVectorEnv, "step_rows", do)


def _ring_hands_out_one_task_twice():
    def do(self, result, rows):
        self._next[rows] -= self._next[rows] == 3
        return result

    return _after(TaskRing, "pop", do)


def _infos_of_reset_rows_are_lost():
    return autoreset, "_merge", lambda info, fresh, rows: None


def _env_ids_are_taken_in_order():
    original = TaskVectorEnv.set_tasks

    def set_tasks(self, tasks, env_ids=None):
        original(self, tasks, None if env_ids is None else sorted(env_ids))

    return TaskVectorEnv, "set_tasks", set_tasks


def _scalar_option_sticks():
    original = TaskEnv.reset

    def reset(self, *, seed=None, options=None):
        if options and options.get("task") is not None:
            self.set_task(options["task"])
        return original(self, seed=seed, options=options)

    return TaskEnv, "reset", reset


def _scalar_walks_the_tables_of_the_task_before():
    original = TableRow._use_block

    def use(self, place):
        kind = getattr(self, "_kind", None)
        original(self, place)
        self._kind = kind or self._kind

    return TableRow, "_use_block", use


FAULTS = [value for name, value in list(globals().items()) if name.startswith("_") and callable(value)]
FAULTS = [fault for fault in FAULTS if fault.__name__ not in {"_machine", "_run", "_after", "_without"}]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_the_machine_catches(fault, monkeypatch):
    monkeypatch.setattr(*fault())
    with pytest.raises((AssertionError, error.ResetNeeded, pytest.fail.Exception)):
        _run("FrozenLake", 200)


def test_the_list_of_faults_is_long():
    assert len(FAULTS) >= 20
    assert AutoresetMode.SAME_STEP in MODES
