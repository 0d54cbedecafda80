"""Laws of a family as metagym's scalar and vector envs drive it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from metagym.checks.laws import Law, require, require_same
from metagym.checks.parity import require_parity
from metagym.checks.probe import Probe
from metagym.engine import TaskEnv, TaskVectorEnv

__all__ = ["DRIVEN_LAWS", "fresh_copy", "require_same_future", "rollout", "sizes_and_modes"]


def rollout(env: Any, actions: list[Any], *, seed: int | None = None) -> list[Any]:
    """All that a scalar env returns, from a reset on; it is reset whenever it finishes."""
    results: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        results.append(env.step(action))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results


def _actions(probe: Probe, num_steps: int) -> list[Any]:
    return list(probe.actions(probe.rng("actions"), num_steps))


def _scalar_equals_vector(probe: Probe) -> None:
    for num_envs, mode in sizes_and_modes(probe.seed):
        env = TaskVectorEnv(probe.family, num_envs, autoreset_mode=mode)
        steps = max(probe.num_steps // (1 if num_envs == 2 else 3), 2)
        require_parity(env, lambda: TaskEnv(probe.family), num_steps=steps, seed=probe.seed)


def sizes_and_modes(seed: int) -> list[tuple[int, AutoresetMode]]:
    """Two rows in every autoreset mode; one row, and seven, in one mode each, which the seed chooses."""
    modes = list(AutoresetMode)
    return [*((2, mode) for mode in modes), (1, modes[seed % 3]), (7, modes[(seed + 1) % 3])]


def _equal_seeds(probe: Probe) -> None:
    actions = _actions(probe, probe.num_steps)
    first, second = (TaskEnv(probe.family) for _ in range(2))
    expected = rollout(first, actions, seed=probe.seed)
    require_same(rollout(second, actions, seed=probe.seed), expected, "a second env with the same seed")
    require_same(rollout(first, actions, seed=probe.seed), expected, "the same env, seeded again")


def fresh_copy(env: Any) -> Any:
    """A copy of an env, by pickle where that works: it is the faster way."""
    try:
        return pickle.loads(pickle.dumps(env))
    except Exception:  # whatever it is that cannot be pickled raises what it likes
        return copy.deepcopy(env)


def require_same_future(env: Any, actions: list[Any]) -> None:
    """Copies of an env go on exactly as the env does, and leave it alone.

    Args:
        env: a scalar env in mid-episode.
        actions: of the steps that follow.

    Raises:
        ContractError: where a copy and the env differ.
    """
    ways: dict[str, Callable[[Any], Any]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    }
    copies = {way: make(env) for way, make in ways.items()}
    spoiled = copy.deepcopy(env)
    rollout(spoiled, actions[:3], seed=12345)
    expected = [env.step(actions[0]), rollout(env, actions)]
    for way, other in copies.items():
        actual = [other.step(actions[0]), rollout(other, actions)]
        require_same(actual, expected, f"what a copy made by {way} returns")


def _copies(probe: Probe) -> None:
    actions = _actions(probe, min(probe.num_steps, 20))
    env = TaskEnv(probe.family)
    env.reset(seed=probe.seed)
    env.set_task(env.sample_task())
    env.reset()
    require_same_future(env, actions)
    family = pickle.loads(pickle.dumps(probe.family))
    again, expected = TaskEnv(family), TaskEnv(probe.family)
    require_same(rollout(again, actions, seed=1), rollout(expected, actions, seed=1), "an env of a pickled family")


def _truncation(probe: Probe) -> None:
    length = probe.family.episode_length
    env = TaskEnv(probe.family)
    env.reset(seed=probe.seed)
    action = _actions(probe, 1)[0]
    num_steps = min(length, 10 * probe.num_steps)
    for step in range(1, num_steps + 1):
        *_, terminated, truncated, _ = env.step(action)
        if terminated:
            require(not truncated, "truncated beside terminated", truncated, "one of the two")
            return
        due = step >= length
        require(truncated is due, f"truncated after {step} of {length} steps", truncated, str(due))


def _pictures(probe: Probe) -> None:
    family = probe.family
    shape = None
    for moment in (probe.moments[0], probe.moments[-1]):
        one = moment.take(np.arange(1))
        before = one.take(np.arange(1))
        for picture in (family.draw(one.state, one.params), family.draw(one.state, one.params)):
            is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3
            found = f"{getattr(picture, 'dtype', type(picture).__name__)} of shape {getattr(picture, 'shape', None)}"
            require(is_picture and picture.shape[2] == 3, "draw()", found, "uint8 of shape (H, W, 3)")
            require(shape in {None, picture.shape}, "draw() at another moment", found, f"shape {shape}, always")
            shape = picture.shape
        require_same(family.draw(one.state, one.params), picture, "draw() of the same state twice")
        text = family.describe(one.state, one.params)
        require(isinstance(text, str) and bool(text.strip()), "describe()", text, "a text that is not empty")
        require(family.describe(one.state, one.params) == text, "describe() of the same state twice", "another", text)
        for name, column in one.columns().items():
            require_same(column, before.columns()[name], f"{name} after draw() and describe()")


DRIVEN_LAWS = (
    Law("scalar equals vector", "row i of the vector env is the scalar env with its seed, to the last bit",
        _scalar_equals_vector),
    Law("equal seeds", "equal seeds give equal trajectories, in every env", _equal_seeds),
    Law("copies", "copied and pickled envs go on exactly as the env does", _copies),
    Law("truncation", "episodes are truncated after episode_length steps, and not before", _truncation),
    Law("pictures", "draw gives pictures of one shape, describe texts, and neither changes anything", _pictures),
)  # fmt: skip
