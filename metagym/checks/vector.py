"""Laws of vector envs with tasks: each row by itself, in every autoreset mode."""

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from metagym.checks.driven import fresh_copy
from metagym.checks.laws import Law, require, require_apart, require_same, unchanged_generators
from metagym.tasks import Task
from metagym.types import Array, Bool

__all__ = ["VECTOR_LAWS", "VectorProbe"]

_METHODS = ("set_tasks", "get_tasks", "sample_tasks")


class VectorProbe:
    """A vector env under examination; laws look at copies of it.

    Args:
        env: the env.
        seed: of resets and actions.
        num_steps: of every trajectory.
    """

    def __init__(self, env: Any, *, seed: int, num_steps: int) -> None:
        self.original, self.seed, self.num_steps = env, seed, num_steps
        self.num_envs: int = env.num_envs
        self.seeds = [seed + 1000 * row for row in range(self.num_envs)]
        space = copy.deepcopy(env.action_space)
        space.seed(seed)
        self.actions: list[Array] = [space.sample() for _ in range(num_steps)]
        self.other_actions: list[Array] = [space.sample() for _ in range(num_steps)]

    def env(self) -> Any:
        """A copy of the env."""
        return fresh_copy(self.original)

    def started(self) -> Any:
        """A copy in its first trials."""
        env = self.env()
        env.reset(seed=self.seeds)
        return env

    def rollout(self, env: Any, actions: list[Array], *, seed: Any = None) -> list[Any]:
        """All that an env returns; in DISABLED mode finished rows are reset by mask."""
        results = [env.reset(seed=seed)]
        for action in actions:
            results.append(env.step(action))
            over = results[-1][2] | results[-1][3]
            if over.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
                results.append(env.reset(options={"reset_mask": over}))
        return results


def _interface(probe: VectorProbe) -> None:
    env = probe.started()
    for name in _METHODS:
        require(hasattr(env, name), f"the vector env's {name}", "no such method", "the methods of a TaskVectorEnv")
    mode = env.metadata.get("autoreset_mode")
    require(isinstance(mode, AutoresetMode), "metadata['autoreset_mode']", mode, "one of Gymnasium's AutoresetModes")
    for where, tasks in (("get_tasks()", env.get_tasks()), (f"sample_tasks({probe.num_envs})", env.sample_tasks(
        probe.num_envs))):  # fmt: skip
        holds = len(tasks) == probe.num_envs and all(isinstance(task, Task) for task in tasks)
        require(holds, where, tasks, f"{probe.num_envs} Tasks")


def _batches(probe: VectorProbe) -> None:
    env = probe.env()
    num_envs, space = probe.num_envs, env.observation_space
    accepted = f"elements of {space}"
    for result in probe.rollout(env, probe.actions, seed=probe.seeds):
        require(result[0] in space, "observations", result[0], accepted)
        if len(result) == 5:
            for name, value, dtype in zip(("rewards", "terminations", "truncations"), result[1:4],
                                          (np.float64, np.bool_, np.bool_), strict=True):  # fmt: skip
                found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value)
                kind = f"{np.dtype(dtype)} of shape {(num_envs,)}"
                require(found == kind, name, found, kind)
            require(np.isfinite(result[1]).all(), "rewards", result[1], "finite numbers")
        _require_infos(result[-1], num_envs)
    require({"task_id", "trial_start"} <= set(result[-1]), "infos", sorted(result[-1]), "'task_id' and 'trial_start'")


def _require_infos(infos: Mapping[str, Any], num_envs: int) -> None:
    for name, value in infos.items():
        if isinstance(value, Mapping):
            _require_infos(value, num_envs)
        else:
            is_column = isinstance(value, np.ndarray) and len(value) == num_envs
            require(is_column, f"infos[{name!r}]", value, f"an array of length {num_envs}")
        if not name.startswith("_"):
            require(f"_{name}" in infos, "infos", sorted(infos), f"a mask '_{name}' beside {name!r}")


def _equal_seeds(probe: VectorProbe) -> None:
    first, second = probe.env(), probe.env()
    expected = probe.rollout(first, probe.actions, seed=probe.seed)
    listed = [probe.seed + row for row in range(probe.num_envs)]
    probe.rollout(second, probe.actions[:2], seed=probe.seed + 1)
    require_same(
        probe.rollout(second, probe.actions, seed=listed), expected, "a list of seeds beside the first of them"
    )
    require_same(probe.rollout(first, probe.actions, seed=probe.seed), expected, "the env, seeded again")


def _rows_apart(probe: VectorProbe) -> str | None:
    if probe.num_envs == 1:
        return "there is one row only"
    first, second = probe.env(), probe.env()
    row = probe.num_envs // 2
    seeds = [seed + 1 for seed in probe.seeds]
    seeds[row] = probe.seeds[row]
    second.set_tasks([None if place == row else task for place, task in enumerate(second.sample_tasks(probe.num_envs))])
    first.reset(seed=probe.seeds)
    second.reset(seed=seeds)
    for action, other in zip(probe.actions, probe.other_actions, strict=True):
        changed = other.copy()
        changed[row] = action[row]
        results = [first.step(action), second.step(changed)]
        columns = [[np.asarray(value)[row] for value in result[:4]] for result in results]
        where = f"row {row} with other seeds, tasks and actions in the other rows"
        require_same(columns[1], columns[0], where)
        over = [result[2] | result[3] for result in results]
        for env, finished in zip((first, second), over, strict=True):
            if finished.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": finished})
    return None


def _partial_resets(probe: VectorProbe) -> str | None:
    if probe.num_envs == 1:
        return "there is one row only"
    env = probe.started()
    before = env.step(probe.actions[0])
    over: Bool = before[2] | before[3]
    mask = np.arange(probe.num_envs) % 2 == 0
    observations, tasks = np.asarray(before[0]), env.get_tasks()
    options = {"reset_mask": mask}
    kept = mask.copy()
    after, infos = env.reset(options=options)
    require(set(options) == {"reset_mask"} and (mask == kept).all(), "options after reset", options, "as before")
    for row in np.flatnonzero(~mask & ~over):
        require_same(np.asarray(after)[row], observations[row], f"observation of row {row}, which was not reset")
        require(env.get_tasks()[row] == tasks[row], f"task of row {row}, which was not reset", "another", "the same")
    found = infos["trial_start"][mask]
    require(found.all(), "infos['trial_start'] of rows that were reset", found, "True")
    found = infos["trial_start"][~mask]
    require(not found.any(), "infos['trial_start'] of rows that were not reset", found, "False")
    return None


def _pins(probe: VectorProbe) -> None:
    env = probe.started()
    playing, tasks = env.get_tasks(), env.sample_tasks(probe.num_envs)
    env.set_tasks(tasks)
    require(env.get_tasks() == playing, "tasks after set_tasks", env.get_tasks(), "those played, until rows are reset")
    for _ in range(2):
        infos = env.reset()[1]
        require(list(env.get_tasks()) == tasks, "tasks after set_tasks and reset", env.get_tasks(), repr(tasks))
        ids = [task.id for task in tasks]
        require(infos["task_id"].tolist() == ids, "infos['task_id']", infos["task_id"], f"{ids}, of the tasks set")
    env.set_tasks([None] * probe.num_envs)
    expected = probe.started()
    env.reset()
    expected.reset()
    require(env.get_tasks() == expected.get_tasks(), "tasks after they were unset", env.get_tasks(),
            "the next ones that resets draw")  # fmt: skip


def _trial_starts(probe: VectorProbe) -> None:
    env = probe.env()
    mode = env.metadata["autoreset_mode"]
    env.reset(seed=probe.seeds)
    over: Bool = np.zeros(probe.num_envs, np.bool_)
    for action in probe.actions:
        _, reward, terminated, truncated, infos = env.step(action)
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED:
            expected = np.zeros(probe.num_envs, np.bool_)
        else:
            expected = over if mode is AutoresetMode.NEXT_STEP else ended
        found = infos["trial_start"]
        require((found == expected).all(), f"infos['trial_start'] in {mode.name}", found, f"{expected}: reset rows")
        if mode is AutoresetMode.NEXT_STEP:
            require(not (ended & over).any(), "flags of rows that are reset", ended, "False")
            require(not reward[over].any(), "rewards of rows that are reset", reward[over], "0")
        if mode is AutoresetMode.SAME_STEP and ended.any():
            final = infos.get("final_obs", [None] * probe.num_envs)
            holds = all((final[row] is not None) == ended[row] for row in range(probe.num_envs))
            require(holds, "infos['final_obs']", final, "an observation where an episode ended, else None")
        if mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        over = ended


def _fresh_results(probe: VectorProbe) -> None:
    env = probe.env()
    results = probe.rollout(env, probe.actions[:8], seed=probe.seeds)
    kept = copy.deepcopy(results)
    probe.rollout(env, probe.other_actions[:8])
    require_same(results, kept, "what was returned, later")
    named = {f"what call {place} returned": result for place, result in enumerate(results)}
    for place, (name, result) in enumerate(named.items()):
        require_apart({name: result}, dict(list(named.items())[place + 1 :]), "fresh arrays in every call")


def _global_generators(probe: VectorProbe) -> None:
    env = probe.env()
    with unchanged_generators():
        probe.rollout(env, probe.actions, seed=probe.seed)
        env.sample_tasks(2)


def _copies(probe: VectorProbe) -> None:
    env = probe.started()
    env.set_tasks(env.sample_tasks(probe.num_envs))
    env.step(probe.actions[0])
    copies = {"deepcopy": copy.deepcopy(env), "pickle": pickle.loads(pickle.dumps(env))}
    spoiled = copy.deepcopy(env)
    probe.rollout(spoiled, probe.other_actions[:3], seed=5)
    expected = probe.rollout(env, probe.actions)
    for way, other in copies.items():
        require_same(probe.rollout(other, probe.actions), expected, f"what a copy made by {way} returns")


VECTOR_LAWS = (
    Law("vector interface", "a vector env with tasks has the methods of a TaskVectorEnv", _interface),
    Law("batches", "observations, rewards, flags and infos are arrays, one entry a row", _batches),
    Law("equal seeds", "equal seeds give equal trajectories; an integer seeds row i with its i-th successor",
        _equal_seeds),
    Law("rows apart", "what a row returns does not depend on seeds, tasks and actions of others", _rows_apart),
    Law("partial resets", "a reset by mask leaves the other rows alone", _partial_resets),
    Law("set tasks", "tasks set are played from each row's next reset on, until they are unset", _pins),
    Law("trial starts", "`trial_start` marks the rows that were reset, in every autoreset mode", _trial_starts),
    Law("fresh results", "what is returned is never changed later, and shares no memory", _fresh_results),
    Law("no global generator", "all randomness hangs on the seeds", _global_generators),
    Law("copies", "copied and pickled envs go on exactly as the env does", _copies),
)  # fmt: skip
