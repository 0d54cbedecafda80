"""metagym's wrappers keep all laws of wrappers; each law of their own is broken by a wrapper made for it."""

from functools import partial

import gymnasium as gym
import pytest

from metagym import ConfigError
from metagym.checks import check_wrapper
from metagym.checks.wrapper import WRAPPER_LAWS, WrapperProbe
from metagym.errors import ContractError
from metagym.wrappers import RevealTask, RL2Context, Trial
from metagym.wrappers.base import RowsWrapper, TaskWrapper
from tests.checks.broken import Strip, Walk, broken_laws

CASES = []
HIDDEN = {"hidden task": "the wrapper reveals it on purpose"}


def breaks(*laws):
    """A wrapper that breaks the first of `laws`, and the others with it because it has to."""

    def note(kind):
        CASES.append(pytest.param(kind, laws, id=f"{laws[0]}: {kind.__name__}"))
        return kind

    return note


class VectorPlain(RowsWrapper):
    """A wrapper of rows that changes nothing."""


class Plain(TaskWrapper):
    """A wrapper that changes nothing."""

    rows_type = VectorPlain


@breaks("kinds")
class CopiesTheSpace(gym.Wrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.get_wrapper_attr("task_space")
        self.task_space = gym.spaces.Dict({**space, "success_rate": gym.spaces.Box(0.0, 0.5, ())})


@breaks("tasks pass", "scalar equals vector")
class OtherSeeds(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=None if seed is None else seed + 1, options=options)


@breaks("constant task")
class RestartsInside(Plain):
    steps = 0

    def step(self, action):
        self.steps += 1
        result = self.env.step(action)
        if self.steps % 57 == 0:
            return self.env.reset()[0], 0.0, False, False, self.env.step(action)[4]
        return result


@breaks("specs")
class ForgetsItsArguments(gym.Wrapper, gym.utils.RecordConstructorArgs):
    def __init__(self, env, *, scale=2.0):
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.scale = scale

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, reward + self.scale, *rest


class DroppedOptions(Plain):
    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)


CASES.append(pytest.param(DroppedOptions, ("reset options", "scalar equals vector"), id="reset options"))


class VectorHalf(RowsWrapper):
    def step_rows(self, actions, active):
        reward, *rest = self.env.step_rows(actions, active)
        return reward * 0.5, *rest


@breaks("scalar equals vector")
class HalfInRows(TaskWrapper):
    rows_type = VectorHalf


class VectorLeaky(RowsWrapper):
    def observe_rows(self, rows):
        if not hasattr(self, "buffer"):
            self.buffer = self.env.observe_rows(None)
        if rows is None:
            self.buffer[...] = self.env.observe_rows(None)
            return self.buffer
        return self.env.observe_rows(rows)


@breaks("vector: fresh results")
class LeakyRows(TaskWrapper):
    rows_type = VectorLeaky


OWN = {"kinds", "tasks pass", "constant task", "specs", "scalar equals vector"}


@pytest.mark.parametrize(("kind", "laws"), CASES)
def test_a_law_of_wrappers_is_broken_by_the_wrapper_that_was_made_to(kind, laws):
    wrapper = partial(kind, scale=3.0) if kind is ForgetsItsArguments else kind
    probe = WrapperProbe(wrapper, "MetaFrozenLake-v0", vector=None, seed=0, num_steps=30)

    quick = [law for law in WRAPPER_LAWS if law.name in {*OWN, *laws}]

    assert broken_laws(quick, probe) == set(laws)


def test_every_law_of_their_own_has_a_wrapper_that_breaks_it():
    assert {case.values[1][0] for case in CASES} >= OWN


@pytest.mark.parametrize("family", [Walk(), Strip()], ids=lambda family: family.name)
@pytest.mark.parametrize(
    ("wrapper", "exempt"),
    [
        (Plain, {}),
        (partial(Trial, episodes_per_trial=2), {}),
        (lambda env: RL2Context(Trial(env, steps_per_trial=11)), {}),
        (RevealTask, HIDDEN),
        (lambda env: RL2Context(Trial(RevealTask(env), episodes_per_trial=2)), HIDDEN),
    ],
    ids=["plain", "trial", "rl2", "reveal", "all"],
)
def test_metagyms_wrappers_keep_all_laws_over_families(family, wrapper, exempt):
    report = check_wrapper(wrapper, env=family, vector=True, num_steps=8, exempt=exempt)

    assert list(report) == [law.name for law in WRAPPER_LAWS]
    assert report["scalar equals vector"] == "holds"
    assert report["specs"] == "does not apply: the env has no id"


def test_wrappers_of_gymnasium_are_checked_over_scalar_envs():
    report = check_wrapper(lambda env: gym.wrappers.TimeLimit(env, 5), num_steps=20)

    assert report["specs"] == "holds"
    assert report["scalar equals vector"] == "does not apply: the wrapper wraps scalar envs only"


def test_a_wrapper_that_must_wrap_vector_envs_and_does_not_is_refused():
    with pytest.raises(ContractError, match=r"over metagym's vector env: found .*accepted is a vector env, as was ask"):
        check_wrapper(lambda env: gym.wrappers.TimeLimit(env, 5), vector=True, num_steps=5)


def test_vector_envs_may_be_left_out():
    report = check_wrapper(Plain, vector=False, num_steps=5)

    assert report["vector: batches"] == "does not apply: the wrapper wraps scalar envs only"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wrapper": 3}, "wrapper=3 is not accepted"),
        ({"wrapper": Plain, "env": Walk}, r"env=<class.*Walk'> is not accepted; accepted are an id and a family"),
        ({"wrapper": Plain, "exempt": {"speed": "x"}}, "'speed', which is no law here"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_wrapper(**arguments)
