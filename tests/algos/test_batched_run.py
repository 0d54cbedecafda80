"""Many tasks adapted at once end where they end one after the other."""

import numpy as np
import pytest
import stable_baselines3.common.policies as sb3_policies
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize

from metagym.algos.batched_run import BatchedRuns, streams_of
from metagym.algos.reptile import Reptile
from metagym.algos.reptile_run import seed_run
from metagym.engine import TaskVectorEnv
from metagym.envs import FrozenLake
from metagym.errors import ConfigError, DivergenceError
from metagym.learner_state import get_rng_state, preserved_rng
from metagym.wrappers import VectorEnvAdapter
from tests.algos.batched_setup import agent_of, distance, finishes, records, require_equal
from tests.algos.reptile_setup import LAKE, POINT, Recorder, line_env, same, state, tiny

OTHERS = ["MetaCartPole-v0", "MetaTaxi-v0", "MetaTabularMDP-v0", "MetaBandit-v0", "MetaPendulum-v0", "MetaLQR-v0"]


@pytest.mark.parametrize("env", [LAKE, POINT, *(pytest.param(env, marks=pytest.mark.slow) for env in OTHERS)])
@pytest.mark.parametrize("learner_class", [PPO, A2C])
def test_runs_played_at_once_end_where_they_end_one_after_the_other(learner_class, env):
    require_equal(agent_of(env, learner_class=learner_class))


@pytest.mark.parametrize(
    ("learner_class", "env"),
    [(PPO, LAKE), (A2C, POINT), pytest.param(PPO, POINT, marks=pytest.mark.slow), (A2C, LAKE)],
)
def test_in_double_precision_nothing_but_the_last_digits_differs(learner_class, env, monkeypatch):
    """In longer runs, in which no error of the algorithm could hide. SB3 normalises advantages in single precision."""
    options = {"normalize_advantage": False}
    agent = agent_of(env, learner_class=learner_class, inner_timesteps=320, n_envs=2, learner_kwargs=options)
    single = sb3_policies.preprocess_obs
    monkeypatch.setattr(sb3_policies, "preprocess_obs", lambda *args, **kwargs: single(*args, **kwargs).double())
    agent.learner.policy.double()
    require_equal(agent, tolerance=1e-11)


def test_a_player_plays_many_iterations_of_any_size():
    agent = agent_of(LAKE)
    require_equal(agent, rounds=2)
    require_equal(agent, num_tasks=1)
    require_equal(agent, num_tasks=5)


def test_one_row_a_task_and_tasks_of_many_rows():
    require_equal(agent_of(LAKE, n_envs=1, learner_kwargs={"n_steps": 32}))
    require_equal(agent_of(LAKE, n_envs=16, inner_timesteps=256))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_rows_are_like_those_of_the_training_env(mode):
    """Its time limit, its part of the distribution, its way of resetting; and without a monitor."""
    rows = TaskVectorEnv(FrozenLake(), 4, split="test", autoreset_mode=mode, max_episode_steps=5)
    alone, together, start = finishes(agent_of(VectorEnvAdapter(rows), n_envs=None))
    for one, other in zip(alone, together, strict=True):
        assert distance(one.phi, other.phi) < 1e-6 < distance(one.phi, start.theta)
        assert records(one) == records(other)
        assert one.num_episodes > 4


def test_frozen_parts_stay_to_the_bit():
    agent = agent_of(LAKE, frozen=["value_net", "mlp_extractor.policy_net"])
    require_equal(agent)
    agent = agent_of(POINT, frozen=["log_std"], policy_kwargs={"optimizer_class": th.optim.AdamW})
    require_equal(agent)


def learnt(**kwargs):
    agent = agent_of(LAKE, **kwargs)
    recorder = Recorder("meta/post_adapt_return")
    before = get_rng_state()
    agent.learn(500, callback=recorder, log_interval=None)
    assert all(np.array_equal(value, get_rng_state()[name]) for name, value in before.items())
    returns = [(info["r"], info["l"]) for info in agent.ep_info_buffer]
    return agent, recorder.values, returns, agent.num_timesteps


def test_training_batched_is_training_one_task_after_the_other():
    alone, together = learnt(), learnt(batched=True)
    assert alone[1:] == together[1:]
    assert distance(state(alone[0]), state(together[0])) < 1e-5


def test_a_batched_agent_resumes_to_the_bit(tmp_path):
    whole = agent_of(LAKE, batched=True).learn(256, log_interval=None)
    agent = agent_of(LAKE, batched=True).learn(128, log_interval=None)
    agent.save(tmp_path / "agent")
    resumed = Reptile.load(tmp_path / "agent", device="cpu")
    assert resumed.batched
    resumed.learn(128, reset_num_timesteps=False, log_interval=None)
    assert same(state(whole), state(resumed))


def test_divergence_names_the_task_and_keeps_the_parameters():
    agent = agent_of(LAKE, batched=True, learner_kwargs={"learning_rate": 1e30})
    before = state(agent)
    with pytest.raises(DivergenceError, match=r"PPO diverged in run 0 .*NaN.*learning_rate"):
        agent.learn(64)
    assert same(state(agent), before)


def test_streams_are_those_that_seeding_the_process_starts():
    streams = streams_of(11)
    with preserved_rng():
        seed_run(tiny().learner, tiny().env, 11)
        assert th.equal(th.rand(5), th.rand(5, generator=streams.actions))
        expected = np.random.permutation(50)  # noqa: NPY002 (the stream that SB3 draws from)
        np.testing.assert_array_equal(streams.minibatches.permutation(50), expected)


REFUSED = {
    "learner": ({"learner_class": SAC}, "PPO and A2C themselves, got SAC"),
    "workers": ({"n_workers": 2}, "n_workers=2"),
    "moments": ({"inner_optimizer": "carry"}, "inner_optimizer='carry'"),
    "gSDE": ({"learner_kwargs": {"use_sde": True}}, "use_sde=True"),
    "no bool": ({"batched": 1}, "batched must be True or False, got 1"),
    "optimizer": ({"policy_kwargs": {"optimizer_class": th.optim.Adagrad}}, "got Adagrad"),
    "activation": ({"policy_kwargs": {"activation_fn": th.nn.PReLU}}, "activation PReLU"),
}


@pytest.mark.parametrize(("kwargs", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused_at_once_by_name(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**{"batched": True, **kwargs})


def test_envs_that_rows_cannot_replace_are_refused():
    with pytest.raises(ConfigError, match="VecNormalize of VecMonitor of VectorEnvAdapter of TaskVectorEnv"):
        tiny(VecNormalize(tiny().env), batched=True)
    with pytest.raises(ConfigError, match=r"batched=True .* got DummyVecEnv"):
        tiny(line_env(), batched=True)
    agent = tiny(batched=True)
    with pytest.raises(ConfigError, match=r"batched=True .* got DummyVecEnv"):
        agent.set_env(line_env())


def test_a_player_refuses_too():
    agent = tiny(learner_class=DQN, env=LAKE)
    with pytest.raises(ConfigError, match="got DQN"):
        BatchedRuns(agent.learner, agent.env, ())
