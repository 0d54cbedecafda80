"""Wrappers of Gymnasium and of SB3 that no other test names, around envs of tasks and their rows."""

from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    RescaleAction,
    TimeLimit,
    TransformReward,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from metagym.algos import FromScratch
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.strangers_setup import (
    POINT,
    SHORT,
    a_task,
    joint,
    moved,
    point,
    reptile,
    rl2,
    score,
)

# --- wrappers ---------------------------------------------------------------------------------------------------------

UNSEEN = {
    "TimeLimit": lambda env: TimeLimit(env, 4),
    "Monitor": Monitor,
    "TransformReward": lambda env: TransformReward(env, lambda reward: 2 * reward),
}
SEEN = {
    "NormalizeObservation": NormalizeObservation,
    "FrameStack": lambda env: FrameStackObservation(env, 3),
    "RescaleAction": lambda env: RescaleAction(env, np.float32(-1), np.float32(1)),
}


@pytest.mark.parametrize("name", UNSEEN | SEEN)
def test_gymnasium_wrappers_around_an_env_of_tasks(name):
    wrap = (UNSEEN | SEEN)[name]
    for make in (reptile, joint):
        agent = make(wrap(point())).learn(16)
        expert = agent.adapt(a_task(), total_timesteps=16)
        assert expert.observation_space == wrap(point()).observation_space
        if name in UNSEEN:
            assert np.isfinite(score(agent).scores).all()
        else:
            with pytest.raises(ConfigError, match=r"sees .* and acts in"):
                score(agent)


@pytest.mark.parametrize("name", ["NormalizeObservation", "FrameStack"])
def test_rl2_refuses_scalar_wrappers_that_change_observations(name):
    with pytest.raises(ConfigError, match="without wrappers that change observations"):
        rl2(SEEN[name](point()))


@pytest.mark.parametrize("name", ["TransformReward", "TimeLimit", "RescaleAction"])
def test_rl2_refuses_or_keeps_scalar_wrappers_that_change_anything_else(name):
    wrap = (UNSEEN | SEEN)[name]
    try:
        agent = rl2(wrap(point()))
    except ConfigError:
        return
    assert agent.action_space == wrap(point()).action_space
    assert name not in {"TransformReward", "TimeLimit"}  # what it learns from shows no trace of them


def rows(n_envs=2):
    return VectorEnvAdapter(gym.make_vec(POINT, num_envs=n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **SHORT))


def trials():
    return RL2Context(Trial(point(), episodes_per_trial=2))


VEC_WRAPPERS = {
    "VecMonitor": VecMonitor,
    "VecCheckNan": VecCheckNan,
    "VecNormalize": VecNormalize,
    "VecNormalize of a VecMonitor": lambda env: VecNormalize(VecMonitor(env)),
    "VecFrameStack": lambda env: VecFrameStack(env, 3),
}


@pytest.mark.parametrize("name", VEC_WRAPPERS)
@pytest.mark.parametrize("make", [reptile, joint])
def test_sb3_wrappers_around_rows_of_tasks(make, name, tmp_path):
    wrap = VEC_WRAPPERS[name]
    agent = make(wrap(rows())).learn(32)
    agent.adapt(a_task(), total_timesteps=16)
    if name == "VecFrameStack":
        with pytest.raises(ConfigError, match=r"sees .* and acts in"):
            score(agent)
    else:
        assert np.isfinite(score(agent).scores).all()
    agent.save(tmp_path / "agent")
    anew = make is joint and name in {"VecCheckNan", "VecFrameStack"}
    with pytest.warns(UserWarning, match="starts anew") if anew else nullcontext():
        loaded = type(agent).load(tmp_path / "agent", env=wrap(rows()), device="cpu")
    agent.learn(32, reset_num_timesteps=False)
    loaded.learn(32, reset_num_timesteps=False)
    assert anew or not moved(loaded, LearnerState.capture(agent.learner))


def test_what_learns_from_scratch_in_a_vec_normalize_counts_its_own_statistics():
    agent = joint(VecNormalize(rows()), kind=FromScratch)
    one, other = (agent.adapt(a_task(), total_timesteps=32).get_vec_normalize_env() for _ in range(2))
    assert one.obs_rms.count == other.obs_rms.count > 32
    assert agent.env.obs_rms.count < 1
    assert one.training


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_rows_of_sb3s_own(vec_env):
    more = {"start_method": "fork"} if vec_env is SubprocVecEnv else {}
    env = vec_env([point] * 2, **more)
    agent = reptile(env).learn(16)
    if vec_env is SubprocVecEnv:
        with pytest.raises(ConfigError, match="processes of SubprocVecEnv cannot be copied: give adapt an env"):
            agent.adapt(a_task(), total_timesteps=16)
        task = a_task()
        own = point()
        own.unwrapped.set_task(task)
        assert agent.adapt(own, total_timesteps=16).get_env().env_method("get_task") == [task, task]
    else:
        assert np.isfinite(score(agent).scores).all()
    joint(env).learn(16)
    env.close()
    env = vec_env([trials] * 2, **more)
    assert np.isfinite(score(rl2(env).learn(32)).scores).all()
    env.close()


def test_next_step_autoreset_which_is_gymnasiums_default_is_refused_with_the_way_out():
    for make in (reptile, joint, rl2):
        with pytest.raises(ConfigError, match=r"autoreset_mode=gymnasium\.vector\.AutoresetMode\.SAME_STEP"):
            make(gym.make_vec(POINT, num_envs=2))
