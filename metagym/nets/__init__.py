"""Recurrent actor-critic networks that read whole trials, or whole sequences of sb3-contrib's RecurrentPPO."""

from metagym.nets.exchangeable import ExchangeableTrialPolicy
from metagym.nets.exchangeable_mdp import ExchangeableMDPPolicy
from metagym.nets.gru import gru_sequence
from metagym.nets.policy import TrialActorCriticPolicy
from metagym.nets.recurrent import PackedTrials, RNNState, TrialRNN
from metagym.nets.recurrent_ppo import (
    FusedRecurrentActorCriticCnnPolicy,
    FusedRecurrentActorCriticPolicy,
    FusedRecurrentMultiInputActorCriticPolicy,
)

__all__ = [
    "ExchangeableMDPPolicy",
    "ExchangeableTrialPolicy",
    "FusedRecurrentActorCriticCnnPolicy",
    "FusedRecurrentActorCriticPolicy",
    "FusedRecurrentMultiInputActorCriticPolicy",
    "PackedTrials",
    "RNNState",
    "TrialActorCriticPolicy",
    "TrialRNN",
    "gru_sequence",
]
