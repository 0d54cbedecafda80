"""What tasks draw from their own streams is what SB3's distributions draw from the process's."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution

from metagym.algos.batched_actions import actions_of
from metagym.errors import ConfigError

NUM_TASKS, NUM_STEPS = 3, 20


class Deviations:
    """The part of a stacked policy that actions look at."""

    def __init__(self, size, dtype):
        self.log_std = th.linspace(-1.0, 0.5, NUM_TASKS * size, dtype=dtype).view(NUM_TASKS, size)


def sb3_draws(space, policy, outputs, task):
    distribution = make_proba_distribution(space)
    th.manual_seed(100 + task)
    rest = () if isinstance(space, spaces.Discrete) else (policy.log_std[task],)
    drawn = []
    for step in outputs:
        distribution.proba_distribution(step[task], *rest)
        actions = distribution.sample()
        drawn.append((actions, distribution.log_prob(actions), distribution.entropy()))
    return [th.stack(part) for part in zip(*drawn, strict=True)]


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("num_rows", [1, 3, 8, 40])
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (17,))])
def test_draws_probabilities_and_entropies_are_those_of_sb3(space, num_rows, dtype):
    """Rows that are few, odd or many: torch fills small and large tensors with different loops."""
    size = int(space.n) if isinstance(space, spaces.Discrete) else space.shape[0]
    policy, actions = Deviations(size, dtype), actions_of(space)
    outputs = th.randn(NUM_STEPS, NUM_TASKS, num_rows, size, dtype=dtype, generator=th.Generator().manual_seed(0))
    generators = [th.Generator().manual_seed(100 + task) for task in range(NUM_TASKS)]
    noise = actions.noise(generators, NUM_STEPS, num_rows, dtype)
    drawn = th.stack([actions.act(policy, *step) for step in zip(outputs, noise, strict=True)])
    evaluated = [actions.evaluate(policy, *step) for step in zip(outputs, drawn, strict=True)]
    for task in range(NUM_TASKS):
        expected, logs, entropies = sb3_draws(space, policy, outputs, task)
        if isinstance(space, spaces.Discrete):
            assert th.equal(drawn[:, task], expected)
        else:
            th.testing.assert_close(drawn[:, task], expected, rtol=0, atol=1e-6)
        th.testing.assert_close(th.stack([step[0][task] for step in evaluated]), logs)
        entropy = th.stack([step[1][task] for step in evaluated])
        th.testing.assert_close(entropy.expand_as(entropies), entropies)


def test_vectors_are_clipped_to_the_space_and_stored_as_they_were_drawn():
    actions = actions_of(spaces.Box(-1.0, np.array([0.5, 2.0], np.float32)))
    drawn = th.tensor([[[-3.0, 3.0]], [[0.25, 1.5]]])
    np.testing.assert_array_equal(actions.for_env(drawn), [[-1.0, 2.0], [0.25, 1.5]])
    assert th.equal(actions.stored(drawn), drawn)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Discrete(3, start=1)])
def test_other_spaces_are_refused(space):
    with pytest.raises(ConfigError, match="Discrete actions from 0 on, and Box actions"):
        actions_of(space)
