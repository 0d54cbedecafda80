"""The policies of many learners as one: parameters of SB3's MLP policy, one copy a task, and batched products."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import nn

from metagym.errors import ConfigError
from metagym.types import Array

__all__ = ["ELEMENTWISE", "PREFIX", "StackedPolicy", "require_mlp"]

PREFIX = "policy."
Activation: TypeAlias = Callable[[th.Tensor], th.Tensor]

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Tanhshrink,
)  # fmt: skip
"""Activations that look at one number at a time, learn nothing and draw nothing."""


class _Layer(NamedTuple):
    """A linear layer by the names of its parameters, and what follows it."""

    weight: str
    bias: str
    activations: tuple[Activation, ...]


def require_mlp(policy: Any) -> None:
    """Refuse policies other than SB3's default for vectors of numbers.

    Raises:
        ConfigError: if the policy is of another class, or a part of it is.
    """
    if type(policy) is not ActorCriticPolicy:
        raise ConfigError(f"batched=True needs SB3's MlpPolicy (ActorCriticPolicy itself), got {type(policy).__name__}")
    parts = {type(policy.pi_features_extractor).__name__, type(policy.vf_features_extractor).__name__}
    if parts != {"FlattenExtractor"}:
        raise ConfigError(f"batched=True needs the features extractor FlattenExtractor, got {sorted(parts)}")
    for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        for module in net:
            if type(module) is not nn.Linear and type(module) not in ELEMENTWISE:
                raise ConfigError(
                    f"batched=True does not know the activation {type(module).__name__}; it knows "
                    f"{[kind.__name__ for kind in ELEMENTWISE]}"
                )


class StackedPolicy:
    """SB3's MLP policy for K tasks at once, each with parameters of its own.

    All parameters of a task are one row of a matrix, so that optimisers and norms take them in one pass; layers are
    views of its columns.

    Args:
        policy: the policy whose architecture this has.
        num_tasks: K.
        frozen: names of parameters (with ``policy.`` before them) that get no gradient.

    Attributes:
        flat: the parameters, (K, P).
        gradient: theirs, (K, P); `backward` fills it.
        places: columns and shape of each parameter, by its name with ``policy.`` before it, in SB3's order.
        log_std: logarithms of the standard deviations of Gaussian actions, (K, A), or None.
    """

    def __init__(self, policy: ActorCriticPolicy, num_tasks: int, frozen: Collection[str] = ()) -> None:
        named = {f"{PREFIX}{name}": parameter for name, parameter in policy.named_parameters()}
        self.places: dict[str, tuple[slice, th.Size]] = {}
        end = 0
        for name, parameter in named.items():
            self.places[name] = slice(end, end + parameter.numel()), parameter.shape
            end += parameter.numel()
        self.flat = th.empty(num_tasks, end, dtype=next(iter(named.values())).dtype)
        self.gradient = th.zeros_like(self.flat)
        self._views: dict[str, th.Tensor] = {}
        self._learning: list[tuple[th.Tensor, th.Tensor]] = []
        self._held: list[slice] = []
        for name, (columns, shape) in self.places.items():
            view = self.flat[:, columns].view(num_tasks, *shape).detach()
            self._views[name] = view
            if name in frozen:
                self._held.append(columns)
                continue
            view.requires_grad_()
            self._learning.append((view, self.gradient[:, columns].view(view.shape)))
        self._actor = _layers("mlp_extractor.policy_net", policy.mlp_extractor.policy_net, "action_net")
        self._critic = _layers("mlp_extractor.value_net", policy.mlp_extractor.value_net, "value_net")
        self.log_std = self._views.get(f"{PREFIX}log_std")
        self._space, self._normalize_images = policy.observation_space, policy.normalize_images

    def load(self, tensors: Mapping[str, th.Tensor]) -> None:
        """Start every task from the same parameters, named as in `LearnerState`."""
        for name, view in self._views.items():
            view.detach().copy_(tensors[name])

    def tensors_of(self, task: int) -> dict[str, th.Tensor]:
        """Copies of the parameters of one task, named as in `LearnerState`."""
        return {name: view[task].detach().clone() for name, view in self._views.items()}

    def features(self, observations: Array) -> th.Tensor:
        """What the networks see of observations (..., *shape): (..., D)."""
        shape = self._space.shape or ()
        leading = observations.shape[: observations.ndim - len(shape)]
        rows = th.as_tensor(observations.reshape(-1, *shape))
        seen = preprocess_obs(rows, self._space, normalize_images=self._normalize_images)
        assert isinstance(seen, th.Tensor)
        return seen.reshape(*leading, -1).to(self.flat.dtype)

    def actor(self, features: th.Tensor) -> th.Tensor:
        """Logits or means of actions, (K, B, A), for features (K, B, D)."""
        return self._forward(self._actor, features)

    def critic(self, features: th.Tensor) -> th.Tensor:
        """Values, (K, B), for features (K, B, D)."""
        return self._forward(self._critic, features).squeeze(-1)

    def _forward(self, layers: list[_Layer], signal: th.Tensor) -> th.Tensor:
        for layer in layers:
            weight, bias = self._views[layer.weight], self._views[layer.bias]
            signal = th.baddbmm(bias.unsqueeze(1), signal, weight.transpose(1, 2))
            for activation in layer.activations:
                signal = activation(signal)
        return signal

    def backward(self, losses: th.Tensor) -> None:
        """Fill `gradient` from losses (K,): each is a function of its own task's parameters alone."""
        found = th.autograd.grad(losses.sum(), [view for view, _ in self._learning], materialize_grads=True)
        for (_, slot), value in zip(self._learning, found, strict=True):
            slot.copy_(value)

    def clip_gradient(self, max_norm: float) -> None:
        """Scale each task's gradient down to a norm, as ``clip_grad_norm_`` does for one."""
        norm = th.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
        self.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))

    def held_columns(self) -> list[slice]:
        """Columns of `flat` that are frozen."""
        return self._held


def _layers(prefix: str, net: nn.Sequential, head: str) -> list[_Layer]:
    """The layers of a network and of the linear layer on top of it."""
    layers: list[_Layer] = []
    for index, module in enumerate(net):
        if isinstance(module, nn.Linear):
            layers.append(_Layer(f"{PREFIX}{prefix}.{index}.weight", f"{PREFIX}{prefix}.{index}.bias", ()))
        else:
            layers[-1] = layers[-1]._replace(activations=(*layers[-1].activations, module))
    return [*layers, _Layer(f"{PREFIX}{head}.weight", f"{PREFIX}{head}.bias", ())]
