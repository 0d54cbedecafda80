"""What was seen of decision processes with numbered states: visits, rewards and next states of each pair (s, a)."""

from typing import NamedTuple

import torch as th

from metagym.nets.recurrent import PackedTrials, places_of

__all__ = ["Context", "Seen", "advanced", "blank", "context_of", "seen_along"]


class Context(NamedTuple):
    """The parts of observations as `RL2Context` emits them.

    Attributes:
        here: the state, one-hot, (n, S).
        action: the last action, one-hot, zeros where there was none, (n, A).
        reward: the last reward, (n,).
        starts: 1 where an episode starts, else 0, (n,).
    """

    here: th.Tensor
    action: th.Tensor
    reward: th.Tensor
    starts: th.Tensor

    @property
    def moved(self) -> th.Tensor:
        """The state if it is where the last action led, (n, S); zeros where an episode starts."""
        return self.here * (1.0 - self.starts).unsqueeze(1)


class Seen(NamedTuple):
    """What has been seen when an action is to be chosen.

    Attributes:
        visits: how often each pair was taken, (n, S, A).
        rewards: sum of what it paid, (n, S, A).
        nexts: how often each state was seen to follow, (n, S, A, S). Where an episode ended nothing was.
        here: the state, one-hot, (n, S).
        passed: steps of the trial so far, (n,).
        inside: steps of the episode so far, (n,).
    """

    visits: th.Tensor
    rewards: th.Tensor
    nexts: th.Tensor
    here: th.Tensor
    passed: th.Tensor
    inside: th.Tensor


def context_of(obs: th.Tensor, n_actions: int) -> Context:
    """Take observations (n, S + A + 2) apart."""
    obs = obs.float()
    n_states = obs.shape[1] - n_actions - 2
    return Context(obs[:, :n_states], obs[:, n_states:-2], obs[:, -2], obs[:, -1])


def blank(n_rows: int, n_states: int, n_actions: int, device: th.device) -> th.Tensor:
    """The memory before a trial's first step, (N, M): all that `advanced` needs, side by side."""
    pairs = n_states * n_actions
    return th.zeros(n_rows, pairs * (2 + n_states) + n_states + 2, device=device)


def advanced(memory: th.Tensor, context: Context) -> tuple[Seen, th.Tensor]:
    """One more observation of every row.

    Args:
        memory: (N, M), which stays as it is.
        context: what is observed now.

    Returns:
        What has been seen with it, and the memory after it.
    """
    n_states, n_actions = context.here.shape[1], context.action.shape[1]
    pairs = n_states * n_actions
    parts = th.split(memory, [pairs, pairs, pairs * n_states, n_states, 1, 1], dim=1)
    visits, rewards, nexts, before, passed, inside = parts
    pair = _pairs(before, context.action)
    visits = visits + pair
    rewards = rewards + pair * context.reward.unsqueeze(1)
    nexts = nexts + _followed(pair, context.moved).flatten(1)
    inside = inside * (1.0 - context.starts).unsqueeze(1)
    after = th.cat([visits, rewards, nexts, context.here, passed + 1.0, inside + 1.0], dim=1)
    shape = (len(memory), n_states, n_actions)
    seen = Seen(
        visits.view(shape),
        rewards.view(shape),
        nexts.view(*shape, n_states),
        context.here,
        passed.squeeze(1),
        inside.squeeze(1),
    )
    return seen, after


@th.no_grad()
def seen_along(trials: PackedTrials, n_actions: int) -> Seen:
    """What has been seen at every step of whole trials, in the order of their packed steps."""
    n_steps, n_rows = len(trials.batch_sizes), trials.batch_sizes[0]
    time, row = places_of(trials.batch_sizes, trials.data.device)
    padded = trials.data.new_zeros(n_steps, n_rows, trials.data.shape[1])
    padded[time, row] = trials.data
    context = context_of(padded.flatten(0, 1), n_actions)
    here = context.here.view(n_steps, n_rows, -1)
    # No action came before a trial's first step, so that it does not matter which state is rolled there.
    pair = _pairs(here.roll(1, 0).flatten(0, 1), context.action)
    steps = th.arange(n_steps, device=here.device, dtype=here.dtype).unsqueeze(1).expand(n_steps, n_rows)
    begun = th.where(context.starts.view(n_steps, n_rows) > 0.5, steps, 0.0).cummax(0).values

    def along(events: th.Tensor, *shape: int) -> th.Tensor:
        return events.view(n_steps, n_rows, -1).cumsum(0)[time, row].view(len(time), *shape)

    n_states = here.shape[2]
    return Seen(
        along(pair, n_states, n_actions),
        along(pair * context.reward.unsqueeze(1), n_states, n_actions),
        along(_followed(pair, context.moved), n_states, n_actions, n_states),
        here[time, row],
        steps[time, row],
        (steps - begun)[time, row],
    )


def _pairs(states: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """One-hot pairs, (n, S * A); zeros where there is no action."""
    return (states.unsqueeze(2) * actions.unsqueeze(1)).flatten(1)


def _followed(pairs: th.Tensor, states: th.Tensor) -> th.Tensor:
    """One-hot transitions, (n, S * A, S); zeros where there is no pair or no state."""
    return pairs.unsqueeze(2) * states.unsqueeze(1)
