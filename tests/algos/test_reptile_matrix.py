"""Every learner with every kind of observation and action that it takes; the rest is refused by name."""

import subprocess
import sys
import warnings
from itertools import product

import numpy as np
import pytest
from sb3_contrib import ARS, QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from metagym.algos.reptile import Reptile
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState
from tests.algos.reptile_setup import POINT, same, state, tiny
from tests.algos.reptile_spaces import (
    ACTIONS,
    LEARNERS,
    OBSERVATIONS,
    TAKES,
    VECTORS_ONLY,
    Reach,
    Steps,
    agent_of,
)


def rows(observation="box", action="box", seed=0):
    return make_vec_env(lambda: Steps(observation, action), 2, seed=seed)


def supported(learner_class, observation, action):
    if learner_class is RecurrentPPO and observation == "multi_discrete":
        return False  # its LSTM does not take the width that SB3 computes for them
    has_policy = observation not in {"image", "dict"} or learner_class not in VECTORS_ONLY
    return has_policy and action in TAKES[learner_class]


def name_of(value):
    return value if isinstance(value, str) else value.__name__


CELLS = list(product(LEARNERS, OBSERVATIONS, ACTIONS))
WORKS = [cell for cell in CELLS if supported(*cell)]
REFUSED = [cell for cell in CELLS if not supported(*cell)]
# One cell for each learner with each observation, and with each action.
FEW = [cell for cell in WORKS if cell[2] == sorted(TAKES[cell[0]])[len(cell[1]) % len(TAKES[cell[0]])]]
FEW += [cell for cell in WORKS if cell not in FEW and cell[1] == "box"]


def works(learner_class, observation, action, tmp_path):
    """Trains, saves, loads, goes on, adapts, and what it adapted is SB3's."""
    agent = agent_of(learner_class, rows(observation, action), observation).learn(32)
    assert agent.num_timesteps >= 32
    before = state(agent)
    agent.save(tmp_path / "agent")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The state of this training env")
        loaded = Reptile.load(tmp_path / "agent", env=rows(observation, action), device="cpu")
    assert same(state(loaded), before)
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 64
    assert not same(state(loaded), before)
    expert = agent.adapt(0.5, total_timesteps=16, seed=1)
    assert type(expert) is learner_class
    assert expert.get_env().get_attr("goal") == [0.5, 0.5]
    assert same(state(agent), before)
    expert.save(tmp_path / "expert.zip")
    plain = learner_class.load(tmp_path / "expert.zip", device="cpu")
    assert same(LearnerState.capture(plain), LearnerState.capture(expert))
    seen = rows(observation, action).reset()
    np.testing.assert_array_equal(
        plain.predict(seen, deterministic=True)[0], expert.predict(seen, deterministic=True)[0]
    )


@pytest.mark.parametrize(("learner_class", "observation", "action"), FEW, ids=name_of)
def test_a_learner_does_everything_with_its_spaces(learner_class, observation, action, tmp_path):
    works(learner_class, observation, action, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner_class", "observation", "action"), [cell for cell in WORKS if cell not in FEW], ids=name_of
)
def test_a_learner_does_everything_with_all_its_spaces(learner_class, observation, action, tmp_path):
    works(learner_class, observation, action, tmp_path)


@pytest.mark.parametrize(("learner_class", "observation", "action"), REFUSED, ids=name_of)
def test_what_a_learner_does_not_support_is_refused_by_name(learner_class, observation, action):
    with pytest.raises(ConfigError, match=learner_class.__name__):
        agent_of(learner_class, rows(observation, action), observation)


def test_binary_actions_are_refused_where_the_learner_itself_fails_on_them():
    bare = RecurrentPPO("MlpLstmPolicy", rows("box", "multi_binary"), n_steps=8, n_epochs=1, device="cpu")
    with pytest.raises(RuntimeError):
        bare.learn(16)


def test_masked_actions_are_never_played_in_training_or_adaptation():
    class Strict(Steps):
        strict = True

    env = make_vec_env(lambda: Strict("box", "discrete"), 2)
    agent = agent_of(MaskablePPO, env).learn(64)
    agent.adapt(0.5, total_timesteps=32)
    actions = [
        agent.predict(np.zeros(2, np.float32), action_masks=np.array([False, False, True]))[0] for _ in range(20)
    ]
    assert set(map(int, actions)) == {2}


def test_masks_that_are_not_there_are_asked_for():
    with pytest.raises(ConfigError, match=r"MaskablePPO needs envs with a method action_masks\(\)"):
        tiny(POINT, learner_class=MaskablePPO)


HINDSIGHT = {
    "replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}, "learning_starts": 8,
    "batch_size": 4,
}  # fmt: skip


@pytest.mark.parametrize("learner_class", [SAC, DQN, TQC, QRDQN])
def test_hindsight_replays_the_task_at_hand_only(learner_class, tmp_path, monkeypatch):
    discrete = learner_class in (DQN, QRDQN)
    env = make_vec_env(lambda: Reach(discrete), 2, seed=0)
    sampled = []
    sample = HerReplayBuffer.sample

    def spy(buffer, *args, **kwargs):
        stored = buffer.observations["desired_goal"][: buffer.pos]
        sampled.append(set(np.unique(stored).tolist()) | {float(buffer.env.get_attr("goal")[0])})
        return sample(buffer, *args, **kwargs)

    monkeypatch.setattr(HerReplayBuffer, "sample", spy)
    agent = agent_of(learner_class, env, "dict", learner_kwargs=HINDSIGHT, inner_timesteps=32, meta_batch_size=3).learn(
        96
    )
    assert len({goal for goals in sampled for goal in np.round(list(goals), 5)}) == 3
    assert all(len(np.unique(np.round(list(goals), 5))) == 1 for goals in sampled)
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        loaded = Reptile.load(tmp_path / "agent", env=make_vec_env(lambda: Reach(discrete), 2), device="cpu")
    loaded.set_env(make_vec_env(lambda: Reach(discrete), 2))
    assert loaded.learner.replay_buffer.env is loaded.learner.env
    loaded.learn(96, reset_num_timesteps=False)
    expert = agent.adapt(1.25, total_timesteps=32)
    assert expert.replay_buffer.env.get_attr("goal") == [1.25, 1.25]
    expert.save(tmp_path / "expert.zip")
    learner_class.load(tmp_path / "expert.zip", env=expert.get_env(), device="cpu").learn(16)


def test_hindsight_keeps_the_start_of_learning_that_sb3_gives_it():
    env = make_vec_env(Reach, 2)
    kwargs = {name: value for name, value in HINDSIGHT.items() if name != "learning_starts"}
    assert agent_of(SAC, env, "dict", learner_kwargs=kwargs).learner.learning_starts == 100
    assert agent_of(SAC, env, "dict").learner.learning_starts == 0


def test_crossq_interpolates_its_running_statistics_and_counts_on():
    agent = agent_of(CrossQ, rows(), learning_rate=0.5, meta_batch_size=2)
    theta, phis = state(agent), []
    learn = agent.learner.learn

    def spy(*args, **kwargs):
        learn(*args, **kwargs)
        phis.append(state(agent))

    agent.learner.learn = spy
    agent.learn(1)
    after = state(agent)
    moved = [name for name in after.tensors if name.endswith(("ra_mean", "ra_var"))]
    assert len(moved) >= 8
    for name in moved:
        mean = (phis[0].tensors[name] + phis[1].tensors[name]) / 2
        np.testing.assert_allclose(after.tensors[name], (theta.tensors[name] + mean) / 2, rtol=1e-6)
    for name in [name for name in after.tensors if name.endswith(".steps")]:
        assert after.tensors[name] == phis[-1].tensors[name]


def test_ars_goes_on_from_weights_that_are_its_policys():
    agent = agent_of(ARS, rows(), learning_rate=0.5).learn(64)
    flat = np.concatenate([value.numpy().ravel() for value in state(agent).tensors.values()])
    np.testing.assert_array_equal(agent.learner.weights.numpy(), flat)


def test_recurrent_memories_do_not_outlive_a_run():
    agent = agent_of(RecurrentPPO, rows()).learn(32)
    for tensor in (*agent.learner._last_lstm_states.pi, *agent.learner._last_lstm_states.vf):
        tensor.fill_(float("nan"))
    agent.learn(32)
    assert all(np.isfinite(value.numpy()).all() for value in state(agent).tensors.values())


@pytest.mark.slow
def test_what_every_kind_of_learner_adapted_loads_without_metagym(tmp_path):
    for learner_class in LEARNERS:
        action = min(TAKES[learner_class])
        agent_of(learner_class, rows("box", action)).adapt(0.5).save(tmp_path / learner_class.__name__)
    names = [learner_class.__name__ for learner_class in LEARNERS]
    code = f"""
import sys
sys.modules["metagym"] = None
import numpy, stable_baselines3, sb3_contrib
for name in {names}:
    model = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    model.load({str(tmp_path)!r} + "/" + name, device="cpu").predict(numpy.zeros(2, "float32"))
assert not [name for name in sys.modules if name.startswith("metagym.")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_learners_are_given_by_name_too():
    assert type(agent_of("TQC", rows()).learner) is TQC
    assert type(agent_of("PPO", rows()).learner) is PPO
