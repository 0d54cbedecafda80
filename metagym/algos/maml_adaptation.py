"""Steps within tasks of SB3's MLP policies, with their derivatives by hand.

PyTorch would record every operation of an inner gradient and go back through the record. Here it only records what
becomes of the policies' outputs, which are few numbers, and of what is meta-learned; derivatives of the networks in
between, also those of their gradients, are matrix products.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from typing_extensions import override

from metagym.algos.maml_actions import Heads
from metagym.algos.maml_baselines import Experience
from metagym.algos.maml_derivatives import Bowl, Tensors
from metagym.algos.maml_inner import InnerLoop, Rates
from metagym.algos.maml_policy import ActorPass, MlpFunction, Parameters

__all__ = ["Adaptation"]


class Adaptation:
    """What policies say of their actions after steps within tasks, as a function of where they begin.

    Args:
        function: what the policies compute.
        inner: steps within tasks.
        begin: parameters that tasks begin with, (K, ...), perhaps with a graph.
        rates: sizes of the steps, perhaps with a graph.
        experiences: before each step.
        last: whose observations adapted policies are asked about.
        order: of derivatives through steps, 1 or 2; 0: none are asked for.

    Attributes:
        inputs: `begin`, and those of `rates` that have a graph.
        numbers: outputs, and logarithms of standard deviations if there are any, of adapted policies.
        before: the same before each step.
    """

    def __init__(
        self, function: MlpFunction, inner: InnerLoop, begin: Parameters, rates: Sequence[Rates],
        experiences: Sequence[Experience], last: Experience, order: int,
    ) -> None:  # fmt: skip
        self._names = function.actor_names
        self._steps: list[_Step] = []
        parameters = {name: begin[name].detach() for name in self._names}
        for experience, sizes in zip(experiences, rates, strict=True):
            self._steps.append(_Step(function, inner, parameters, experience, sizes, order))
            parameters = self._steps[-1].after
        self._policies = ActorPass(function, parameters, last.rollout.seen)
        learned = [size for step in self._steps for size in step.learned]
        self.inputs = [*(begin[name] for name in self._names), *learned]
        self.numbers = self._policies.numbers
        self.before = [step.numbers for step in self._steps]

    def forward(self, moves: Tensors) -> list[th.Tensor]:
        """How `numbers` move when `inputs` do."""
        own = dict(zip(self._names, moves, strict=False))
        sizes = iter(moves[len(own) :])
        for step in self._steps:
            own = step.forward(own, [next(sizes) for _ in step.learned])
        return self._policies.forward(own)

    def backward(self, pulls: Tensors, earlier: "Sequence[Tensors | None]" = ()) -> list[th.Tensor]:
        """The gradient of the sum of ``numbers * pulls``, and of ``before * earlier``, by `inputs`."""
        own = self._policies.backward(pulls)
        sizes: list[th.Tensor] = []
        for step, also in zip(reversed(self._steps), reversed(earlier or [None] * len(self._steps)), strict=True):
            own, pulled = step.backward(own, also)
            sizes = pulled + sizes
        return [*(own[name] for name in self._names), *sizes]

    def prepare(self) -> None:
        """Compute what makes many calls of `forward` and `backward` faster."""
        for part in (self._policies, *(step.policies for step in self._steps if step.curved)):
            part.prepare()

    def recorded(self) -> tuple[Heads, list[Heads]]:
        """`numbers` and `before`, with a graph that leads to `inputs`, if gradients are recorded."""
        width = len(self.numbers)
        every: Any = _Recorded.apply(self, *self.inputs)  # type: ignore[no-untyped-call]
        after, *before = [Heads(*every[first : first + width]) for first in range(0, len(every), width)]
        return after, before


class _Recorded(th.autograd.Function):
    """An adaptation as one operation."""

    @staticmethod
    @override
    def forward(ctx: Any, adaptation: Adaptation, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        ctx.adaptation = adaptation
        ctx.set_materialize_grads(False)
        every = [*adaptation.numbers, *(number for before in adaptation.before for number in before)]
        return tuple(number.view_as(number) for number in every)

    @staticmethod
    @override
    def backward(ctx: Any, *pulls: th.Tensor | None) -> tuple[th.Tensor | None, ...]:
        adaptation: Adaptation = ctx.adaptation
        groups, rest = [], list(pulls)
        for numbers in (adaptation.numbers, *adaptation.before):
            own, rest = rest[: len(numbers)], rest[len(numbers) :]
            used = any(pull is not None for pull in own)
            pairs = zip(own, numbers, strict=True)
            groups.append([th.zeros_like(number) if pull is None else pull for pull, number in pairs] if used else None)
        last = groups[0] or [th.zeros_like(number) for number in adaptation.numbers]
        return (None, *adaptation.backward(last, groups[1:]))


class _Step:
    """A step within tasks.

    Attributes:
        after: parameters after it, (K, ...).
        numbers: what policies say of their actions before it.
        policies: before it.
        curved: whether its gradient has a derivative that counts.
        learned: its sizes, those that have a graph.
    """

    def __init__(
        self, function: MlpFunction, inner: InnerLoop, parameters: Parameters, experience: Experience, sizes: Rates,
        order: int,
    ) -> None:  # fmt: skip
        self.policies = ActorPass(function, parameters, experience.rollout.seen)
        self.numbers = self.policies.numbers
        self.curved = order == 2
        self._bowl = Bowl(
            lambda *at: inner.judged(Heads(*at), experience).total.sum(), self.numbers, curved=self.curved
        )
        self._gradient = self.policies.backward(self._bowl.slopes, keep=self.curved)
        self._names = [name for name in parameters if _has_graph(sizes.get(name))]
        self.learned = [_tensor(sizes[name]) for name in self._names]
        self._sizes = {name: _plain(sizes.get(name, 0.0)) for name in parameters}  # what has no size stays
        self.after = {name: tensor - self._sizes[name] * self._gradient[name] for name, tensor in parameters.items()}

    def forward(self, moves: Parameters, size_moves: Tensors) -> dict[str, th.Tensor]:
        """How parameters after the step move when those before it and its sizes do."""
        bent = self._product(moves)
        own = {name: move - self._sizes[name] * bent[name] for name, move in moves.items()} if bent else dict(moves)
        for name, move in zip(self._names, size_moves, strict=True):
            own[name] = own[name] - move * self._gradient[name]
        return own

    def backward(self, pulls: Parameters, also: Tensors | None) -> tuple[dict[str, th.Tensor], list[th.Tensor]]:
        """The gradient of the sum of ``after * pulls`` and ``numbers * also`` by parameters before it, and by sizes."""
        bent = self._product({name: self._sizes[name] * pull for name, pull in pulls.items()})
        own = {name: pull - bent[name] for name, pull in pulls.items()} if bent else dict(pulls)
        if also is not None:
            direct = self.policies.backward(also)
            own = {name: pull + direct[name] for name, pull in own.items()}
        pairs = zip(self._names, self.learned, strict=True)
        return own, [-(self._gradient[name] * pulls[name]).sum_to_size(size.shape) for name, size in pairs]

    def _product(self, moves: Parameters) -> dict[str, th.Tensor]:
        """With the Hessian of the step's loss, where steps have one."""
        if not self.curved:
            return {}
        return self.policies.bent(moves, self._bowl(self.policies.forward(moves)))


def _has_graph(size: th.Tensor | float | None) -> bool:
    return isinstance(size, th.Tensor) and size.requires_grad


def _tensor(size: th.Tensor | float) -> th.Tensor:
    assert isinstance(size, th.Tensor)
    return size


def _plain(size: th.Tensor | float) -> th.Tensor | float:
    return size.detach() if isinstance(size, th.Tensor) else size
