"""A vector env beside Gymnasium's `SyncVectorEnv` of scalar envs: everything they return must agree to the last bit."""

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import metagym

MODES = list(AutoresetMode)


def assert_same(actual, expected, where="result"):
    """Equal structure, types, dtypes, shapes and bytes."""
    assert type(actual) is type(expected), f"{where}: {actual!r} against {expected!r}"
    if isinstance(expected, dict):
        assert set(actual) == set(expected), f"{where}: {sorted(actual)} against {sorted(expected)}"
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, np.ndarray) and expected.dtype != object:
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), f"{where}: {actual!r}, {expected!r}"
        assert actual.tobytes() == expected.tobytes(), f"{where}: {actual!r} against {expected!r}"
    elif isinstance(expected, np.ndarray | tuple | list):
        assert len(actual) == len(expected), where
        for place, (left, right) in enumerate(zip(actual, expected, strict=True)):
            assert_same(left, right, f"{where}[{place}]")
    else:
        assert actual == expected, f"{where}: {actual!r} against {expected!r}"


class Pair:
    """A vector env and `SyncVectorEnv` of as many scalar envs, driven alike and compared at every call.

    Args:
        vector_env: the env under test.
        make_scalar: makes one of the scalar envs.
    """

    def __init__(self, vector_env, make_scalar):
        self.actual, self.mode = vector_env, vector_env.autoreset_mode
        self.num_envs = vector_env.num_envs
        self.expected = SyncVectorEnv([make_scalar] * self.num_envs, autoreset_mode=self.mode)
        self.pins = [None] * self.num_envs
        self.finished = np.zeros(self.num_envs, np.bool_)
        assert self.actual.single_observation_space == self.expected.single_observation_space
        assert self.actual.observation_space == self.expected.observation_space
        assert self.actual.action_space == self.expected.action_space
        assert self.actual.metadata["autoreset_mode"] == self.expected.metadata["autoreset_mode"]

    def reset(self, *, seed=None, **options):
        """Reset both; ``tasks`` are set and unset again on the scalar envs, which know no such option."""
        tasks = options.get("tasks")
        if tasks is not None:
            chosen = [pin if task is None else task for task, pin in zip(tasks, self.pins, strict=True)]
            metagym.set_tasks(self.expected, chosen)
        plain = {key: value for key, value in options.items() if key != "tasks"}
        expected = self.expected.reset(seed=seed, options=plain or None)
        if tasks is not None:
            metagym.set_tasks(self.expected, self.pins)
        given = dict(options)
        actual = self.actual.reset(seed=seed, options=given or None)
        assert set(given) == set(options), "options were changed"
        assert_same(actual, expected, "reset")
        self.finished &= ~options.get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._check_tasks()
        return actual

    def step(self, actions):
        """Step both."""
        expected, actual = self.expected.step(actions), self.actual.step(actions)
        assert_same(actual, expected, "step")
        observation, _, terminated, truncated, _ = actual
        assert observation in self.actual.observation_space
        if self.mode is AutoresetMode.DISABLED:
            self.finished = terminated | truncated
        self._check_tasks()
        return actual

    def set_tasks(self, tasks):
        """Pin tasks on both; None unpins a row."""
        self.pins = list(tasks)
        metagym.set_tasks(self.actual, self.pins)
        metagym.set_tasks(self.expected, self.pins)

    def sample_tasks(self):
        """One task a row, from the scalar envs."""
        return self.expected.call("sample_task")

    def _check_tasks(self):
        assert self.actual.get_attr("task") == self.expected.get_attr("task")


def assert_parity(vector_env, make_scalar, *, num_steps=150, seed=0):
    """Drive both through steps, seeds, partial resets and tasks of single rows in a random order.

    Args:
        vector_env: the env under test.
        make_scalar: makes one of the scalar envs.
        num_steps: steps of all rows.
        seed: of the script.

    Returns:
        How often a row finished.
    """
    pair, rng = Pair(vector_env, make_scalar), np.random.default_rng(seed)
    pair.actual.action_space.seed(seed)
    num_envs, num_finished = pair.num_envs, 0
    pair.reset(seed=seed)
    for _ in range(num_steps):
        if pair.finished.any():
            pair.reset(reset_mask=pair.finished | (rng.random(num_envs) < 0.2))
        *_, terminated, truncated, _ = pair.step(pair.actual.action_space.sample())
        num_finished += int((terminated | truncated).sum())
        if rng.random() < 0.1:
            disturb(pair, rng)
    return num_finished


def disturb(pair, rng):
    """Do one random thing other than a step."""
    num_envs = pair.num_envs
    some = rng.random(num_envs) < 0.5
    some[rng.integers(num_envs)] = True
    tasks = [task if rng.random() < 0.7 else None for task in pair.sample_tasks()]
    seeds = [int(value) if rng.random() < 0.7 else None for value in rng.integers(0, 2**31, num_envs)]
    acts = [
        lambda: pair.reset(reset_mask=some),
        lambda: pair.reset(reset_mask=some, seed=seeds),
        lambda: pair.reset(seed=seeds),
        pair.reset,
        lambda: pair.reset(tasks=tasks),
        lambda: pair.reset(tasks=tasks, reset_mask=some),
        lambda: pair.reset(task=pair.sample_tasks()[0], reset_mask=some),
        lambda: pair.reset(repeat_task=True, reset_mask=some),
        lambda: pair.set_tasks(tasks),
        lambda: pair.set_tasks([None] * num_envs),
    ]
    acts[rng.integers(len(acts))]()
