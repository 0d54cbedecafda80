"""Critics of counting policies that are told tasks arm by arm: they follow the arms, and leave the actor alone."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.nets import ExchangeableMDPPolicy, PackedTrials

ARMS, PULLS, TRIALS = 3, 7, 2
LOW = np.array([0.0] * (1 + ARMS) + [-np.inf, 0.0], np.float32)
HIGH = np.array([1.0] * (1 + ARMS) + [np.inf, 1.0], np.float32)


def new_policy(task_size=2 * ARMS):
    th.manual_seed(0)
    return ExchangeableMDPPolicy(
        spaces.Box(LOW, HIGH, dtype=np.float32), spaces.Discrete(ARMS), lambda _: 1e-3,
        trial_steps=PULLS, episode_steps=1, n_backups=1, critic_task_size=task_size,
    )  # fmt: skip


def make_policy(task_size=2 * ARMS):
    policy = new_policy(task_size)
    for parameter in policy.parameters():
        th.nn.init.normal_(parameter, std=0.5)
    return policy


def history(seed):
    """Pulls as RL2Context shows them, (PULLS, TRIALS, D), and what a critic is told, (PULLS, TRIALS, 2 * ARMS)."""
    rng = np.random.default_rng(seed)
    taken = np.eye(ARMS)[rng.integers(0, ARMS, (PULLS, TRIALS))]
    paid = rng.integers(0, 2, (PULLS, TRIALS, 1)).astype(float)
    taken[0], paid[0] = 0.0, 0.0
    ones = np.ones((PULLS, TRIALS, 1))
    told = np.broadcast_to(rng.normal(size=(TRIALS, 2 * ARMS)), (PULLS, TRIALS, 2 * ARMS))
    seen = np.concatenate([ones, taken, paid, ones], axis=2)
    return th.tensor(seen, dtype=th.float32), th.tensor(told.copy(), dtype=th.float32)


def packed(seen, told=None):
    return PackedTrials(seen.flatten(0, 1), (TRIALS,) * PULLS, None if told is None else told.flatten(0, 1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), order=st.permutations(range(ARMS)))
def test_renaming_arms_in_history_and_task_leaves_values_and_renames_the_policy(seed, order):
    policy, (seen, told) = make_policy(), history(seed)
    renamed = th.cat([seen[..., :1], seen[..., 1:-2][..., order], seen[..., -2:]], dim=2)
    own = told.view(PULLS, TRIALS, 2, ARMS)[..., order].flatten(2)
    with th.no_grad():
        values = policy.predict_values(packed(seen, told))
        th.testing.assert_close(policy.predict_values(packed(renamed, own)), values, atol=1e-5, rtol=1e-4)
        logits = policy.get_distribution(packed(seen)).distribution.logits
        others = policy.get_distribution(packed(renamed)).distribution.logits
    th.testing.assert_close(others, logits[:, order], atol=1e-5, rtol=1e-4)


def test_which_arm_is_told_what_matters():
    policy, (seen, told) = make_policy(ARMS), history(0)
    swapped = told[..., :ARMS][..., [1, 0, 2]]
    with th.no_grad():
        first, other = (policy.predict_values(packed(seen, means)) for means in (told[..., :ARMS], swapped))
        nothing, zeros = policy.predict_values(packed(seen)), policy.predict_values(packed(seen, 0.0 * swapped))
    assert not th.allclose(first[-TRIALS:], other[-TRIALS:])
    assert th.equal(nothing, zeros)


def test_single_steps_are_what_whole_trials_are():
    policy, (seen, told) = make_policy(), history(1)
    with th.no_grad():
        values = policy.predict_values(packed(seen, told)).view(PULLS, TRIALS)
        state = policy.zero_state(TRIALS)
        for time in range(PULLS):
            th.testing.assert_close(policy.value(seen[time], state, told[time]), values[time], atol=1e-5, rtol=1e-4)
            _, state = policy._remember(seen[time], state, None)


def test_the_value_of_a_trial_is_what_a_step_is_worth_times_the_steps_that_are_left():
    policy, (seen, told) = make_policy(), history(2)
    with th.no_grad():
        policy.value_net[-1].weight.zero_()
        policy.value_net[-1].bias.fill_(1.0)
        values = policy.predict_values(packed(seen, told)).view(PULLS, TRIALS)
    th.testing.assert_close(values[:, 0], th.arange(PULLS, 0, -1.0))


def test_values_are_what_the_formula_says_one_step_at_a_time():
    policy, (seen, told) = make_policy(), history(5)
    trials = packed(seen, told)
    with th.no_grad():
        values = policy.predict_values(trials).flatten()
        rated = policy._outputs(trials, ())[0].actions
        for step, tasks in enumerate(trials.tasks):
            numbers = tasks.view(2, ARMS)
            arms = [
                th.cat([rated[step, arm], numbers[:, arm], numbers[:, arm] - numbers.max(1).values])
                for arm in range(ARMS)
            ]
            features = th.stack([policy.critic_pool(arm) for arm in arms])
            pooled = [features.mean(0), features.max(0).values]
            worth = sum(policy.value_net(th.cat([arm, *pooled])).item() for arm in arms) / ARMS
            left = PULLS - step // TRIALS
            assert values[step].item() == pytest.approx(left * worth, rel=1e-4, abs=1e-5)


def test_it_starts_with_orthogonal_weights_as_the_other_networks_do():
    first = new_policy().critic_pool[0]
    th.testing.assert_close(first.weight @ first.weight.T, 2.0 * th.eye(len(first.weight)), atol=1e-5, rtol=0.0)
    assert not first.bias.any()


def test_the_loss_of_values_does_not_move_the_actor():
    policy, (seen, told) = make_policy(), history(3)
    policy.predict_values(packed(seen, told)).square().sum().backward()
    moved = {name.split(".")[0] for name, one in policy.named_parameters() if one.grad is not None}
    assert moved == {"critic_pool", "value_net"}


@pytest.mark.parametrize("task_size", [0, 4])
def test_tasks_that_do_not_belong_to_arms_are_told_as_one_vector_or_not_at_all(task_size):
    policy, (seen, told) = make_policy(task_size), history(4)
    assert not hasattr(policy, "critic_pool")
    with th.no_grad():
        values = [policy.predict_values(packed(seen, given)) for given in (None, told[..., :task_size])]
    assert th.equal(*values) == (task_size == 0)
