"""Agents with a model: what they have counted after a played trial, and what they believe then."""

import gymnasium as gym
import numpy as np
import pytest

from metagym.algos.mdp_agents import PSRL, GreedyMDP
from metagym.wrappers import RL2Context, Trial

SMALL = {"num_states": 4, "num_actions": 3, "episode_length": 5}


def _agent(kind=GreedyMDP, env_kwargs=SMALL, **options):
    return kind(env="MetaTabularMDP-v0", env_kwargs=env_kwargs, episodes_per_trial=6, **options)


def _played(agent, num_rows, episodes, seed=0):
    """A trial of every row: the memory at the start of the last episode, and all steps as they were taken."""
    env = RL2Context(Trial(gym.make_vec("MetaTabularMDP-v0", num_envs=num_rows, **SMALL), episodes_per_trial=episodes))
    observation, _ = env.reset(seed=seed)
    state, starts, steps = None, np.ones(num_rows, np.bool_), []
    for _ in range(SMALL["episode_length"] * (episodes - 1) + 1):
        here = observation[:, :4].argmax(axis=1)
        actions, state = agent.predict(observation, state, starts)
        observation, reward, *_ = env.step(actions)
        steps.append((here, actions, reward))
        starts = np.zeros(num_rows, np.bool_)
    return state, steps[:-1]


def test_counts_after_a_trial_are_those_of_brute_force():
    memory, steps = _played(_agent(), 6, 4)
    tries, earned, reached = np.zeros((6, 4, 3)), np.zeros((6, 4, 3)), np.zeros((6, 4, 4, 3))
    for number, (here, actions, reward) in enumerate(steps):
        for row in range(6):
            tries[row, here[row], actions[row]] += 1
            earned[row, here[row], actions[row]] += reward[row]
            if (number + 1) % 5:
                reached[row, steps[number + 1][0][row], here[row], actions[row]] += 1
    assert np.array_equal(memory.counts.tries, tries)
    np.testing.assert_allclose(memory.counts.earned, earned, atol=1e-5)  # shown in single precision
    assert np.array_equal(memory.counts.reached, reached)
    assert memory.number.tolist() == [4] * 6


def test_beliefs_are_the_conjugate_posteriors():
    agent = _agent(PSRL, {**SMALL, "reward_std": 2.0}, prior_mean=0.5)
    counts = _played(_agent(), 6, 4)[0].counts
    mean, precision = agent.believed_rewards(counts)
    tries, earned = counts.tries, counts.earned
    np.testing.assert_allclose(precision, 1.0 + tries / 4.0)
    # By hand: a normal prior (0.5, 1) and n normal rewards of variance 4.
    np.testing.assert_allclose(mean, (0.5 + earned / 4.0) / (1.0 + tries / 4.0))
    np.testing.assert_allclose(agent.weights(counts), counts.reached + 1.0)
    believed = agent.believed_transitions(counts)
    np.testing.assert_allclose(believed.sum(axis=1), 1.0)
    seen = counts.reached.sum(axis=1)
    np.testing.assert_allclose(believed[:, 2], (counts.reached[:, 2] + 1.0) / (seen + 4.0))


def test_posterior_of_rewards_is_bayes_rule_on_a_grid():
    agent = _agent(PSRL)
    counts = _played(_agent(), 1, 5)[0].counts
    place = np.unravel_index(counts.tries.argmax(), counts.tries.shape)
    number, total = counts.tries[place], counts.earned[place]
    grid = np.linspace(-8.0, 8.0, 40_001)
    # The sum of rewards is sufficient; prior mean 0 and variance 1, noise of variance 1.
    log_density = -0.5 * grid**2 - 0.5 * (total - number * grid) ** 2 / number
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean, precision = (array[place] for array in agent.believed_rewards(counts))
    assert mean == pytest.approx(density @ grid, abs=1e-6)
    assert 1.0 / precision == pytest.approx(density @ (grid - mean) ** 2, rel=1e-5)


def test_rows_that_start_later_are_planned_alone():
    agent = _agent()
    memory, _ = _played(agent, 3, 3)
    shown = np.zeros((3, *agent.observation_space.shape), np.float32)
    shown[:, 0] = shown[:, 4] = 1.0
    shown[1, -1] = 1.0  # only row 1 begins an episode
    kept = [array.copy() for array in (*memory.counts, *memory.episode, memory.number, memory.values)]
    _, after = agent.predict(shown, memory, np.array([False, False, True]), deterministic=True)
    assert after.number.tolist() == [3, 4, 1]
    assert np.array_equal(after.values[0], memory.values[0])
    assert after.episode.length.tolist() == [2, 1, 1]
    assert after.counts.tries.sum(axis=(1, 2)).tolist() == [10, 11, 0]
    now = [*memory.counts, *memory.episode, memory.number, memory.values]
    assert all(np.array_equal(one, other) for one, other in zip(kept, now, strict=True))


@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_rows_are_independent_of_their_number(num_rows):
    agent = _agent()
    memory, _ = _played(agent, 64, 3)
    shown = np.zeros((64, *agent.observation_space.shape), np.float32)
    shown[:, 1] = shown[:, 4] = shown[:, -1] = 1.0
    together, whole = agent.predict(shown, memory, deterministic=True)
    some = memory._replace(
        counts=memory.counts.of(slice(num_rows)),
        episode=type(memory.episode)(*(array[:num_rows] for array in memory.episode)),
        number=memory.number[:num_rows],
        values=memory.values[:num_rows],
    )
    alone, part = agent.predict(shown[:num_rows], some, deterministic=True)
    assert alone.tolist() == together[:num_rows].tolist()
    assert np.array_equal(part.values, whole.values[:num_rows])


def test_values_depend_on_the_step():
    agent = _agent()
    memory, _ = _played(agent, 1, 2)
    values = np.zeros_like(memory.values)
    values[0, np.arange(5), :, np.arange(5) % 3] = 1.0
    memory, chosen = memory._replace(values=values), []
    shown = np.zeros((1, *agent.observation_space.shape), np.float32)
    shown[0, 0] = shown[0, 4] = 1.0
    for _ in range(6):
        action, memory = agent.predict(shown, memory)
        chosen.append(int(action[0]))
    assert chosen == [1, 2, 0, 1, 1, 1]  # one step was taken; beyond the last step it stays there
