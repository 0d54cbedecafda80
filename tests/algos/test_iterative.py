"""Learners that learn in iterations: one loop, and one common part of their checkpoints."""

import pytest

from metagym.algos import MAML, Reptile
from metagym.algos.iterative import pin_any, resume_training, training_state
from metagym.algos.reptile_env import native_env
from metagym.errors import CheckpointError

SMALL = {"meta_batch_size": 2, "n_envs": 2, "seed": 0, "device": "cpu"}


class Own(Reptile):
    """A learner of one's own."""


def make(learner, env_id="MetaPointGoal-v0", **kwargs):
    own = {"n_steps": 5} if learner is MAML else {"inner_timesteps": 64, "learner_kwargs": {"n_steps": 16}}
    return learner("MlpPolicy", env_id, **SMALL, **own, **kwargs)


@pytest.mark.parametrize(("learner", "name"), [(Reptile, "Reptile"), (Own, "Reptile"), (MAML, "MAML")])
def test_runs_of_tensorboard_are_named_after_the_learner(learner, name, tmp_path):
    agent = make(learner, tensorboard_log=str(tmp_path)).learn(1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}_1"]
    agent.learn(1, tb_log_name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{name}_1", "mine_1"])


@pytest.mark.parametrize("learner", [Reptile, MAML])
def test_counters_random_states_and_env_are_put_back(learner):
    agent, other = make(learner).learn(1), make(learner)
    assert agent._n_iterations == 1
    meta, arrays = training_state(agent)
    resume_training(other, meta, arrays)
    again, same = training_state(other)
    assert again == meta
    env = {name: array for name, array in arrays.items() if name.startswith("env/")}
    assert env
    assert all((same[name] == array).all() for name, array in env.items())


@pytest.mark.parametrize("learner", [Reptile, MAML])
def test_the_state_of_another_env_is_refused(learner):
    meta, arrays = training_state(make(learner))
    with pytest.raises(CheckpointError, match="the env does not take the stored state"):
        resume_training(make(learner, "MetaCartPole-v0"), meta, arrays)


@pytest.mark.parametrize("learner", [Reptile, MAML])
def test_before_the_first_iteration_a_task_is_pinned(learner):
    agent = make(learner)
    pin_any(agent, agent.env)
    native = native_env(agent.env)
    agent.env.reset()  # pins take effect at a reset
    tasks = native.get_tasks()
    agent.env.reset()
    assert native.get_tasks() == tasks  # else every row would have drawn another one
    assert len(set(tasks)) == 1
