"""An SB3 actor-critic policy whose memory spans a trial."""

from typing import Any, TypeGuard

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.distributions import Categorical
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.chunks import evaluate_in_chunks
from metagym.nets.encoder import encoder_class_of
from metagym.nets.episodes import check_later_entropy, in_later_episodes
from metagym.nets.recurrent import PackedTrials, RNNState, TrialRNN
from metagym.types import Array

__all__ = ["TrialActorCriticPolicy", "by_arm"]


class TrialActorCriticPolicy(ActorCriticPolicy):
    """Features, then a recurrent network over the trial, then actor and critic heads (Duan et al. 2016).

    Whole trials are read by one fused call (`evaluate_actions` on `PackedTrials`); a rollout goes a step at a time
    (`step`). Plain observations, which the inherited methods accept too, stand for the first steps of as many trials.

    A *privileged critic* also reads the task, in training only: the actor and `predict` never see it.

    Args:
        observation_space: what is observed, as `RL2Context` emits it: a flat Box, or a Dict.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        lr_schedule: learning rate by the fraction of training that remains.
        net_arch: layers between the memory and the heads, in SB3's format; none by default.
        rnn_type: "gru" or "lstm".
        rnn_hidden_size: width of the memory.
        n_rnn_layers: stacked recurrent layers.
        critic_task_size: P, numbers by which a privileged critic is told the task; 0: it is not.
        memory_steps: at first the units of the memory keep what they read for 1 to so many steps (Tallec and Ollivier
            2018): about the steps of a trial, where these are many. None: for two or three.
        chunk_steps: `evaluate_actions` keeps in memory what the gradient of about so many steps needs (of a trial, if
            a single one has more) and evaluates trials again, a group at a time, when gradients are due; results are
            the same up to rounding, for one more forward pass. None: all at once. It bounds the memory of PPO and A2C
            where trials are long and minibatches large; TRPO needs whole minibatches all the same.
        later_entropy: weight of entropies in a trial's second and later episodes, where the first one's is 1. Less
            lets later episodes become good at using what was found while the first still tries ways to find it, and
            so tells these apart by what they are worth. It needs the observations of `RL2Context`.
        features_extractor_class: what reads one observation, before the memory; default: SB3's ``CombinedExtractor``
            for a Dict, ``NatureCNN`` for an image, ``FlattenExtractor`` else.
        **kwargs: those of ``ActorCriticPolicy``. With ``share_features_extractor=False`` the critic has an
            extractor and a memory of its own.

    Raises:
        ConfigError: for an unknown ``rnn_type``, or sizes out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        rnn_type: str = "gru",
        rnn_hidden_size: int = 64,
        n_rnn_layers: int = 1,
        critic_task_size: int = 0,
        memory_steps: int | None = None,
        chunk_steps: int | None = None,
        later_entropy: float = 1.0,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        if critic_task_size < 0:
            raise ConfigError(f"critic_task_size is at least 0, not {critic_task_size}.")
        if chunk_steps is not None:
            _check_steps(chunk_steps)
        self.chunk_steps = chunk_steps
        self.later_entropy = check_later_entropy(later_entropy, observation_space)
        self.rnn_type = rnn_type
        self.rnn_hidden_size = rnn_hidden_size
        self.n_rnn_layers = n_rnn_layers
        self.memory_steps = memory_steps
        self.critic_task_size = critic_task_size
        net_arch = [] if net_arch is None else net_arch
        kwargs["features_extractor_class"] = features_extractor_class or encoder_class_of(observation_space)
        super().__init__(observation_space, action_space, lr_schedule, net_arch, **kwargs)

    def zero_state(self, n_rows: int) -> RNNState:
        """The memory before a trial's first step: each part (layers of actor and critic, N, H)."""
        states = [memory.zero_state(n_rows) for memory in self._memories]
        return tuple(th.cat(parts) for parts in zip(*states, strict=True))

    def step(
        self,
        obs: PyTorchObs,
        state: RNNState,
        episode_starts: th.Tensor | None = None,
        *,
        tasks: th.Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNState]:
        """Act in N rows, one step further in each one's trial.

        Args:
            obs: observations, (N, D), or a dict of (N, ...).
            state: the memory before them.
            episode_starts: 1 where a trial starts, whose memory is then zero, (N,); None: nowhere.
            tasks: what a privileged critic is told of the tasks, (N, P); None: zeros.
            deterministic: the most probable action instead of a sampled one.

        Returns:
            Actions (N, ...), values (N,), log-probabilities (N,) and the memory after the step.
        """
        outputs, state = self._remember(obs, state, episode_starts)
        distribution = self._act(outputs)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        values = self._values(outputs, tasks).flatten()
        return actions.reshape((-1, *(self.action_space.shape or ()))), values, log_prob, state

    def value(self, obs: PyTorchObs, state: RNNState, tasks: th.Tensor | None = None) -> th.Tensor:
        """Values (N,) of observations (N, D) reached with the memory `state`."""
        return self._values(self._remember(obs, state, None)[0], tasks).flatten()

    @override
    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        state = self.zero_state(_num_rows(obs))
        actions, values, log_prob, _ = self.step(obs, state, deterministic=deterministic)
        return actions, values.unsqueeze(1), log_prob

    @override
    def evaluate_actions(
        self, obs: PyTorchObs | PackedTrials, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        trials = _packed(obs)
        if self.chunk_steps is None:
            return self._evaluate(trials, actions)
        return evaluate_in_chunks(self._evaluate, trials, actions, self.chunk_steps, self.parameters())

    def _evaluate(self, trials: PackedTrials, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        outputs = self._outputs(trials, self._memories)
        distribution = self._act(outputs)
        entropy = distribution.entropy()
        if entropy is not None and self.later_entropy != 1.0:
            entropy = th.where(in_later_episodes(trials), self.later_entropy * entropy, entropy)
        return self._values(outputs, trials.tasks), distribution.log_prob(actions), entropy

    @override
    def get_distribution(self, obs: PyTorchObs | PackedTrials) -> Distribution:
        return self._act(self._outputs(_packed(obs), self._memories[:1]))

    @override
    def predict_values(self, obs: PyTorchObs | PackedTrials) -> th.Tensor:
        trials = _packed(obs)
        return self._values(self._outputs(trials, self._memories[-1:]), trials.tasks)

    @override
    def predict(
        self,
        observation: Array | dict[str, Array],
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Actions for observations of one env or of N, with the memory passed along.

        Args:
            observation: (D,) or (N, D); a dict of those for Dict spaces.
            state: what the previous call returned; None: every trial starts here.
            episode_start: True where a trial starts, (N,), whose memory is then zero.
            deterministic: the most probable action instead of a sampled one.

        Returns:
            Actions and the memory after the step, each part (layers, N, H).
        """
        self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        n_rows = _num_rows(obs)
        memory = self.zero_state(n_rows) if state is None else self._to_state(state)
        starts = None if episode_start is None else th.as_tensor(np.asarray(episode_start), device=self.device)
        with th.no_grad():
            outputs, memory = self._remember(obs, memory, starts)
            chosen = self._act(outputs).get_actions(deterministic=deterministic)
        actions = self._to_env(chosen.cpu().numpy().reshape((-1, *(self.action_space.shape or ()))))
        after = tuple(part.cpu().numpy() for part in memory)
        return (actions if vectorized else actions.squeeze(axis=0)), after

    def _to_env(self, actions: Array) -> Array:
        """Bring sampled actions (N, ...) into the action space, as SB3 does."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.squash_output:
            return self.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    @property
    def _memories(self) -> tuple[TrialRNN, ...]:
        return (self.rnn,) if self.share_features_extractor else (self.rnn, self.vf_rnn)

    def _to_state(self, state: tuple[Array, ...]) -> RNNState:
        return tuple(th.as_tensor(part, dtype=th.float32, device=self.device) for part in state)

    def _features(self, obs: PyTorchObs) -> tuple[th.Tensor, ...]:
        features = self.extract_features(obs)
        return features if isinstance(features, tuple) else (features,)

    def _act(self, outputs: list[th.Tensor]) -> Distribution:
        return self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(outputs[0]))

    def _values(self, outputs: list[th.Tensor], tasks: th.Tensor | None) -> th.Tensor:
        read = outputs[-1]
        if self.critic_task_size:
            read = self.task_reader(th.cat([read, self._told(read, tasks)], dim=1))
        values: th.Tensor = self.value_net(self.mlp_extractor.forward_critic(read))
        return values

    def _told(self, read: th.Tensor, tasks: th.Tensor | None) -> th.Tensor:
        """What a privileged critic is told where it reads (n, ...), (n, P); zeros where nobody tells."""
        return read.new_zeros(len(read), self.critic_task_size) if tasks is None else tasks

    def _outputs(self, trials: PackedTrials, memories: tuple[TrialRNN, ...]) -> list[th.Tensor]:
        """What some of the memories make of whole trials, (n, H) each."""
        if self.share_features_extractor or len(memories) == 2:
            features = self._features(trials.data)
        else:
            extractor = self.pi_features_extractor if memories[0] is self.rnn else self.vf_features_extractor
            features = (super(ActorCriticPolicy, self).extract_features(trials.data, extractor),)
        sizes = trials.batch_sizes
        return [memory(PackedTrials(read, sizes)) for memory, read in zip(memories, features, strict=True)]

    def _remember(
        self, obs: PyTorchObs, state: RNNState, episode_starts: th.Tensor | None
    ) -> tuple[list[th.Tensor], RNNState]:
        if episode_starts is not None:
            keep = (1.0 - episode_starts.float()).view(1, -1, 1)
            state = tuple(part * keep for part in state)
        features = self._features(obs)
        if len(features) == 1:
            out, state = self.rnn.step(features[0], state)
            return [out], state
        outputs, after = [], []
        layers = self.n_rnn_layers
        for place, (memory, read) in enumerate(zip(self._memories, features, strict=True)):
            before = tuple(part[place * layers : (place + 1) * layers] for part in state)
            out, own = memory.step(read, before)
            outputs.append(out)
            after.append(own)
        return outputs, tuple(th.cat(parts) for parts in zip(*after, strict=True))

    @override
    def _build_mlp_extractor(self) -> None:
        # SB3 builds the optimiser right after this, so it holds the memories' parameters too.
        self.rnn = self._make_rnn()
        if not self.share_features_extractor:
            self.vf_rnn = self._make_rnn()
        if self.critic_task_size:
            linear = nn.Linear(self.rnn_hidden_size + self.critic_task_size, self.rnn_hidden_size)
            if self.ortho_init:
                self.init_weights(linear, gain=np.sqrt(2))
            self.task_reader = nn.Sequential(linear, self.activation_fn())
        self.mlp_extractor = MlpExtractor(self.rnn_hidden_size, self.net_arch, self.activation_fn, device=self.device)

    def _make_rnn(self) -> TrialRNN:
        return self._new_rnn(int(self.features_dim))

    def _new_rnn(self, input_size: int) -> TrialRNN:
        return TrialRNN(
            self.rnn_type, input_size, self.rnn_hidden_size, self.n_rnn_layers, memory_steps=self.memory_steps
        )

    @override
    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        if not isinstance(self.action_dist, CategoricalDistribution):
            return super()._get_action_dist_from_latent(latent_pi)
        # As SB3 does, without the checks of `validate_args`, a fifth of a rollout step.
        self.action_dist.distribution = Categorical(logits=self.action_net(latent_pi), validate_args=False)
        return self.action_dist

    @override
    def _get_constructor_parameters(self) -> dict[str, Any]:
        memory = {
            "rnn_type": self.rnn_type,
            "rnn_hidden_size": self.rnn_hidden_size,
            "n_rnn_layers": self.n_rnn_layers,
            "critic_task_size": self.critic_task_size,
            "memory_steps": self.memory_steps,
            "chunk_steps": self.chunk_steps,
            "later_entropy": self.later_entropy,
            "share_features_extractor": self.share_features_extractor,
        }
        return super()._get_constructor_parameters() | memory


def by_arm(tasks: th.Tensor, n_arms: int) -> th.Tensor:
    """Tasks of P numbers of each arm, (n, P * K), arm by arm, (n, K, P)."""
    return tasks.view(len(tasks), -1, n_arms).transpose(1, 2)


def _check_steps(chunk_steps: object) -> None:
    if isinstance(chunk_steps, bool) or not isinstance(chunk_steps, int) or chunk_steps < 1:
        raise ConfigError(f"chunk_steps must be an integer of at least 1, or None, not {chunk_steps!r}.")


def _num_rows(obs: PyTorchObs) -> int:
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)


def _is_packed(obs: object) -> TypeGuard[PackedTrials]:
    return isinstance(obs, PackedTrials)


def _packed(obs: PyTorchObs | PackedTrials) -> PackedTrials:
    return obs if _is_packed(obs) else PackedTrials(obs, (_num_rows(obs),))  # type: ignore[arg-type]
