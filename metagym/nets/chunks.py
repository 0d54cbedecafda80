"""Whole trials evaluated a few at a time, so that the memory of a gradient does not grow with their number.

What a backward pass needs of a trial is a multiple of its length. Here only results are kept: a group of trials is
evaluated again when its gradient is due, and what that needed is freed before the next group's turn.

`torch.utils.checkpoint` does not do: it forgets what autograd functions save as tensors, but the recurrences of
`metagym.nets.gru` and `metagym.nets.lstm` keep their largest buffer themselves, to overwrite it.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch as th
from typing_extensions import override

from metagym.nets.recurrent import PackedTrials, places_of

__all__ = ["cut_trials", "evaluate_in_chunks"]

Results: TypeAlias = tuple[th.Tensor, th.Tensor, th.Tensor | None]
"""Values, log-probabilities and, where it is known, entropy of each step, (n, ...)."""
Evaluate: TypeAlias = Callable[[PackedTrials, th.Tensor], Results]
Run: TypeAlias = Callable[[tuple[th.Tensor, ...]], Results]


def cut_trials(batch_sizes: tuple[int, ...], chunk_steps: int) -> list[tuple[int, int]]:
    """Cut packed trials into groups of neighbours.

    Args:
        batch_sizes: trials that have a step t, for every t.
        chunk_steps: most steps of a group, unless a single trial has more.

    Returns:
        First trial of each group and the one after its last.
    """
    sizes = th.tensor(batch_sizes)
    lengths = (sizes > th.arange(batch_sizes[0]).unsqueeze(1)).sum(1).tolist()
    groups, first, steps = [], 0, 0
    for trial, length in enumerate(lengths):
        if trial > first and steps + length > chunk_steps:
            groups.append((first, trial))
            first, steps = trial, 0
        steps += length
    return [*groups, (first, len(lengths))]


def evaluate_in_chunks(
    evaluate: Evaluate,
    trials: PackedTrials,
    actions: th.Tensor,
    chunk_steps: int,
    parameters: Iterable[th.Tensor],
) -> Results:
    """What `evaluate` makes of trials, with no more than a group of them in memory at a time.

    The same numbers and gradients up to rounding, of any order, for one more forward pass. Random numbers that
    `evaluate` draws are the same when it is repeated.

    Args:
        evaluate: makes results of packed steps and the actions taken there; trials must not depend on each other.
        trials: whole trials.
        actions: (n, ...).
        chunk_steps: most steps of a group, unless a single trial has more.
        parameters: every tensor, besides the observations, by which results shall be differentiated.
    """
    groups = cut_trials(trials.batch_sizes, chunk_steps)
    if len(groups) == 1:
        return evaluate(trials, actions)
    sizes = th.tensor(trials.batch_sizes)
    _, trial = places_of(trials.batch_sizes)
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    places, parts = [], []
    for first, last in groups:
        steps = ((trial >= first) & (trial < last)).nonzero().squeeze(1)
        own_sizes = tuple(size for size in (sizes - first).clamp(0, last - first).tolist() if size)
        parts.append(_evaluate_group(evaluate, trials, actions, steps.to(actions.device), own_sizes, wanted))
        places.append(steps)
    back = th.cat(places).argsort().to(actions.device)
    values, log_probs, entropies = zip(*parts, strict=True)
    entropy = None if entropies[0] is None else th.cat(entropies)[back]
    return th.cat(values)[back], th.cat(log_probs)[back], entropy


def _evaluate_group(
    evaluate: Evaluate,
    trials: PackedTrials,
    actions: th.Tensor,
    steps: th.Tensor,
    batch_sizes: tuple[int, ...],
    wanted: list[th.Tensor],
) -> Results:
    observed = trials.data if isinstance(trials.data, dict) else {"": trials.data}
    names, given = list(observed), [seen[steps] for seen in observed.values()]
    tasks = None if trials.tasks is None else trials.tasks[steps]
    taken = actions[steps]

    def run(seen: tuple[th.Tensor, ...]) -> Results:
        data = dict(zip(names, seen, strict=True)) if isinstance(trials.data, dict) else seen[0]
        return evaluate(PackedTrials(data, batch_sizes, tasks), taken)

    results: Results = _Repeated.apply(run, len(given), *given, *wanted)  # type: ignore[no-untyped-call]
    return results


class _Repeated(th.autograd.Function):
    """Results of a function of some tensors and of weights, which is called again when gradients are due."""

    @staticmethod
    @override
    def forward(ctx: Any, run: Run, n_given: int, *tensors: th.Tensor) -> Results:
        ctx.run, ctx.n_given = run, n_given
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.random = th.get_rng_state()
        ctx.cuda = [tensor.device for tensor in tensors[:1] if tensor.is_cuda]
        ctx.random_cuda = [th.cuda.get_rng_state(device) for device in ctx.cuda]
        return run(tensors[:n_given])

    @staticmethod
    @override
    def backward(ctx: Any, *grads: th.Tensor | None) -> tuple[th.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        recorded = th.is_grad_enabled()
        with th.random.fork_rng(ctx.cuda), th.enable_grad():
            th.set_rng_state(ctx.random)
            for device, state in zip(ctx.cuda, ctx.random_cuda, strict=True):
                th.cuda.set_rng_state(state, device)
            results = ctx.run(tensors[: ctx.n_given])
            pairs = [
                (result, grad)
                for result, grad in zip(results, grads, strict=True)
                if result is not None and grad is not None and result.requires_grad
            ]
            asked = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad[2:], strict=True) if needed]
            of_results, given = zip(*pairs, strict=True)
            found = iter(th.autograd.grad(of_results, asked, given, create_graph=recorded, allow_unused=True))
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])
