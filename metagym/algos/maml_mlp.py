"""One pass of K multi-layer perceptrons over their batches, with the derivatives that products with Hessians need.

PyTorch differentiates through a gradient by recording every operation of it and going back through the record, which
for a product with a Hessian happens twice. Here a pass keeps what its layers gave out, and derivatives are batched
matrix products of that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch as th
from torch import nn
from typing_extensions import override

__all__ = ["Layer", "MlpPass", "affine"]


_FEW_INPUTS, _FEW_OUTPUTS = 7, 3
_SHALLOW = 2


class Layer(NamedTuple):
    """A linear layer by the names of its parameters, and what follows it.

    Attributes:
        weight: (A, D).
        bias: (A,).
        activation: element by element; None after the last layer.
    """

    weight: str
    bias: str
    activation: nn.Module | None


class MlpPass:
    """A forward pass.

    Args:
        layers: from the first to the last.
        parameters: (K, ...) by name; tensors without a graph.
        inputs: (K, B, D).

    Attributes:
        outputs: (K, B, A).
    """

    def __init__(self, layers: Sequence[Layer], parameters: Mapping[str, th.Tensor], inputs: th.Tensor) -> None:
        self._layers = layers
        self._weights = [parameters[layer.weight] for layer in layers]
        self._inputs: list[th.Tensor] = []
        self._slopes: list[_Slope] = []
        self._kept: list[th.Tensor] = []
        self._bent: list[th.Tensor | None] = []
        self._shortcut: list[th.Tensor] = []
        self._reach: list[list[th.Tensor]] = []
        signal = inputs
        for layer, weight in zip(layers, self._weights, strict=True):
            self._inputs.append(signal)
            signal = affine(signal, weight, parameters[layer.bias])
            if layer.activation is not None:
                self._slopes.append(_slope_of(layer.activation, signal))
                signal = self._slopes[-1].value
        self.outputs = signal

    def forward(self, moves: Mapping[str, th.Tensor]) -> th.Tensor:
        """How outputs move when parameters do, (K, B, A); what it took is kept for `bent`.

        Args:
            moves: of the parameters, (K, ...) by name.
        """
        self._preactivations: list[th.Tensor] = []
        self._moved: list[th.Tensor] = []
        signal: th.Tensor | None = None
        reached: list[th.Tensor] = []
        for place, (layer, weight) in enumerate(zip(self._layers, self._weights, strict=True)):
            change = affine(self._inputs[place], moves[layer.weight], moves[layer.bias])
            if self._reach and place < len(self._layers) - 2:
                reached.append(th.stack([(change * own[place]).sum(-1) for own in self._reach], -1))
                continue
            if signal is not None:
                self._moved.append(signal)
                change.baddbmm_(signal, weight.transpose(1, 2))
            signal = change
            if layer.activation is not None:
                slope = self._slopes[place]
                self._preactivations.append(change.clone() if slope.curved else change)
                signal = slope.times(change)
        assert signal is not None
        return sum(reached, signal)

    def backward(self, pulls: th.Tensor, *, keep: bool = False) -> dict[str, th.Tensor]:
        """The gradient of the sum of ``outputs * pulls`` for each task's parameters, (K, ...) by name.

        Args:
            pulls: (K, B, A).
            keep: keep what it took for `bent`.
        """
        gradient: dict[str, th.Tensor] = {}
        kept, bent, outputs = [], [], pulls
        for place in reversed(range(len(self._layers))):
            layer = self._layers[place]
            kept.append(pulls)
            gradient[layer.weight] = _outer(pulls, self._inputs[place])
            gradient[layer.bias] = pulls.sum(1)
            if self._reach and 0 < place < len(self._layers) - 1:
                every = [outputs[..., at : at + 1] * own[place - 1] for at, own in enumerate(self._reach)]
                pulls = sum(every[1:], every[0])
            elif place:
                pulls, slope = th.bmm(pulls, self._weights[place]), self._slopes[place - 1]
                if keep:
                    bend = slope.bend()
                    bent.append(None if bend is None else bend.mul_(pulls))
                pulls = slope.times(pulls)
        if keep:
            self._kept, self._bent = kept[::-1], bent[::-1]
        return gradient

    def bent(self, moves: Mapping[str, th.Tensor], turned: th.Tensor) -> dict[str, th.Tensor]:
        """How the gradient that `backward` kept moves when parameters do, as they did in the last `forward`.

        Args:
            moves: of the parameters, as `forward` had them.
            turned: how ``pulls`` move, (K, B, A).
        """
        gradient: dict[str, th.Tensor] = {}
        for place in reversed(range(len(self._layers))):
            layer, pulls = self._layers[place], self._kept[place]
            change = _outer(turned, self._inputs[place])
            gradient[layer.bias] = turned.sum(1)
            if place:
                turned = th.bmm(turned, self._weights[place])
                if place > 1 or not self._shortcut:
                    change.baddbmm_(pulls.transpose(1, 2), self._moved[place - 1])
                    turned.baddbmm_(pulls, moves[layer.weight])
                turned = self._slopes[place - 1].times(turned)
                bent = self._bent[place - 1]
                if bent is not None:
                    turned.addcmul_(bent, self._preactivations[place - 1])
            gradient[layer.weight] = change
        if self._shortcut:
            self._cross(moves, gradient)
        return gradient

    def prepare(self) -> None:
        """Compute what spares later derivatives passes over the batch: for many products with the same Hessian.

        Where there are few inputs, second derivatives by the first two layers' weights, if `backward` was kept. Where
        there are few outputs, and it was not, their derivatives by what each layer gives out.
        """
        depth = len(self._layers)
        if self._kept:
            if self._inputs[0].shape[-1] <= _FEW_INPUTS and depth > 1:
                self._shortcut = self._crossed()
        elif self.outputs.shape[-1] <= _FEW_OUTPUTS and depth > _SHALLOW:
            self._reach = [self._reached(output) for output in range(self.outputs.shape[-1])]

    def _reached(self, output: int) -> list[th.Tensor]:
        """Derivatives of an output by what each layer but the last two gives out, (K, B, H)."""
        like = self._slopes[-1].value
        found = self._slopes[-1].times(self._weights[-1][:, output : output + 1].expand_as(like).contiguous())
        every = []
        for place in range(len(self._layers) - 2, 0, -1):
            found = self._slopes[place - 1].times(th.bmm(found, self._weights[place]))
            every.append(found)
        return every[::-1]

    def _crossed(self) -> list[th.Tensor]:
        """Second derivatives by the first two layers' weights: (K, A_2, A_1) for each input, and for the bias."""
        pulls, slope = self._kept[1].transpose(1, 2), self._slopes[0]
        width = slope.value.shape[-1]
        inputs = [*th.split(self._inputs[0], 1, -1), th.ones_like(self._inputs[0][..., :1])]
        return [th.bmm(pulls, slope.times(one.expand(-1, -1, width).contiguous())) for one in inputs]

    def _cross(self, moves: Mapping[str, th.Tensor], gradient: dict[str, th.Tensor]) -> None:
        """Add to a gradient how it moves by what each of the first two layers does to the other."""
        first, second = self._layers[:2]
        columns = [*moves[first.weight].unbind(-1), moves[first.bias]]
        change = gradient[second.weight]
        for block, column in zip(self._shortcut, columns, strict=True):
            change.addcmul_(block, column.unsqueeze(1))
        *of_weight, of_bias = [(block * moves[second.weight]).sum(1) for block in self._shortcut]
        gradient[first.weight] = gradient[first.weight] + th.stack(of_weight, -1)
        gradient[first.bias] = gradient[first.bias] + of_bias


def affine(signal: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    """A linear layer's outputs, (K, B, A), for K weights (K, A, D) and biases (K, A)."""
    return th.baddbmm(bias.unsqueeze(1), signal, weight.transpose(1, 2))


def _outer(pulls: th.Tensor, inputs: th.Tensor) -> th.Tensor:
    """Sums over B of outer products, (K, A, D); with the narrower matrix first, which is several times faster."""
    if pulls.shape[-1] <= inputs.shape[-1]:
        return th.bmm(pulls.transpose(1, 2), inputs)
    return th.bmm(inputs.transpose(1, 2), pulls).transpose(1, 2)


class _Slope:
    """An activation's value and first two derivatives, element by element.

    Args:
        value: of the activation.
        slope: its first derivative.
        bend: makes the second one; None if that is zero.
    """

    def __init__(self, value: th.Tensor, slope: th.Tensor, bend: Callable[[], th.Tensor] | None) -> None:
        self.value, self._slope, self._bend = value, slope, bend

    def times(self, moves: th.Tensor) -> th.Tensor:
        """The product with the first derivative, written over `moves`."""
        return moves.mul_(self._slope)

    @property
    def curved(self) -> bool:
        """Whether the second derivative is not zero."""
        return self._bend is not None

    def bend(self) -> th.Tensor | None:
        """The second derivative, fresh; None if it is zero."""
        return None if self._bend is None else self._bend()


class _Kink(_Slope):
    """That of ReLU, whose derivative need not be stored."""

    def __init__(self, signal: th.Tensor) -> None:
        super().__init__(signal.relu_(), signal, None)

    @override
    def times(self, moves: th.Tensor) -> th.Tensor:
        passed: th.Tensor = th.ops.aten.threshold_backward.grad_input(moves, self.value, 0, grad_input=moves)
        return passed


def _slope_of(activation: nn.Module, signal: th.Tensor) -> _Slope:
    if type(activation) is nn.ReLU:
        return _Kink(signal)
    if type(activation) is nn.Tanh:
        value = th.tanh(signal)
        slope = 1 - value.square()
        return _Slope(value, slope, lambda: -2 * value * slope)
    with th.enable_grad():
        at = signal.detach().requires_grad_()
        value = activation(at)
        (slope,) = th.autograd.grad(value.sum(), [at], create_graph=True)

    def bend() -> th.Tensor:
        (found,) = th.autograd.grad(slope.sum(), [at], retain_graph=True, materialize_grads=True)
        return found.clone()

    return _Slope(value.detach(), slope.detach(), bend if slope.requires_grad else None)
