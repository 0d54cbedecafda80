"""Parts of a learner that no step changes: named by prefixes, held while the learner learns."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from metagym.errors import ConfigError
from metagym.learner_state import live_optimizers, live_tensors, restore_tensors

__all__ = ["check_prefixes", "frozen_names", "held"]

_DEPTH = 3
_ROOT = "policy."


def check_prefixes(frozen: Any) -> tuple[str, ...]:
    """The prefixes as a tuple.

    Raises:
        ConfigError: if they are no sequence of names.
    """
    listed = isinstance(frozen, Sequence) and not isinstance(frozen, str | bytes)
    if not listed or not all(isinstance(prefix, str) and prefix for prefix in frozen):
        raise ConfigError(f"frozen must be a list of prefixes of parameter names, got {frozen!r}")
    return tuple(frozen)


def frozen_names(model: BaseAlgorithm, prefixes: Sequence[str]) -> frozenset[str]:
    """Names of all tensors of a learner that lie under one of the prefixes.

    A prefix ends where a part of a dotted name ends; the leading ``policy.`` may be left out.

    Raises:
        ConfigError: if nothing lies under a prefix, or everything lies under them.
    """
    names = list(live_tensors(model))
    found: dict[str, list[str]] = {prefix: [name for name in names if _under(name, prefix)] for prefix in prefixes}
    unknown = [prefix for prefix, matches in found.items() if not matches]
    if unknown:
        raise ConfigError(f"frozen names {unknown}, which {type(model).__name__} does not have; it has {_parts(names)}")
    frozen = frozenset(name for matches in found.values() for name in matches)
    if len(frozen) == len(names):
        raise ConfigError(f"frozen={list(prefixes)} holds all of {type(model).__name__}: nothing is left to learn")
    return frozen


def _under(name: str, prefix: str) -> bool:
    return any(name == full or name.startswith(f"{full}.") for full in (prefix, f"{_ROOT}{prefix}"))


def _parts(names: Sequence[str]) -> list[str]:
    return sorted({".".join(name.split(".")[:_DEPTH]) for name in names})


@contextmanager
def held(model: BaseAlgorithm, names: Collection[str]) -> Iterator[None]:
    """Keep some tensors of a learner as they are, to the bit, while it learns inside the block.

    Their gradients count as zero, also where gradients are clipped; every optimiser step, and every update of the
    learner (TRPO steps without an optimiser, ARS without gradients, target networks and running statistics follow),
    is undone in them. ARS tries its random directions in them too. After the block nothing of this is left in the
    learner.

    Args:
        model: the learner.
        names: of `LearnerState.tensors`.
    """
    if not names:
        yield
        return
    live = live_tensors(model)
    kept = {name: live[name].detach().clone() for name in names}

    def put_back() -> None:
        restore_tensors(model, kept)

    with ExitStack() as stack:
        for name in kept:
            if live[name].requires_grad:
                stack.callback(live[name].register_hook(_zero).remove)  # type: ignore[no-untyped-call]
        for optimizer in live_optimizers(model).values():
            stepped = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
            own = [(live[name], value) for name, value in kept.items() if id(live[name]) in stepped]
            stack.callback(optimizer.register_step_post_hook(_undo(own)).remove)
        for method in ("train", "_do_one_update"):
            if hasattr(type(model), method):
                stack.enter_context(_followed_by(model, method, put_back))
        yield


def _undo(kept: list[tuple[th.Tensor, th.Tensor]]) -> Callable[..., None]:
    def after_step(*_: Any) -> None:
        for weight, value in kept:
            weight.data.copy_(value)  # of the data, since a graph may still refer to the weight

    return after_step


def _zero(gradient: th.Tensor) -> th.Tensor:
    # A product, which stays part of the graph that TRPO differentiates again.
    return gradient * 0.0


@contextmanager
def _followed_by(model: BaseAlgorithm, method: str, after: Callable[[], None]) -> Iterator[None]:
    attributes = vars(model)
    own = method in attributes
    original = getattr(model, method)

    def call(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        after()

    attributes[method] = call
    try:
        yield
    finally:
        if own:
            attributes[method] = original
        else:
            del attributes[method]
