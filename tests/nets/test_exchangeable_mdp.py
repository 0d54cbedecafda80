"""A policy for exchangeable states and actions: renaming them renames what it does; plans are computed again here."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from metagym.algos import RL2
from metagym.errors import ConfigError
from metagym.nets import ExchangeableMDPPolicy, PackedTrials, TrialActorCriticPolicy
from metagym.nets.transitions import seen_along

STATES, ACTIONS, EPISODE, EPISODES = 4, 3, 5, 3
TRIAL = EPISODE * EPISODES
LOW = np.array([0.0] * (STATES + ACTIONS) + [-np.inf, 0.0], np.float32)
HIGH = np.array([1.0] * (STATES + ACTIONS) + [np.inf, 1.0], np.float32)
SPACE = spaces.Box(LOW, HIGH, dtype=np.float32)
SIZES = {"trial_steps": TRIAL, "episode_steps": EPISODE}


def make_policy(**kwargs):
    th.manual_seed(0)
    policy = ExchangeableMDPPolicy(SPACE, spaces.Discrete(ACTIONS), lambda _: 1e-3, **{**SIZES, **kwargs})
    for parameter in policy.parameters():  # logits and values that differ much
        th.nn.init.normal_(parameter, std=0.5)
    return policy


def history(seed=0, trials=2):
    """Trials as RL2Context would emit them, (T, N, D): states, actions, rewards."""
    rng = np.random.default_rng(seed)
    states = rng.integers(0, STATES, (TRIAL, trials))
    states[::EPISODE] = 0
    taken = np.eye(ACTIONS)[rng.integers(0, ACTIONS, (TRIAL, trials))]
    taken[0] = 0.0
    starts = np.zeros((TRIAL, trials, 1))
    starts[::EPISODE] = 1.0
    rewards = rng.normal(size=(TRIAL, trials, 1))
    rewards[0] = 0.0
    return th.tensor(np.concatenate([np.eye(STATES)[states], taken, rewards, starts], axis=2), dtype=th.float32)


def logits_and_values(policy, trials):
    packed = PackedTrials(trials.flatten(0, 1), (trials.shape[1],) * len(trials))
    with th.no_grad():
        return policy.get_distribution(packed).distribution.logits, policy.predict_values(packed).flatten()


@pytest.mark.parametrize(("n_backups", "pooled_values"), [(1, False), (2, True), (4, False)])
@pytest.mark.parametrize("seed", range(3))
def test_renaming_states_and_actions_renames_the_policy_and_no_more(n_backups, pooled_values, seed):
    policy, trials = make_policy(n_backups=n_backups, pooled_values=pooled_values), history(seed)
    rng = np.random.default_rng(seed)
    states, actions = rng.permutation(STATES), rng.permutation(ACTIONS)
    renamed = th.cat(
        [trials[..., states], trials[..., STATES:-2][..., actions], trials[..., -2:]],
        dim=2,
    )
    logits, values = logits_and_values(policy, trials)
    other_logits, other_values = logits_and_values(policy, renamed)
    assert logits.std() > 0.05
    th.testing.assert_close(other_logits, logits[:, actions], atol=2e-5, rtol=1e-4)
    th.testing.assert_close(other_values, values, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("n_backups", "pooled_values"), [(1, False), (3, True)])
def test_a_rollout_step_by_step_does_what_whole_trials_do(n_backups, pooled_values):
    policy, trials = make_policy(n_backups=n_backups, pooled_values=pooled_values), history(1)
    logits, values = logits_and_values(policy, trials)
    state = policy.zero_state(2)
    for time, obs in enumerate(trials):
        with th.no_grad():
            outputs, state = policy._remember(obs, state, None)
            own = slice(2 * time, 2 * time + 2)
            th.testing.assert_close(policy._act(outputs).distribution.logits, logits[own], atol=2e-5, rtol=1e-4)
            th.testing.assert_close(policy._values(outputs, None).flatten(), values[own], atol=2e-5, rtol=1e-4)


def test_a_trial_that_starts_anew_has_an_empty_memory():
    policy, trials = make_policy(), history(2)
    with th.no_grad():
        _, state = policy._remember(trials[0], policy.zero_state(2), None)
        _, state = policy._remember(trials[1], state, None)
        _, anew = policy._remember(trials[0], state, th.tensor([1.0, 0.0]))
        _, fresh = policy._remember(trials[0], policy.zero_state(2), None)
    assert th.equal(anew[0][:, 0], fresh[0][:, 0])
    assert not th.equal(anew[0][:, 1], fresh[0][:, 1])


def test_the_plan_is_backward_induction_over_what_was_seen():
    """One channel that stands for the mean reward seen: worth of actions, computed again with loops."""
    policy = make_policy(n_backups=3, n_channels=1)
    with th.no_grad():
        policy.pair_net.weight[0] = th.tensor([1.0, 0.0, 0.0, 0.0])
        policy.pair_net.bias[0] = 0.0
        policy.gain_net.weight.zero_()
        policy.gain_net.bias.zero_()
        policy.log_prior.fill_(np.log(0.5))
    trials = history(3, trials=1)
    steps = [7, 11, 13, 14]  # 3, 4, 2 and 1 steps are left in the episode
    seen = seen_along(PackedTrials(trials.flatten(0, 1), (1,) * TRIAL), ACTIONS)
    with th.no_grad():
        planned = policy._planned(seen)
    for step in steps:
        gain = (seen.rewards[step] / (seen.visits[step] + 1)).numpy()
        weights = seen.nexts[step].numpy() + 0.5
        chance = weights / weights.sum(2, keepdims=True)
        left = EPISODE - step % EPISODE
        value = np.zeros(STATES)
        for _ in range(min(left, 4) - 1):
            value = (gain + chance @ value).max(1)
        worth = (gain + chance @ value)[int(seen.here[step].argmax())]
        np.testing.assert_allclose(planned.actions[step, :, 1], worth, atol=1e-5)


def test_a_network_that_says_one_a_step_values_a_trial_at_the_steps_that_are_left():
    policy = make_policy()
    with th.no_grad():
        policy.value_net[-1].weight.zero_()
        policy.value_net[-1].bias.fill_(1.0)
    values = logits_and_values(policy, history(trials=1))[1]
    th.testing.assert_close(values, th.arange(TRIAL, 0, -1.0))


@pytest.mark.parametrize("pooled_values", [False, True])
def test_pooled_values_see_pairs_that_are_not_the_best_and_others_do_not(pooled_values):
    """Two arms that were pulled three times each: the best one paid 3, the other one 0 or 2."""
    policy = make_policy(n_backups=1, n_channels=1, pooled_values=pooled_values)
    with th.no_grad():
        policy.pair_net.weight[0] = th.tensor([1.0, 0.0, 0.0, 0.0])  # what is planned for is the mean reward
        policy.pair_net.bias[0] = 0.0
        policy.gain_net.weight.zero_()
        policy.gain_net.bias.zero_()
    trials = th.zeros(7, 2, STATES + ACTIONS + 2)
    trials[..., 0] = 1.0
    trials[1:4, :, STATES] = trials[4:, :, STATES + 1] = 1.0
    trials[1:4, :, -2] = 1.0
    trials[4:6, 1, -2] = 1.0
    values = logits_and_values(policy, trials)[1].view(7, 2)
    assert th.equal(values[:4, 0], values[:4, 1])
    assert th.equal(values[6, 0], values[6, 1]) != pooled_values


PROCESS = {"env_kwargs": {"num_states": 4, "num_actions": 3, "episode_length": 5}, "episodes_per_trial": 3}
BANDIT = {"env_kwargs": {"num_arms": 3}, "episodes_per_trial": 15, "privileged_critic": True}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "sizes", "told"),
    [
        ("MetaTabularMDP-v0", PROCESS, {"episode_steps": 5}, 0),
        ("MetaBandit-v0", BANDIT, {"episode_steps": 1, "n_backups": 1}, 3),
    ],
)
def test_rl2_learns_saves_and_goes_on_with_it(tmp_path, env_id, kwargs, sizes, told):
    policy_kwargs = {"trial_steps": 15, "n_channels": 2, "pair_size": 4, "head_size": 4, **sizes}
    agent = RL2(
        ExchangeableMDPPolicy, env_id, n_envs=8, seed=0, device="cpu", expected_rewards=True, regret=True,
        policy_kwargs=policy_kwargs, **kwargs,
    ).learn(240)  # fmt: skip
    assert agent.policy.critic_task_size == told
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", device="cpu")
    agent.learn(240, reset_num_timesteps=False)
    loaded.learn(240, reset_num_timesteps=False)
    for own, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(own, other)


def test_a_privileged_critic_is_told_the_task_and_the_actor_is_not():
    policy, trials = make_policy(critic_task_size=3), history(4)
    packed = PackedTrials(trials.flatten(0, 1), (2,) * TRIAL)
    told = packed._replace(tasks=th.ones(2 * TRIAL, 3))
    with th.no_grad():
        assert not th.equal(policy.predict_values(packed), policy.predict_values(told))
        first, second = (policy.get_distribution(trials).distribution.logits for trials in (packed, told))
    assert th.equal(first, second)


def test_it_is_a_trial_policy_that_can_be_made_again_from_what_it_keeps():
    policy = make_policy(n_backups=3, head_size=7, pooled_values=True)
    again = ExchangeableMDPPolicy(**policy._get_constructor_parameters())
    again.load_state_dict(policy.state_dict())
    assert isinstance(again, TrialActorCriticPolicy)
    assert again.sizes == policy.sizes
    assert again.pooled_values


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trial_steps": 0}, "trial_steps"),
        ({"n_backups": 1.5}, "n_backups"),
        ({"n_channels": True}, "n_channels"),
        ({"pooled_values": 2}, "pooled_values"),
        ({"rnn_type": "lstm"}, "rnn_type"),
        ({"net_arch": [64]}, "net_arch"),
        ({"memory_steps": 50}, "memory_steps"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named):
        ExchangeableMDPPolicy(SPACE, spaces.Discrete(ACTIONS), lambda _: 1e-3, **{**SIZES, **change})


@pytest.mark.parametrize(
    ("observed", "acted", "named"),
    [
        (SPACE, spaces.Box(-1, 1, (2,)), "Discrete"),
        (spaces.Box(-np.inf, np.inf, SPACE.shape), spaces.Discrete(ACTIONS), "one-hot"),
        (spaces.Box(0, 1, (ACTIONS + 2,)), spaces.Discrete(ACTIONS), "one-hot"),
        (spaces.Box(0, 1, (8, 8)), spaces.Discrete(ACTIONS), "one-hot"),
    ],
)
def test_other_spaces_are_refused(observed, acted, named):
    with pytest.raises(ConfigError, match=named):
        ExchangeableMDPPolicy(observed, acted, lambda _: 1e-3, **SIZES)
