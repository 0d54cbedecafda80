"""Wrappers, learners and evaluation on envs of somebody else's."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

import metagym
from metagym.algos import RL2, Reptile
from metagym.algos.references import Random
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.wrappers import RevealTask, RL2Context, Trial, VectorEnvAdapter
from tests.foreign.worlds import carts, switches, walks
from tests.parity import assert_parity

ID = "MetaTestCarts-v0"
SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def family():
    made = carts(id=ID)
    yield made
    gym.registry.pop(ID, None)


def rl2(**kwargs):
    return RL2("MlpPolicy", ID, **({"episodes_per_trial": 2, "n_envs": 2, "seed": 0} | SMALL | kwargs))


def reptile(env=ID, **kwargs):
    given = {"learner_class": PPO, "n_envs": 2, "inner_timesteps": 16, "meta_batch_size": 1, "seed": 0}
    return Reptile("MlpPolicy", env, learner_kwargs={**SMALL, "batch_size": 16}, **(given | kwargs))


def same_parameters(one, other):
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(th.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("make", [carts, walks, switches])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_wrapped_rows_equal_wrapped_scalar_envs(make, mode):
    family = make()

    def wrap(env):
        return RL2Context(Trial(RevealTask(env), episodes_per_trial=2))

    assert assert_parity(wrap(family.make_vec(2, autoreset_mode=mode)), lambda: wrap(family.make()), num_steps=80) > 0


def test_a_trial_keeps_its_task_through_its_episodes(family):
    env = Trial(family.make(), episodes_per_trial=3)
    _, info = env.reset(seed=0)
    tasks, episodes, over = {info["task_id"]}, 0, False
    while not over:
        _, _, over, _, info = env.step(0)
        tasks.add(info["task_id"])
        episodes += info["episode_end"]

    assert (len(tasks), episodes) == (1, 3)


def test_sb3_learns_in_the_adapter(family):
    vector_env = family.make_vec(2, autoreset_mode=AutoresetMode.SAME_STEP)

    PPO("MlpPolicy", VectorEnvAdapter(vector_env), **SMALL, seed=0).learn(32)


def test_rl2_learns_adapts_and_is_evaluated(family):
    agent = rl2().learn(32)
    adapted = agent.adapt(family.make().sample_task(), episodes=1, seed=0)
    curve = evaluate(agent, ID, n_tasks=2, episodes=2)

    assert adapted.returns.shape == (1,)
    assert curve.scores.shape == (1, 2, 2)
    assert (curve.scores >= 8).all()


def test_reptile_learns_adapts_and_is_evaluated(family):
    agent = reptile().learn(32)
    adapted = agent.adapt(family.make().sample_task(), total_timesteps=16)
    curve = evaluate(agent, family, n_tasks=1, episodes=2, eval_episodes=2, split="ood")

    assert isinstance(adapted, PPO)
    assert curve.scores.shape == (1, 1, 2)
    assert curve.env_id == "CartPole-v1"


@pytest.mark.parametrize("learner", [rl2, reptile])
def test_training_that_was_saved_and_resumed_ends_where_training_that_was_not_did(learner, tmp_path):
    first = learner().learn(48)
    first.save(tmp_path / "half.zip")
    whole = first.learn(48, reset_num_timesteps=False)
    resumed = type(first).load(tmp_path / "half.zip").learn(48, reset_num_timesteps=False)

    assert resumed.num_timesteps == whole.num_timesteps
    assert same_parameters(resumed, whole)


def test_learners_take_scalar_and_vector_envs_of_the_family(family):
    rl2_of = {"episodes_per_trial": 2, **SMALL}
    same_step = family.make_vec(2, autoreset_mode=AutoresetMode.SAME_STEP)

    assert RL2("MlpPolicy", family.make(), n_envs=2, **rl2_of).env.num_envs == 2
    assert RL2("MlpPolicy", same_step, **rl2_of).env.num_envs == 2
    assert reptile(family.make()).learn(16).num_timesteps >= 16
    assert reptile(same_step, n_envs=None).learn(16).num_timesteps >= 16


def test_learners_draw_their_tasks_from_the_split_they_are_told(family):
    for learner in (rl2(split="ood"), reptile(split="ood")):
        rows = learner.env.unwrapped.env.unwrapped
        rows.reset(seed=0)
        assert all(task["gravity"] >= 15.0 for task in rows.get_tasks())


def test_random_actions_are_the_floor_and_simulated(family):
    curve = evaluate(Random(None, ID), ID, n_tasks=3, episodes=2)

    assert curve.settings["random"] == "simulated"
    assert (np.array(curve.random) > 8).all()
    assert curve.optimal is None


def test_evaluation_says_what_it_takes(family):
    with pytest.raises(ConfigError, match="env must be the id of a family or a family"):
        evaluate(Random(None, ID), family.make(), n_tasks=1)
    with pytest.raises(ConfigError, match="takes no keywords"):
        evaluate(Random(None, ID), ID, n_tasks=1, env_kwargs={"gravity": 3})


def test_tasks_of_one_family_are_none_of_another(family):
    task = walks().make().sample_task()

    with pytest.raises(metagym.TaskError, match="'Walk' was given to family 'CartPole-v1'"):
        evaluate(Random(None, ID), ID, tasks=[task])


def test_random_actions_of_several_numbers_are_all_played():
    family = switches()
    curve = evaluate(Random(None, family.make()), family, n_tasks=2, episodes=2)
    actions, _ = Random.of_spaces(family.observation_space, family.action_space).predict(np.zeros((300, 3)))

    assert np.array_equal(np.unique(actions, axis=0), [[a, b] for a in range(2) for b in range(3)])
    assert (curve.scores >= 4.0).all()
