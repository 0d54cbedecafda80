"""Networks over trials: a fused sequence must be what steps one by one are."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from metagym.errors import ConfigError
from metagym.nets import PackedTrials, TrialActorCriticPolicy, TrialRNN, gru_sequence
from metagym.nets.compiled_sequence import compiled_recurrence
from tests.nets.packing import pack

WIDTH = 5
LENGTHS = [7, 7, 4, 1]
BATCH_SIZES = (4, 3, 3, 3, 2, 2, 2)
CASES = [
    {"rnn_type": rnn_type, "n_rnn_layers": layers, "share_features_extractor": share}
    for rnn_type in ("gru", "lstm")
    for layers in (1, 2)
    for share in (True, False)
]


def make_policy(action_space=None, **kwargs):
    th.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (WIDTH,), np.float32)
    policy = TrialActorCriticPolicy(
        space, action_space or spaces.Discrete(3), lambda _: 1e-3, rnn_hidden_size=8, **kwargs
    )
    th.nn.init.normal_(policy.action_net.weight)
    return policy


def trials_of(lengths):
    generator = th.Generator().manual_seed(1)
    return [th.randn(length, WIDTH, generator=generator) for length in lengths]


def step_by_step(policy, trial, actions):
    """Values and log-probabilities of one trial, a step at a time from the zero memory."""
    state = policy.zero_state(1)
    values, log_probs = [], []
    for observation, action in zip(trial, actions, strict=True):
        outputs, state = policy._remember(observation[None], state, None)
        values.append(policy._values(outputs, None)[0, 0])
        log_probs.append(policy._act(outputs).log_prob(action[None])[0])
    return th.stack(values), th.stack(log_probs)


@pytest.mark.parametrize("kwargs", CASES)
@pytest.mark.parametrize("lengths", [LENGTHS, [6, 6, 6]])
def test_fused_trials_are_what_single_steps_are(kwargs, lengths):
    policy = make_policy(**kwargs)
    trials = trials_of(lengths)
    actions = [th.arange(length) % 3 for length in lengths]
    packed = pack(trials)
    values, log_probs, _ = policy.evaluate_actions(packed, pack([a[:, None] for a in actions]).data[:, 0])
    single = [step_by_step(policy, trial, action) for trial, action in zip(trials, actions, strict=True)]
    expected_values = pack([values[:, None] for values, _ in single]).data[:, 0]
    expected_log_probs = pack([log_probs[:, None] for _, log_probs in single]).data[:, 0]
    th.testing.assert_close(values.flatten(), expected_values, atol=1e-5, rtol=0)
    th.testing.assert_close(log_probs, expected_log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kwargs", CASES)
def test_gradients_are_those_of_a_loop_over_trials(kwargs):
    policy = make_policy(**kwargs)
    trials = trials_of(LENGTHS)
    weights = trials_of(LENGTHS)
    values = policy.predict_values(pack(trials)).flatten()
    (values * pack(weights).data[:, 0]).sum().backward()
    fused = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    total = th.zeros(())
    for trial, weight in zip(trials, weights, strict=True):
        alone, _ = step_by_step(policy, trial, th.zeros(len(trial), dtype=th.long))
        total = total + (alone * weight[:, 0]).sum()
    total.backward()
    assert any("rnn" in name for name in fused)
    for name, gradient in fused.items():
        th.testing.assert_close(gradient, policy.get_parameter(name).grad, atol=1e-4, rtol=1e-4)


class Plain(nn.Module):
    """The same policy of PyTorch's own modules, which reads one trial at a time."""

    def __init__(self, rnn_type, layers, share):
        super().__init__()
        kind = nn.GRU if rnn_type == "gru" else nn.LSTM
        self.rnn = kind(WIDTH, 8, layers)
        self.vf_rnn = self.rnn if share else kind(WIDTH, 8, layers)
        self.action_net, self.value_net = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, trial):
        logits = self.action_net(self.rnn(trial[:, None])[0][:, 0])
        return self.value_net(self.vf_rnn(trial[:, None])[0][:, 0])[:, 0], logits.log_softmax(dim=1)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
@pytest.mark.parametrize("share", [True, False], ids=["shared critic", "separate critic"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [LENGTHS, [9, 8, 3, 3, 2, 1], [5, 5, 5]])
def test_values_log_probabilities_and_gradients_are_those_of_plain_torch(rnn_type, share, layers, lengths):
    policy = make_policy(rnn_type=rnn_type, n_rnn_layers=layers, share_features_extractor=share)
    plain = Plain(rnn_type, layers, share)
    own = {name.replace(".rnn.", "."): value for name, value in policy.state_dict().items()}
    copied = plain.load_state_dict({name: own[name if name in own else name[3:]] for name in plain.state_dict()})
    assert not copied.missing_keys
    trials = trials_of(lengths)
    actions = [th.arange(length) % 3 for length in lengths]
    values, log_probs, entropy = policy.evaluate_actions(pack(trials), pack([a[:, None] for a in actions]).data[:, 0])
    (values.square().mean() + (log_probs * log_probs.detach().cos()).mean() + entropy.mean()).backward()
    alone = [plain(trial) for trial in trials]
    expected_values = pack([one[:, None] for one, _ in alone]).data[:, 0]
    expected_all = pack([logs for _, logs in alone]).data
    expected = expected_all.gather(1, pack([a[:, None] for a in actions]).data)[:, 0]
    their_entropy = -(expected_all.exp() * expected_all).sum(dim=1)
    (expected_values.square().mean() + (expected * expected.detach().cos()).mean() + their_entropy.mean()).backward()
    th.testing.assert_close(values.flatten(), expected_values, atol=1e-6, rtol=1e-6)
    th.testing.assert_close(log_probs, expected, atol=1e-6, rtol=1e-6)
    gradients = {name.replace(".rnn.", "."): parameter.grad for name, parameter in policy.named_parameters()}
    theirs = dict(plain.named_parameters())
    assert gradients.keys() == theirs.keys()
    for name, parameter in theirs.items():
        th.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("batch_sizes", [BATCH_SIZES, (3,) * 5, (2,), (1, 1, 1)])
def test_gru_sequence_equals_torch_in_values_and_in_all_gradients(batch_sizes):
    th.manual_seed(2)
    gru = nn.GRU(WIDTH, 8).double()
    inputs = th.randn(sum(batch_sizes), WIDTH, dtype=th.float64, requires_grad=True)
    weight = th.randn(sum(batch_sizes), 8, dtype=th.float64)
    expected = gru(PackedSequence(inputs, th.tensor(batch_sizes)))[0].data
    expected_gradients = th.autograd.grad((expected * weight).sum(), [inputs, *gru.parameters()])
    actual = gru_sequence(inputs, *gru.parameters(), batch_sizes)
    gradients = th.autograd.grad((actual * weight).sum(), [inputs, *gru.parameters()])
    th.testing.assert_close(actual, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        th.testing.assert_close(gradient, expected_gradient)


def test_gru_gradients_agree_with_finite_differences():
    th.manual_seed(3)
    arguments = [th.randn(6, 2), th.randn(9, 2), th.randn(9, 3), th.randn(9), th.randn(9)]
    arguments = [argument.double().requires_grad_() for argument in arguments]
    directions = [th.randn_like(argument) for argument in arguments]

    def loss(step):
        moved = [argument + step * direction for argument, direction in zip(arguments, directions, strict=True)]
        return gru_sequence(*moved, (3, 2, 1)).square().sum()

    gradients = th.autograd.grad(loss(0.0), arguments)
    slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    th.testing.assert_close((loss(1e-5) - loss(-1e-5)) / 2e-5, slope, rtol=1e-6, atol=1e-6)


def test_blocks_of_rows_do_not_change_the_gradients(monkeypatch):
    th.manual_seed(4)
    gru = nn.GRU(WIDTH, 8)
    inputs = th.randn(sum(BATCH_SIZES), WIDTH)
    gradients = []
    for elements in (1, 64, 10**6):
        monkeypatch.setattr("metagym.nets.gru.BLOCK_ELEMENTS", elements)
        with compiled_recurrence(False):
            loss = gru_sequence(inputs, *gru.parameters(), BATCH_SIZES).square().sum()
        gradients.append(th.autograd.grad(loss, list(gru.parameters())))
    for other in gradients[1:]:
        for first, second in zip(gradients[0], other, strict=True):
            th.testing.assert_close(first, second)


def test_a_second_backward_pass_gives_the_gradients_of_the_first():
    th.manual_seed(6)
    gru = nn.GRU(WIDTH, 8).double()
    inputs = th.randn(sum(BATCH_SIZES), WIDTH, dtype=th.float64, requires_grad=True)
    arguments = [inputs, *gru.parameters()]
    loss = gru_sequence(*arguments, BATCH_SIZES).square().sum()
    first, second, third = (th.autograd.grad(loss, arguments, retain_graph=True) for _ in range(3))
    for one, *others in zip(first, second, third, strict=True):
        for other in others:
            th.testing.assert_close(one, other)


@pytest.mark.parametrize("frozen_inputs", [False, True])
def test_gradients_of_gradients_are_those_of_torch(frozen_inputs):
    th.manual_seed(7)
    gru = nn.GRU(WIDTH, 8).double()
    inputs = th.randn(sum(BATCH_SIZES), WIDTH, dtype=th.float64, requires_grad=not frozen_inputs)
    wanted = [*gru.parameters()] if frozen_inputs else [inputs, *gru.parameters()]
    weight = th.randn(sum(BATCH_SIZES), 8, dtype=th.float64)

    def curvature(states):
        slopes = th.autograd.grad((states.square() * weight).sum(), wanted, create_graph=True)
        return th.autograd.grad(sum((slope**3).sum() for slope in slopes), wanted)

    expected = curvature(gru(PackedSequence(inputs, th.tensor(BATCH_SIZES)))[0].data)
    for one, other in zip(expected, curvature(gru_sequence(inputs, *gru.parameters(), BATCH_SIZES)), strict=True):
        th.testing.assert_close(other, one)


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_a_trial_does_not_feel_its_neighbours(rnn_type):
    th.manual_seed(5)
    rnn = TrialRNN(rnn_type, WIDTH, 8, 1)
    trials = trials_of(LENGTHS)
    together = rnn(pack(trials))
    huge = [*trials[:3], trials[3] + 1e6]
    changed = rnn(pack(huge))
    last_row_of_first_step = 3
    same = th.ones(len(together), dtype=th.bool)
    same[last_row_of_first_step] = False
    assert th.equal(together[same], changed[same])
    assert not th.equal(together[~same], changed[~same])


@pytest.mark.parametrize("kwargs", CASES)
def test_predict_forgets_where_a_trial_starts_and_only_there(kwargs):
    policy = make_policy(**kwargs)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, WIDTH)).astype(np.float32)
    _, state = policy.predict(first, None, np.array([True, True]), deterministic=True)
    _, after = policy.predict(second, state, np.array([True, False]), deterministic=True)
    _, fresh = policy.predict(second, None, None, deterministic=True)
    _, kept = policy.predict(second, state, None, deterministic=True)
    for part, part_fresh, part_kept in zip(after, fresh, kept, strict=True):
        np.testing.assert_array_equal(part[:, 0], part_fresh[:, 0])
        np.testing.assert_array_equal(part[:, 1], part_kept[:, 1])
    assert not np.allclose(fresh[0][:, 1], kept[0][:, 1])


def test_predict_takes_one_observation_or_many():
    policy = make_policy()
    observation = np.ones(WIDTH, np.float32)
    action, state = policy.predict(observation, deterministic=True)
    actions, states = policy.predict(np.stack([observation] * 3), deterministic=True)
    assert action.shape == ()
    assert actions.shape == (3,)
    assert state[0].shape == (1, 1, 8)
    assert states[0].shape == (1, 3, 8)


@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Discrete(4)],
)
def test_every_action_space_acts_and_is_evaluated(action_space):
    policy = make_policy(action_space)
    observations = th.zeros(3, WIDTH)
    actions, values, log_probs, _ = policy.step(observations, policy.zero_state(3))
    again, log_probs_again, _ = policy.evaluate_actions(PackedTrials(observations, (3,)), actions)
    assert actions.shape == (3, *action_space.shape)
    th.testing.assert_close(values, again.flatten())
    th.testing.assert_close(log_probs, log_probs_again)
    chosen, _ = policy.predict(np.zeros(WIDTH, np.float32))
    assert action_space.contains(chosen)


def test_forward_and_value_agree_with_a_first_step():
    policy = make_policy()
    observations = th.randn(3, WIDTH)
    actions, values, log_probs = policy(observations, deterministic=True)
    expected = policy.step(observations, policy.zero_state(3), deterministic=True)
    assert th.equal(actions, expected[0])
    assert th.equal(values.flatten(), expected[1])
    assert th.equal(log_probs, expected[2])
    assert th.equal(policy.value(observations, policy.zero_state(3)), expected[1])


def test_categorical_actions_are_those_of_sb3():
    policy = make_policy()
    latent = th.randn(4, 8)
    theirs = CategoricalDistribution(3).proba_distribution(policy.action_net(latent))
    th.manual_seed(0)
    expected = theirs.sample()
    ours = policy._get_action_dist_from_latent(latent)
    th.manual_seed(0)
    assert th.equal(ours.get_actions(), expected)
    th.testing.assert_close(ours.log_prob(expected), theirs.log_prob(expected))


def test_the_optimiser_holds_every_parameter():
    policy = make_policy(share_features_extractor=False, net_arch=[4])
    held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in policy.parameters()}


def test_a_policy_saves_and_loads_by_itself(tmp_path):
    policy = make_policy(rnn_type="lstm", n_rnn_layers=2)
    policy.save(tmp_path / "policy.pth")
    loaded = TrialActorCriticPolicy.load(tmp_path / "policy.pth")
    observation = th.randn(2, WIDTH)
    assert th.equal(policy.predict_values(observation), loaded.predict_values(observation))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rnn_type": "rnn"}, "'gru' or 'lstm', not 'rnn'"),
        ({"n_rnn_layers": 0}, "at least 1, not 8 and 0"),
    ],
)
def test_memories_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_policy(**kwargs)
