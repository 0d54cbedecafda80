"""Networks over windows: by hand, against other computations, and blind for what is not there."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from metagym.errors import ConfigError
from metagym.nets.extractors import (
    EXTRACTORS,
    GRUExtractor,
    SNAILExtractor,
    TransformerExtractor,
    attend,
    causal_pairs,
)

LENGTH, WIDTH = 6, 3
SPACE = spaces.Box(-np.inf, np.inf, (LENGTH, WIDTH + 1), np.float32)


def windows(lengths, seed=0):
    """Windows with so many rows, (B, K, D + 1)."""
    generator = th.Generator().manual_seed(seed)
    made = th.randn(len(lengths), LENGTH, WIDTH + 1, generator=generator)
    for window, length in zip(made, lengths, strict=True):
        window[: LENGTH - length] = 0.0
        window[:, -1] = 0.0
        window[LENGTH - length :, -1] = 1.0
    return made


def make(name, **kwargs):
    th.manual_seed(0)
    return EXTRACTORS[name](SPACE, **kwargs).double()


# --- attention and convolutions by hand --------------------------------------------------------------------------


def test_attention_by_hand():
    # Scores are ln 3 and 0 after the division by sqrt(4): weights 3/4 and 1/4.
    query = th.tensor([[2.0, 0, 0, 0]])
    key = th.tensor([[math.log(3), 0, 0, 0], [0, 5.0, 0, 0]])
    value = th.tensor([[4.0, 0.0], [0.0, 8.0]])
    read = attend(query, key, value, th.tensor([[True, True]]))
    th.testing.assert_close(read, th.tensor([[3.0, 2.0]]))
    assert attend(query, key, value, th.tensor([[False, True]])).tolist() == [[0.0, 8.0]]
    th.testing.assert_close(attend(query, key, value, th.tensor([[False, False]])), th.tensor([[2.0, 4.0]]))


def test_attention_equals_that_of_pytorch_and_can_be_differentiated_twice():
    th.manual_seed(1)
    query, key, value = (th.randn(2, 3, 5, 4, dtype=th.float64, requires_grad=True) for _ in range(3))
    allowed = th.rand(2, 1, 5, 5) < 0.7
    allowed[..., 0] = True
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    th.testing.assert_close(attend(query, key, value, allowed), expected)
    assert th.autograd.gradgradcheck(lambda *parts: attend(*parts, allowed), (query, key, value), fast_mode=True)


def test_causal_pairs_by_hand():
    assert causal_pairs(th.tensor([[False, True, True]])).int().tolist() == [[[0, 0, 0], [0, 1, 0], [0, 1, 1]]]


def test_a_dense_block_by_hand():
    block = SNAILExtractor(SPACE, width=1, filters=1).convolutions[0].blocks[1]
    assert block.dilation == 2
    with th.no_grad():
        # Reads (x, y) at t and t - 2: signal = x(t - 2) + 2 x(t), gate = y(t).
        block.past.weight.copy_(th.tensor([[1.0, 0], [0, 0]]))
        block.now.weight.copy_(th.tensor([[2.0, 0], [0, 1]]))
        block.now.bias.zero_()
    x = th.tensor([[[0.0, 0.0], [0.1, 0.5], [0.2, -0.5], [0.3, 1.0]]])
    out = block(x, th.tensor([[False, True, True, True]]))
    expected = [0.0]
    for before, now, gate in ((0.0, 0.1, 0.5), (0.0, 0.2, -0.5), (0.1, 0.3, 1.0)):
        expected.append(math.tanh(before + 2 * now) / (1 + math.exp(-gate)))
    th.testing.assert_close(out[0, :, 2], th.tensor(expected))
    assert th.equal(out[..., :2], x)


def test_dense_blocks_equal_dilated_convolutions():
    stack = SNAILExtractor(SPACE, width=4, filters=3).convolutions[0]
    assert [block.dilation for block in stack.blocks] == [1, 2, 4]
    x = th.randn(2, LENGTH, 4)
    expected = x.transpose(1, 2)
    for block in stack.blocks:
        weight = th.stack([block.past.weight, block.now.weight], -1)  # (out, in, 2 places)
        padded = nn.functional.pad(expected, (block.dilation, 0))
        out = nn.functional.conv1d(padded, weight, block.now.bias, dilation=block.dilation)
        signal, gate = out.chunk(2, 1)
        expected = th.cat([expected, signal.tanh() * gate.sigmoid()], 1)
    found = stack(x, th.ones(2, LENGTH, dtype=th.bool))
    th.testing.assert_close(found, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_convolutions_reach_over_the_whole_window_and_never_into_the_future():
    for length in (1, 2, 5, 8, 9):
        stack = SNAILExtractor(spaces.Box(-1, 1, (length, 3)), width=2, filters=2).convolutions[0].double()
        valid = th.ones(1, length, dtype=th.bool)
        x = th.randn(1, length, 2, dtype=th.float64)
        jacobian = th.autograd.functional.jacobian(lambda rows, s=stack, v=valid: s(rows, v).sum((0, 2)), x)
        depends = jacobian.abs().sum((1, 3)) > 0
        assert th.equal(depends, th.ones(length, length, dtype=th.bool).tril())


# --- the extractors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXTRACTORS)
def test_what_is_masked_cannot_influence_anything(name):
    extractor = make(name)
    lengths = [1, 3, LENGTH, 2, 5]
    clean, dirty = windows(lengths).double(), windows(lengths).double()
    for window, length in zip(dirty, lengths, strict=True):
        window[: LENGTH - length, :-1] = th.tensor([math.nan, math.inf, 1e9])
    clean.requires_grad_()
    features = extractor(clean)
    assert features.shape == (5, 64)
    assert th.equal(extractor(dirty), features)
    (gradient,) = th.autograd.grad(features.square().sum(), clean)
    for row, length in enumerate(lengths):
        assert (gradient[row, : LENGTH - length] == 0).all()
        assert (gradient[row, LENGTH - length :, :-1] != 0).any(-1).all()  # and nothing that is there is missed


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("length", range(1, LENGTH + 1))
def test_a_window_gives_what_its_rows_alone_give(name, length):
    extractor = make(name)
    window = windows([length] * 2).double()
    th.testing.assert_close(extractor(window), extractor(window[:, LENGTH - length :]), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_rows_of_a_batch_do_not_influence_each_other(name):
    extractor = make(name)
    batch = windows([4, 1, 6, 2, 6]).double()
    alone = th.cat([extractor(batch[row : row + 1]) for row in range(5)])
    th.testing.assert_close(extractor(batch), alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_the_order_of_rows_matters(name):
    extractor = make(name)
    window = windows([LENGTH]).double()
    other = window[:, [1, 0, *range(2, LENGTH)]]
    assert not th.allclose(extractor(window), extractor(other))


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("lengths", [[2, LENGTH, 1], [LENGTH, LENGTH]])
def test_gradients_are_those_of_differences(name, lengths):
    # The GRU of the CPU keeps its graph for one backward pass, and the check takes two; see the next but one.
    own = {"gru": {"twice_differentiable": True}, "snail": {"width": 4, "filters": 2}, "transformer": {"n_heads": 2}}
    kwargs = own[name]
    extractor = make(name, features_dim=4, **kwargs)
    batch = windows(lengths).double()
    mark = batch[..., -1:].clone()

    def run(rows):
        return extractor(th.cat([rows, mark], -1))

    assert th.autograd.gradcheck(run, batch[..., :-1].clone().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_gru_equals_pytorchs_run_over_every_sequence_by_itself(n_layers):
    extractor, lengths = make("gru", features_dim=5, n_layers=n_layers), [3, 1, 6, 6, 2]
    batch = windows(lengths).double()
    rnn = extractor.memory.rnn
    expected = [
        rnn(window[LENGTH - length :, None, :-1])[0][-1, 0] for window, length in zip(batch, lengths, strict=True)
    ]
    th.testing.assert_close(extractor(batch), th.stack(expected))


@pytest.mark.parametrize("lengths", [[3, 1, 6, 2], [6, 6, 6]])
def test_the_gru_that_can_be_differentiated_twice_is_the_same_function(lengths):
    once, twice = make("gru", features_dim=4), make("gru", features_dim=4, twice_differentiable=True)
    batch = windows(lengths).double().requires_grad_()
    th.testing.assert_close(once(batch), twice(batch))
    gradients = [th.autograd.grad(one(batch).sin().sum(), [batch, *one.parameters()]) for one in (once, twice)]
    th.testing.assert_close(*gradients)
    (gradient,) = th.autograd.grad(twice(batch).square().sum(), batch, create_graph=True)
    assert th.isfinite(th.autograd.grad(gradient.square().sum(), list(twice.parameters()))[0]).all()


def test_the_transformer_equals_pytorchs():
    extractor = make("transformer", features_dim=8, n_layers=2, n_heads=2)
    batch = windows([4, 6, 1]).double()
    values, valid = extractor.rows(batch)
    x = extractor.embed(values) + extractor.places
    for block in extractor.blocks:
        peer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).double()
        with th.no_grad():
            peer.self_attn.in_proj_weight.copy_(th.cat([block.query.weight, block.key_value.weight]))
            peer.self_attn.in_proj_bias.copy_(th.cat([block.query.bias, block.key_value.bias]))
        peer.self_attn.out_proj, peer.linear1, peer.linear2 = block.merge, block.feed_forward[0], block.feed_forward[2]
        peer.norm1, peer.norm2 = block.norms
        x = peer(x, src_key_padding_mask=~valid)
    th.testing.assert_close(extractor(batch), extractor.norm(x[:, -1]))


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_every_length_and_width_works(name, length):
    space = spaces.Box(-1, 1, (length, WIDTH + 1))
    extractor = EXTRACTORS[name](space, features_dim=8)
    assert extractor(th.rand(4, length, WIDTH + 1)).shape == (4, extractor.features_dim) == (4, 8)


@pytest.mark.parametrize("kind", [GRUExtractor, SNAILExtractor, TransformerExtractor])
def test_wrong_sizes_and_spaces_are_refused(kind):
    with pytest.raises(ConfigError, match="reads windows"):
        kind(spaces.Box(-1, 1, (4,)))
    with pytest.raises(ConfigError, match="features_dim must be an integer of at least 1, got 0"):
        kind(SPACE, features_dim=0)


def test_sizes_of_their_own_are_checked():
    with pytest.raises(ConfigError, match="n_layers must be"):
        GRUExtractor(SPACE, n_layers=True)
    with pytest.raises(ConfigError, match="filters must be"):
        SNAILExtractor(SPACE, filters=1.5)
    with pytest.raises(ConfigError, match="n_heads must divide features_dim=64, got 5"):
        TransformerExtractor(SPACE, n_heads=5)
