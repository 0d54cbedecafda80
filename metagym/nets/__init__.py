"""Recurrent actor-critic networks that read whole trials."""

from metagym.nets.gru import gru_sequence
from metagym.nets.policy import TrialActorCriticPolicy
from metagym.nets.recurrent import PackedTrials, RNNState, TrialRNN

__all__ = ["PackedTrials", "RNNState", "TrialActorCriticPolicy", "TrialRNN", "gru_sequence"]
