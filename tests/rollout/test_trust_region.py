"""TRPO on whole trials is sb3-contrib's TRPO, on memories that can be differentiated twice."""

import copy

import pytest
import torch as th
from gymnasium import spaces

from metagym.errors import ConfigError
from metagym.nets import TrialRNN
from tests.rollout.rollout_setup import Counting, OurTRPO, TheirTRPO, Watch, make

LENGTHS = [[4], [3, 6], [5, 1]]
MEMORIES = [
    {"rnn_type": rnn_type, "share_features_extractor": share} for rnn_type in ("gru", "lstm") for share in (True, False)
]


def rolled_out(learner, memory, action_space=None, **kwargs):
    env = Counting(LENGTHS)
    if action_space is not None:
        env.action_space = action_space
    settings = {"n_steps": 12, "batch_size": 36, "policy_kwargs": {"rnn_hidden_size": 4, **memory}, "target_kl": 0.5}
    agent = make(env, learner, **settings | kwargs)
    _, callback = agent._setup_learn(36, Watch())
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent


def through_torch(self, trials):
    """A memory over whole trials by ``nn.GRU`` or ``nn.LSTM`` on packed sequences."""
    packed = th.nn.utils.rnn.PackedSequence(trials.data, th.tensor(trials.batch_sizes))
    return self.rnn(packed)[0].data


@pytest.mark.parametrize("memory", MEMORIES)
def test_an_update_is_that_of_sb3_contrib_on_the_memories_of_torch(memory, monkeypatch):
    ours, theirs = rolled_out(OurTRPO, memory), rolled_out(TheirTRPO, memory)
    before = copy.deepcopy(ours.policy.state_dict())
    th.manual_seed(1)
    ours.train()
    monkeypatch.setattr(TrialRNN, "forward", through_torch)
    th.manual_seed(1)
    theirs.train()
    changed = 0
    for (name, one), other in zip(ours.policy.named_parameters(), theirs.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, atol=2e-5, rtol=1e-3, msg=name)
        changed += not th.equal(one, before[name])
    assert changed > 4


@pytest.mark.parametrize("rnn_type", ["gru", "lstm"])
def test_a_step_stays_within_the_trust_region_and_improves(rnn_type):
    agent = rolled_out(OurTRPO, {"rnn_type": rnn_type, "share_features_extractor": False}, target_kl=0.01)
    agent.train()
    logged = agent.logger.name_to_value
    assert logged["train/is_line_search_success"] == 1.0
    assert 0.0 < logged["train/kl_divergence_loss"] < 0.01
    assert logged["train/policy_objective"] > 0.0


def test_the_critics_own_memory_learns_by_the_critics_loss_alone():
    agent = rolled_out(OurTRPO, {"share_features_extractor": False})
    sample = next(agent.rollout_buffer.get(None))
    distribution = agent.policy.get_distribution(sample.observations)
    log_prob = distribution.log_prob(sample.actions.long().flatten())
    parameters, *_ = agent._compute_actor_grad(log_prob.square().mean(), log_prob.mean())
    of_actor = {id(parameter) for parameter in parameters}
    names = {name for name, parameter in agent.policy.named_parameters() if id(parameter) in of_actor}
    assert names == {name for name in dict(agent.policy.named_parameters()) if name.startswith(("rnn.", "action_net."))}


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_other_action_spaces_are_trained_too(space):
    agent = rolled_out(OurTRPO, {}, space)
    before = copy.deepcopy(agent.policy.state_dict())
    agent.train()
    assert not th.equal(before["action_net.weight"], agent.policy.action_net.weight)
    assert all(th.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_thinned_out_trials_are_refused():
    with pytest.raises(ConfigError, match="sub_sampling_factor must be 1, not 2"):
        make(Counting(LENGTHS), OurTRPO, sub_sampling_factor=2, batch_size=12)
