"""A policy for exchangeable actions (the arms of a bandit): one small memory, shared by all of them.

    x_t        what all arms see of step t: the observation, the last reward, the boundary flag, the time left
    h_a        the memory of arm a, zero at a trial's start; where a was taken, h_a <- GRU(x_t, h_a)
    p_t        = mean_a relu(P h_a)
    logit_a    = key(h_a) . query(x_t, p_t)                    value = v(x_t, p'_t)

Nothing depends on the number of an arm, so the policy of a bandit whose arms were renamed is the same policy, renamed,
whatever the weights are; the number of weights does not depend on the number of arms. With memories that are touched
only where their arm is taken it is an index policy, as Gittins' is, of which the network learns the index.
"""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.distributions import Categorical
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.policy import TrialActorCriticPolicy, by_arm
from metagym.nets.recurrent import PackedTrials, RNNState, TrialRNN, places_of
from metagym.nets.visits import DenseArms, VisitedArms, visits_of

__all__ = ["ExchangeableTrialPolicy"]

REMEMBERED = ("taken", "all")


def _read(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU())


def _mix(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class ExchangeableTrialPolicy(TrialActorCriticPolicy):
    """`TrialActorCriticPolicy` for a Discrete action space whose actions are exchangeable: the arms of a bandit.

    It assumes that renaming the actions of a task gives a task that is as likely, and that observations do not tell
    actions apart. Then the best policy treats all actions alike, and a network that does so by construction needs a
    fraction of the samples. It is wrong where an action has a meaning of its own (left and right, an arm that is known
    to be special): two actions with the same history always have the same probability.

    Memories of the arms are read at every step; what they remember is of two kinds. "taken": an arm remembers the
    steps at which it was taken (when, what was observed, what it paid). Nothing is lost if the observation, besides
    `RL2Context`'s part, is constant, as that of bandits is. "all": every arm remembers every step, whether it was
    the one taken or not, at K times the cost of the recurrence.

    A privileged critic is told tasks arm by arm where the numbers of a task are a multiple of the number of actions
    (the means of the arms), else as one vector.

    Use: ``RL2(ExchangeableTrialPolicy, "MetaBandit-v0", episodes_per_trial=100, policy_kwargs={"trial_steps": 100})``.

    Args:
        observation_space: what is observed, as `RL2Context` emits it: a flat Box that ends with the last action, the
            last reward and the boundary flag.
        action_space: Discrete.
        lr_schedule: learning rate by the fraction of training that remains.
        net_arch: must be left out or empty.
        trial_steps: T, steps of a trial: the network then sees the fraction of the trial that is left. Without, it
            sees how many steps have passed, on a logarithmic scale. Both are known to an agent that counts.
        remember: "taken" or "all".
        head_size: F, width of keys, queries and pooled features.
        rnn_hidden_size: width of one arm's memory.
        value_scale: values are so many times what the value network puts out. Of about the size of returns, it spares
            the network large weights; ``vf_coef`` then wants to be divided by its square, so that the loss of values
            does not drown that of actions.
        value_per_step: with `trial_steps`: values are also multiplied by the fraction of the trial that is left, so
            that the network learns what a step is worth. For long trials without a discount.
        **kwargs: those of `TrialActorCriticPolicy`, but for feature extractors: observations are read as they are.

    Raises:
        ConfigError: for other action or observation spaces, or arguments out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        trial_steps: int | None = None,
        remember: str = "taken",
        head_size: int = 16,
        rnn_hidden_size: int = 16,
        value_scale: float = 1.0,
        value_per_step: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise ConfigError(f"exchangeable actions are those of a Discrete space, not of {action_space}")
        self._check_observations(observation_space, int(action_space.n))
        if remember not in REMEMBERED:
            raise ConfigError(f"remember must be one of {REMEMBERED}, not {remember!r}")
        for name, value in (("head_size", head_size), ("trial_steps", 1 if trial_steps is None else trial_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        if isinstance(value_scale, bool) or not isinstance(value_scale, int | float) or not 0 < value_scale < math.inf:
            raise ConfigError(f"value_scale must be a positive number, got {value_scale!r}")
        if value_per_step not in (False, True) or (value_per_step and trial_steps is None):
            raise ConfigError(
                f"value_per_step must be True or False, and True with trial_steps only, got {value_per_step!r}"
            )
        if net_arch or kwargs.get("features_extractor_class"):
            raise ConfigError("net_arch and features_extractor_class have no place here: leave them out")
        self.trial_steps, self.remember, self.head_size = trial_steps, remember, head_size
        self.value_scale, self.value_per_step = float(value_scale), value_per_step
        self.n_arms = int(action_space.n)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            rnn_hidden_size=rnn_hidden_size,
            **kwargs,
        )

    @staticmethod
    def _check_observations(space: spaces.Space[Any], n_arms: int) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.shape[0] < n_arms + 2:
            raise ConfigError(
                "exchangeable actions need the flat observations of RL2Context, which end with the last action "
                f"({n_arms} columns), the last reward and the boundary flag; not {space}"
            )

    # --- parts -------------------------------------------------------------------------------------------------

    @override
    def _build(self, lr_schedule: Schedule) -> None:
        hidden, width = self.rnn_hidden_size, self.head_size
        shared = self.features_dim - self.n_arms + (1 if self.trial_steps is None else 2)
        # "all": also whether the arm was taken, and what it then paid.
        self._input_size = shared + (2 if self.remember == "all" else 0)
        self.rnn = self._make_rnn()
        if not self.share_features_extractor:
            self.vf_rnn = self._make_rnn()
        self._told_by_arm = self.critic_task_size % self.n_arms == 0
        told = self.critic_task_size // self.n_arms if self._told_by_arm else self.critic_task_size
        self.key_net = _mix(hidden, width, width)
        self.actor_pool, self.critic_pool = _read(hidden, width), _read(hidden + told, width)
        self.action_net = _mix(shared + width, 2 * width, width)
        value_net = _mix(shared + width, 4 * width, 1)
        self.value_net = value_net  # type: ignore[assignment]  # SB3 declares a Linear
        if self.ortho_init:
            for net in (self.key_net, self.actor_pool, self.critic_pool, self.action_net, value_net):
                net.apply(lambda part: self.init_weights(part, gain=math.sqrt(2.0)))
            self.init_weights(self.action_net[-1], gain=0.01)
            self.init_weights(value_net[-1], gain=1.0)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @override
    def _make_rnn(self) -> TrialRNN:
        return self._new_rnn(self._input_size)

    def _clock(self, passed: th.Tensor) -> th.Tensor:
        """What is seen of the time, (n, 1 or 2), from the numbers of steps that have passed, (n,)."""
        if self.trial_steps is None:
            return (passed.log1p() / 5.0).unsqueeze(1)
        left = (self.trial_steps - passed).clamp(min=0.0)
        return th.stack([left / self.trial_steps, left.log1p() / math.log1p(self.trial_steps)], dim=1)

    def _split(self, obs: th.Tensor, passed: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """The last action, (n, K), and what the arms see, (n, G): reward, boundary, observation, time."""
        obs = obs.to(next(self.parameters()).dtype)
        width = obs.shape[1] - self.n_arms - 2
        return obs[:, width:-2], th.cat([obs[:, -2:], obs[:, :width], self._clock(passed)], dim=1)

    def _all_inputs(self, taken: th.Tensor, shared: th.Tensor) -> th.Tensor:
        """What each arm's memory reads where all read every step, (n * K, ...)."""
        each = shared.unsqueeze(1).expand(-1, self.n_arms, -1)
        return th.cat([each, taken.unsqueeze(2), (taken * shared[:, :1]).unsqueeze(2)], dim=2).flatten(0, 1)

    # --- whole trials ------------------------------------------------------------------------------------------

    @override
    def _outputs(self, trials: PackedTrials, memories: tuple[TrialRNN, ...]) -> list[Any]:
        sizes = trials.batch_sizes
        passed, _ = places_of(sizes, trials.data.device)
        taken, shared = self._split(trials.data, passed.float())
        if self.remember == "all":
            inputs = PackedTrials(self._all_inputs(taken, shared), tuple(size * self.n_arms for size in sizes))
            return [DenseArms(shared, memory(inputs).view(*taken.shape, -1)) for memory in memories]
        visits = visits_of(taken, sizes)
        none = shared.new_zeros(1, self.rnn_hidden_size)
        outputs: list[Any] = []
        for memory in memories:
            inputs = PackedTrials(shared[visits.steps], visits.batch_sizes)
            states = th.cat([none, memory(inputs)]) if visits.batch_sizes else none
            outputs.append(VisitedArms(shared, states, visits, sizes))
        return outputs

    # --- single steps ------------------------------------------------------------------------------------------

    @override
    def zero_state(self, n_rows: int) -> RNNState:
        parts = zip(*(memory.zero_state(n_rows * self.n_arms) for memory in self._memories), strict=True)
        states = tuple(th.cat(own).view(-1, n_rows, self.n_arms * self.rnn_hidden_size) for own in parts)
        return (*states, states[0].new_zeros(1, n_rows, 1))

    @override
    def _remember(
        self, obs: PyTorchObs, state: RNNState, episode_starts: th.Tensor | None
    ) -> tuple[list[Any], RNNState]:
        assert isinstance(obs, th.Tensor)
        if episode_starts is not None:
            keep = (1.0 - episode_starts.float()).view(1, -1, 1)
            state = tuple(part * keep for part in state)
        *parts, passed = state
        taken, shared = self._split(obs, passed[0, :, 0])
        layers, shape = self.n_rnn_layers, (self.n_rnn_layers, *taken.shape, -1)
        outputs: list[Any] = []
        after = []
        for place, memory in enumerate(self._memories):
            before = tuple(part[place * layers : (place + 1) * layers].view(shape) for part in parts)
            now = self._advance(memory, taken, shared, before)
            outputs.append(DenseArms(shared, now[0][-1]))
            after.append(tuple(part.flatten(2) for part in now))
        return outputs, (*(th.cat(own) for own in zip(*after, strict=True)), passed + 1.0)

    def _advance(self, memory: TrialRNN, taken: th.Tensor, shared: th.Tensor, before: RNNState) -> RNNState:
        """The memories of all arms, (layers, N, K, H), one step on."""
        if self.remember == "all":
            _, after = memory.step(self._all_inputs(taken, shared), tuple(part.flatten(1, 2) for part in before))
            return tuple(part.view(old.shape) for part, old in zip(after, before, strict=True))
        rows = th.arange(len(taken), device=taken.device)
        highest, arm = taken.max(1)
        _, stepped = memory.step(shared, tuple(part[:, rows, arm] for part in before))
        was_taken = (highest > 0.5).view(1, -1, 1)
        after = tuple(part.clone() for part in before)
        for new, old, part in zip(stepped, before, after, strict=True):
            part[:, rows, arm] = th.where(was_taken, new, old[:, rows, arm])
        return after

    # --- heads -------------------------------------------------------------------------------------------------

    @override
    def _act(self, outputs: list[Any]) -> Distribution:
        arms = outputs[0]
        query: th.Tensor = self.action_net(th.cat([arms.shared, arms.pooled(self.actor_pool, None)], dim=1))
        logits = (arms.keys(self.key_net) @ query.unsqueeze(2)).squeeze(2)
        self.action_dist.distribution = Categorical(logits=logits, validate_args=False)
        return self.action_dist

    @override
    def _values(self, outputs: list[Any], tasks: th.Tensor | None) -> th.Tensor:
        arms = outputs[-1]
        pooled = arms.pooled(self.critic_pool, self._told_of_arms(arms.shared, tasks))
        values: th.Tensor = self.value_net(th.cat([arms.shared, pooled], dim=1))
        if self.value_per_step:
            values = values * arms.shared[:, -2:-1]
        return values if self.value_scale == 1.0 else self.value_scale * values

    def _told_of_arms(self, shared: th.Tensor, tasks: th.Tensor | None) -> th.Tensor | None:
        """What a privileged critic is told of each arm, (n, K, P'); zeros where nobody tells."""
        if not self.critic_task_size:
            return None
        told = self._told(shared, tasks)
        return by_arm(told, self.n_arms) if self._told_by_arm else told.unsqueeze(1).expand(-1, self.n_arms, -1)

    @override
    def _get_constructor_parameters(self) -> dict[str, Any]:
        kept = super()._get_constructor_parameters()
        for name in ("net_arch", "features_extractor_class", "features_extractor_kwargs", "activation_fn"):
            kept.pop(name)
        own = ("trial_steps", "remember", "head_size", "value_scale", "value_per_step")
        return kept | {name: getattr(self, name) for name in own}
