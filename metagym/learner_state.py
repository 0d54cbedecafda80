"""What a Stable-Baselines3 learner has learnt, as a value: captured, averaged, put back, written to arrays.

`get_parameters` and `set_parameters` do not suffice. They hand out live references, share optimiser moments with what
they were given, forget ``log_ent_coef`` and the weights of ARS, and list a shared features extractor three times; the
functions here copy, deduplicate and write in place.
"""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import torch as th
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from typing_extensions import Self

from metagym.errors import CheckpointError, ConfigError
from metagym.types import Array

__all__ = [
    "LearnerState",
    "OptimizerMode",
    "average",
    "flatten_moments",
    "flatten_state",
    "generator_state",
    "get_rng_state",
    "live_optimizers",
    "live_tensors",
    "load_moments",
    "load_state",
    "preserved_rng",
    "reset_running_state",
    "restore_tensors",
    "set_generator_state",
    "set_rng_state",
]

OptimizerMode: TypeAlias = Literal["fresh", "snapshot", "keep"]


def _parts(model: BaseAlgorithm) -> tuple[dict[str, th.Tensor], dict[str, th.optim.Optimizer]]:
    """Every tensor that learning changes, once each, and every optimiser; by name, live."""
    names, variables = model._get_torch_save_params()
    if not names:
        raise ConfigError(
            f"{type(model).__name__} keeps no PyTorch parameters; learners of SBX (JAX) are not supported"
        )
    tensors: dict[str, th.Tensor] = {}
    optimizers: dict[str, th.optim.Optimizer] = {}
    seen: set[int] = set()
    for name in names:
        part = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer):
            optimizers[name] = part
            continue
        # A features extractor shared by actor and critic has three names in state_dict(); these iterators give one.
        for kind in (part.named_parameters(), part.named_buffers()):
            for key, tensor in kind:
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    tensors[f"{name}.{key}"] = tensor
    tensors.update({name: recursive_getattr(model, name) for name in variables})
    return tensors, optimizers


def live_tensors(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Every tensor that learning changes, once each, by name: the learner's own, not copies."""
    return _parts(model)[0]


def live_optimizers(model: BaseAlgorithm) -> dict[str, th.optim.Optimizer]:
    """The learner's optimisers, by name."""
    return _parts(model)[1]


def restore_tensors(model: BaseAlgorithm, values: Mapping[str, th.Tensor]) -> None:
    """Put some tensors back into a learner, in place; the others, and the optimisers, stay."""
    live = _parts(model)[0]
    _overwrite(model, {name: live[name] for name in values}, values)


def _overwrite(model: BaseAlgorithm, live: Mapping[str, th.Tensor], values: Mapping[str, th.Tensor]) -> None:
    # In place, and through names resolved just now: TRPO and ARS rebind ``param.data``, and DQN, SAC, TD3 and TQC hold
    # references to their batch-norm statistics.
    with th.no_grad():
        for name, tensor in live.items():
            tensor.copy_(values[name])
    if isinstance(model, ARS):
        # ARS searches around this vector, not around the policy, and neither set_parameters nor load updates it.
        vars(model)["weights"] = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


@dataclass
class LearnerState:
    """An independent copy of what a learner has learnt: nothing in it is shared with the learner.

    Attributes:
        tensors: parameters, buffers (targets and running statistics among them) and variables such as
            ``log_ent_coef``, by name, each once.
        optimizers: state dicts of the optimisers, by name.
    """

    tensors: dict[str, th.Tensor]
    optimizers: dict[str, dict[str, Any]]

    @classmethod
    def capture(cls, model: BaseAlgorithm, *, moments: bool = True) -> Self:
        """Copy the state of any learner of Stable-Baselines3 or its contrib package.

        Args:
            model: the learner.
            moments: copy the optimisers too; without them the state cannot be restored with ``"snapshot"``.

        Raises:
            ConfigError: if the learner is not built on PyTorch (SBX).
        """
        tensors, optimizers = _parts(model)
        return cls(
            {name: tensor.detach().clone() for name, tensor in tensors.items()},
            {name: copy.deepcopy(part.state_dict()) for name, part in optimizers.items()} if moments else {},
        )

    def restore(self, model: BaseAlgorithm, *, optimizer: OptimizerMode = "fresh") -> None:
        """Put the state into a learner of the same architecture, in place.

        Args:
            model: the learner; `self` stays independent of it.
            optimizer: "fresh" forgets all moments, "snapshot" puts back those captured, "keep" leaves them as they are.

        Raises:
            ConfigError: if the learner has other tensors than those captured.
        """
        live, optimizers = _parts(model)
        if live.keys() != self.tensors.keys():
            raise ConfigError(
                f"{type(model).__name__} has other parameters: {sorted(live.keys() ^ self.tensors.keys())}"
            )
        _overwrite(model, live, self.tensors)
        for name, part in optimizers.items():
            if optimizer == "fresh":
                part.state.clear()
            elif optimizer == "snapshot":
                # load_state_dict keeps references to what it is given, and the next step would write into them.
                part.load_state_dict(copy.deepcopy(self.optimizers[name]))

    def copy(self) -> "LearnerState":
        """An independent copy."""
        return LearnerState(
            {name: tensor.clone() for name, tensor in self.tensors.items()}, copy.deepcopy(self.optimizers)
        )

    def lerp_(self, other: "LearnerState", fraction: float) -> Self:
        """Move towards another state: ``self + fraction * (other - self)``, in place.

        Floating-point tensors interpolate; integers (batch counters) are taken from `other`; optimisers stay. What is
        equal in both stays as it is, infinite constants such as masks too.
        """
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(other.tensors[name])
            elif not th.equal(tensor, other.tensors[name]):
                tensor.lerp_(other.tensors[name], fraction)
        return self

    def add_(self, other: "LearnerState") -> Self:
        """Add the floating-point tensors of another state, in place; integers are taken from it; optimisers stay."""
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point():
                tensor.add_(other.tensors[name])
            else:
                tensor.copy_(other.tensors[name])
        return self

    def div_(self, divisor: float) -> Self:
        """Divide the floating-point tensors, in place; integers and optimisers stay."""
        for tensor in self.tensors.values():
            if tensor.is_floating_point():
                tensor.div_(divisor)
        return self


def average(states: list[LearnerState]) -> LearnerState:
    """The mean of the floating-point tensors of one or more states; the rest is the last state's.

    Raises:
        ConfigError: if there are none.
    """
    if not states:
        raise ConfigError("the average of no states was asked for")
    total = states[0].copy()
    for state in states[1:]:
        total.add_(state)
    total.optimizers = copy.deepcopy(states[-1].optimizers)
    return total.div_(len(states))


def flatten_state(model: BaseAlgorithm) -> dict[str, Array]:
    """The learner's state as named arrays, exact, for `metagym.saving.write_archive`.

    Names are ``tensor/<name>``, ``optimizer/<name>/<parameter>/<moment>`` and, for moments that are plain numbers,
    ``number/<name>/<parameter>/<moment>``. Learning rates and the like are not written: they come with the constructor.
    """
    tensors, optimizers = _parts(model)
    arrays = {f"tensor/{name}": _to_numpy(tensor) for name, tensor in tensors.items()}
    for name, optimizer in optimizers.items():
        arrays |= flatten_moments(name, optimizer)
    return arrays


def flatten_moments(name: str, optimizer: th.optim.Optimizer) -> dict[str, Array]:
    """What an optimiser remembers of its steps, as arrays named like those of `flatten_state`."""
    arrays: dict[str, Array] = {}
    for index, moments in optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            if isinstance(value, th.Tensor):
                arrays[f"optimizer/{name}/{index}/{key}"] = _to_numpy(value)
            elif value is not None:
                arrays[f"number/{name}/{index}/{key}"] = np.array(value)
    return arrays


def load_moments(name: str, optimizer: th.optim.Optimizer, arrays: Mapping[str, Array]) -> None:
    """Put back what `flatten_moments` returned; other arrays are ignored.

    Raises:
        CheckpointError: if a moment has no parameter, or another shape.
    """
    _put_moments(optimizer, _read_moments(name, optimizer, arrays))


def _put_moments(optimizer: th.optim.Optimizer, state: Mapping[int, Any]) -> None:
    optimizer.load_state_dict({"state": dict(state), "param_groups": optimizer.state_dict()["param_groups"]})


def load_state(model: BaseAlgorithm, arrays: Mapping[str, Array]) -> None:
    """Put what `flatten_state` returned into a learner of the same architecture, in place.

    Raises:
        CheckpointError: if names or shapes differ from the learner's.
    """
    live, optimizers = _parts(model)
    values = {name.partition("/")[2]: th.tensor(array) for name, array in arrays.items() if name.startswith("tensor/")}
    if live.keys() != values.keys():
        raise CheckpointError(f"the stored learner has other parameters: {sorted(live.keys() ^ values.keys())[:6]}")
    for name, tensor in live.items():
        _check_shape(name, values[name], tensor)
    states = {name: _read_moments(name, optimizer, arrays) for name, optimizer in optimizers.items()}
    _overwrite(model, live, values)
    for name, optimizer in optimizers.items():
        _put_moments(optimizer, states[name])


def _to_numpy(tensor: th.Tensor) -> Array:
    array: Array = tensor.detach().cpu().numpy().copy()
    return array


def _check_shape(name: str, value: th.Tensor, like: th.Tensor) -> None:
    if value.shape != like.shape:
        raise CheckpointError(f"{name} has shape {tuple(like.shape)}, but {tuple(value.shape)} is stored")


def _read_moments(
    name: str, optimizer: th.optim.Optimizer, arrays: Mapping[str, Array]
) -> dict[int, dict[str, th.Tensor | float]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, th.Tensor | float]] = {}
    for path, array in arrays.items():
        kind, _, rest = path.partition("/")
        if kind not in {"optimizer", "number"} or not rest.startswith(f"{name}/"):
            continue
        index, _, key = rest[len(name) + 1 :].partition("/")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise CheckpointError(f"{path}: the optimiser {name} has {len(parameters)} parameters")
        value = th.tensor(array) if kind == "optimizer" else array.item()
        if isinstance(value, th.Tensor) and value.ndim:
            _check_shape(path, value, parameters[int(index)])
        state.setdefault(int(index), {})[key] = value
    return state


def reset_running_state(model: BaseAlgorithm) -> None:
    """Forget what a learner carries from one task to the next besides what it has learnt.

    Empties replay buffers (those of HER too), restarts update counters and with them the phase of delayed updates,
    sets the target networks of DQN and QR-DQN to the online ones, restarts exploration and action noise, and zeroes
    recurrent memories. Call it after the learner's parameters are set.
    """
    _empty_replay_buffer(getattr(model, "replay_buffer", None))
    state = vars(model)
    state.update((counter, 0) for counter in ("_n_updates", "_n_calls") if counter in state)
    for online, target in (("q_net", "q_net_target"), ("quantile_net", "quantile_net_target")):
        if target in state:
            with th.no_grad():
                for part, same in zip(_tensors_of(state[target]), _tensors_of(state[online]), strict=True):
                    part.copy_(same)
    if "exploration_schedule" in state:
        state["exploration_rate"] = state["exploration_schedule"](1.0)
    if model.action_noise is not None:
        model.action_noise.reset()
    # Masked at a run's start by a product with zero, which would not forget what is not finite.
    for tensor in chain.from_iterable(state.get("_last_lstm_states") or ()):
        tensor.zero_()


def _tensors_of(net: th.nn.Module) -> Iterator[th.Tensor]:
    return chain(net.parameters(), net.buffers())


def _empty_replay_buffer(buffer: BaseBuffer | None) -> None:
    if buffer is None:
        return
    buffer.reset()
    if isinstance(buffer, HerReplayBuffer):
        # HER samples wherever an episode has a length, whatever the position that reset() set back.
        for array in (buffer.ep_length, buffer.ep_start, buffer._current_ep_start):
            array.fill(0)


def get_rng_state() -> dict[str, Array]:
    """The process's random states (python, numpy, torch, and CUDA where it is in use), as arrays."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the stream that SB3 draws from)
    arrays: dict[str, Array] = {
        "python": np.array(words, np.uint32),
        "python_gauss": np.array([] if gauss is None else [gauss], np.float64),
        "numpy": np.array(keys, np.uint32),
        "numpy_position": np.array([position, has_gauss], np.int64),
        "numpy_gauss": np.array([cached], np.float64),
        "torch": th.get_rng_state().numpy().copy(),
    }
    if th.cuda.is_available() and th.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index, state in enumerate(th.cuda.get_rng_state_all()):
            arrays[f"cuda_{index}"] = state.numpy().copy()
    return arrays


def set_rng_state(arrays: Mapping[str, Array]) -> None:
    """Set the process's random states to what `get_rng_state` returned. CUDA's are set where there are as many.

    Raises:
        CheckpointError: if the arrays are not such a state; the python and numpy streams may have changed then.
    """
    try:
        gauss = arrays["python_gauss"].tolist()
        random.setstate((3, tuple(arrays["python"].tolist()), gauss[0] if gauss else None))
        position, has_gauss = arrays["numpy_position"].tolist()
        state = ("MT19937", arrays["numpy"], position, has_gauss, float(arrays["numpy_gauss"][0]))
        np.random.set_state(state)  # noqa: NPY002 (the stream that SB3 draws from)
        th.set_rng_state(th.tensor(arrays["torch"]))
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"the stored random states cannot be restored: {error!r}") from error
    cuda = [name for name in arrays if name.startswith("cuda_")]
    if cuda and th.cuda.is_available() and th.cuda.device_count() == len(cuda):
        th.cuda.set_rng_state_all([th.tensor(arrays[f"cuda_{index}"]) for index in range(len(cuda))])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the process's random states back at the end of the block, whatever is drawn or seeded inside."""
    before = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(before)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a PCG64 generator, as Gymnasium's spaces and envs hold one, as JSON-able numbers.

    Raises:
        ConfigError: if it is of another kind.
    """
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ConfigError(f"only PCG64 generators can be saved, got {state['bit_generator']}")
    return copy.deepcopy(dict(state))


def set_generator_state(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Set a PCG64 generator to what `generator_state` returned.

    Raises:
        CheckpointError: if the state is malformed.
    """
    try:
        generator.bit_generator.state = dict(state)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"the stored state of a generator cannot be restored: {error!r}") from error
