"""Aggregating learners: several models of Stable-Baselines3 become one by averaging what they have learnt.

Weighted means of everything that learning changes: weights, ``log_std``, target networks, ``log_ent_coef`` (a mean of
logarithms: the geometric mean of the coefficients), the running statistics of batch norm (each by itself, as FedAvg
does), the weights of ARS. Integers (batch counters) become the largest. Optimisers start without moments.

FedAvg (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", Algorithm 1)
averages with weights in proportion to the data that each model was trained on: ``weights="steps"``.
"""

import io
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from metagym.errors import ConfigError
from metagym.learner_state import LearnerState, preserved_rng
from metagym.types import Float

__all__ = ["average", "interpolate", "merge_into"]

Model = TypeVar("Model", bound=BaseAlgorithm)
Weights = Sequence[float] | Literal["steps"] | None


def average(models: Sequence[Model], *, weights: Weights = None, env: Any = None) -> Model:
    """A new learner whose parameters are the weighted mean of others'.

    The mean is taken in double precision, so that the mean of equal learners is bit-identical to each. The new
    learner has the class and hyperparameters of the first, fresh optimisers, an empty replay buffer, and the sum of
    the others' ``num_timesteps``. The models do not change, nor do the process's random states.

    Args:
        models: one or more learners of SB3 or its contrib package, of equal architecture.
        weights: one number for each, not negative; they are divided by their sum. None: equal ones. "steps": their
            ``num_timesteps``.
        env: what the new learner shall have as its env; none by default.

    Raises:
        ConfigError: if there are no models, one of them is of another architecture (the message names the first
            tensor that differs), or the weights are not as many, negative, or sum to 0.
    """
    learners = [_learner_of(model, index) for index, model in enumerate(models)]
    states = _compatible_states(learners)
    mean = _mean(states, _shares(learners, weights))
    merged: Model = _copy(learners[0], env)
    mean.restore(merged, optimizer="fresh")
    merged.num_timesteps = sum(learner.num_timesteps for learner in learners)
    return merged


def interpolate(first: Model, second: Model, fraction: float = 0.5, *, env: Any = None) -> Model:
    """The pairwise average: a new learner at ``(1 - fraction) * first + fraction * second``.

    Args:
        first: where fraction 0 is; the new learner has its class and hyperparameters.
        second: where fraction 1 is.
        fraction: in [0, 1].
        env: what the new learner shall have as its env; none by default.

    Raises:
        ConfigError: if `fraction` is out of range or the architectures differ.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"fraction must be in [0, 1], got {fraction!r}")
    return average([first, second], weights=[1.0 - fraction, fraction], env=env)


def merge_into(
    learner: Any, models: Sequence[BaseAlgorithm], *, weights: Weights = None, step_size: float = 1.0
) -> None:
    """Move a learner towards the average of others, in place: experts back into the initialisation they came from.

    With the experts that ``adapt`` of a meta-learner returned, this is one outer step of Reptile, or one round of
    FedAvg. Optimiser moments of `learner` stay.

    Args:
        learner: a learner of SB3, or a meta-learner with such a one inside (`Reptile`, `JointTraining`).
        models: as for `average`.
        weights: likewise.
        step_size: 1 goes all the way, 0 nowhere.

    Raises:
        ConfigError: as in `average`, or if `step_size` is no finite number.
    """
    if not np.isfinite(step_size):
        raise ConfigError(f"step_size must be a finite number, got {step_size!r}")
    inner = getattr(learner, "learner", learner)
    learners = [_learner_of(model, index) for index, model in enumerate(models)]
    states = _compatible_states([inner, *learners])
    mean = _mean(states[1:], _shares(learners, weights))
    states[0].lerp_(mean, step_size).restore(inner, optimizer="keep")


def _learner_of(model: Any, index: int) -> BaseAlgorithm:
    if not isinstance(model, BaseAlgorithm) or type(model).__module__.partition(".")[0] == "metagym":
        raise ConfigError(
            f"models[{index}] is a {type(model).__name__}; plain learners of Stable-Baselines3 can be averaged, such "
            "as adapt returns them"
        )
    return model


def _shares(learners: Sequence[BaseAlgorithm], weights: Weights) -> Float:
    """Weights that sum to 1, (M,)."""
    if weights is None:
        numbers = np.ones(len(learners))
    elif isinstance(weights, str):
        if weights != "steps":
            raise ConfigError(f"weights must be numbers, 'steps' or None, got {weights!r}")
        numbers = np.array([learner.num_timesteps for learner in learners], np.float64)
    else:
        numbers = np.asarray(weights, np.float64)
    if numbers.shape != (len(learners),):
        raise ConfigError(f"weights must be one number for each of {len(learners)} models, got {weights!r}")
    if not (np.isfinite(numbers).all() and (numbers >= 0.0).all() and numbers.sum() > 0.0):
        raise ConfigError(f"weights must be finite, not negative, and not all 0, got {numbers.tolist()}")
    shares: Float = numbers / numbers.sum()
    return shares


def _compatible_states(learners: Sequence[BaseAlgorithm]) -> list[LearnerState]:
    if not learners:
        raise ConfigError("the average of no models was asked for")
    states = [LearnerState.capture(learner) for learner in learners]
    first = learners[0]
    for index, (learner, state) in enumerate(zip(learners, states, strict=True)):
        for space in ("observation_space", "action_space"):
            if getattr(learner, space) != getattr(first, space):
                raise ConfigError(
                    f"{type(learner).__name__} {index} has {space} {getattr(learner, space)}, the first has "
                    f"{getattr(first, space)}"
                )
        _check_tensors(f"{type(learner).__name__} {index}", state, states[0])
    return states


def _check_tensors(name: str, state: LearnerState, first: LearnerState) -> None:
    if unshared := sorted(state.tensors.keys() ^ first.tensors.keys()):
        where = "has a tensor" if unshared[0] in state.tensors else "has no tensor"
        raise ConfigError(f"{name} is of another architecture: it {where} {unshared[0]!r}, unlike the first")
    for key, tensor in state.tensors.items():
        like = first.tensors[key]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise ConfigError(
                f"{name} is of another architecture: its {key} is {tensor.dtype} {tuple(tensor.shape)}, the first's "
                f"{like.dtype} {tuple(like.shape)}"
            )


def _mean(states: Sequence[LearnerState], shares: Float) -> LearnerState:
    mean = states[0].copy()
    for name, tensor in mean.tensors.items():
        parts = [state.tensors[name].to(tensor.device) for state in states]
        if tensor.is_floating_point():
            total = th.zeros_like(tensor, dtype=th.float64)
            for part, share in zip(parts, shares.tolist(), strict=True):
                total += part.double() * share
            tensor.copy_(total)
        else:
            tensor.copy_(th.stack(parts).amax(dim=0))
    return mean


def _copy(learner: Any, env: Any) -> Any:
    """A new learner with the hyperparameters of another, made as SB3 makes one from a file."""
    file = io.BytesIO()
    learner.save(file)
    file.seek(0)
    with preserved_rng():  # setting up seeds the process's random states
        return type(learner).load(file, env=env, device=learner.device)
