"""Parts of what a learner has learnt: single tensors, single optimisers, memories."""

import numpy as np
import torch as th
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3 import PPO, SAC

from metagym.learner_state import (
    LearnerState,
    flatten_moments,
    live_optimizers,
    live_tensors,
    load_moments,
    reset_running_state,
    restore_tensors,
)
from tests.test_learner_state import learn, make, same_moments, same_tensors


def test_the_moments_of_one_optimizer_come_back_alone():
    model = learn(make(SAC))
    arrays = flatten_moments("any", model.actor.optimizer)
    expected = LearnerState.capture(model)
    model.actor.optimizer.state.clear()
    load_moments("any", model.actor.optimizer, {**arrays, "optimizer/other/0/step": np.array(3.0)})
    assert same_moments(expected, LearnerState.capture(model))


def test_a_state_without_moments_holds_tensors_alone():
    model = learn(make(PPO))
    state = LearnerState.capture(model, moments=False)
    assert state.optimizers == {}
    assert same_tensors(state, LearnerState.capture(model))


def test_some_tensors_are_put_back_and_the_others_stay():
    model = learn(make(ARS))
    before = LearnerState.capture(model)
    learn(model)
    after = LearnerState.capture(model)
    name = next(iter(before.tensors))
    restore_tensors(model, {name: before.tensors[name]})
    now = LearnerState.capture(model)
    assert th.equal(now.tensors.pop(name), before.tensors[name])
    assert all(th.equal(value, after.tensors[key]) for key, value in now.tensors.items())
    assert th.equal(model.weights, th.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert live_tensors(model)[name] is next(model.policy.parameters())
    assert set(live_optimizers(make(SAC))) == {"actor.optimizer", "critic.optimizer", "ent_coef_optimizer"}


def test_recurrent_memories_are_forgotten_even_where_they_are_not_finite():
    model = learn(make(RecurrentPPO))
    model._last_lstm_states.pi[0].fill_(float("nan"))
    reset_running_state(model)
    assert not any(tensor.any() for memory in model._last_lstm_states for tensor in memory)
