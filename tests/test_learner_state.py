"""Capturing, averaging and restoring what learners have learnt, with every trap that SB3 sets."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import (
    LearnerState,
    average,
    flatten_state,
    generator_state,
    get_rng_state,
    load_state,
    preserved_rng,
    reset_running_state,
    set_generator_state,
    set_rng_state,
)
from metagym.saving import read_archive, write_archive

NETS = {"net_arch": [8]}
OFF_POLICY = {"learning_starts": 0, "batch_size": 4, "buffer_size": 64, "policy_kwargs": NETS}
KWARGS = {
    PPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": NETS},
    A2C: {"n_steps": 4, "policy_kwargs": NETS},
    TRPO: {"n_steps": 8, "batch_size": 8, "policy_kwargs": NETS},
    RecurrentPPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {**NETS, "lstm_hidden_size": 4}},
    ARS: {"n_delta": 2, "zero_policy": False, "policy_kwargs": NETS},
    DQN: OFF_POLICY,
    QRDQN: OFF_POLICY,
    SAC: OFF_POLICY,
    TD3: OFF_POLICY,
    DDPG: OFF_POLICY,
    TQC: OFF_POLICY,
    CrossQ: OFF_POLICY,
}
LEARNERS = list(KWARGS)


class Walk(gym.Env):
    """Five steps of anything."""

    def __init__(self, discrete=False):
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), float(np.sum(action)), False, self.steps == 5, {}

    def _observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


def make(learner_class, seed=0, **kwargs):
    env = Walk(discrete=learner_class in (DQN, QRDQN))
    policy = "MlpLstmPolicy" if learner_class is RecurrentPPO else "MlpPolicy"
    kwargs = {**KWARGS[learner_class], **kwargs}
    return learner_class(
        policy, env, seed=seed, device="cpu", **{**kwargs, "policy_kwargs": dict(kwargs["policy_kwargs"])}
    )


def learn(model, steps=16):
    return model.learn(steps, log_interval=None)


def same_tensors(left, right):
    return left.tensors.keys() == right.tensors.keys() and all(
        th.equal(value, right.tensors[name]) for name, value in left.tensors.items()
    )


def same_moments(left, right):
    pairs = [(left.optimizers[name]["state"], right.optimizers[name]["state"]) for name in left.optimizers]
    return all(
        a.keys() == b.keys() and all(th.equal(a[i][key], b[i][key]) for i in a for key in a[i]) for a, b in pairs
    )


def number_of_moments(state):
    return sum(len(optimizer["state"]) for optimizer in state.optimizers.values())


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_what_was_captured_does_not_change_when_the_learner_learns(learner_class):
    model = learn(make(learner_class))
    state = LearnerState.capture(model)
    kept = state.copy()
    learn(model)
    assert not same_tensors(LearnerState.capture(model), kept)
    assert same_tensors(state, kept)
    assert same_moments(state, kept)


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_restoring_twice_with_learning_between_gives_the_same_state_twice(learner_class):
    model = learn(make(learner_class))
    state = LearnerState.capture(model)
    kept = state.copy()
    for _ in range(2):
        learn(model)
        state.restore(model, optimizer="snapshot")
        assert same_tensors(LearnerState.capture(model), kept)
        assert same_moments(LearnerState.capture(model), kept)


@pytest.mark.parametrize("learner_class", LEARNERS)
def test_arrays_carry_a_learner_into_a_new_one_exactly(learner_class, tmp_path):
    model = learn(make(learner_class))
    path = write_archive(tmp_path / "a.zip", meta={}, arrays=flatten_state(model))
    other = make(learner_class, seed=1)
    load_state(other, read_archive(path)[1])
    expected, actual = LearnerState.capture(model), LearnerState.capture(other)
    assert same_tensors(expected, actual)
    assert same_moments(expected, actual)
    observation = np.linspace(-1, 1, 3, dtype=np.float32)
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], other.predict(observation, deterministic=True)[0]
    )


@pytest.mark.parametrize("learner_class", [PPO, A2C, TRPO, SAC])
def test_a_fresh_optimizer_has_no_moments_and_kept_ones_stay(learner_class):
    model = make(learner_class)
    state = LearnerState.capture(model)
    learnt = LearnerState.capture(learn(model))
    assert number_of_moments(learnt) > 0
    state.restore(model, optimizer="keep")
    assert same_moments(LearnerState.capture(model), learnt)
    state.restore(model, optimizer="fresh")
    assert number_of_moments(LearnerState.capture(model)) == 0


def test_restored_learners_learn_the_same_again():
    model = learn(make(PPO))
    state, rng = LearnerState.capture(model), get_rng_state()
    results = []
    for _ in range(2):
        state.restore(model, optimizer="snapshot")
        set_rng_state(rng)
        model.env.seed(3)
        results.append(LearnerState.capture(learn(model)))
    assert same_tensors(*results)
    assert same_moments(*results)


def test_the_entropy_coefficient_of_sac_is_part_of_the_state():
    model = make(SAC)
    state = LearnerState.capture(model)
    learn(model)
    assert model.log_ent_coef.item() != 0.0
    state.restore(model)
    assert model.log_ent_coef.item() == 0.0
    assert model.log_ent_coef is model.ent_coef_optimizer.param_groups[0]["params"][0]


@pytest.mark.parametrize("zero_policy", [True, False])
def test_ars_continues_from_the_restored_parameters(zero_policy):
    model = make(ARS, zero_policy=zero_policy)
    state = LearnerState.capture(model)
    learn(model)
    state.restore(model)
    flat = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert th.equal(model.weights, flat)
    assert th.equal(model.weights, th.cat([value.flatten() for value in state.tensors.values()]))
    model.weights.add_(1.0)
    assert th.equal(flat, th.nn.utils.parameters_to_vector(model.policy.parameters()))


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.layer = th.nn.Linear(3, 4)

    def forward(self, observations):
        return self.layer(observations)


def test_a_shared_features_extractor_is_stepped_once():
    model = make(PPO, policy_kwargs={**NETS, "features_extractor_class": Extractor})
    assert len([name for name in model.policy.state_dict() if name.endswith("features_extractor.layer.weight")]) == 3
    state = LearnerState.capture(model)
    assert len([name for name in state.tensors if name.endswith("features_extractor.layer.weight")]) == 1
    other = state.copy()
    for tensor in other.tensors.values():
        tensor.add_(1.0)
    before = model.policy.features_extractor.layer.weight.detach().clone()
    state.lerp_(other, 0.5).restore(model)
    th.testing.assert_close(model.policy.features_extractor.layer.weight.detach(), before + 0.5)


def test_integer_buffers_are_copied_and_floating_buffers_interpolated():
    model = make(CrossQ)
    old = LearnerState.capture(model)
    new = LearnerState.capture(learn(model))
    steps = next(name for name in old.tensors if name.endswith(".steps"))
    means = steps.removesuffix("steps") + "ra_mean"
    assert not old.tensors[steps].is_floating_point()
    middle = old.copy().lerp_(new, 0.5)
    assert th.equal(middle.tensors[steps], new.tensors[steps])
    th.testing.assert_close(middle.tensors[means], (old.tensors[means] + new.tensors[means]) / 2)
    assert th.equal(average([old, new]).tensors[steps], new.tensors[steps])


def test_the_average_and_the_step_are_the_formulas():
    tensors = [{"w": th.tensor([1.0, 2.0])}, {"w": th.tensor([3.0, 8.0])}, {"w": th.tensor([8.0, 2.0])}]
    states = [LearnerState(values, {}) for values in tensors]
    mean = average(states)
    assert mean.tensors["w"].tolist() == [4.0, 4.0]
    assert states[0].tensors["w"].tolist() == [1.0, 2.0]
    assert states[0].lerp_(mean, 0.25).tensors["w"].tolist() == [1.75, 2.5]
    with pytest.raises(ConfigError, match="no states"):
        average([])


@pytest.mark.parametrize("learner_class", [DQN, SAC, TD3, TRPO, ARS])
def test_learning_goes_on_with_restored_parameters_although_data_is_rebound(learner_class):
    model = make(learner_class)
    for _ in range(3):
        state = LearnerState.capture(learn(model))
        state.restore(model)
        assert same_tensors(state, LearnerState.capture(model))


def test_batch_norm_statistics_stay_the_tensors_that_dqn_refers_to():
    model = make(DQN)
    before = [id(tensor) for tensor in model.policy.parameters()]
    LearnerState.capture(model).restore(model)
    assert [id(tensor) for tensor in model.policy.parameters()] == before


def test_the_replay_buffer_and_the_counters_start_again():
    model = learn(make(TD3))
    assert model.replay_buffer.size() == 16
    assert model._n_updates > 0
    reset_running_state(model)
    assert model.replay_buffer.size() == 0
    assert model._n_updates == 0


def test_dqn_starts_with_its_targets_equal_and_its_exploration_restarted():
    model = learn(make(DQN, target_update_interval=1000))
    pairs = list(zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True))
    assert not all(th.equal(*pair) for pair in pairs)
    reset_running_state(model)
    assert all(th.equal(*pair) for pair in pairs)
    assert model._n_calls == 0
    assert model.exploration_rate == 1.0


def test_her_forgets_the_episodes_of_the_last_task():
    env = make_vec_env(BitFlippingEnv, 2, env_kwargs={"n_bits": 3, "max_steps": 3, "continuous": True})
    model = SAC(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, learning_starts=6, buffer_size=64, batch_size=4,
        policy_kwargs=dict(NETS), device="cpu",
    )  # fmt: skip
    learn(model, 24)
    assert (model.replay_buffer.ep_length > 0).any()
    reset_running_state(model)
    assert not model.replay_buffer.ep_length.any()
    assert not model.replay_buffer._current_ep_start.any()
    with pytest.raises(RuntimeError, match="Unable to sample"):
        model.replay_buffer.sample(4)
    learn(model, 24)


def test_action_noise_starts_again():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2))
    model = learn(make(TD3, action_noise=noise))
    assert noise.noise_prev.any()
    reset_running_state(model)
    assert not noise.noise_prev.any()


def test_a_learner_with_other_parameters_is_refused():
    state = LearnerState.capture(make(PPO))
    with pytest.raises(ConfigError, match="PPO has other parameters"):
        state.restore(make(PPO, policy_kwargs={"net_arch": [8, 8]}))
    arrays = flatten_state(make(PPO))
    with pytest.raises(CheckpointError, match="other parameters"):
        load_state(make(PPO, policy_kwargs={"net_arch": [8, 8]}), arrays)
    with pytest.raises(CheckpointError, match=r"has shape \(9, 3\), but \(8, 3\) is stored"):
        load_state(make(PPO, policy_kwargs={"net_arch": [9]}), arrays)


def test_moments_of_parameters_that_do_not_exist_are_refused():
    model = learn(make(PPO))
    arrays = flatten_state(model)
    with pytest.raises(CheckpointError, match="parameters"):
        load_state(model, {**arrays, "optimizer/policy.optimizer/99/step": np.array(1.0)})
    with pytest.raises(CheckpointError, match="is stored"):
        load_state(model, {**arrays, "optimizer/policy.optimizer/0/exp_avg": np.zeros(1)})


def test_moments_that_are_plain_numbers_come_back_as_such():
    model = make(PPO)
    model.policy.optimizer.state[model.policy.log_std]["step"] = 7
    arrays = flatten_state(model)
    model.policy.optimizer.state.clear()
    load_state(model, arrays)
    assert model.policy.optimizer.state[model.policy.log_std] == {"step": 7}


def test_learners_without_torch_parameters_are_refused():
    model = make(PPO)
    model._get_torch_save_params = lambda: ([], [])
    with pytest.raises(ConfigError, match="SBX"):
        LearnerState.capture(model)


def draws():
    return random.random(), random.gauss(0, 1), np.random.normal(), np.random.rand(), th.rand(2).tolist()  # noqa: NPY002


def test_random_states_continue_exactly_even_between_paired_gaussians(tmp_path):
    draws()
    path = write_archive(tmp_path / "rng.zip", meta={}, arrays=get_rng_state())
    expected = draws()
    draws()
    set_rng_state(read_archive(path)[1])
    assert draws() == expected


def test_random_states_are_put_back_after_a_block_that_fails():
    def fail():
        with preserved_rng():
            draws()
            raise ZeroDivisionError

    before = get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fail()
    after = get_rng_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["python", "numpy", "torch", "numpy_position"])
def test_random_states_that_are_none_are_refused(name):
    before = get_rng_state()
    with preserved_rng(), pytest.raises(CheckpointError, match="random states"):
        set_rng_state({**before, name: np.zeros(3)})


def test_a_generator_continues_exactly():
    generator = np.random.default_rng(3)
    generator.random(5)
    state = generator_state(generator)
    expected = generator.random(4).tolist()
    other = np.random.default_rng(4)
    set_generator_state(other, state)
    assert other.random(4).tolist() == expected
    with pytest.raises(ConfigError, match="MT19937"):
        generator_state(np.random.Generator(np.random.MT19937(0)))
    with pytest.raises(CheckpointError):
        set_generator_state(other, {"bit_generator": "PCG64", "state": 3})
