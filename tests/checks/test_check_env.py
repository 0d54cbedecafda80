"""metagym's envs keep all laws of envs with tasks; each law is broken by an env made for it, and by few others."""

import random

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from metagym import ConfigError, TaskEnv, TaskVectorEnv
from metagym.checks import check_env
from metagym.checks.scalar import SCALAR_LAWS, EnvProbe
from metagym.checks.vector import VECTOR_LAWS, VectorProbe
from metagym.errors import ContractError
from tests.checks.broken import Strip, Walk, broken_laws

MODES = list(AutoresetMode)
SCALAR, VECTOR = [], []


def breaks(cases, *laws):
    """An env that breaks the first of `laws`, and the others with it because it has to."""

    def note(kind):
        cases.append(pytest.param(kind, laws, id=f"{laws[0]}: {kind.__name__}"))
        return kind

    return note


# --- scalar envs -----------------------------------------------------------------------------------------------------


@breaks(SCALAR, "task interface")
class AnyTuple(TaskEnv):
    def sample_tasks(self, n):
        return tuple(super().sample_tasks(n))


@breaks(SCALAR, "spaces")
class ArrayRewards(TaskEnv):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.float32(reward), *rest


@breaks(SCALAR, "spaces")
class DoubleObservations(TaskEnv):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation.astype(np.float64), info


@breaks(SCALAR, "infos")
class SilentStarts(TaskEnv):
    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return observation, info | {"trial_start": False}


@breaks(SCALAR, "infos")
class MoreAtSteps(TaskEnv):
    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"speed": 3.0}


@breaks(SCALAR, "equal seeds", "hidden task")
class IgnoresSeeds(TaskEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(options=options)


@breaks(SCALAR, "seeds matter", "reset options")
class OneTask(TaskEnv):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=0)
        return super().reset(seed=seed, options={"repeat_task": True})


@breaks(SCALAR, "set tasks")
class PinsForOnce(TaskEnv):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self.set_task(None)
        return result


@breaks(SCALAR, "set tasks")
class PinsForever(TaskEnv):
    def set_task(self, task):
        if task is not None:
            super().set_task(task)


@breaks(SCALAR, "reset options")
class TakesOptions(TaskEnv):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        (options or {}).pop("task", None)
        return result


@breaks(SCALAR, "reset options", "fresh results")
class NoRepeats(TaskEnv):
    def reset(self, *, seed=None, options=None):
        kept = {name: value for name, value in (options or {}).items() if name != "repeat_task"}
        return super().reset(seed=seed, options=kept)


@breaks(SCALAR, "watching")
class SamplesFromTheResets(TaskEnv):
    def sample_tasks(self, n):
        self._row._deal()
        return super().sample_tasks(n)


@breaks(SCALAR, "refused tasks")
class TakesAnything(TaskEnv):
    def set_task(self, task):
        try:
            super().set_task(task)
        except ValueError:
            super().set_task(None)


@breaks(SCALAR, "fresh results")
class OneInfo(TaskEnv):
    noticed = None

    def _info(self, starts, success):
        if self.noticed is None:
            self.noticed = np.zeros(2)
        return super()._info(starts, success) | {"noticed": self.noticed}


@breaks(SCALAR, "no global generator")
class DrawsByPython(TaskEnv):
    def step(self, action):
        random.random()
        return super().step(action)


@breaks(SCALAR, "copies")
class HoldsAFile(TaskEnv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hook = lambda: 0


@breaks(SCALAR, "hidden task")
class TellsTheTask(TaskEnv):
    def _info(self, starts, success):
        return super()._info(starts, success) | {"size": float(self._row.params.pay[0])}


@breaks(SCALAR, "pictures", "watching")
class FlickeringPictures(TaskEnv):
    def render(self):
        picture = super().render()
        picture[0, 0, 0] = self._row.next_task() or self._row.task_id % 251
        return picture


@pytest.mark.parametrize(("kind", "laws"), SCALAR)
def test_a_law_of_envs_is_broken_by_the_env_that_was_made_to(kind, laws):
    env = kind(Walk(), render_mode="rgb_array")

    assert broken_laws(SCALAR_LAWS, EnvProbe(env, seed=0, num_steps=20)) == set(laws)


def test_every_law_of_envs_has_an_env_that_breaks_it():
    assert {case.values[1][0] for case in SCALAR} == {law.name for law in SCALAR_LAWS}


@pytest.mark.parametrize("family", [Walk, Strip])
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_metagyms_own_env_keeps_all_laws(family, render_mode):
    report = check_env(TaskEnv(family(), render_mode=render_mode))

    assert list(report) == [law.name for law in SCALAR_LAWS]
    assert set(report.values()) - {"holds"} == ({"does not apply: render_mode is None"} if not render_mode else set())


def test_an_env_inside_gymnasiums_wrappers_is_reached():
    env = gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(TaskEnv(Walk())), 4)

    assert check_env(env)["set tasks"] == "holds"


def test_a_revealed_task_is_found():
    with pytest.raises(ContractError, match=r"'hidden task' is broken.*info\['task'\]: found the task"):
        check_env(TaskEnv(Walk(), reveal_task=True))


def test_the_env_itself_is_not_touched():
    env = TaskEnv(Walk())
    env.reset(seed=3)
    before = env.get_task()

    check_env(env, num_steps=5)

    assert env.get_task() == before


def test_what_is_no_env_is_refused():
    with pytest.raises(ConfigError, match=r"env=<.*Walk.* accepted are a gymnasium.Env and a gymnasium.vector"):
        check_env(Walk())


def test_an_env_without_tasks_breaks_the_first_law():
    with pytest.raises(ContractError, match=r"'task interface' is broken.*the env's sample_task: found no such attr"):
        check_env(gym.make("CartPole-v1"))


# --- vector envs -----------------------------------------------------------------------------------------------------


@breaks(VECTOR, "vector interface", "set tasks")
class TasksById(TaskVectorEnv):
    def get_tasks(self):
        return TaskIds(super().get_tasks())


class TaskIds(tuple):
    """Tasks that one gets as numbers."""

    __slots__ = ()

    def __iter__(self):
        return (task.id for task in super().__iter__())


@breaks(VECTOR, "batches")
class SingleRewards(TaskVectorEnv):
    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        return observation, reward.astype(np.float32), *rest


@breaks(VECTOR, "batches")
class NoMasks(TaskVectorEnv):
    def _with_masks(self, info):
        return {name: value for name, value in super()._with_masks(info).items() if name != "_task_id"}


@breaks(VECTOR, "equal seeds")
class SeedsLikeAGenerator(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        if isinstance(seed, int):
            seed = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        return super().reset(seed=seed, options=options)


@breaks(VECTOR, "rows apart")
class RelativeRewards(TaskVectorEnv):
    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        ended = rest[0] | rest[1]
        return observation, np.where(ended, reward, reward - reward.max()), *rest


@breaks(VECTOR, "partial resets")
class ResetsAll(TaskVectorEnv):
    def reset(self, *, seed=None, options=None):
        kept = {name: value for name, value in (options or {}).items() if name != "reset_mask"}
        return super().reset(seed=seed, options=kept)


@breaks(VECTOR, "set tasks")
class SetsAtOnce(TaskVectorEnv):
    def set_tasks(self, tasks, env_ids=None):
        super().set_tasks(tasks, env_ids)
        if self._finished is not None and tasks[0] is not None and not self._rows.elapsed.any():
            self._rows.params.put(np.arange(self.num_envs), self.family.params_of(tasks))


@breaks(VECTOR, "trial starts")
class NeverStarts(TaskVectorEnv):
    def step(self, actions):
        *rest, infos = super().step(actions)
        infos["trial_start"][...] = False
        return *rest, infos


@breaks(VECTOR, "fresh results")
class OneBuffer(TaskVectorEnv):
    buffer = None

    def observe_rows(self, rows):
        observation = super().observe_rows(rows)
        if rows is not None:
            return observation
        if self.buffer is None:
            self.buffer = observation.copy()
        self.buffer[...] = observation
        return self.buffer


@breaks(VECTOR, "no global generator")
class DrawsByNumPy(TaskVectorEnv):
    def step(self, actions):
        np.random.rand()  # noqa: NPY002
        return super().step(actions)


@breaks(VECTOR, "copies")
class HoldsAFunction(TaskVectorEnv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hook = lambda: 0


@pytest.mark.parametrize(("kind", "laws"), VECTOR)
def test_a_law_of_vector_envs_is_broken_by_the_env_that_was_made_to(kind, laws):
    env = kind(Walk(), 3, autoreset_mode=AutoresetMode.SAME_STEP)

    assert broken_laws(VECTOR_LAWS, VectorProbe(env, seed=0, num_steps=20)) == set(laws)


def test_every_law_of_vector_envs_has_an_env_that_breaks_it():
    assert {case.values[1][0] for case in VECTOR} == {law.name for law in VECTOR_LAWS}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", [Walk, Strip])
def test_metagyms_own_vector_env_keeps_all_laws(family, mode, num_envs):
    report = check_env(TaskVectorEnv(family(), num_envs, autoreset_mode=mode))

    assert list(report) == [law.name for law in VECTOR_LAWS]
    assert set(report.values()) - {"holds"} == ({"does not apply: there is one row only"} if num_envs == 1 else set())
