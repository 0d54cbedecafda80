"""A policy for exchangeable actions: renaming the arms of all that ever happened renames what it does, and no more."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.algos import RL2
from metagym.errors import ConfigError
from metagym.nets import ExchangeableTrialPolicy
from tests.nets.packing import pack

ARMS, OTHER = 4, 2
SPACE = spaces.Box(-np.inf, np.inf, (OTHER + ARMS + 2,), np.float32)
CASES = [
    {"remember": remember, **others}
    for remember in ("taken", "all")
    for others in (
        {"trial_steps": 7},
        {"share_features_extractor": False, "critic_task_size": 2 * ARMS, "rnn_type": "lstm", "n_rnn_layers": 2},
        {"critic_task_size": ARMS - 1},
    )
]


def make_policy(**kwargs):
    th.manual_seed(0)
    policy = ExchangeableTrialPolicy(
        SPACE, spaces.Discrete(ARMS), lambda _: 1e-3, rnn_hidden_size=5, head_size=6, **kwargs
    )
    for parameter in policy.parameters():  # logits and values that differ much
        th.nn.init.normal_(parameter, std=0.7)
    return policy


def history(lengths, seed=0):
    """Trials, (length, OTHER + ARMS + 2) each, in order of decreasing length, as RL2Context would emit them."""
    rng = np.random.default_rng(seed)
    trials = []
    for length in sorted(lengths, reverse=True):
        taken = np.eye(ARMS)[rng.integers(0, ARMS, length)]
        taken[0] = 0.0
        rest = rng.normal(size=(length, OTHER)), taken, rng.normal(size=(length, 1)), rng.integers(0, 2, (length, 1))
        trials.append(th.tensor(np.concatenate(rest, axis=1), dtype=th.float32))
    return trials


def renamed(trials, order):
    """The same histories of a bandit whose arm i was arm order[i]."""
    return [th.cat([trial[:, :OTHER], trial[:, OTHER:-2][:, order], trial[:, -2:]], dim=1) for trial in trials]


def logits_and_values(policy, trials):
    with th.no_grad():
        logits = policy.get_distribution(trials).distribution.logits
        return logits, policy.predict_values(trials).flatten()


@pytest.mark.parametrize("kwargs", CASES)
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    order=st.permutations(range(ARMS)),
    seed=st.integers(0, 99),
)
def test_renaming_the_arms_of_a_history_renames_the_logits_and_leaves_the_values(kwargs, lengths, order, seed):
    policy, trials = make_policy(**kwargs).double(), [trial.double() for trial in history(lengths, seed)]
    size, by_arm = kwargs.get("critic_task_size", 0), kwargs.get("critic_task_size", 0) % ARMS == 0
    tasks = th.randn(len(trials), size, dtype=th.float64) if size else None
    told = tasks.view(len(trials), -1, ARMS)[..., order].flatten(1) if size and by_arm else tasks
    logits, values = logits_and_values(policy, pack(trials, tasks))
    logits_renamed, values_renamed = logits_and_values(policy, pack(renamed(trials, order), told))
    th.testing.assert_close(logits_renamed, logits[:, order], atol=1e-12, rtol=1e-12)
    th.testing.assert_close(values_renamed, values, atol=1e-12, rtol=1e-12)


def test_logits_of_arms_with_different_histories_differ():
    policy = make_policy(trial_steps=7)
    logits, _ = logits_and_values(policy, pack(history([9])))
    assert float(logits[-1].std()) > 0.01
    th.testing.assert_close(logits[0], logits[0, :1].expand(ARMS))  # nothing has happened yet


@pytest.mark.parametrize("kwargs", CASES)
def test_whole_trials_are_what_single_steps_are(kwargs):
    policy, trials = make_policy(**kwargs), history([6, 6, 3, 1])
    size = kwargs.get("critic_task_size", 0)
    tasks = th.randn(len(trials), size) if size else None
    packed = pack(trials, tasks)
    actions = th.randint(0, ARMS, (len(packed.data),))
    values, log_probs, _ = policy.evaluate_actions(packed, actions)
    place = 0
    state = policy.zero_state(4)
    for size_now in packed.batch_sizes:
        rows = slice(place, place + size_now)
        now = tuple(part[:, :size_now] for part in state)
        told = None if tasks is None else packed.tasks[rows]
        th.testing.assert_close(policy.value(packed.data[rows], now, told), values[rows].flatten())
        outputs, state = policy._remember(packed.data[rows], now, None)
        th.testing.assert_close(policy._act(outputs).log_prob(actions[rows]), log_probs[rows])
        place += size_now


@pytest.mark.parametrize("kwargs", CASES[::3])
def test_gradients_of_many_trials_are_the_sum_of_those_of_each(kwargs):
    policy, trials = make_policy(**kwargs), history([6, 4, 4, 1])
    actions = [th.randint(0, ARMS, (len(trial),)) for trial in trials]

    def gradients(packed, taken):
        policy.zero_grad()
        values, log_probs, entropy = policy.evaluate_actions(packed, taken)
        (values.sum() + (log_probs**2).sum() + entropy.sum()).backward()
        return [th.zeros(()) if own.grad is None else own.grad.clone() for own in policy.parameters()]

    alone = [gradients(pack([trial]), taken) for trial, taken in zip(trials, actions, strict=True)]
    steps = [th.stack([own[t] for own in actions if t < len(own)]) for t in range(6)]
    together = gradients(pack(trials), th.cat(steps))
    for whole, *parts in zip(together, *alone, strict=True):
        th.testing.assert_close(whole, sum(parts), atol=1e-4, rtol=1e-4)


def test_a_trial_starts_from_nothing_where_it_is_said_to_start():
    policy = make_policy(trial_steps=5)
    observations = np.stack([trial.numpy()[0] for trial in history([1, 1])])
    th.manual_seed(1)
    policy.predict(observations)
    fresh = policy.zero_state(2)
    dirty = tuple(part + 1.0 for part in fresh)
    starts = th.ones(2)
    with th.no_grad():
        obs = th.as_tensor(observations)
        (clean, _), (restarted, _) = policy._remember(obs, fresh, None), policy._remember(obs, dirty, starts)
        th.testing.assert_close(policy._values(clean, None), policy._values(restarted, None))


def test_the_number_of_weights_does_not_depend_on_the_number_of_arms():
    def count(arms):
        space = spaces.Box(-np.inf, np.inf, (1 + arms + 2,), np.float32)
        policy = ExchangeableTrialPolicy(space, spaces.Discrete(arms), lambda _: 1e-3)
        return sum(parameter.numel() for parameter in policy.parameters())

    assert count(2) == count(50)


@pytest.mark.parametrize(
    ("space", "actions", "kwargs", "message"),
    [
        (SPACE, spaces.Box(-1, 1, (2,)), {}, "exchangeable actions are those of a Discrete space"),
        (spaces.Box(-1, 1, (3,)), spaces.Discrete(4), {}, "need the flat observations of RL2Context"),
        (spaces.Discrete(9), spaces.Discrete(4), {}, "need the flat observations of RL2Context"),
        (SPACE, spaces.Discrete(4), {"remember": "some"}, "remember must be one of"),
        (SPACE, spaces.Discrete(4), {"trial_steps": 0}, "trial_steps must be an integer of at least 1, got 0"),
        (SPACE, spaces.Discrete(4), {"head_size": True}, "head_size must be an integer of at least 1, got True"),
        (SPACE, spaces.Discrete(4), {"net_arch": [8]}, "leave them out"),
    ],
)
def test_what_has_no_exchangeable_actions_is_refused(space, actions, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ExchangeableTrialPolicy(space, actions, lambda _: 1e-3, **kwargs)


def make_agent(**kwargs):
    given = {"policy_kwargs": {"trial_steps": 10}, "n_envs": 8, "n_steps": 20, "seed": 0, "device": "cpu"} | kwargs
    env_kwargs = {"num_arms": 3}
    return RL2(ExchangeableTrialPolicy, "MetaBandit-v0", env_kwargs=env_kwargs, episodes_per_trial=10, **given)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"learner_class": "A2C"}, {"privileged_critic": True, "expected_rewards": True}, {"learner_class": "TRPO"}],
)
def test_rl2_learns_saves_and_adapts_with_it(kwargs, tmp_path):
    agent = make_agent(**kwargs)
    agent.learn(300, log_interval=None)
    agent.save(tmp_path / "agent")
    loaded = RL2.load(tmp_path / "agent", device="cpu")
    for mine, own in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(mine, own)
    for learner in (agent, loaded):
        learner.learn(200, log_interval=None, reset_num_timesteps=False)
    for mine, own in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(mine, own)
    task = gym.make("MetaBandit-v0", num_arms=3).unwrapped.sample_task()
    adapted = agent.adapt(task, episodes=5, seed=0)
    assert adapted.returns.shape == (5,)
    assert agent.action_space.contains(int(adapted.predict(adapted.observation)[0]))


def test_it_finds_the_best_arm_within_seconds():
    agent = make_agent(n_envs=250, n_steps=10, regret=True, gae_lambda=0.3, learning_rate=2e-2, expected_rewards=True)
    agent.learn(20_000, log_interval=None)
    returns = [episode["r"] for episode in agent.ep_info_buffer]
    # Random pulls earn 5, the Bayes-optimal agent 6.53; the mean of 100 trials has a standard error of 0.2.
    assert np.mean(returns) > 5.8
