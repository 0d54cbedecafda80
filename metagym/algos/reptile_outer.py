"""The outer step of Reptile: from where an iteration started towards where its runs ended."""

import copy
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from metagym.errors import ConfigError
from metagym.learner_state import LearnerState, flatten_moments, live_tensors, load_moments
from metagym.types import Array

__all__ = ["OuterStep", "find_optimizer"]

_NAME = "outer"


def _known() -> dict[str, type[th.optim.Optimizer]]:
    """Optimisers of torch that step with one gradient, by lower-case name."""
    classes = [found for found in vars(th.optim).values() if inspect.isclass(found)]
    return {
        found.__name__.lower(): found
        for found in classes
        if issubclass(found, th.optim.Optimizer) and found not in {th.optim.Optimizer, th.optim.LBFGS}
    }


def find_optimizer(given: Any, kwargs: Mapping[str, Any] | None) -> type[th.optim.Optimizer] | None:
    """The class of the outer optimiser; None for plain interpolation.

    Args:
        given: an optimiser class of torch's kind or the name of one of torch's; ``"sgd"`` without keywords
            interpolates.
        kwargs: keywords of the class, without ``lr``.

    Raises:
        ConfigError: if there is no such optimiser, or ``lr`` is among the keywords.
    """
    if "lr" in (kwargs or {}):
        raise ConfigError("outer_optimizer_kwargs may not hold 'lr': learning_rate is the outer learning rate")
    if given == "sgd" and not kwargs:
        return None
    known = _known()
    found = known.get(given.lower()) if isinstance(given, str) else given
    if not (inspect.isclass(found) and issubclass(found, th.optim.Optimizer)) or found is th.optim.LBFGS:
        raise ConfigError(
            f"outer_optimizer must be a torch optimizer that steps with one gradient, or the name of one of "
            f"{sorted(known)}, got {given!r}"
        )
    return found


class OuterStep:
    """theta moves towards mean(phi): by interpolation, or by an optimiser on the gradient theta - mean(phi).

    An optimiser moves what gradients have a meaning for: parameters, those of target networks and ``log_ent_coef``
    among them. Running statistics and constants become the mean of the runs', since a step along a gradient could
    leave their range (a variance below zero). Integers are the last run's in any case.

    Args:
        model: the learner.
        optimizer_class: None interpolates.
        kwargs: keywords of the optimiser.
        frozen: names of tensors that stay as they are.

    Raises:
        ConfigError: if the optimiser does not take the keywords or the parameters.
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        optimizer_class: type[th.optim.Optimizer] | None,
        kwargs: Mapping[str, Any] | None,
        frozen: Collection[str],
    ) -> None:
        self._frozen = frozenset(frozen)
        self._weights: dict[str, th.Tensor] = {}
        self._optimizer: th.optim.Optimizer | None = None
        if optimizer_class is None:
            return
        self._weights = {
            name: tensor.detach().clone().requires_grad_()
            for name, tensor in live_tensors(model).items()
            if tensor.requires_grad and name not in self._frozen
        }
        try:
            self._optimizer = optimizer_class(list(self._weights.values()), lr=1.0, **copy.deepcopy(dict(kwargs or {})))  # type: ignore[call-arg]
            self._try(optimizer_class, kwargs)
        except Exception as error:  # whatever an optimiser raises, it is the arguments' fault
            raise ConfigError(
                f"outer_optimizer {optimizer_class.__name__} with {dict(kwargs or {})}: {error}"
            ) from error

    def _try(self, optimizer_class: Any, kwargs: Mapping[str, Any] | None) -> None:
        """One step of a throw-away optimiser: some refuse only then (sparse gradients, closures)."""
        weights = [weight.detach().clone().requires_grad_() for weight in self._weights.values()]
        for weight in weights:
            weight.grad = th.zeros_like(weight)
        optimizer_class(weights, lr=1.0, **copy.deepcopy(dict(kwargs or {}))).step()

    def apply(self, theta: LearnerState, mean: LearnerState, rate: float) -> LearnerState:
        """The next meta-parameters; neither argument changes.

        Args:
            theta: where the iteration started.
            mean: the mean of where its runs ended.
            rate: the outer learning rate of this iteration.
        """
        if self._optimizer is None:
            after = theta.copy().lerp_(mean, rate)
        else:
            after = LearnerState({name: tensor.clone() for name, tensor in mean.tensors.items()}, theta.optimizers)
            self._step(self._optimizer, theta, mean, rate)
            for name, weight in self._weights.items():
                after.tensors[name] = weight.detach().clone()
        for name in self._frozen:
            after.tensors[name] = theta.tensors[name].clone()
        return after

    def _step(self, optimizer: th.optim.Optimizer, theta: LearnerState, mean: LearnerState, rate: float) -> None:
        with th.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(theta.tensors[name])
                weight.grad = theta.tensors[name] - mean.tensors[name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    def capture(self) -> Any:
        """What the optimiser remembers, copied, for `restore`."""
        return None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict())

    def restore(self, captured: Any) -> None:
        """Go back to what `capture` returned, once."""
        if self._optimizer is not None:
            self._optimizer.load_state_dict(captured)

    def arrays(self) -> dict[str, Array]:
        """What the optimiser remembers, as arrays."""
        return {} if self._optimizer is None else flatten_moments(_NAME, self._optimizer)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Put back what `arrays` returned.

        Raises:
            CheckpointError: if it belongs to another optimiser.
        """
        if self._optimizer is not None:
            load_moments(_NAME, self._optimizer, arrays)
