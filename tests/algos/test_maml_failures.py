"""What is refused, and what is left when a gradient meta-learner fails: the last good iterate."""

import pytest
from stable_baselines3.common.env_util import make_vec_env

from metagym.algos.maml import MAML
from metagym.errors import ConfigError, DivergenceError
from tests.algos.maml_setup import POINT, parameters_of, same, task_of, tiny
from tests.algos.reptile_setup import Plain

ITERATION = 2 * 2 * 3 * 6  # tasks, plays, episodes, steps


def test_an_inner_rate_that_is_too_large_is_named_and_the_last_good_iterate_is_kept(tmp_path):
    agent = tiny(outer="ppo", seed=0).learn(1)
    before, timesteps = parameters_of(agent), agent.num_timesteps
    agent._parts.start._rates = (1e39,)
    with pytest.raises(DivergenceError, match=r"inner_learning_rate=1e\+39 left NaN or infinity"):
        agent.learn(1, reset_num_timesteps=False)

    assert same(parameters_of(agent), before)
    assert agent.num_timesteps == timesteps
    with pytest.raises(DivergenceError, match="inner step 1"):
        agent.adapt(task_of())
    agent._parts.start._rates = (0.1,)
    agent.save(tmp_path / "agent")
    assert same(parameters_of(MAML.load(tmp_path / "agent", device="cpu")), before)
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps == 2 * timesteps


def test_an_outer_step_that_is_too_large_is_named_and_the_last_good_iterate_is_kept():
    agent = tiny(outer="ppo", learning_rate=1e30)
    before = parameters_of(agent)
    with pytest.raises(DivergenceError, match="outer step left NaN or infinity"):
        agent.learn(1)

    assert same(parameters_of(agent), before)


def test_an_interruption_leaves_the_last_complete_iteration(monkeypatch):
    agent, whole = (tiny(outer="ppo", seed=0) for _ in range(2))
    agent.learn(1)
    before, step, calls = parameters_of(agent), agent._parts.outer._optimizer.step, []

    def interrupt(*args):
        step(*args)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(agent._parts.outer._optimizer, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(1, reset_num_timesteps=False)
    assert same(parameters_of(agent), before)
    monkeypatch.undo()
    agent.learn(1, reset_num_timesteps=False)
    assert same(parameters_of(agent), parameters_of(whole.learn(2 * ITERATION)))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"meta_batch_size": 0}, "meta_batch_size must be an integer"),
        ({"n_inner_steps": 1.5}, "n_inner_steps must be an integer"),
        ({"inner_learning_rate": 0.0}, "inner_learning_rate must be a positive number"),
        ({"inner_learning_rate": []}, "at least one number"),
        ({"inner_learning_rate": (0.1, float("nan"))}, "inner_learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
        ({"gamma": 1.1}, r"gamma must be a number in \[0, 1\]"),
        ({"target_kl": 0}, "target_kl must be a positive"),
        ({"outer": "sgd"}, r"outer must be one of \['trpo', 'ppo'\]"),
        ({"baseline": "none"}, "baseline must be one of"),
        ({"line_search_shrinking_factor": 1.0}, "line_search_shrinking_factor"),
        ({"n_steps": 0}, "n_steps must be an integer"),
        ({"first_order": "yes"}, "first_order must be"),
        ({"learner_kwargs": {"seed": 1}}, "learner_kwargs may not hold"),
        ({"learner_kwargs": {"lr": 1}}, "does not have"),
        ({"policy": "CnnLstm"}, "has no policy 'CnnLstm'"),
        ({"env": "CartPole-v1"}, "MAML needs .* has no tasks"),
        ({"env": 3}, "MAML needs"),
        ({"env": make_vec_env(Plain, 2)}, "has no tasks"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(kwargs, words):
    own = {"policy": "MlpPolicy", "env": POINT, "device": "cpu", **kwargs}
    with pytest.raises(ConfigError, match=words):
        MAML(own.pop("policy"), own.pop("env"), **own)


@pytest.mark.parametrize("n_steps", [-1, 1.5, True])
def test_a_number_of_steps_that_makes_no_sense_is_refused(n_steps):
    with pytest.raises(ConfigError, match="n_steps must be an integer of at least 0"):
        tiny().adapt(task_of(), n_steps=n_steps)
