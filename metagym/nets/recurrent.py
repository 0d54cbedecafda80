"""The memory of a trial: one recurrent network, run a step at a time or over whole trials."""

from typing import Any, NamedTuple, TypeAlias

import torch as th
from torch import nn
from torch.nn.utils import rnn
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.compiled_sequence import compiled_gru, compiled_lstm, runs_compiled
from metagym.nets.gru import gru_sequence
from metagym.nets.lstm import lstm_sequence

__all__ = ["PackedTrials", "RNNState", "TrialRNN", "places_of"]

# For single steps of fewer rows, going to the compiled loops and back costs more than they save.
ROWS_WORTH_A_LOOP = 256

RNNState: TypeAlias = tuple[th.Tensor, ...]
"""``(h,)`` of a GRU or ``(h, c)`` of an LSTM, each (layers, N, H)."""


class PackedTrials(NamedTuple):
    """Whole trials side by side, without padding.

    Attributes:
        data: (n, ...), the first step of every trial, then the second step of every trial that has one, and so
            on; trials in order of decreasing length, n the number of steps of all of them together. A dict of such
            tensors for Dict observations.
        batch_sizes: number of trials that have a step t, for every t; not increasing, sums to n.
        tasks: what a privileged critic is told of the task of each step, (n, P), or None.
    """

    data: Any
    batch_sizes: tuple[int, ...]
    tasks: th.Tensor | None = None


def places_of(batch_sizes: tuple[int, ...], device: th.device | None = None) -> tuple[th.Tensor, th.Tensor]:
    """The step of its trial, and the trial, of every packed step, both (n,).

    Args:
        batch_sizes: as of `PackedTrials`.
        device: of the result.
    """
    sizes = th.tensor(batch_sizes, device=device)
    time = th.arange(len(sizes), device=device).repeat_interleave(sizes)
    return time, th.arange(len(time), device=device) - (sizes.cumsum(0) - sizes)[time]


class TrialRNN(nn.Module):
    """A GRU or an LSTM whose state is zero at a trial's start.

    Args:
        rnn_type: "gru" or "lstm".
        input_size: D, width of the features it reads.
        hidden_size: H, width of its output.
        n_layers: number of stacked layers.
        memory_steps: T, at first units keep what they read for 1 to T steps, with biases of their gates drawn as Tallec
            and Ollivier 2018 do ("Can recurrent neural networks warp time?"); None: for two or three steps.

    Raises:
        ConfigError: for an unknown type, sizes below 1, or `memory_steps` below 2.
    """

    def __init__(
        self, rnn_type: str, input_size: int, hidden_size: int, n_layers: int, *, memory_steps: int | None = None
    ) -> None:
        super().__init__()
        if rnn_type not in {"gru", "lstm"}:
            raise ConfigError(f"rnn_type is 'gru' or 'lstm', not {rnn_type!r}.")
        if hidden_size < 1 or n_layers < 1:
            raise ConfigError(f"rnn_hidden_size and n_rnn_layers are at least 1, not {hidden_size} and {n_layers}.")
        if memory_steps is not None and (
            isinstance(memory_steps, bool) or not isinstance(memory_steps, int) or memory_steps < 2
        ):
            raise ConfigError(f"memory_steps must be an integer of at least 2, or None, not {memory_steps!r}.")
        self.rnn_type = rnn_type
        self.rnn: nn.GRU | nn.LSTM = (nn.GRU if rnn_type == "gru" else nn.LSTM)(input_size, hidden_size, n_layers)
        self._initialise()
        if memory_steps is not None:
            self._remember_for(memory_steps)

    @property
    def n_parts(self) -> int:
        """Number of tensors in the state."""
        return 1 if self.rnn_type == "gru" else 2

    def zero_state(self, n_rows: int) -> RNNState:
        """The state before a trial's first step, each part (layers, N, H)."""
        weight = self._weights(0)[1]
        shape = (self.rnn.num_layers, n_rows, self.rnn.hidden_size)
        return tuple(weight.new_zeros(shape) for _ in range(self.n_parts))

    def step(self, features: th.Tensor, state: RNNState) -> tuple[th.Tensor, RNNState]:
        """One step of every row.

        Args:
            features: (N, D).
            state: the state before it.

        Returns:
            Output (N, H) and the state after it.
        """
        out = features
        layers: list[RNNState] = []
        for layer in range(self.rnn.num_layers):
            before = tuple(part[layer] for part in state)
            after = self._cell(out, before, self._weights(layer))
            out = after[0]
            layers.append(after)
        if len(layers) == 1:
            return out, tuple(part.unsqueeze(0) for part in layers[0])
        return out, tuple(th.stack(parts) for parts in zip(*layers, strict=True))

    @override
    def forward(self, trials: PackedTrials) -> th.Tensor:
        """Outputs (n, H) along whole trials, each from the zero state, in the order of ``trials.data`` (n, D)."""
        data: th.Tensor = trials.data
        batch_sizes = trials.batch_sizes
        if data.is_cuda:
            packed = rnn.PackedSequence(data, th.tensor(batch_sizes))
            out: th.Tensor = self.rnn(packed)[0].data
            return out
        sequence = gru_sequence if self.rnn_type == "gru" else lstm_sequence
        for layer in range(self.rnn.num_layers):
            data = sequence(data, *self._weights(layer), batch_sizes)
        return data

    def _cell(self, features: th.Tensor, state: RNNState, weights: tuple[th.Tensor, ...]) -> RNNState:
        rows = len(features)
        if rows >= ROWS_WORTH_A_LOOP and not th.is_grad_enabled() and runs_compiled(features, *state, *weights):
            if self.rnn_type == "gru":
                return (compiled_gru(features, weights, (rows,), state[0])[0][rows:],)
            after = compiled_lstm(features, weights, (rows,), (state[0], state[1]))
            return after[0][rows:], after[1][rows:]
        if self.rnn_type == "gru":
            return (th.gru_cell(features, state[0], *weights),)
        return tuple(th.lstm_cell(features, state, *weights))

    def _weights(self, layer: int) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        net: Any = self.rnn
        ih, hh = getattr(net, f"weight_ih_l{layer}"), getattr(net, f"weight_hh_l{layer}")
        return ih, hh, getattr(net, f"bias_ih_l{layer}"), getattr(net, f"bias_hh_l{layer}")

    def _initialise(self) -> None:
        """Orthogonal weights per gate and zero biases, but for an LSTM's forget gates, which start open."""
        size = self.rnn.hidden_size
        for name, parameter in self.rnn.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
                if self.rnn_type == "lstm" and "bias_hh" in name:
                    nn.init.ones_(parameter.data[size : 2 * size])
                continue
            for gate in th.split(parameter.data, size):
                nn.init.orthogonal_(gate)

    def _remember_for(self, steps: int) -> None:
        """Open the gates that keep a unit's state such that it lasts for 1 to so many steps, each as likely."""
        size = self.rnn.hidden_size
        for layer in range(self.rnn.num_layers):
            bias = self._weights(layer)[3].data
            opened = th.log(1.0 + th.rand(size) * (steps - 2))
            bias[size : 2 * size] = opened  # a GRU's update gate, an LSTM's forget gate
            if self.rnn_type == "lstm":
                bias[:size] = -opened
