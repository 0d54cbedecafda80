"""Frozen parameters: no step changes them, whatever the learner, and the others learn."""

import pytest
import torch as th
from sb3_contrib import ARS, QRDQN, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_frozen import held
from metagym.errors import ConfigError
from metagym.learner_state import LearnerState
from tests.algos.reptile_setup import LAKE, line_env, same, state, tiny
from tests.algos.reptile_spaces import LEARNERS, TAKES, Steps, agent_of
from tests.strategies import plainly

PARTS = {
    PPO: ["mlp_extractor.policy_net", "log_std"], A2C: ["mlp_extractor.value_net"], TRPO: ["policy.action_net"],
    RecurrentPPO: ["lstm_actor"], MaskablePPO: ["action_net"], ARS: ["action_net.0"], DQN: ["q_net.q_net.0"],
    QRDQN: ["quantile_net.quantile_net.0"], SAC: ["policy.actor", "log_ent_coef"], TD3: ["critic.qf0"],
    CrossQ: ["critic", "actor.mu"],
}  # fmt: skip


def split(before, after, prefixes):
    """Names that changed under the prefixes, and elsewhere."""
    changed = {name for name in before.tensors if not th.equal(before.tensors[name], after.tensors[name])}
    inside = {name for name in changed if any(name == p or f".{p}." in f".{name}." for p in prefixes)}
    return inside, changed - inside


@pytest.mark.parametrize("learner_class", LEARNERS)
@pytest.mark.parametrize("outer", ["sgd", "adamw"])
def test_frozen_parts_keep_every_bit_through_training_and_adaptation(learner_class, outer):
    prefixes = PARTS.get(learner_class, ["policy.critic"])
    action = "box" if "box" in TAKES[learner_class] else "discrete"
    agent = agent_of(
        learner_class, Steps(action=action), n_envs=2, frozen=prefixes, outer_optimizer=outer, learning_rate=0.1
    )
    before = state(agent)
    agent.learn(64)
    inside, outside = split(before, state(agent), prefixes)
    assert inside == set()
    assert outside
    expert = agent.adapt(0.5, total_timesteps=16)
    inside, outside = split(state(agent), LearnerState.capture(expert), prefixes)
    assert inside == set()
    assert outside


def test_what_is_adapted_is_free_again_and_nothing_is_left_in_it():
    agent = tiny(line_env(), frozen=["mlp_extractor"])
    expert = agent.adapt(0.5)
    before = LearnerState.capture(expert)
    assert not {"train", "learn"} & set(vars(expert))
    assert all(not parameter._backward_hooks for parameter in expert.policy.parameters())
    assert not expert.policy.optimizer._optimizer_step_post_hooks
    inside, _ = split(before, LearnerState.capture(expert.learn(32)), ["mlp_extractor"])
    assert len(inside) == 4


def test_weight_decay_and_carried_moments_do_not_move_frozen_parts():
    kwargs = {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.5}, "net_arch": [8]}
    agent = tiny(line_env(), frozen=["action_net"], policy_kwargs=kwargs, inner_optimizer="carry")
    before = state(agent)
    assert split(before, state(agent.learn(128)), ["action_net"])[0] == set()


def test_gradients_of_frozen_parts_do_not_count_where_gradients_are_clipped():
    # A frozen part whose gradients are huge would otherwise leave next to nothing for the others.
    model = tiny(line_env()).learner
    loud, quiet = model.policy.action_net.weight, model.policy.value_net.weight
    with held(model, {"policy.action_net.weight"}):
        (1e6 * loud.sum() + quiet.sum()).backward()
        norm = th.nn.utils.clip_grad_norm_([loud, quiet], 1e9)
    assert norm.item() == pytest.approx(quiet.numel() ** 0.5)


def test_a_hold_ends_with_the_block_also_when_it_fails():
    model = tiny(line_env()).learner
    with pytest.raises(ZeroDivisionError), held(model, {"policy.log_std"}):
        raise ZeroDivisionError
    before = LearnerState.capture(model)
    model.learn(32)
    assert "policy.log_std" in split(before, LearnerState.capture(model), [])[1]


def test_frozen_parts_come_back_from_a_checkpoint(tmp_path):
    agent = tiny(seed=0, frozen=["action_net"], outer_optimizer="adam", learning_rate=0.01).learn(64)
    agent.save(tmp_path / "agent")
    loaded = Reptile.load(tmp_path / "agent", device="cpu")
    assert loaded.frozen == ("action_net",)
    for each in (agent, loaded):
        each.learn(64, reset_num_timesteps=False)
    assert same(state(agent), state(loaded))


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["action_nett"], r"\['action_nett'\].*PPO does not have.*'policy.action_net.bias'"),
        (["action"], r"\['action'\]"),
        (["policy"], "nothing is left to learn"),
        ("action_net", "a list of prefixes"),
        ([3], r"\[3\]"),
        ([""], "a list of prefixes"),
    ],
    ids=plainly,
)
def test_prefixes_that_name_nothing_are_refused_with_what_there_is(frozen, message):
    with pytest.raises(ConfigError, match=message):
        tiny(frozen=frozen)


def test_a_frozen_online_network_of_dqn_leaves_its_target_alone_too():
    agent = tiny(LAKE, learner_class=DQN, learner_kwargs={"batch_size": 4}, frozen=["q_net"])
    before = state(agent)
    agent.learn(1)
    inside, outside = split(before, state(agent), ["q_net"])
    assert (inside, outside) == (set(), set())
