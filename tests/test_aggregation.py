"""Averages of learners: numbers by hand, every kind of state, and the way back into an initialisation."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from metagym.aggregation import average, interpolate, merge_into
from metagym.algos.reptile import Reptile
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState, get_rng_state
from tests.algos.reptile_setup import line_env, same

NETS = {"net_arch": [8]}
ON_POLICY = {"n_steps": 8, "policy_kwargs": NETS, "device": "cpu"}
OFF_POLICY = {"learning_starts": 0, "batch_size": 4, "buffer_size": 64, "policy_kwargs": NETS, "device": "cpu"}
KWARGS = {
    PPO: {**ON_POLICY, "batch_size": 8, "n_epochs": 1},
    A2C: ON_POLICY,
    TRPO: {**ON_POLICY, "batch_size": 8},
    RecurrentPPO: {**ON_POLICY, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {**NETS, "lstm_hidden_size": 4}},
    ARS: {"n_delta": 1, "policy_kwargs": NETS, "zero_policy": False, "device": "cpu"},
    SAC: OFF_POLICY,
    TD3: OFF_POLICY,
    TQC: OFF_POLICY,
    CrossQ: OFF_POLICY,
    DQN: {**OFF_POLICY, "target_update_interval": 8},
    QRDQN: {**OFF_POLICY, "target_update_interval": 8},
}


def learner(kind=PPO, seed=0, steps=16, **kwargs):
    policy = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    env = line_env(1, discrete=kind in (DQN, QRDQN))
    return kind(policy, env, seed=seed, **copy.deepcopy({**KWARGS[kind], **kwargs})).learn(steps, log_interval=None)


def captured(model):
    return LearnerState.capture(model)


@pytest.mark.parametrize("kind", list(KWARGS))
def test_every_float_is_the_weighted_mean_and_every_integer_the_largest(kind):
    models = [learner(kind, seed) for seed in (0, 1)]
    states = [captured(model).copy() for model in models]
    merged = average(models, weights=[3, 1])
    assert type(merged) is kind
    for name, value in captured(merged).tensors.items():
        first, second = (state.tensors[name] for state in states)
        if value.is_floating_point():
            expected = (0.75 * first.double() + 0.25 * second.double()).to(value.dtype)
            assert th.equal(value, expected), name
        else:
            assert th.equal(value, th.maximum(first, second))
    assert all(same(captured(model), state) for model, state in zip(models, states, strict=True))
    assert merged.num_timesteps == sum(model.num_timesteps for model in models)
    assert all(not optimizer["state"] for optimizer in captured(merged).optimizers.values())


def test_by_hand():
    models = [learner(seed=seed) for seed in (0, 1, 2)]
    for value, model in zip((1.0, 2.0, 6.0), models, strict=True):
        with th.no_grad():
            model.policy.log_std.fill_(value)
    models[0].num_timesteps, models[1].num_timesteps, models[2].num_timesteps = 100, 300, 0
    assert average(models).policy.log_std.item() == 3.0
    assert average(models, weights=[1, 1, 2]).policy.log_std.item() == 3.75
    assert average(models, weights="steps").policy.log_std.item() == 1.75
    assert interpolate(models[0], models[2], 0.2).policy.log_std.item() == 2.0
    assert interpolate(models[0], models[1]).policy.log_std.item() == 1.5


@pytest.mark.parametrize("kind", [PPO, SAC, ARS])
def test_the_average_of_equal_learners_is_each_of_them_to_the_bit(kind):
    model = learner(kind)
    merged = average([model] * 3)
    assert same(captured(merged), captured(model))
    observation = np.array([[0.3], [-2.0]], np.float32)
    np.testing.assert_array_equal(
        merged.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )


def test_the_entropy_coefficient_is_the_geometric_mean():
    models = [learner(SAC, seed) for seed in (0, 1)]
    for value, model in zip((0.1, 0.4), models, strict=True):
        model.log_ent_coef.data.fill_(np.log(value))
    assert average(models).log_ent_coef.exp().item() == pytest.approx(0.2)


def test_the_weights_that_ars_searches_around_are_those_of_the_policy():
    merged = average([learner(ARS, seed) for seed in (0, 1)])
    assert th.equal(merged.weights, th.nn.utils.parameters_to_vector(merged.policy.parameters()))


class Normed(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 3)
        self.net = th.nn.Sequential(th.nn.Linear(1, 3), th.nn.BatchNorm1d(3))

    def forward(self, observations):
        return self.net(observations)


def test_batch_norm_statistics_are_averaged_and_its_counters_the_largest():
    kwargs = {"policy_kwargs": {**NETS, "features_extractor_class": Normed}}
    models = [learner(SAC, seed, steps, **kwargs) for seed, steps in ((0, 10), (1, 20))]
    norms = [model.actor.features_extractor.net[1] for model in (*models, average(models))]
    means = [norm.running_mean.double() for norm in norms]
    assert th.equal(means[2].float(), (0.5 * means[0] + 0.5 * means[1]).float())
    counts = [norm.num_batches_tracked.item() for norm in norms]
    assert counts[2] == max(counts[:2]) > min(counts[:2])


def test_the_new_learner_learns_on_and_saves_as_sb3_does(tmp_path):
    merged = average([learner(DQN, seed) for seed in (0, 1)], env=line_env(1, discrete=True))
    assert merged.replay_buffer.size() == 0
    merged.learn(16)
    merged.save(tmp_path / "merged")
    assert same(captured(DQN.load(tmp_path / "merged")), captured(merged))


def test_averaging_draws_nothing_from_the_process_although_models_are_seeded():
    models = [learner(seed=seed) for seed in (0, 1)]
    before = get_rng_state()
    average(models)
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())


def test_experts_go_back_into_the_initialisation_they_came_from():
    agent = Reptile("MlpPolicy", "MetaPointGoal-v0", inner_timesteps=64, policy_kwargs=NETS, device="cpu", seed=0)
    tasks = agent.env.env_method("sample_task")[:3]
    experts = [agent.adapt(task, seed=number) for number, task in enumerate(tasks)]
    theta, phis = captured(agent.learner), [captured(expert) for expert in experts]
    merge_into(agent, experts, step_size=0.5)
    for name, value in captured(agent.learner).tensors.items():
        mean = (phis[0].tensors[name] + phis[1].tensors[name] + phis[2].tensors[name]) / 3
        th.testing.assert_close(value, theta.tensors[name] + 0.5 * (mean - theta.tensors[name]), rtol=1e-5, atol=1e-7)
    assert all(same(captured(expert), phi) for expert, phi in zip(experts, phis, strict=True))
    merge_into(agent, experts)
    assert same(captured(agent.learner), captured(average(experts)))


def test_merging_with_step_size_zero_changes_nothing():
    model, other = learner(seed=0), learner(seed=1)
    before = captured(model)
    merge_into(model, [other], step_size=0.0)
    assert same(captured(model), before)
    assert len(captured(model).optimizers["policy.optimizer"]["state"]) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: average([]), "no models"),
        (lambda: average([learner(), "model"]), r"models\[1\] is a str"),
        (
            lambda: average([learner(), learner(policy_kwargs={"net_arch": [4]})]),
            r"PPO 1 is of another architecture: its policy\.\S+ is torch\.float32 \(4,",
        ),
        (
            lambda: average([learner(), learner(policy_kwargs={"net_arch": [8, 8]})]),
            r"PPO 1 is of another architecture: it has a tensor 'policy\.mlp_extractor\.policy_net\.2\.bias'",
        ),
        (lambda: average([learner(SAC), learner(TD3)]), "TD3 1 is of another architecture: it has no tensor"),
        (lambda: average([learner(), learner(SAC)]), "SAC 1 is of another architecture"),
        (lambda: average([learner(SAC), learner(DQN)]), r"DQN 1 has action_space Discrete\(2\), the first has Box"),
        (lambda: average([learner()], weights=[1, 2]), "one number for each of 1 models"),
        (lambda: average([learner()] * 2, weights=[1, -1]), "not negative"),
        (lambda: average([learner()] * 2, weights=[0, 0]), "not all 0"),
        (lambda: average([learner()] * 2, weights=[1, float("nan")]), "finite"),
        (lambda: average([learner()], weights="returns"), "'steps' or None, got 'returns'"),
        (lambda: interpolate(learner(), learner(), 1.5), r"\[0, 1\], got 1.5"),
        (lambda: merge_into(learner(), [learner()], step_size=float("inf")), "finite number, got inf"),
        (
            lambda: average([Reptile("MlpPolicy", gym.make("MetaPointGoal-v0"), policy_kwargs=NETS, device="cpu")]),
            r"models\[0\] is a Reptile",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
