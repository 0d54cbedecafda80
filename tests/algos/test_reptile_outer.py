"""The outer step: interpolation, and any optimiser of torch on the pseudo-gradient."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.utils import LinearSchedule

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_outer import OuterStep, find_optimizer
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import LearnerState, live_tensors
from metagym.saving import read_archive, write_archive
from tests.algos.reptile_setup import LAKE, Recorder, same, state, tiny
from tests.algos.reptile_spaces import CrossQ, Steps, agent_of
from tests.strategies import plainly


def moved(agent, by):
    theta = state(agent)
    mean = theta.copy()
    for tensor in mean.tensors.values():
        tensor.add_(by) if tensor.is_floating_point() else tensor.fill_(7)
    return theta, mean


def test_adam_steps_on_the_gradient_from_the_mean_to_theta():
    agent = tiny()
    theta = state(agent)
    step = OuterStep(agent.learner, th.optim.Adam, {"betas": (0.9, 0.99), "eps": 0.1}, ())
    gradient = -0.5  # theta - mean(phi), everywhere
    first = second = 0.0
    expected = {name: tensor.double() for name, tensor in theta.tensors.items()}
    after = theta
    for count, rate in ((1, 0.3), (2, 0.2)):
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        stride = rate * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.99**count)) + 0.1)
        expected = {name: value - stride for name, value in expected.items()}
        target = after.copy()
        for tensor in target.tensors.values():
            tensor.add_(0.5)
        after = step.apply(after, target, rate)
    for name, value in expected.items():
        th.testing.assert_close(after.tensors[name].double(), value, rtol=1e-5, atol=1e-6)
    assert same(state(agent), theta)


def test_sgd_of_torch_without_momentum_is_the_interpolation():
    agent = tiny()
    theta, mean = moved(agent, 0.25)
    plain = OuterStep(agent.learner, None, None, ()).apply(theta, mean, 0.4)
    torch_sgd = OuterStep(agent.learner, th.optim.SGD, {}, ()).apply(theta, mean, 0.4)
    for name, tensor in plain.tensors.items():
        th.testing.assert_close(torch_sgd.tensors[name], tensor)


def test_running_statistics_and_constants_become_the_mean_and_keep_their_range():
    agent = agent_of(CrossQ, Steps(), learner_kwargs={"ent_coef": 0.2})
    theta, mean = moved(agent, 0.5)
    after = OuterStep(agent.learner, th.optim.Adam, {}, ()).apply(theta, mean, 10.0)
    live = live_tensors(agent.learner)
    for name, tensor in after.tensors.items():
        if not live[name].requires_grad:
            assert th.equal(tensor, mean.tensors[name])
    assert {"ent_coef_tensor"} < {name for name in live if not live[name].requires_grad}


def test_an_entropy_coefficient_that_is_learnt_takes_the_step_too():
    agent = agent_of(SAC, Steps())
    theta, mean = moved(agent, 1.0)
    after = OuterStep(agent.learner, th.optim.SGD, {}, ()).apply(theta, mean, 0.5)
    assert after.tensors["log_ent_coef"].item() == pytest.approx(theta.tensors["log_ent_coef"].item() + 0.5)


@pytest.mark.parametrize(
    ("given", "kwargs", "found"),
    [
        ("sgd", {}, None),
        ("sgd", {"momentum": 0.9}, th.optim.SGD),
        ("SGD", {}, th.optim.SGD),
        ("adamw", {}, th.optim.AdamW),
        ("Adam", {}, th.optim.Adam),
        (th.optim.RMSprop, {}, th.optim.RMSprop),
    ],
)
def test_an_optimizer_is_a_class_or_a_name(given, kwargs, found):
    assert find_optimizer(given, kwargs) is found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outer_optimizer": "adamant"}, "'adam'.*got 'adamant'"),
        ({"outer_optimizer": th.nn.Linear}, "Linear"),
        ({"outer_optimizer": "lbfgs"}, "lbfgs"),
        ({"outer_optimizer": th.optim.LBFGS}, "LBFGS"),
        ({"outer_optimizer": "sparseadam"}, "SparseAdam"),
        ({"outer_optimizer": "adam", "outer_optimizer_kwargs": {"lr": 1.0}}, "learning_rate"),
        ({"outer_optimizer": "adam", "outer_optimizer_kwargs": {"beta": 1.0}}, "beta"),
        ({"outer_optimizer": "adam", "outer_optimizer_kwargs": {"eps": -1.0}}, "eps"),
    ],
    ids=plainly,
)
def test_an_optimizer_that_does_not_do_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**arguments)


OUTER = {
    "adam": {"outer_optimizer": "adam", "outer_optimizer_kwargs": {"betas": (0.5, 0.9)}},
    "momentum": {"outer_optimizer": "sgd", "outer_optimizer_kwargs": {"momentum": 0.9}},
    "class": {"outer_optimizer": th.optim.Adagrad},
}


@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
def test_training_resumes_with_the_moments_of_the_outer_optimizer_to_the_bit(outer, tmp_path):
    schedule = LinearSchedule(0.02, 0.01, 1.0)
    whole = tiny(seed=3, learning_rate=schedule, **outer).learn(4 * 64)
    part = tiny(seed=3, learning_rate=schedule, **outer)
    recorder = Recorder("meta/learning_rate")
    part.learn(
        4 * 64,
        log_interval=None,
        callback=[recorder, ConvertCallback(lambda local, _: local["self"].num_timesteps < 128)],
    )
    assert recorder.values == pytest.approx([0.02, 0.0175])
    part.save(tmp_path / "agent")
    resumed = Reptile.load(tmp_path / "agent", device="cpu")
    assert resumed.outer_optimizer == outer["outer_optimizer"]
    resumed.learn(2 * 64, reset_num_timesteps=False)
    assert same(state(resumed), state(whole))
    forgetful = Reptile.load(tmp_path / "agent", device="cpu")
    forgetful._outer._optimizer.state.clear()
    forgetful.learn(2 * 64, reset_num_timesteps=False)
    assert not same(state(forgetful), state(whole))


def test_moments_of_another_optimizer_are_refused(tmp_path):
    tiny(seed=0, **OUTER["adam"]).learn(1).save(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    arrays["outer/optimizer/outer/99/exp_avg"] = np.zeros(3)
    write_archive(tmp_path / "agent", meta=meta, arrays=arrays)
    with pytest.raises(CheckpointError, match="99"):
        Reptile.load(tmp_path / "agent")


def test_an_interrupted_iteration_leaves_the_outer_optimizer_as_it_was(monkeypatch):
    agents = [tiny(seed=0, learning_rate=0.01, **OUTER["adam"]).learn(64) for _ in range(2)]
    step = th.optim.Adam.step

    def interrupt(optimizer, *args):
        step(optimizer, *args)
        if optimizer is agents[1]._outer._optimizer:
            raise KeyboardInterrupt

    monkeypatch.setattr(th.optim.Adam, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        agents[1].learn(64, reset_num_timesteps=False)
    monkeypatch.undo()
    assert same(state(agents[0]), state(agents[1]))
    for agent in agents:
        agent.learn(128, reset_num_timesteps=False)
    assert same(state(agents[0]), state(agents[1]))


def test_the_target_networks_of_dqn_move_with_the_online_ones():
    agent = tiny(LAKE, learner_class=DQN, learner_kwargs={"batch_size": 4}, learning_rate=0.01, outer_optimizer="adam")
    before = state(agent)
    agent.learn(1)
    after = LearnerState.capture(agent.learner)
    changed = [name for name in before.tensors if not th.equal(before.tensors[name], after.tensors[name])]
    assert any("q_net_target" in name for name in changed)
    assert any("q_net." in name for name in changed)
