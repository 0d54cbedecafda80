"""The contract of scalar envs with tasks, over envs of somebody else's."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

from metagym.engine import TaskEnv
from metagym.errors import ConfigError, TaskError
from tests.foreign.worlds import carts, switches, walks
from tests.parity import assert_same


def trajectory(env, seed, num_steps=30):
    found = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    for _ in range(num_steps):
        found.append(env.step(env.action_space.sample()))
        if found[-1][2] or found[-1][3]:
            found.append(env.reset())
    return found


@pytest.fixture(scope="module")
def family():
    return carts()


@pytest.mark.parametrize("make", [carts, walks, switches])
def test_gymnasiums_checker_is_content(make):
    env = make().make()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render_modes.*|.*not having `spec`.*|.*infinity.*|.*check the.*")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*|.*close method.*")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("make", [carts, walks])
def test_sb3s_checker_is_content(make):
    check_env_of_sb3(make().make(), warn=True)


@pytest.mark.parametrize("make", [carts, walks, switches])
def test_everything_follows_from_the_seed(make):
    family = make()

    assert_same(trajectory(family.make(), 3), trajectory(family.make(), 3))
    assert trajectory(family.make(), 3)[0][1]["task_id"] != trajectory(family.make(), 4)[0][1]["task_id"]


def test_it_is_an_env_with_tasks(family):
    assert isinstance(family.make(), TaskEnv)


def test_every_reset_starts_a_trial_of_another_task(family):
    env = family.make()
    ids = [env.reset(seed=0)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(4))]

    assert len(set(ids)) == 5


def test_set_task_waits_for_the_next_reset_and_stays(family):
    env = family.make()
    _, info = env.reset(seed=0)
    task = env.sample_task()
    env.set_task(task)
    *_, step_info = env.step(0)

    assert step_info["task_id"] == info["task_id"]
    assert env.task.id == info["task_id"]
    assert [env.reset()[1]["task_id"] for _ in range(2)] == [task.id] * 2
    env.set_task(None)
    assert env.reset()[1]["task_id"] != task.id


def test_the_running_episode_does_not_feel_the_task_that_waits(family):
    env, other = family.make(), family.make()
    env.reset(seed=0)
    other.reset(seed=0)
    env.set_task(env.sample_task())

    assert_same(env.step(1), other.step(1))


def test_a_task_given_to_reset_is_for_that_trial_alone(family):
    env = family.make()
    env.reset(seed=0)
    task = env.sample_task()

    assert env.reset(options={"task": task})[1]["task_id"] == task.id
    assert env.reset()[1]["task_id"] != task.id


def test_repeat_task_plays_the_same_task_from_another_start(family):
    env = family.make()
    observation, info = env.reset(seed=0)
    again, again_info = env.reset(options={"repeat_task": True})

    assert again_info["task_id"] == info["task_id"]
    assert not np.array_equal(observation, again)


def test_an_episode_does_not_depend_on_what_the_env_played_before():
    family = carts()
    task = family.distribution().sample(np.random.default_rng(0))
    fresh, used = family.make(), family.make()
    used.reset(seed=1)
    for _ in range(5):
        used.step(1)

    first = [fresh.reset(seed=7, options={"task": task}), *(fresh.step(t % 2) for t in range(9))]
    assert_same([used.reset(seed=7, options={"task": task}), *(used.step(t % 2) for t in range(9))], first)


def test_sampling_tasks_changes_no_trajectory(family):
    env, other = family.make(), family.make()
    env.reset(seed=5)
    other.reset(seed=5)
    env.sample_tasks(3)

    assert_same(env.step(1), other.step(1))
    assert env.reset()[1] == other.reset()[1]


def test_the_task_is_in_no_info_unless_it_is_to_be_revealed(family):
    _, info = family.make().reset(seed=0)
    _, revealed = family.make(reveal_task=True).reset(seed=0)

    assert set(info) == {"task_id", "trial_start"}
    assert set(revealed["task"]) == {"gravity", "length"}


def test_infos_of_the_env_are_there_at_reset_and_at_every_step_and_text_is_not():
    env = walks().make()
    _, at_reset = env.reset(seed=0)
    *_, at_step = env.step(1)

    assert set(at_reset) == set(at_step) == {"task_id", "trial_start", "is_success", "moved", "place", "solved"}
    assert [type(at_reset[key]) for key in at_reset] == [type(at_step[key]) for key in at_reset]


def test_success_is_told_as_is_success():
    env = walks(construct={"slip": [0.0, 1e-9]}).make()
    env.reset(seed=0)
    told = []
    for _ in range(6):
        _, reward, terminated, _, info = env.step(1)
        told.append((info["is_success"], terminated, bool(reward)))
        if terminated:
            break

    assert told[-1] == (True, True, True)
    assert set(told[:-1]) == {(False, False, False)}


def test_episodes_are_truncated_at_their_length():
    env = walks(episode_length=4).make()
    env.reset(seed=0)

    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]


def test_actions_of_a_box_are_clipped_into_it():
    family = carts_of_pendulum()
    inside, outside = family.make(), family.make()
    inside.reset(seed=0)
    outside.reset(seed=0)

    assert_same(outside.step(np.array([50.0])), inside.step(np.array([2.0])))


def carts_of_pendulum():
    import metagym

    return metagym.parameterize("Pendulum-v1", attributes={"g": (5.0, 15.0), "m": (0.5, 2.0)})


def test_a_wrong_task_is_refused_when_it_is_set(family):
    env = family.make()

    with pytest.raises(TaskError, match=r"gravity=99\.0 is out of range"):
        env.set_task({"gravity": 99.0, "length": 0.5})
    with pytest.raises(TaskError, match=r"missing \['length'\]"):
        env.set_task({"gravity": 9.8})


def test_what_is_called_too_early_says_so(family):
    env = family.make(render_mode="rgb_array")

    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded):
        env.get_task()
    with pytest.raises(gym.error.ResetNeeded):
        env.render()


def test_an_unknown_option_and_a_wrong_action_are_refused(family):
    env = family.make()
    env.reset(seed=0)

    with pytest.raises(ConfigError, match="reset option"):
        env.reset(options={"gravity": 3.0})
    with pytest.raises(ConfigError, match=r"action must be in 0\.\.1"):
        env.step(2)


def test_pictures_come_from_the_env_inside():
    env = walks().make(render_mode="ansi")
    env.reset(seed=0)

    assert env.render().endswith("x")
    env.close()
    env.close()
