"""Networks over windows: by hand, against other computations, and blind for what is not there."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
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
from metagym.wrappers.window import THERE, WindowSpace, on_parts

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


# --- windows of Dicts and images ---------------------------------------------------------------------------------

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
ENTRIES = spaces.Dict(image=IMAGE, kind=spaces.Discrete(5), place=spaces.Box(-1, 1, (2,)))
SMALL = {"encoder_kwargs": {"cnn_output_dim": 4}}


def dict_windows(lengths, seed=0):
    """Windows as SB3 gives them to an extractor: every entry as floats, images from 0 to 255."""
    generator = th.Generator().manual_seed(seed)
    shape = (len(lengths), LENGTH)
    there = th.arange(LENGTH) >= LENGTH - th.tensor(lengths)[:, None]
    made = {
        "image": th.randint(0, 256, (*shape, 3, 36, 36), generator=generator),
        "kind": th.randint(0, 5, shape, generator=generator),
        "place": th.randn(*shape, 2, generator=generator),
        THERE: th.ones(shape),
    }
    return {name: (part * there.view(*shape, *(1,) * (part.ndim - 2))).float() for name, part in made.items()}


def make_dict(name, row_space=ENTRIES, **kwargs):
    th.manual_seed(0)
    own = {"encoder_kwargs": {}} if row_space is IMAGE else SMALL
    return EXTRACTORS[name](WindowSpace(row_space, LENGTH), **own | kwargs)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_what_is_masked_of_a_dict_cannot_influence_anything(name):
    extractor, lengths = make_dict(name), [1, 3, LENGTH, 2]
    clean, dirty = dict_windows(lengths), dict_windows(lengths)
    for row, length in enumerate(lengths):
        dirty["place"][row, : LENGTH - length] = math.nan
        dirty["image"][row, : LENGTH - length] = 1e9
        dirty["kind"][row, : LENGTH - length] = 77
    for part in (clean["place"], clean["image"]):
        part.requires_grad_()
    features = extractor(clean)
    assert features.shape == (4, 64)
    assert th.equal(extractor(dirty), features)
    for gradient in th.autograd.grad(features.square().sum(), [clean["place"], clean["image"]]):
        touched = (gradient != 0).flatten(2).any(-1)
        assert th.equal(touched, clean[THERE] > 0)  # nothing that is missing, and all that is there


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_window_of_dicts_gives_what_its_rows_alone_give(name):
    extractor = make_dict(name)
    for length in (1, 2, LENGTH):
        window = dict_windows([length] * 2)
        alone = on_parts(lambda part, first=LENGTH - length: part[:, first:], window)
        th.testing.assert_close(extractor(window), extractor(alone))


def test_rows_of_a_dict_are_what_sb3_makes_of_each_by_itself():
    extractor = make_dict("gru")
    window = dict_windows([2, LENGTH])
    values, valid = extractor.rows(window)
    assert valid.sum(1).tolist() == [2, LENGTH]
    assert values.shape == (2, LENGTH, extractor.row_width) == (2, LENGTH, 4 + 5 + 2)
    cnn = extractor.encoder.reader.extractors["image"]
    for row, place in ((0, LENGTH - 1), (1, 0), (1, 3)):
        image, kind = window["image"][row, place] / 255, int(window["kind"][row, place])
        expected = [cnn(image[None])[0], th.eye(5)[kind], window["place"][row, place]]
        th.testing.assert_close(values[row, place], th.cat(expected))
    assert (values[0, : LENGTH - 2] == 0).all()


def test_images_alone_are_read_by_a_nature_cnn_and_not_divided_where_told_so():
    extractor, raw = make_dict("gru", IMAGE), make_dict("gru", IMAGE, normalize_images=False)
    assert isinstance(extractor.encoder.reader, NatureCNN)
    window = {"observation": dict_windows([3, 6])["image"], THERE: dict_windows([3, 6])[THERE]}
    divided = window | {"observation": window["observation"] / 255}
    assert not th.equal(extractor(window), raw(window))
    assert th.equal(extractor(window), raw(divided))


def test_an_encoder_of_ones_own_reads_the_entries():
    vectors = spaces.Dict(place=spaces.Box(-1, 1, (2,)))

    class Doubled(FlattenExtractor):
        def __init__(self, space):
            super().__init__(space["place"])

        def forward(self, entries):
            return 2 * super().forward(entries["place"])

    extractor = GRUExtractor(WindowSpace(vectors, LENGTH), encoder_class=Doubled)
    window = {name: dict_windows([4])[name] for name in ("place", THERE)}
    th.testing.assert_close(extractor.rows(window).values, 2 * window["place"])
    with pytest.raises(ConfigError, match="Doubled has nothing to read"):
        GRUExtractor(SPACE, encoder_class=Doubled)
    with pytest.raises(ConfigError, match="or a WindowSpace"):
        GRUExtractor(vectors)


def test_the_gru_over_images_can_be_differentiated_twice():
    extractor = make_dict("gru", features_dim=4, twice_differentiable=True)
    window = dict_windows([2, 5])
    window["place"].requires_grad_()
    (gradient,) = th.autograd.grad(extractor(window).square().sum(), window["place"], create_graph=True)
    again = th.autograd.grad(gradient.square().sum(), list(extractor.encoder.parameters()))
    assert all(th.isfinite(part).all() for part in again)
