"""Networks that read a window of a trial (see `metagym.wrappers.window`): features extractors for any SB3 policy.

A window is (K, D + 1): rows of D numbers, the newest last, and a column that is 1 where there is a row. Of Dicts and
images it is a Dict of entries (K, ...), which an encoder makes rows of first. Rows are there from some place on; what
stands before it cannot influence a result. So a window of K places that holds L rows gives what the same network makes
of the L rows alone.
"""

import math
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TensorDict
from torch import nn
from torch.nn.utils import rnn
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.encoder import RowEncoder
from metagym.nets.recurrent import PackedTrials, TrialRNN
from metagym.wrappers.window import THERE, WindowSpace

__all__ = [
    "EXTRACTORS",
    "GRUExtractor",
    "SNAILExtractor",
    "TransformerExtractor",
    "WindowExtractor",
    "attend",
    "causal_pairs",
]


class _Rows(NamedTuple):
    values: th.Tensor  # (B, K, D), zeros where nothing is
    valid: th.Tensor  # (B, K) bool; the newest always is


def attend(query: th.Tensor, key: th.Tensor, value: th.Tensor, allowed: th.Tensor) -> th.Tensor:
    """Attention by scaled dot products (Vaswani et al. 2017), of plain operations: it can be differentiated twice.

    Args:
        query: (..., Q, H).
        key: (..., K, H).
        value: (..., K, V).
        allowed: whether a query may look at a key, broadcast to (..., Q, K). A query that may look at none gets the
            mean of all values.

    Returns:
        What each query reads, (..., Q, V).
    """
    scores = (query @ key.transpose(-2, -1)) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~allowed, th.finfo(scores.dtype).min).softmax(-1)
    return weights @ value


def causal_pairs(valid: th.Tensor) -> th.Tensor:
    """Whether place i may look at place j: j is not later, and is there; (B, K) to (B, K, K)."""
    length = valid.shape[1]
    earlier = th.ones(length, length, dtype=th.bool, device=valid.device).tril()
    return earlier & valid.unsqueeze(1)


class WindowExtractor(BaseFeaturesExtractor):
    """What the extractors share: the window taken apart, and its observations read one by one.

    Args:
        observation_space: of windows: (K, D + 1), or a `WindowSpace`.
        features_dim: width of the result.
        encoder_class: of a `WindowSpace`: what reads one observation, an extractor of SB3's; default: that of `RL2`
            with PPO, `CombinedExtractor` for a Dict, in which images are read by a `NatureCNN`.
        encoder_kwargs: its keywords, such as ``cnn_output_dim``.
        normalize_images: divide images by 255.

    Attributes:
        window_length: K.
        row_width: D, or the width of what the encoder makes of an observation.
        encoder: None where rows are vectors.

    Raises:
        ConfigError: if the space is not one of windows, `features_dim` is below 1, or an encoder is given for vectors.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int,
        *,
        encoder_class: type[BaseFeaturesExtractor] | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        is_flat = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 2
        if not is_flat and not isinstance(observation_space, WindowSpace):
            raise ConfigError(
                f"{type(self).__name__} reads windows, a Box of shape (K, D + 1) or a WindowSpace, "
                f"not {observation_space}"
            )
        if is_flat and encoder_class is not None:
            raise ConfigError(f"{encoder_class.__name__} has nothing to read: these windows are of vectors")
        _check_sizes(features_dim=features_dim)
        super().__init__(observation_space, features_dim)
        self.encoder: RowEncoder | None = None
        if isinstance(observation_space, WindowSpace):
            self.encoder = RowEncoder(observation_space.row_space, encoder_class, encoder_kwargs, normalize_images)
            self.window_length, self.row_width = observation_space.length, self.encoder.features_dim
        else:
            assert observation_space.shape is not None
            self.window_length, self.row_width = observation_space.shape[0], observation_space.shape[1] - 1

    def rows(self, windows: th.Tensor | TensorDict) -> _Rows:
        """Rows (B, K, D) and which are there (B, K), of windows (B, K, D + 1) or dicts of (B, K, ...)."""
        if isinstance(windows, dict):
            return self._encoded(windows)
        valid = windows[..., -1] > 0.5
        valid[:, -1] = True  # so that no sequence is empty
        # Filled, not multiplied: not even a NaN gets through.
        return _Rows(windows[..., :-1].masked_fill(~valid.unsqueeze(-1), 0.0), valid)

    def _encoded(self, windows: TensorDict) -> _Rows:
        assert self.encoder is not None
        valid = windows[THERE] > 0.5
        valid[:, -1] = True
        # What is not there costs nothing: convolutions are most of the work.
        encoded = self.encoder({name: part[valid] for name, part in windows.items() if name != THERE})
        values = encoded.new_zeros(*valid.shape, self.row_width)
        values[valid] = encoded
        return _Rows(values, valid)


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, got {size!r}")


class GRUExtractor(WindowExtractor):
    """A GRU run over the rows of a window, from the zero state; its last state is the result.

    Args:
        observation_space: of windows: (K, D + 1), or a `WindowSpace`.
        features_dim: H, width of the state.
        n_layers: number of stacked layers.
        twice_differentiable: use PyTorch's own GRU, which is slower on the CPU, but whose gradient has a gradient.
            TRPO needs it.
        **encoder: see `WindowExtractor`.

    Raises:
        ConfigError: if the space is not one of windows, or a size is below 1.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 64,
        *,
        n_layers: int = 1,
        twice_differentiable: bool = False,
        **encoder: Any,
    ) -> None:
        super().__init__(observation_space, features_dim, **encoder)
        _check_sizes(n_layers=n_layers)
        self.memory = TrialRNN("gru", self.row_width, features_dim, n_layers)
        self.twice_differentiable = twice_differentiable

    @override
    def forward(self, windows: th.Tensor | TensorDict) -> th.Tensor:
        values, valid = self.rows(windows)
        batch, length = valid.shape
        if bool(valid.all()):
            states = self._states(values.transpose(0, 1).reshape(batch * length, -1), (batch,) * length)
            return states[-batch:]
        lengths, order = valid.sum(1).sort(descending=True, stable=True)
        # Moved to the left and packed: the first row of every sequence, then the second of all that have one.
        steps, sequences = (th.arange(length, device=lengths.device).unsqueeze(1) < lengths).nonzero(as_tuple=True)
        packed = values[order[sequences], length - lengths[sequences] + steps]
        sizes = tuple(int(size) for size in steps.bincount())
        states = self._states(packed, sizes)
        offsets = th.tensor((0, *sizes), device=lengths.device).cumsum(0)
        last = offsets[lengths - 1] + th.arange(batch, device=lengths.device)
        return th.zeros_like(states[:batch]).index_copy(0, order, states[last])

    def _states(self, packed: th.Tensor, sizes: tuple[int, ...]) -> th.Tensor:
        if self.twice_differentiable:
            states: th.Tensor = self.memory.rnn(rnn.PackedSequence(packed, th.tensor(sizes)))[0].data
            return states
        return self.memory.forward(PackedTrials(packed, sizes))


class _DenseBlock(nn.Module):
    """One causal convolution of two places, d apart, gated, beside what it read (SNAIL, algorithm 1)."""

    def __init__(self, width: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.now, self.past = nn.Linear(width, 2 * filters), nn.Linear(width, 2 * filters, bias=False)

    @override
    def forward(self, x: th.Tensor, valid: th.Tensor) -> th.Tensor:
        """(B, K, C) to (B, K, C + filters)."""
        # Shifted after the product: that moves 2 x filters columns instead of all.
        past = nn.functional.pad(self.past(x), (0, 0, self.dilation, 0))[:, : x.shape[1]]
        signal, gate = (self.now(x) + past).chunk(2, -1)
        # Zeros where nothing is, in every layer, are the padding that a shorter sequence would meet there.
        return th.cat([x, (signal.tanh() * gate.sigmoid()).masked_fill(~valid.unsqueeze(-1), 0.0)], -1)


class _Convolutions(nn.Module):
    """Dense blocks with dilations 1, 2, 4, ..., which together reach over K places (SNAIL, algorithm 1)."""

    def __init__(self, width: int, filters: int, length: int) -> None:
        super().__init__()
        count = max(1, math.ceil(math.log2(length)))
        self.blocks = nn.ModuleList([_DenseBlock(width + n * filters, filters, 2**n) for n in range(count)])
        self.width = width + count * filters

    @override
    def forward(self, x: th.Tensor, valid: th.Tensor) -> th.Tensor:
        """(B, K, C) to (B, K, width)."""
        for block in self.blocks:
            x = block(x, valid)
        return x


class _ReadBlock(nn.Module):
    """Causal attention with one head beside what it read (SNAIL, algorithm 1)."""

    def __init__(self, width: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, key_size), nn.Linear(width, key_size)
        self.value = nn.Linear(width, value_size)
        self.width = width + value_size

    @override
    def forward(self, x: th.Tensor, valid: th.Tensor, only_last: bool = False) -> th.Tensor:
        """(B, K, C) to (B, K, C + value_size), or in the last place alone, (B, C + value_size)."""
        if only_last:
            read = attend(self.query(x[:, -1:]), self.key(x), self.value(x), valid.unsqueeze(1))
            return th.cat([x[:, -1], read[:, 0]], -1)
        read = attend(self.query(x), self.key(x), self.value(x), causal_pairs(valid))
        return th.cat([x, read.masked_fill(~valid.unsqueeze(-1), 0.0)], -1)


class SNAILExtractor(WindowExtractor):
    """Temporal convolutions that aggregate, and attention that looks up, by turns; read in the last place.

    Rows are embedded linearly; then come `n_blocks` times a stack of gated causal convolutions, whose dilations
    double until they reach over the window, and one causal attention; each adds columns to what it read. A linear
    layer with a rectifier makes the features of what stands in the last place.

    Source: Mishra et al. 2018, "A Simple Neural Attentive Meta-Learner", algorithm 1.

    Args:
        observation_space: of windows: (K, D + 1), or a `WindowSpace`.
        features_dim: width of the result.
        width: of the embedding.
        filters: columns that a convolution adds.
        key_size: width of the keys and queries.
        value_size: columns that an attention adds.
        n_blocks: pairs of convolutions and attention.
        **encoder: see `WindowExtractor`.

    Raises:
        ConfigError: if the space is not one of windows, or a size is below 1.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 64,
        *,
        width: int = 32,
        filters: int = 16,
        key_size: int = 16,
        value_size: int = 16,
        n_blocks: int = 2,
        **encoder: Any,
    ) -> None:
        super().__init__(observation_space, features_dim, **encoder)
        _check_sizes(width=width, filters=filters, key_size=key_size, value_size=value_size, n_blocks=n_blocks)
        self.embed = nn.Linear(self.row_width, width)
        self.convolutions, self.reads = nn.ModuleList(), nn.ModuleList()
        for _ in range(n_blocks):
            convolutions = _Convolutions(width, filters, self.window_length)
            read = _ReadBlock(convolutions.width, key_size, value_size)
            self.convolutions.append(convolutions)
            self.reads.append(read)
            width = read.width
        self.out = nn.Sequential(nn.Linear(width, features_dim), nn.ReLU())

    @override
    def forward(self, windows: th.Tensor | TensorDict) -> th.Tensor:
        values, valid = self.rows(windows)
        x = self.embed(values).masked_fill(~valid.unsqueeze(-1), 0.0)
        final = len(self.reads) - 1
        for place, (convolutions, read) in enumerate(zip(self.convolutions, self.reads, strict=True)):
            x = read(convolutions(x, valid), valid, place == final)
        features: th.Tensor = self.out(x)
        return features


class _TransformerBlock(nn.Module):
    """Attention with several heads, then two layers, each after a norm and added to what it read."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    @override
    def forward(self, x: th.Tensor, allowed: th.Tensor, queries: int) -> th.Tensor:
        """(B, K, C) to (B, queries, C), of the last places; `allowed` is (B, 1, 1, K)."""
        seen = self.norms[0](x)
        x = x[:, -queries:]
        key, value = self.key_value(seen).chunk(2, -1)
        read = attend(self._split(self.query(seen[:, -queries:])), self._split(key), self._split(value), allowed)
        x = x + self.merge(read.transpose(1, 2).flatten(2))
        result: th.Tensor = x + self.feed_forward(self.norms[1](x))
        return result

    def _split(self, x: th.Tensor) -> th.Tensor:
        return x.reshape(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class TransformerExtractor(WindowExtractor):
    """A Transformer with the norm first over the rows of a window, read in the last place.

    Places are learned, and counted from the newest row. Every row looks at all rows that are there.

    Source: Vaswani et al. 2017, "Attention Is All You Need"; the norm first: Xiong et al. 2020, "On Layer
    Normalization in the Transformer Architecture".

    Args:
        observation_space: of windows: (K, D + 1), or a `WindowSpace`.
        features_dim: width of the result, and of the network.
        n_layers: number of blocks.
        n_heads: attention heads of a block; they divide `features_dim`.
        **encoder: see `WindowExtractor`.

    Raises:
        ConfigError: if the space is not one of windows, a size is below 1, or the heads do not divide the width.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 64,
        *,
        n_layers: int = 2,
        n_heads: int = 4,
        **encoder: Any,
    ) -> None:
        super().__init__(observation_space, features_dim, **encoder)
        _check_sizes(n_layers=n_layers, n_heads=n_heads)
        if features_dim % n_heads:
            raise ConfigError(f"n_heads must divide features_dim={features_dim}, got {n_heads}")
        self.embed = nn.Linear(self.row_width, features_dim)
        self.places = nn.Parameter(0.02 * th.randn(self.window_length, features_dim))
        self.blocks = nn.ModuleList([_TransformerBlock(features_dim, n_heads) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(features_dim)

    @override
    def forward(self, windows: th.Tensor | TensorDict) -> th.Tensor:
        values, valid = self.rows(windows)
        length = valid.shape[1]
        x = self.embed(values) + self.places[-length:]
        allowed = valid[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, allowed, length)
        features: th.Tensor = self.norm(self.blocks[-1](x, allowed, 1)[:, 0])
        return features


EXTRACTORS: dict[str, type[WindowExtractor]] = {
    "gru": GRUExtractor,
    "snail": SNAILExtractor,
    "transformer": TransformerExtractor,
}
"""The extractors by name."""
