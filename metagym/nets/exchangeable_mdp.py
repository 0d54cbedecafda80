"""A policy for decision processes whose states and actions are exchangeable: it counts, and learns what to plan for.

    n, r, m      visits of each pair (s, a), what they paid in sum, and how often each state followed
    e(s, a)      = linear(x) + network(x, time),  x = (r / (n + 1), 1 / (n + 1), 1 / sqrt(n + 1), log(n + 1))
    P(s'|s, a)   = (m(s, a, s') + c) / sum_s' (m(s, a, s') + c)                                        c is learnt
    V_1(s)       = max_a e(s, a)
    V_k(s)       = max_a e(s, a) + sum_s' P(s'|s, a) V_{k-1}(s'),  k <= K, as far as the episode has steps left
    Q(s, a)      = e(s, a) + sum_s' P(s'|s, a) V_K(s')             for the state s that the agent is in
    logit_a      = network(Q, e, x of (s, a), means over all states, time)
    value        = steps left * network(means over all states, max_a Q(s, a), time)

A privileged critic of a bandit, told the numbers p_a of each arm, reads all arms twice:

    z_a          = what rates action a, p_a, p_a - max_b p_b;  f_a = network(z_a)
    value        = steps left * mean_a network(z_a, mean_b f_b, max_b f_b)

e, V and Q have C channels, each planned for by itself. Counts are the memory, and for Markov processes they lose
nothing. What is learnt is e, which stands for rewards and for what is worth finding out, and how channels are weighed:
PSRL, UCRL2 and BEB are such planners too, with an e that somebody thought of.
"""

import math
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.distributions import Categorical
from typing_extensions import override

from metagym.errors import ConfigError
from metagym.nets.policy import TrialActorCriticPolicy, by_arm
from metagym.nets.recurrent import PackedTrials, RNNState, TrialRNN
from metagym.nets.transitions import Seen, advanced, blank, context_of, seen_along

__all__ = ["ExchangeableMDPPolicy", "Planned"]

_PAIR, _TIME = 4, 5
_NO_PLACE = (
    "rnn_type", "rnn_hidden_size", "n_rnn_layers", "memory_steps", "net_arch", "features_extractor_class",
    "activation_fn",
)  # fmt: skip


class Planned(NamedTuple):
    """What the heads read of n steps.

    Attributes:
        actions: of each action in the state the agent is in, (n, A, F).
        overall: of the whole process, (n, G).
    """

    actions: th.Tensor
    overall: th.Tensor


class ExchangeableMDPPolicy(TrialActorCriticPolicy):
    """`TrialActorCriticPolicy` for processes with numbered states and actions, neither of which has a meaning.

    It assumes that renaming the states, or the actions of a state, gives a task that is as likely; then the best
    policy treats all alike, and a network that does so by construction needs a fraction of the samples, and its number
    of weights does not depend on how many there are. It is wrong where a number tells something: where actions are
    directions, states are places, or where what an action does in one state tells of what it does in another.

    In place of a recurrent network it counts what it has seen; the actor reads nothing but what `RL2Context` shows it.
    A privileged critic is told tasks arm by arm where there is one state and the numbers of a task are a multiple of
    the number of actions (the means of a bandit's arms); it then reads what actions are rated by, and does not change
    that. Else it is told tasks as one vector, and does not treat states and actions alike.

    Use: ``RL2(ExchangeableMDPPolicy, "MetaTabularMDP-v0", episodes_per_trial=10,
    policy_kwargs={"trial_steps": 100, "episode_steps": 10})``.

    Args:
        observation_space: what is observed, as `RL2Context` emits it for a Discrete space of states: a flat Box of the
            state as a one-hot vector, the last action likewise, the last reward and the boundary flag.
        action_space: Discrete.
        lr_schedule: learning rate by the fraction of training that remains.
        trial_steps: T, steps of a trial.
        episode_steps: H, steps of an episode that is not ended before.
        n_backups: K, steps to look ahead.
        n_channels: C, of what is planned for.
        pair_size: width of the network that reads pairs.
        pooled_values: whether values also read the mean over pairs of what that network makes of them: how far apart
            the arms of a bandit are, and not only how good the best one seems. A critic that is told tasks arm by arm
            reads more than that in any case.
        head_size: width of the network that rates actions; half of that of the critic, or, where it is told tasks arm
            by arm, all of it.
        critic_task_size: numbers by which a privileged critic is told the task; 0: it is not.
        **kwargs: those of `TrialActorCriticPolicy`, but for memories, feature extractors and layers.

    Raises:
        ConfigError: for other action or observation spaces, or arguments out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        trial_steps: int,
        episode_steps: int,
        n_backups: int = 2,
        n_channels: int = 4,
        pair_size: int = 16,
        head_size: int = 32,
        pooled_values: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise ConfigError(f"exchangeable actions are those of a Discrete space, not of {action_space}")
        self.n_actions = int(action_space.n)
        self.n_states = _states_of(observation_space, self.n_actions)
        self.sizes = {
            "trial_steps": trial_steps, "episode_steps": episode_steps, "n_backups": n_backups,
            "n_channels": n_channels, "pair_size": pair_size, "head_size": head_size,
        }  # fmt: skip
        for name, value in self.sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        if pooled_values not in (False, True):
            raise ConfigError(f"pooled_values must be True or False, got {pooled_values!r}")
        self.pooled_values = bool(pooled_values)
        given = [name for name in _NO_PLACE if kwargs.pop(name, None)]
        if given:
            raise ConfigError(f"{', '.join(given)} have no place here: leave them out")
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    # --- parts -------------------------------------------------------------------------------------------------

    @override
    def _build(self, lr_schedule: Schedule) -> None:
        channels, width, head = self.sizes["n_channels"], self.sizes["pair_size"], self.sizes["head_size"]
        # Of channels and hidden units side by side: one product of a long and narrow matrix in place of two.
        self.pair_net, self.time_net = nn.Linear(_PAIR, channels + width), nn.Linear(_TIME, width, bias=False)
        self.gain_net = nn.Linear(width, channels)
        self.log_prior = nn.Parameter(th.zeros(()))
        overall = _TIME + 2 * channels
        self.action_net = _head(3 * channels + _PAIR + overall, head)
        self.action_skip = nn.Linear(channels, 1, bias=False)
        told, rest = divmod(self.critic_task_size, self.n_actions)
        self._told_by_arm = self.n_states == 1 and rest == 0 and told > 0
        nets = [self.pair_net, self.time_net, self.action_net]
        if self._told_by_arm:
            each = 3 * channels + _PAIR + overall + 2 * told
            self.critic_pool = nn.Sequential(nn.Linear(each, width), nn.ReLU())
            value_net = _head(each + 2 * width, head)
            nets.append(self.critic_pool)
        else:
            pooled = width if self.pooled_values else 0
            value_net = _head(channels + overall + pooled + self.critic_task_size, 2 * head)
        self.value_net = value_net  # type: ignore[assignment]  # SB3 declares a Linear
        if self.ortho_init:
            for net in (*nets, value_net):
                net.apply(lambda part: self.init_weights(part, gain=math.sqrt(2.0)))
            self.init_weights(self.gain_net, gain=0.1)
            self.init_weights(self.action_net[-1], gain=0.01)
            self.init_weights(value_net[-1], gain=0.1)
        nn.init.zeros_(self.action_skip.weight)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    @property
    @override
    def _memories(self) -> tuple[TrialRNN, ...]:
        return ()

    def _clock(self, seen: Seen) -> tuple[th.Tensor, th.Tensor]:
        """What is seen of the time, (n, 5), and how many steps are left in the episode, (n,)."""
        trial, episode = self.sizes["trial_steps"], self.sizes["episode_steps"]
        left, steps = (trial - seen.passed).clamp(min=1.0), (episode - seen.inside).clamp(min=1.0)
        shown = (left / trial, left.log1p() / math.log1p(trial), steps / left, steps / episode, (steps == 1.0).float())
        return th.stack(shown, dim=1), steps

    def _planned(self, seen: Seen) -> Planned:
        time, steps = self._clock(seen)
        share = 1.0 / (seen.visits + 1.0)
        pairs = th.stack([seen.rewards * share, share, share.sqrt(), (seen.visits.log1p() - 1.0) / 2.0], dim=3)
        linear, hidden = th.split(self.pair_net(pairs), [self.sizes["n_channels"], self.sizes["pair_size"]], dim=3)
        features = th.relu(hidden + self.time_net(time)[:, None, None])
        gain = linear + self.gain_net(features)  # (n, S, A, C)
        first = value = gain.amax(2)
        for backup in range(1, self.sizes["n_backups"]):
            ahead = self._expected(seen.nexts, value)
            value = (gain + _while(steps > self.sizes["n_backups"] - backup + 1, ahead)).amax(2)
        row, here = th.arange(len(time), device=time.device), seen.here.argmax(1)
        ahead = self._expected(seen.nexts[row, here].unsqueeze(1), value)
        worth = gain[row, here] + _while(steps > 1.0, ahead).squeeze(1)
        overall = th.cat([time, first.mean(1), value.mean(1)], dim=1)
        parts = (worth - worth.mean(1, keepdim=True), worth, gain[row, here], pairs[row, here])
        each = overall.unsqueeze(1).expand(-1, self.n_actions, -1)
        pooled = [features.mean((1, 2))] if self.pooled_values and not self._told_by_arm else []
        return Planned(th.cat([*parts, each], dim=2), th.cat([overall, worth.amax(1), *pooled], dim=1))

    def _expected(self, nexts: th.Tensor, value: th.Tensor) -> th.Tensor:
        """Expectation of values (n, S, C) of next states after pairs of which `nexts` (n, M, A, S) were seen."""
        prior = self.log_prior.exp()
        seen = th.bmm(nexts.flatten(1, 2), value).view(*nexts.shape[:3], -1)
        total = nexts.sum(3, keepdim=True) + prior * self.n_states
        return th.as_tensor((seen + prior * value.sum(1)[:, None, None]) / total)

    # --- trials and steps --------------------------------------------------------------------------------------

    @override
    def _outputs(self, trials: PackedTrials, memories: tuple[TrialRNN, ...]) -> list[Any]:
        return [self._planned(seen_along(trials, self.n_actions))]

    @override
    def zero_state(self, n_rows: int) -> RNNState:
        return (blank(n_rows, self.n_states, self.n_actions, self.device).unsqueeze(0),)

    @override
    def _remember(
        self, obs: PyTorchObs, state: RNNState, episode_starts: th.Tensor | None
    ) -> tuple[list[Any], RNNState]:
        assert isinstance(obs, th.Tensor)
        memory = state[0][0]
        if episode_starts is not None:
            memory = memory * (1.0 - episode_starts.float()).unsqueeze(1)
        seen, after = advanced(memory, context_of(obs, self.n_actions))
        return [self._planned(seen)], (after.unsqueeze(0),)

    # --- heads -------------------------------------------------------------------------------------------------

    @override
    def _act(self, outputs: list[Any]) -> Distribution:
        rated = outputs[0].actions
        logits = self.action_net(rated) + self.action_skip(rated[..., : self.sizes["n_channels"]])
        self.action_dist.distribution = Categorical(logits=logits.squeeze(2), validate_args=False)
        return self.action_dist

    @override
    def _values(self, outputs: list[Any], tasks: th.Tensor | None) -> th.Tensor:
        read = outputs[0].overall
        # The first thing told of the time is the share that is left; no weight has a part in it.
        left = self.sizes["trial_steps"] * read[:, :1].detach()
        if not self.critic_task_size:
            return th.as_tensor(left * self.value_net(read))
        told = self._told(read, tasks)
        if self._told_by_arm:
            return th.as_tensor(left * self._value_of_a_step(outputs[0].actions.detach(), by_arm(told, self.n_actions)))
        return th.as_tensor(left * self.value_net(th.cat([read, told], dim=1)))

    def _value_of_a_step(self, rated: th.Tensor, told: th.Tensor) -> th.Tensor:
        """The mean of what is left, (n, 1), from what rates actions (n, A, F) and what is told of them (n, A, P')."""
        arms = th.cat([rated, told, told - told.amax(1, keepdim=True)], dim=2)
        features = self.critic_pool(arms)
        pooled = th.cat([features.mean(1), features.amax(1)], dim=1).unsqueeze(1).expand(-1, self.n_actions, -1)
        return th.as_tensor(self.value_net(th.cat([arms, pooled], dim=2)).mean(1))

    @override
    def _get_constructor_parameters(self) -> dict[str, Any]:
        kept = super()._get_constructor_parameters()
        for name in (*_NO_PLACE, "features_extractor_kwargs"):
            kept.pop(name, None)
        return kept | self.sizes | {"pooled_values": self.pooled_values}


def _head(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))


def _while(goes_on: th.Tensor, ahead: th.Tensor) -> th.Tensor:
    """What lies ahead, (n, M, A, C), of episodes that go on, (n,); zeros of the others."""
    return ahead * goes_on.float().view(-1, 1, 1, 1)


def _states_of(space: spaces.Space[Any], n_actions: int) -> int:
    n_states = space.shape[0] - n_actions - 2 if isinstance(space, spaces.Box) and len(space.shape) == 1 else 0
    if n_states < 1 or not _may_be_one_hot(space, n_states):
        raise ConfigError(
            "exchangeable states need the flat observations that RL2Context makes of a Discrete space: the state and "
            f"the last action ({n_actions} columns) as one-hot vectors, the last reward and the boundary flag; "
            f"not {space}"
        )
    return n_states


def _may_be_one_hot(space: Any, n_states: int) -> bool:
    return bool((space.low[:n_states] == 0).all() and (space.high[:n_states] == 1).all())
