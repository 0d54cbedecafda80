"""SB3's actor-critic policies as functions of their parameters, for K tasks at once.

Parameters are dicts of tensors (K, ...), one copy a task, named as in ``policy.named_parameters()``. What is computed
from them can be differentiated as often as needed, and the policy itself stays as it is. SB3's MLP policies become
batched matrix products; all others (images, dicts of observations, extractors of one's own) go through
``torch.func.functional_call`` under ``vmap``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from metagym.algos.batched_policy import ELEMENTWISE
from metagym.algos.maml_actions import Heads
from metagym.algos.maml_mlp import Layer, MlpPass, affine
from metagym.errors import ConfigError

__all__ = [
    "LOG_STD", "ActorPass", "MlpFunction", "Parameters", "PolicyFunction", "Seen", "VmapFunction", "policy_function",
    "require_functional", "stacked",
]  # fmt: skip

Parameters: TypeAlias = Mapping[str, th.Tensor]
Seen: TypeAlias = th.Tensor | dict[str, th.Tensor]
"""Preprocessed observations: (K, B, ...), or a dict of those."""

_OWN = ("forward", "get_distribution", "evaluate_actions", "predict_values", "_get_action_dist_from_latent")
LOG_STD = "log_std"


def stacked(parameters: Parameters, num_tasks: int) -> dict[str, th.Tensor]:
    """The same parameters for each of K tasks, (K, ...); gradients of the copies add up."""
    return {name: tensor.expand(num_tasks, *tensor.shape) for name, tensor in parameters.items()}


def require_functional(policy: Any) -> None:
    """Refuse policies that are not a function of an observation and of parameters alone.

    Raises:
        ConfigError: if the policy is of such a kind; it says which part is in the way.
    """
    name = type(policy).__name__
    recurrent = [type(part).__name__ for part in policy.modules() if isinstance(part, nn.RNNBase)]
    if recurrent:
        raise ConfigError(f"{name} is recurrent ({recurrent[0]}), which vmap cannot batch: use RL2 for policies with "
                          "a memory")  # fmt: skip
    if not isinstance(policy, ActorCriticPolicy) or isinstance(policy, MaskableActorCriticPolicy):
        raise ConfigError(f"gradient meta-learners need an ActorCriticPolicy of Stable-Baselines3, got {name}")
    own = [method for method in _OWN if getattr(type(policy), method) is not getattr(ActorCriticPolicy, method)]
    if own:
        raise ConfigError(f"{name} has a {own[0]} of its own, which is not known: write it as features extractor or "
                          "mlp_extractor instead")  # fmt: skip
    norms = [path for path, part in policy.named_modules() if isinstance(part, _BatchNorm)]
    if norms:
        raise ConfigError(
            f"{name} has batch normalisation ({norms[0]}), whose running statistics tasks would share: use LayerNorm"
        )
    if policy.use_sde:
        raise ConfigError("use_sde=True draws its noise inside the policy, which vmap cannot batch: use use_sde=False")


def policy_function(policy: BasePolicy) -> "PolicyFunction":
    """The fastest function that computes what a policy does.

    Raises:
        ConfigError: if the policy cannot be made a function.
    """
    require_functional(policy)
    assert isinstance(policy, ActorCriticPolicy)
    return MlpFunction(policy) if _is_plain_mlp(policy) else VmapFunction(policy)


class PolicyFunction(ABC):
    """What a policy computes, as a function of parameters and observations.

    Args:
        policy: whose architecture this has; its tensors are where parameters that are not given are taken from.

    Attributes:
        policy: the policy.
        actor_names: parameters that actions depend on.
        critic_names: parameters that values depend on and actions do not.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        named = dict(policy.named_parameters())
        seen = self.read(_zeros(policy.observation_space))
        heads = self.actor(stacked(named, 1), seen)
        acting = _used(heads.outputs, named)
        if heads.log_std is not None:
            acting |= {LOG_STD}
        valuing = _used(self.critic(stacked(named, 1), seen), named)
        self.actor_names = tuple(name for name in named if name in acting)
        self.critic_names = tuple(name for name in named if name in valuing - acting)

    @property
    def dtype(self) -> th.dtype:
        """Of the parameters."""
        return next(self.policy.parameters()).dtype

    def parameters(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """The policy's own parameters of these names, live."""
        named = dict(self.policy.named_parameters())
        return {name: named[name] for name in names}

    def read(self, observations: Any) -> Seen:
        """What the networks are shown of observations (K, B, ...), as arrays or tensors."""
        space = self.policy.observation_space
        if isinstance(space, spaces.Dict):
            return {key: self._read(observations[key], part) for key, part in space.spaces.items()}
        return self._read(observations, space)

    def _read(self, observations: Any, space: spaces.Space[Any]) -> th.Tensor:
        shape = space.shape or ()
        given = th.as_tensor(observations, device=self.policy.device)
        leading = given.shape[: given.ndim - len(shape)]
        rows = preprocess_obs(given.reshape(-1, *shape), space, normalize_images=self.policy.normalize_images)
        assert isinstance(rows, th.Tensor)
        return rows.reshape(*leading, *rows.shape[1:]).to(self.dtype)

    @abstractmethod
    def actor(self, parameters: Parameters, seen: Seen) -> Heads:
        """What K policies say of their actions for observations (K, B, ...)."""

    @abstractmethod
    def critic(self, parameters: Parameters, seen: Seen) -> th.Tensor:
        """Values, (K, B)."""

    def _log_std(self, parameters: Parameters) -> th.Tensor | None:
        given = parameters.get(LOG_STD, getattr(self.policy, LOG_STD, None))
        # A policy's own is one for all tasks.
        return None if given is None else given.reshape(-1, 1, given.shape[-1])


class VmapFunction(PolicyFunction):
    """Any `ActorCriticPolicy`, through ``functional_call`` under ``vmap``."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._parts = _Parts(policy)
        super().__init__(policy)

    @override
    def actor(self, parameters: Parameters, seen: Seen) -> Heads:
        return Heads(self._call("actor", parameters, seen), self._log_std(parameters))

    @override
    def critic(self, parameters: Parameters, seen: Seen) -> th.Tensor:
        return self._call("critic", parameters, seen).squeeze(-1)

    def _call(self, part: str, parameters: Parameters, seen: Seen) -> th.Tensor:
        named = {f"policy.{name}": tensor for name, tensor in parameters.items() if name != LOG_STD}

        def one(own: Parameters, observations: Seen) -> th.Tensor:
            # With weights tied, an extractor that actor and critic share would keep the tensors of this call.
            result: th.Tensor = functional_call(self._parts, dict(own), (part, observations), tie_weights=False)
            return result

        results: th.Tensor = th.vmap(one)(named, seen)
        return results


class _Parts(nn.Module):
    """Dispatches, since ``functional_call`` only calls ``forward``."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    @override
    def forward(self, part: str, seen: Seen) -> th.Tensor:
        """Outputs of the actor, (B, A), or values, (B, 1), for preprocessed observations."""
        policy = self.policy
        if part == "actor":
            acting: th.Tensor = policy.action_net(
                policy.mlp_extractor.forward_actor(policy.pi_features_extractor(seen))
            )
            return acting
        values: th.Tensor = policy.value_net(policy.mlp_extractor.forward_critic(policy.vf_features_extractor(seen)))
        return values


class MlpFunction(PolicyFunction):
    """SB3's MLP policy: one batched matrix product a layer.

    Attributes:
        all_learn: whether no parameter that actions depend on is frozen.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        nets = policy.mlp_extractor
        self._actor = _layers("mlp_extractor.policy_net", nets.policy_net, "action_net")
        self._critic = _layers("mlp_extractor.value_net", nets.value_net, "value_net")
        super().__init__(policy)
        used = {name for layer in self._actor for name in (layer.weight, layer.bias)}
        self.all_learn = used | ({LOG_STD} if hasattr(policy, LOG_STD) else set()) == set(self.actor_names)

    @override
    def actor(self, parameters: Parameters, seen: Seen) -> Heads:
        return Heads(self._through(self._actor, parameters, seen), self._log_std(parameters))

    @override
    def critic(self, parameters: Parameters, seen: Seen) -> th.Tensor:
        return self._through(self._critic, parameters, seen).squeeze(-1)

    def passed(self, parameters: Parameters, seen: Seen) -> MlpPass:
        """The actor's forward pass, with derivatives by hand."""
        assert isinstance(seen, th.Tensor)
        return MlpPass(self._actor, parameters, seen.flatten(2))

    def _through(self, layers: Sequence[Layer], parameters: Parameters, seen: Seen) -> th.Tensor:
        assert isinstance(seen, th.Tensor)
        signal = seen.flatten(2)
        for layer in layers:
            weight, bias = (self._of(parameters, name, len(signal)) for name in (layer.weight, layer.bias))
            signal = affine(signal, weight, bias)
            if layer.activation is not None:
                signal = layer.activation(signal)
        return signal

    def _of(self, parameters: Parameters, name: str, num_tasks: int) -> th.Tensor:
        if name in parameters:
            return parameters[name]
        own = self.policy.get_parameter(name)
        return own.expand(num_tasks, *own.shape)


class ActorPass:
    """What K policies say of their actions, by their parameters, with derivatives by hand; see `MlpPass`.

    Args:
        function: what the policies compute.
        parameters: (K, ...) by name, without a graph.
        seen: what they are shown, (K, B, ...).

    Attributes:
        numbers: outputs, and logarithms of standard deviations if there are any.
    """

    def __init__(self, function: MlpFunction, parameters: Parameters, seen: Seen) -> None:
        self._with_std = LOG_STD in parameters
        self._pass = function.passed(parameters, seen)
        self.numbers = [self._pass.outputs] + ([parameters[LOG_STD].unsqueeze(1)] if self._with_std else [])

    def prepare(self) -> None:
        """Compute what makes many derivatives faster."""
        self._pass.prepare()

    def forward(self, moves: Parameters) -> list[th.Tensor]:
        """How the numbers move when parameters do."""
        return [self._pass.forward(moves)] + ([moves[LOG_STD].unsqueeze(1)] if self._with_std else [])

    def backward(self, pulls: Sequence[th.Tensor], *, keep: bool = False) -> dict[str, th.Tensor]:
        """The gradient of the sum of ``numbers * pulls``; `keep` what it took for `bent`."""
        return self._named(self._pass.backward(pulls[0], keep=keep), pulls)

    def bent(self, moves: Parameters, turned: Sequence[th.Tensor]) -> dict[str, th.Tensor]:
        """How the gradient that was kept moves when parameters do, as they did in the last `forward`."""
        return self._named(self._pass.bent(moves, turned[0]), turned)

    def _named(self, gradient: dict[str, th.Tensor], pulls: Sequence[th.Tensor]) -> dict[str, th.Tensor]:
        return gradient | ({LOG_STD: pulls[1].squeeze(1)} if self._with_std else {})


def _layers(prefix: str, net: nn.Sequential, head: str) -> list[Layer]:
    """Linear layers and what follows each, as SB3 makes them."""
    inner = [
        Layer(f"{prefix}.{place}.weight", f"{prefix}.{place}.bias", net[place + 1]) for place in range(0, len(net), 2)
    ]
    return [*inner, Layer(f"{head}.weight", f"{head}.bias", None)]


def _is_plain_mlp(policy: ActorCriticPolicy) -> bool:
    extractors, nets = {type(policy.pi_features_extractor), type(policy.vf_features_extractor)}, policy.mlp_extractor
    if extractors != {FlattenExtractor} or type(nets) is not MlpExtractor:
        return False
    modules = [*nets.policy_net, *nets.value_net]
    linear, others = modules[::2], modules[1::2]
    return all(type(layer) is nn.Linear and layer.bias is not None for layer in linear) and all(
        type(other) in ELEMENTWISE for other in others
    )


def _zeros(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.spaces.items()}
    return th.zeros(1, 1, *(space.shape or ()), dtype=th.int64 if isinstance(space, spaces.Discrete) else th.float32)


def _used(result: th.Tensor, named: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of the parameters that a result depends on."""
    learning = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    found = th.autograd.grad(result.sum(), list(learning.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(learning, found, strict=True) if gradient is not None}
