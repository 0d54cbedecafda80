"""Policies for sb3-contrib's RecurrentPPO that read each sequence by one call of the LSTM.

``RecurrentPPO.train`` cuts a rollout into sequences at every start of an episode and pads them, so a memory can be
reset only at the first step of a sequence. The policies of sb3-contrib nevertheless walk through time step by step
whenever any sequence of a minibatch starts an episode, once for the actor and once for the critic. Those here reset
the first state and leave the walk to metagym's compiled loop where numba is installed (`metagym.nets.lstm`), else to
PyTorch's fused kernel: the same function of the same parameters.
"""

from typing import Any

import torch as th
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from torch import nn
from typing_extensions import override

from metagym.nets.compiled_sequence import runs_compiled
from metagym.nets.lstm import compiled_lstm_sequence

__all__ = [
    "FusedRecurrentActorCriticCnnPolicy",
    "FusedRecurrentActorCriticPolicy",
    "FusedRecurrentMultiInputActorCriticPolicy",
]


class FusedRecurrentActorCriticPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy``, faster in training and equal in everything else.

    Use: ``RecurrentPPO(FusedRecurrentActorCriticPolicy, env, ...)``, with the ``policy_kwargs`` of sb3-contrib.
    Parameters, their names and the checkpoints are those of sb3-contrib's policy.
    """

    @staticmethod
    @override
    def _process_sequence(
        features: th.Tensor,
        lstm_states: tuple[th.Tensor, th.Tensor],
        episode_starts: th.Tensor,
        lstm: nn.LSTM,
    ) -> tuple[th.Tensor, th.Tensor]:
        n_seq = lstm_states[0].shape[1]
        starts = episode_starts.reshape(n_seq, -1)
        if bool(starts[:, 1:].any()):
            # Never in sb3-contrib's own training: a reset in mid-sequence needs the walk.
            return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        keep = (1.0 - starts[:, 0]).view(1, n_seq, 1)
        sequence = features.reshape(n_seq, -1, lstm.input_size).swapaxes(0, 1)
        before = (keep * lstm_states[0], keep * lstm_states[1])
        walk: Any = _compiled if _is_compiled(lstm, sequence) else nn.LSTM.__call__
        output, after = walk(lstm, sequence, before)
        return th.flatten(output.transpose(0, 1), start_dim=0, end_dim=1), after


def _is_compiled(lstm: nn.LSTM, sequence: th.Tensor) -> bool:
    plain = lstm.bias and not (lstm.bidirectional or lstm.proj_size or (lstm.dropout and lstm.training))
    return plain and runs_compiled(sequence, *lstm.parameters())


def _compiled(
    lstm: nn.LSTM, sequence: th.Tensor, before: tuple[th.Tensor, th.Tensor]
) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
    """What ``lstm(sequence, before)`` returns, for a sequence (T, N, D)."""
    steps, rows = sequence.shape[:2]
    data, ends = sequence.reshape(steps * rows, -1), []
    for layer, weights in enumerate(lstm.all_weights):
        initial = (before[0][layer], before[1][layer])
        data, cells = compiled_lstm_sequence(data, weights, [rows] * steps, initial)
        ends.append((data[-rows:], cells[-rows:]))
    outputs, cells_after = (th.stack(parts) for parts in zip(*ends, strict=True))
    return data.view(steps, rows, -1), (outputs, cells_after)


class FusedRecurrentActorCriticCnnPolicy(FusedRecurrentActorCriticPolicy, RecurrentActorCriticCnnPolicy):
    """The same of sb3-contrib's ``CnnLstmPolicy``, for images."""


class FusedRecurrentMultiInputActorCriticPolicy(FusedRecurrentActorCriticPolicy, RecurrentMultiInputActorCriticPolicy):
    """The same of sb3-contrib's ``MultiInputLstmPolicy``, for Dict observations."""
