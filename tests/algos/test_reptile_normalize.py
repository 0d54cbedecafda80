"""`VecNormalize` around the training env: its statistics belong to the iteration, the checkpoint and what adapts."""

import warnings

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_normalize import (
    capture_statistics,
    flatten_statistics,
    merge_statistics,
    normalization_of,
    normalized,
    restore_statistics,
    unflatten_statistics,
)
from metagym.errors import CheckpointError
from tests.algos.reptile_setup import line_env, same, state, tiny
from tests.algos.reptile_spaces import Reach, agent_of


def same_statistics(left, right):
    a, b = flatten_statistics(left), flatten_statistics(right)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def dict_env(seed=0):
    from stable_baselines3.common.env_util import make_vec_env

    return VecNormalize(make_vec_env(Reach, 2, seed=seed), norm_obs_keys=["observation"])


def test_pooled_statistics_are_those_of_all_that_the_runs_saw():
    rng = np.random.default_rng(0)
    chunks = [rng.normal(place, 1 + place, (20 + place, 3)) for place in range(4)]
    start, whole = RunningMeanStd(shape=(3,)), RunningMeanStd(shape=(3,))
    start.update(chunks[0])
    ends = []
    for chunk in chunks[1:]:
        end = start.copy()
        end.update(chunk[:9])
        end.update(chunk[9:])
        ends.append([{"obs": {"mean": end.mean, "var": end.var, "count": np.array(end.count)}}])
    for chunk in chunks:
        whole.update(chunk)
    begin = [{"obs": {"mean": start.mean, "var": start.var, "count": np.array(start.count)}}]
    (pooled,) = merge_statistics(begin, ends)
    np.testing.assert_allclose(pooled["obs"]["mean"], whole.mean, rtol=1e-9)
    np.testing.assert_allclose(pooled["obs"]["var"], whole.var, rtol=1e-9)
    np.testing.assert_allclose(pooled["obs"]["count"], whole.count, rtol=1e-12)
    assert merge_statistics(begin, ends[:1]) is ends[0]
    (unmoved,) = merge_statistics(begin, [begin, begin])
    np.testing.assert_array_equal(unmoved["obs"]["mean"], start.mean)


def test_every_run_starts_from_the_statistics_of_the_iteration(monkeypatch):
    env = VecNormalize(line_env())
    agent = tiny(env, meta_batch_size=3, seed=0).learn(1)
    starts = []
    learn = agent.learner.learn

    def spy(*args, **kwargs):
        starts.append(capture_statistics(env))
        return learn(*args, **kwargs)

    monkeypatch.setattr(agent.learner, "learn", spy)
    before = capture_statistics(env)
    agent.learn(1)
    assert all(same_statistics(start, before) for start in starts)
    # What every run saw counts, and nothing else: 3 runs of 8 steps and a reset in 4 rows.
    assert env.obs_rms.count == pytest.approx(float(before[0]["obs"]["count"]) + 3 * (8 + 1) * 4)


def test_statistics_that_do_not_train_stay():
    env = VecNormalize(line_env(), training=False)
    before = capture_statistics(env)
    tiny(env).learn(128)
    assert same_statistics(before, capture_statistics(env))


@pytest.mark.parametrize("make", [lambda: VecNormalize(line_env()), dict_env], ids=["box", "dict"])
def test_statistics_come_back_with_a_checkpoint_and_training_goes_on_with_them(make, tmp_path):
    def agent(env):
        return tiny(env, seed=0) if env.num_envs == 4 else agent_of(PPO, env, "dict")

    whole, part = agent(make()).learn(256), agent(make())
    part.learn(128)
    part.save(tmp_path / "agent")
    env = make()
    with pytest.warns(UserWarning, match="starts anew"):
        resumed = Reptile.load(tmp_path / "agent", env=env, device="cpu")
    assert same_statistics(capture_statistics(env), capture_statistics(part.env))
    resumed.learn(128, reset_num_timesteps=False)
    # A foreign env in which nothing outlives a seeded reset resumes to the bit as well.
    assert same_statistics(capture_statistics(env), capture_statistics(whole.env))
    assert same(state(resumed), state(whole))


def test_an_env_without_statistics_is_given_those_of_the_file(tmp_path):
    agent = tiny(VecNormalize(line_env(), clip_obs=3.0, norm_reward=False), seed=0).learn(64)
    agent.save(tmp_path / "agent")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The state of this training env")
        loaded = Reptile.load(tmp_path / "agent", env=line_env(), device="cpu")
    assert (loaded.env.clip_obs, loaded.env.norm_reward, loaded.env.training) == (3.0, False, True)
    assert same_statistics(capture_statistics(loaded.env), capture_statistics(agent.env))
    without = Reptile.load(tmp_path / "agent", device="cpu")
    without.save(tmp_path / "again")
    expert = Reptile.load(tmp_path / "again", device="cpu").adapt(line_env(), total_timesteps=32)
    assert same_statistics(capture_statistics(expert.get_env()), capture_statistics(agent.env))
    assert not expert.get_env().training


def test_what_is_adapted_is_used_with_the_statistics_saved_beside_it(tmp_path):
    agent = tiny(VecNormalize(line_env()), seed=0).learn(64)
    for task in (0.5, line_env()):
        expert = agent.adapt(task)
        env = expert.get_vec_normalize_env()
        assert same_statistics(capture_statistics(env), capture_statistics(agent.env))
        assert not env.training
    expert.save(tmp_path / "expert.zip")
    env.save(tmp_path / "statistics.pkl")
    rows = VecNormalize.load(tmp_path / "statistics.pkl", line_env())
    plain = PPO.load(tmp_path / "expert.zip", env=rows, device="cpu")
    assert not rows.training
    np.testing.assert_array_equal(rows.obs_rms.mean, agent.env.obs_rms.mean)
    seen = np.array([[0.7]], np.float32)
    expected, _ = expert.predict(env.normalize_obs(seen), deterministic=True)
    np.testing.assert_array_equal(plain.predict(rows.normalize_obs(seen), deterministic=True)[0], expected)


def test_statistics_of_another_env_are_refused():
    env = VecNormalize(line_env())
    statistics = capture_statistics(env)
    for other in (line_env(), dict_env(), VecNormalize(line_env(), norm_obs=False)):
        with pytest.raises(CheckpointError, match="normalises"):
            restore_statistics(other, statistics)
    assert normalized(env, normalization_of(dict_env()), training=True) is env
    for wrong in ({"x/mean/obs": np.zeros(1)}, {"0/mode/obs": np.zeros(1)}, {"0/mean/obs": np.zeros(1)}):
        with pytest.raises(CheckpointError, match="statistics"):
            unflatten_statistics(wrong)
    assert same_statistics(unflatten_statistics(flatten_statistics(statistics)), statistics)
