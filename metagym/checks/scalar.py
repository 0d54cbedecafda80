"""Laws of scalar envs with tasks: metagym's, wrapped ones, and those that others write with the same methods."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from metagym.checks.distributions import wrong_values
from metagym.checks.driven import fresh_copy, require_same_future
from metagym.checks.laws import (
    Law,
    arrays_of,
    require,
    require_apart,
    require_refusal,
    require_same,
    unchanged_generators,
)
from metagym.tasks import Task

__all__ = ["SCALAR_LAWS", "EnvProbe"]

_METHODS = ("sample_task", "sample_tasks", "set_task", "get_task")
_RESERVED = ("episode", "final_obs", "final_info", "TimeLimit.truncated", "terminal_observation")


class EnvProbe:
    """A scalar env under examination; laws look at copies of it, so that none disturbs another.

    Args:
        env: the env.
        seed: of resets and actions.
        num_steps: of every trajectory.
    """

    def __init__(self, env: Any, *, seed: int, num_steps: int) -> None:
        self.original, self.seed, self.num_steps = env, seed, num_steps
        space = copy.deepcopy(env.action_space)
        space.seed(seed)
        self.actions = [space.sample() for _ in range(num_steps)]

    def env(self) -> Any:
        """A copy of the env."""
        return fresh_copy(self.original)

    def started(self) -> Any:
        """A copy in its first trial."""
        env = self.env()
        env.reset(seed=self.seed)
        return env

    def rollout(self, env: Any, *, seed: int | None = None, options: dict[str, Any] | None = None) -> list[Any]:
        """All that an env returns from a reset on; it is reset whenever it finishes."""
        results = [env.reset(seed=seed, options=options)]
        for action in self.actions:
            results.append(env.step(action))
            if results[-1][2] or results[-1][3]:
                results.append(env.reset())
        return results


def _get(env: Any, name: str) -> Any:
    return env.get_wrapper_attr(name)


def _interface(probe: EnvProbe) -> None:
    env = probe.started()
    for name in (*_METHODS, "task", "task_space"):
        require(env.has_wrapper_attr(name), f"the env's {name}", "no such attribute", "the methods of a TaskEnv")
    space = _get(env, "task_space")
    require(isinstance(space, spaces.Dict), "task_space", space, "a flat spaces.Dict")
    playing = _get(env, "get_task")()
    for where, task in (("get_task()", playing), ("sample_task()", _get(env, "sample_task")())):
        require(isinstance(task, Task), where, type(task).__name__, "a metagym.Task")
        require(set(task) == set(space), where, sorted(task), f"the fields of task_space, {sorted(space)}")
    require(_get(env, "task") == playing, "task", _get(env, "task"), f"get_task(), {playing!r}")
    tasks = _get(env, "sample_tasks")(3)
    holds = isinstance(tasks, list) and len(tasks) == 3 and all(isinstance(task, Task) for task in tasks)
    require(holds, "sample_tasks(3)", tasks, "a list of three Tasks")


def _spaces(probe: EnvProbe) -> None:
    env = probe.env()
    space = env.observation_space
    accepted = f"an element of {space}"
    for result in probe.rollout(env, seed=probe.seed):
        where = "step()" if len(result) == 5 else "reset()"
        require(result[0] in space, f"observation of {where}", result[0], accepted)
        dtype = np.asarray(result[0]).dtype
        require(dtype == space.dtype, f"dtype of the observation of {where}", dtype, str(space.dtype))
        if len(result) == 5:
            reward, terminated, truncated = result[1:4]
            is_number = isinstance(reward, float) and np.isfinite(reward)
            require(is_number, "reward", f"{type(reward).__name__} {reward}", "a finite float")
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                require(type(flag) is bool, name, f"{type(flag).__name__} {flag}", "Python's True or False")


def _infos(probe: EnvProbe) -> None:
    env = probe.env()
    results = probe.rollout(env, seed=probe.seed)
    first = results[0][1]
    for name in ("task_id", "trial_start"):
        require(name in first, "info of reset()", sorted(first), f"a dict with {name!r}")
    for name in first:
        require(name not in _RESERVED and not name.startswith("_"), "info", name, "no key that Gymnasium or SB3 writes")
    for result in results:
        info, is_step = result[-1], len(result) == 5
        where = f"info of {'step()' if is_step else 'reset()'}"
        require(set(info) == set(first), f"keys of {where}", sorted(info), f"those of the first reset, {sorted(first)}")
        for name, value in info.items():
            same = type(value) is type(first[name])
            require(same, f"{where}[{name!r}]", type(value).__name__, f"{type(first[name]).__name__}, always")
        require(info["trial_start"] is (not is_step), f"{where}['trial_start']", info["trial_start"],
                f"{not is_step}: True exactly in what reset() returns")  # fmt: skip
    require(results[-1][-1]["task_id"] == _get(env, "get_task")().id, "info['task_id']", results[-1][-1]["task_id"],
            "get_task().id")  # fmt: skip
    if "is_success" in first:
        require(type(first["is_success"]) is bool, "info['is_success']", first["is_success"], "True or False")


def _equal_seeds(probe: EnvProbe) -> None:
    first, second = probe.env(), probe.env()
    expected = probe.rollout(first, seed=probe.seed)
    second.reset(seed=probe.seed + 1)
    second.step(probe.actions[0])
    require_same(probe.rollout(second, seed=probe.seed), expected, "the env after another seed")
    require_same(probe.rollout(first, seed=probe.seed), expected, "the env, seeded again")


def _seeds_matter(probe: EnvProbe) -> str | None:
    env = probe.started()
    if len({task.id for task in _get(env, "sample_tasks")(32)}) == 1:
        return "there is one task only"
    seeded = {env.reset(seed=probe.seed + place)[1]["task_id"] for place in range(16)}
    require(len(seeded) > 1, "task ids of 16 resets with different seeds", "one", "several: tasks are drawn by seed")
    env.reset(seed=probe.seed)
    drawn = {env.reset()[1]["task_id"] for _ in range(16)}
    require(len(drawn) > 1, "task ids of 16 resets without a seed", "one", "several: a reset draws another task")
    return None


def _pins(probe: EnvProbe) -> None:
    env, free = probe.started(), probe.started()
    playing, task = _get(env, "get_task")(), _get(env, "sample_task")()
    _get(env, "set_task")(dict(task))
    accepted = "the task being played: set_task acts from the next reset on"
    require(_get(env, "task") == playing, "task after set_task", _get(env, "task"), accepted)
    for number in range(3):
        info = env.reset()[1]
        require(
            _get(env, "task") == task, f"task after set_task and {number + 1} resets", _get(env, "task"), repr(task)
        )
        require(info["task_id"] == task.id, "info['task_id']", info["task_id"], f"{task.id}, of the task set")
    other = _get(env, "sample_task")()
    env.reset(options={"task": other})
    require(_get(env, "task") == other, "task after reset(options={'task': ...})", _get(env, "task"), repr(other))
    env.reset()
    require(_get(env, "task") == task, "task after the reset that follows", _get(env, "task"), f"{task!r}, still set")
    _get(env, "set_task")(None)
    env.reset()
    free.reset()
    require(_get(env, "task") == _get(free, "task"), "task after set_task(None)", _get(env, "task"),
            f"{_get(free, 'task')!r}, the next one that resets draw")  # fmt: skip


def _options(probe: EnvProbe) -> None:
    env = probe.started()
    task = _get(env, "sample_task")()
    options = {"task": task}
    env.reset(options=options)
    require(options == {"task": task}, "options after reset", options, "as before: they are the caller's")
    require(_get(env, "task") == task, "task after reset(options={'task': ...})", _get(env, "task"), repr(task))
    for action in probe.actions[:2]:
        env.reset(options={"repeat_task": True})
        require(_get(env, "task") == task, "task after reset(options={'repeat_task': True})", _get(env, "task"),
                f"{task!r}, that of the trial before")  # fmt: skip
        env.step(action)


def _watching(probe: EnvProbe) -> None:
    watched, alone = probe.env(), probe.env()
    expected = probe.rollout(alone, seed=probe.seed)
    actual = [watched.reset(seed=probe.seed)]
    for action in probe.actions:
        _get(watched, "sample_tasks")(2), _get(watched, "get_task")(), _get(watched, "task")
        if watched.render_mode is not None:
            watched.render()
        actual.append(watched.step(action))
        if actual[-1][2] or actual[-1][3]:
            _get(watched, "sample_task")()
            actual.append(watched.reset())
    require_same(actual, expected, "what an env returns while it is watched")


def _refusals(probe: EnvProbe) -> None:
    env = probe.started()
    set_task, space, task = _get(env, "set_task"), _get(env, "task_space"), dict(_get(env, "sample_task")())
    cases = [({**task, name: value}, f"{name} is {what}", name)
             for name in task for what, value in wrong_values(space[name], task[name]).items()]  # fmt: skip
    for fields, what, named in [*cases, ({**task, "no such field": 3}, "an unknown field", "no such field")]:
        require_refusal(partial(set_task, fields), ValueError, f"set_task, {what}", named)
    require_refusal(partial(set_task, 3), TypeError, "set_task(3)", "int")
    env.reset()
    expected = probe.started()
    expected.reset()
    require(_get(env, "task") == _get(expected, "task"), "task after what was refused", _get(env, "task"),
            "the next one that resets draw")  # fmt: skip


def _fresh_results(probe: EnvProbe) -> None:
    env = probe.env()
    results = probe.rollout(env, seed=probe.seed)[:12]
    kept = copy.deepcopy(results)
    probe.rollout(env)
    require_same(results, kept, "what was returned, later")
    named = {f"what call {place} returned": result for place, result in enumerate(results)}
    for place, (name, result) in enumerate(named.items()):
        later = dict(list(named.items())[place + 1 :])
        require_apart({name: result}, later, "fresh arrays in every call")
    before = _get(env, "get_task")()
    for array in arrays_of([*results, env.reset(options={"repeat_task": True})]):
        if array.flags.writeable:
            array[...] = 0
    require(_get(env, "get_task")() == before, "the task after returned arrays were written to", "another task",
            "the same")  # fmt: skip


def _global_generators(probe: EnvProbe) -> None:
    env = probe.env()
    with unchanged_generators():
        probe.rollout(env, seed=probe.seed)
        _get(env, "set_task")(_get(env, "sample_task")())
        env.reset()
        if env.render_mode is not None:
            env.render()


def _copies(probe: EnvProbe) -> None:
    env = probe.started()
    _get(env, "set_task")(_get(env, "sample_task")())
    env.reset()
    require_same_future(env, probe.actions)


def _hidden_task(probe: EnvProbe) -> None:
    env = probe.started()
    tasks = _get(env, "sample_tasks")(8)
    expected: Any = None
    for task in tasks:
        observation, info = env.reset(seed=probe.seed, options={"task": task})
        seen = observation, {name: value for name, value in info.items() if name != "task_id"}
        expected = seen if expected is None else expected
        require_same(seen, expected, "the first observation and info of two tasks with equal seeds")
        for action in probe.actions[:3]:
            *_, terminated, truncated, info = env.step(action)
            _require_no_task(info, task)
            if terminated or truncated:
                break


def _require_no_task(info: Mapping[str, Any], task: Task) -> None:
    for name, value in info.items():
        is_task = isinstance(value, Mapping) and set(value) == set(task)
        require(not is_task, f"info[{name!r}]", "the task", "the task_id only (unless revealed on purpose)")
        for array in arrays_of(value):
            fields = [field for field in task if array.size > 1 and np.array_equal(array, task[field])]
            require(not fields, f"info[{name!r}]", f"the task's {fields}", "the task_id only")


def _pictures(probe: EnvProbe) -> str | None:
    env = probe.started()
    if env.render_mode not in {"rgb_array", "ansi"}:
        return f"render_mode is {env.render_mode!r}"
    for action in probe.actions[:3]:
        first, second = env.render(), env.render()
        require_same(second, first, "render() of the same moment twice")
        if env.render_mode == "ansi":
            require(isinstance(first, str) and bool(first.strip()), "render()", first, "a text that is not empty")
        else:
            found = f"{getattr(first, 'dtype', type(first))} of shape {getattr(first, 'shape', None)}"
            is_picture = isinstance(first, np.ndarray) and first.dtype == np.uint8 and first.ndim == 3
            require(is_picture and first.shape[2] == 3, "render()", found, "uint8 of shape (H, W, 3)")
        if any(env.step(action)[2:4]):
            env.reset()
    return None


SCALAR_LAWS = (
    Law("task interface", "an env with tasks has the methods and attributes of a TaskEnv", _interface),
    Law("spaces", "observations lie in their space; rewards are finite floats, flags Python's booleans", _spaces),
    Law("infos", "infos have the same keys and types always, and say when trials start", _infos),
    Law("equal seeds", "equal seeds give equal trajectories", _equal_seeds),
    Law("seeds matter", "tasks are drawn by seed, and anew by every reset", _seeds_matter),
    Law("set tasks", "a task set is played from the next reset on, until it is unset", _pins),
    Law("reset options", "`task` and `repeat_task` decide the task of one trial, and are not changed", _options),
    Law("watching", "sampling tasks, asking for the task and rendering change no trajectory", _watching),
    Law("refused tasks", "what is no task is refused by name, and changes nothing", _refusals),
    Law("fresh results", "what is returned is never changed later, and shares no memory", _fresh_results),
    Law("no global generator", "all randomness hangs on the env's seed", _global_generators),
    Law("copies", "copied and pickled envs go on exactly as the env does", _copies),
    Law("hidden task", "neither the first observation nor any info depends on the task, but for its id", _hidden_task),
    Law("pictures", "render gives what the render mode says, twice the same", _pictures),
)
