"""Faults, each a thing to monkeypatch, that the stateful tests must catch."""

import numpy as np

from metagym.engine import RowsVectorEnv, TaskEnv, TaskVectorEnv, autoreset
from metagym.engine.row import TableRow
from metagym.engine.rows import Rows
from metagym.engine.streams import TaskRing


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
    return Rows, "_initial_noise", lambda self, rows: self.noise.deal_to(rows)


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
        return result | {"dynamics": self.noise._counters}

    return _after(Rows, "get_state", do)


def _state_forgets_the_pins():
    def do(self, result, arrays):
        self._pins.put(np.arange(self.num_rows), self.params)

    return _after(Rows, "set_state", do)


def _repeating_draws_anew():
    original = Rows.begin

    def begin(self, rows, *, new_task=True):
        original(self, rows)

    return Rows, "begin", begin


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
