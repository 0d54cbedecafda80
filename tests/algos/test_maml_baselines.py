"""Baselines and advantages: against a plain loop, a least-squares solver, and SB3's buffer."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from metagym.algos.maml_baselines import LinearBaseline, ValueNet, advantages, credited, discounted
from metagym.algos.maml_policy import stacked
from metagym.algos.maml_rollout import Collector
from tests.algos.maml_setup import CART, Room, task_of, tiny

GAMMA, LAMBDA = 0.9, 0.7


def episodes(seed=0, shape=(2, 3, 5)):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, shape[2] + 1, shape[:2])
    mask = np.arange(shape[2]) < lengths[..., None]
    return rng.normal(size=shape) * mask, mask, rng.normal(size=shape), rng.normal(size=shape[:2])


def test_advantages_are_those_of_a_plain_loop():
    rewards, mask, values, last = episodes()
    found = advantages(rewards, mask, values, last, gamma=GAMMA, gae_lambda=LAMBDA)

    for task, row in np.ndindex(2, 3):
        length = int(mask[task, row].sum())
        following = [*values[task, row, 1:length], last[task, row]]
        errors = [rewards[task, row, t] + GAMMA * following[t] - values[task, row, t] for t in range(length)]
        expected = [
            sum((GAMMA * LAMBDA) ** (later - now) * errors[later] for later in range(now, length))
            for now in range(length)
        ]
        np.testing.assert_allclose(found[task, row, :length], expected, rtol=1e-12)
        assert not found[task, row, length:].any()


def test_advantages_are_those_of_sb3_for_full_episodes():
    rewards, _, values, last = episodes()
    mask = np.ones_like(rewards, np.bool_)
    found = advantages(rewards, mask, values, last, gamma=GAMMA, gae_lambda=LAMBDA)
    buffer = RolloutBuffer(5, Room.observation_space, Room.action_space, "cpu", LAMBDA, GAMMA, n_envs=6)
    buffer.reset()
    for step in range(5):
        flat = [array.reshape(6, 5)[:, step] for array in (rewards, values)]
        start = np.full(6, step == 0)
        buffer.add(np.zeros((6, 1)), np.zeros((6, 1)), flat[0], start, th.tensor(flat[1]), th.zeros(6))
    buffer.compute_returns_and_advantage(th.tensor(last.reshape(6)), np.zeros(6))

    np.testing.assert_allclose(found.reshape(6, 5).T, buffer.advantages, rtol=1e-4, atol=1e-5)


def test_returns_are_discounted():
    mask = np.array([[[True, True, True, False]]])
    rewards = np.array([[[1.0, 2.0, 4.0, 8.0]]])

    assert discounted(rewards, mask, 0.5).tolist() == [[[3.0, 4.0, 4.0, 0.0]]]


def rollout_of(agent):
    parts = agent._parts
    collector = Collector(parts.function, parts.law, agent.env, 2)
    parameters = parts.start.begin(parts.start.tensors, [0, 1])
    return collector.collect(parameters, [task_of(CART, seed) for seed in range(2)], [1, 2]), parameters


def test_the_linear_baseline_is_the_least_squares_fit_of_each_task():
    agent = tiny(env=CART, n_envs=20)
    rollout, parameters = rollout_of(agent)
    found, last = LinearBaseline(GAMMA, ridge=1e-5).values(rollout, parameters)
    targets = discounted(rollout.rewards, rollout.mask, GAMMA)

    assert not last.any()
    steps = rollout.mask.shape[2]
    time = np.arange(steps) / 100
    for task in range(2):
        inside = rollout.mask[task]
        seen = rollout.seen[task].double().numpy().reshape(20, steps, -1).clip(-10, 10)
        columns = [seen, seen**2, *(np.broadcast_to((time**power)[:, None], (20, steps, 1)) for power in (1, 2, 3, 0))]
        features = np.concatenate(columns, axis=-1)[inside]
        ridge = np.sqrt(1e-5) * np.eye(features.shape[1])
        left = np.vstack([features, ridge])
        right = np.concatenate([targets[task][inside], np.zeros(features.shape[1])])
        expected = features @ np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose(found[task][inside], expected, rtol=1e-6, atol=1e-8)


def test_the_value_network_is_asked_what_episodes_that_were_cut_off_are_worth():
    agent = tiny(env=CART)
    rollout, _ = rollout_of(agent)
    rollout.cut[0, 0] = True
    named = stacked(dict(agent.policy.named_parameters()), 2)
    found, last = ValueNet(agent._parts.function).values(rollout, named)

    expected = agent.policy.predict_values(rollout.seen[1]).detach().numpy()[:, 0]
    np.testing.assert_allclose(found[1].ravel(), expected, rtol=1e-5)
    assert np.array_equal(last != 0, rollout.cut)


def test_advantages_are_normalised_for_each_task():
    rollout, _ = rollout_of(tiny(env=CART))
    zeros = np.zeros(rollout.mask.shape)
    found = credited(rollout, zeros, zeros[:, :, 0], gamma=GAMMA, gae_lambda=1.0, normalize=True)
    plain = credited(rollout, zeros, zeros[:, :, 0], gamma=GAMMA, gae_lambda=1.0, normalize=False)

    for task in range(2):
        inside = rollout.weights[task] > 0
        own = found.advantages[task][inside]
        assert own.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert own.std(unbiased=False).item() == pytest.approx(1.0, rel=1e-5)
        assert not found.advantages[task][~inside].any()
    th.testing.assert_close(plain.returns, plain.advantages)
