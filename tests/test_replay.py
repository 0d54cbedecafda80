"""One replay buffer for many tasks: by hand, against a slow model of it, and inside SB3's learners."""

import pickle
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import metagym  # noqa: F401 (registers the ids)
from metagym.errors import ConfigError
from metagym.replay import TaskReplayBuffer
from metagym.tasks import Task
from metagym.wrappers.sb3 import VectorEnvAdapter

VIEW, ACTS = spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)
POINT = "MetaPointGoal-v0"


def made(size, n_envs=1, **kwargs):
    return TaskReplayBuffer(size, VIEW, ACTS, device="cpu", n_envs=n_envs, **kwargs)


def add(buffer, ids, value, done=False, timeout=False):
    """One step of all rows: row r goes from ``value + r / 10`` to ``value + 1 + r / 10``."""
    rows = np.arange(len(ids), dtype=np.float32)[:, None] / 10
    infos = [{"task_id": one, "TimeLimit.truncated": timeout} for one in ids]
    ends = np.full(len(ids), done)
    buffer.add(value + rows, value + 1 + rows, rows, value + rows[:, 0], ends, infos)


def stored(buffer, task):
    """What of a task is stored: its rewards, oldest first."""
    queue = buffer._queues[task]
    places = [queue[index] for index in range(len(queue))]
    return [float(buffer.rewards[divmod(place, buffer.n_envs)]) for place in places]


def rounded(tensor):
    return sorted({round(value, 3) for value in tensor.flatten().tolist()})


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_transitions_are_kept_by_task_and_the_oldest_are_forgotten():
    buffer = made(6, n_envs=2)
    add(buffer, [7, 8], 0.0)
    add(buffer, [7, 8], 1.0)
    add(buffer, [9, 8], 2.0)
    assert buffer.present_tasks.tolist() == [7, 8, 9]
    assert stored(buffer, 7) == [0.0, 1.0]
    assert stored(buffer, 8) == pytest.approx([0.1, 1.1, 2.1])
    assert stored(buffer, 9) == [2.0]
    add(buffer, [9, 9], 3.0)
    add(buffer, [9, 9], 4.0)
    assert buffer.count(7) == 0
    assert stored(buffer, 8) == pytest.approx([2.1])
    assert stored(buffer, 9) == pytest.approx([2.0, 3.0, 3.1, 4.0, 4.1])
    assert sorted(buffer.present_tasks.tolist()) == [8, 9]


def test_a_sample_of_one_task_holds_its_transitions_and_no_others():
    buffer = made(100, n_envs=2)
    for value in range(10):
        add(buffer, [1, 2 if value < 5 else 3], float(value), done=value == 9, timeout=value == 4)
    batch = buffer.sample_task(2, 200)
    assert rounded(batch.observations) == [0.1, 1.1, 2.1, 3.1, 4.1]
    assert np.allclose(batch.next_observations - batch.observations, 1.0)
    assert np.allclose(batch.rewards, batch.observations)
    assert rounded(batch.actions) == [0.1]
    assert batch.dones.shape == (200, 1)
    assert rounded(buffer.sample_task(3, 100).dones) == [0.0, 1.0]


def test_timeouts_do_not_count_as_ends():
    buffer = made(10)
    add(buffer, [1], 0.0, done=True, timeout=True)
    add(buffer, [2], 1.0, done=True)
    assert rounded(buffer.sample_task(1, 8).dones) == [0.0]
    assert rounded(buffer.sample_task(2, 8).dones) == [1.0]
    without = made(10, handle_timeout_termination=False)
    add(without, [1], 0.0, done=True, timeout=True)
    assert rounded(without.sample_task(1, 8).dones) == [1.0]


def test_tasks_are_drawn_evenly_and_then_their_transitions():
    buffer = made(100)
    for value in range(12):
        add(buffer, [1 if value < 10 else 2], float(value))
    np.random.seed(0)  # noqa: NPY002
    drawn = Counter(buffer.sample(12_000).observations.flatten().tolist())
    spread = 5 * np.sqrt(12_000 * 0.25)
    assert abs(drawn[10.0] + drawn[11.0] - 6000) < spread
    assert all(abs(drawn[float(value)] - 600) < 5 * np.sqrt(600) for value in range(10))


def test_proportional_sampling_is_that_of_sb3_to_the_bit():
    ours, theirs = made(16, n_envs=2, sampling="proportional"), ReplayBuffer(16, VIEW, ACTS, device="cpu", n_envs=2)
    for value in range(20):
        for buffer in (ours, theirs):
            add(buffer, [value // 3, 5], float(value))
    batches = []
    for buffer in (ours, theirs):
        np.random.seed(3)  # noqa: NPY002
        batches.append(buffer.sample(32))
    assert all(np.array_equal(left, right) for left, right in zip(batches[0][:5], batches[1][:5], strict=True))


def test_a_task_may_be_given_as_itself():
    task = Task("Some", {"goal": np.array(3.0)})
    buffer = made(4)
    add(buffer, [task.id], 5.0)
    assert buffer.count(task) == 1
    assert rounded(buffer.sample_task(task, 3).observations) == [5.0]


def test_reset_empties_it():
    buffer = made(4)
    add(buffer, [1], 0.0)
    buffer.reset()
    assert (buffer.present_tasks.tolist(), buffer.count(1), buffer.size()) == ([], 0, 0)
    add(buffer, [1], 4.0)
    assert stored(buffer, 1) == [4.0]


# --- against a slow model --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 7),
    st.booleans(),
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), max_size=40),
)
def test_what_is_stored_by_task_is_what_a_list_of_the_last_steps_holds(n_envs, num_steps, optimize, history):
    buffer = made(num_steps * n_envs, n_envs, optimize_memory_usage=optimize, handle_timeout_termination=not optimize)
    for number, ids in enumerate(history):
        add(buffer, ids[:n_envs], float(number))
    kept = list(enumerate(history))[-(num_steps - optimize) :]
    if len(history) < num_steps:
        kept = list(enumerate(history))
    expected = {}
    for number, ids in kept:
        for row, task in enumerate(ids[:n_envs]):
            expected.setdefault(task, []).append(pytest.approx(number + row / 10, abs=1e-4))
    assert {task: stored(buffer, task) for task in buffer.present_tasks.tolist()} == expected
    if not history:
        return
    for task in expected:
        batch = buffer.sample_task(task, 5)
        np.testing.assert_allclose(batch.next_observations - batch.observations, 1.0, atol=1e-4)
        np.testing.assert_allclose(batch.rewards, batch.observations, atol=1e-4)
    again = pickle.loads(pickle.dumps(buffer))
    again.rebuild(buffer.present_tasks)
    assert again.present_tasks.tolist() == buffer.present_tasks.tolist()
    assert all(stored(again, task) == stored(buffer, task) for task in expected)
    again.rebuild()
    assert sorted(again.present_tasks.tolist()) == sorted(expected)


def test_adding_and_sampling_take_as_long_with_many_tasks_as_with_few():
    def touched(num_tasks):
        buffer = made(4096)
        for value in range(3 * 4096):
            add(buffer, [value % num_tasks], 0.0)
        # What an operation could have to walk through: places kept in vain, and tasks without any.
        vain = sum(queue.head for queue in buffer._present)
        return vain, len(buffer._queues), len(buffer._present)

    for num_tasks in (1, 64, 4096):
        vain, queues, present = touched(num_tasks)
        assert vain <= 4096 + 33 * num_tasks
        assert queues == present == num_tasks


# --- where ids come from ---------------------------------------------------------------------------------------------


def adapted(n_envs=3, mode=AutoresetMode.SAME_STEP, env_id=POINT):
    return VectorEnvAdapter(gym.make_vec(env_id, num_envs=n_envs, autoreset_mode=mode))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_ids_behind_the_adapter_are_those_of_the_tasks_just_played(mode):
    env = adapted(mode=mode, env_id="MetaFrozenLake-v0")
    venv = VecNormalize(VecMonitor(env), norm_obs=False)
    buffer = TaskReplayBuffer(3000, venv.observation_space, venv.action_space, n_envs=3)
    buffer.watch(venv)
    rng = np.random.default_rng(0)
    venv.seed(0)
    observation, played, ends = venv.reset(), [], 0
    for _ in range(60):
        played.append([task.id for task in env.env.get_tasks()])
        action = rng.integers(4, size=3)
        after, reward, done, infos = venv.step(action)
        buffer.add(observation, after, action, reward, done, infos)
        observation, ends = after, ends + done.sum()
    assert ends > 5
    assert buffer.task_ids[:60].tolist() == played


def test_ids_of_scalar_envs_are_in_their_infos():
    venv = DummyVecEnv([lambda: gym.make(POINT)] * 2)
    buffer = TaskReplayBuffer(10, venv.observation_space, venv.action_space, n_envs=2)
    buffer.watch(venv)
    observation = venv.reset()
    played = [task.id for task in venv.env_method("get_task")]  # before the step: an episode that ends draws another
    after, reward, done, infos = venv.step(np.zeros((2, 2), np.float32))
    buffer.add(observation, after, np.zeros((2, 2), np.float32), reward, done, infos)
    assert buffer.task_ids[0].tolist() == played


def test_rows_without_ids_are_refused_with_the_way_out():
    venv = adapted(2)
    model = SAC(
        "MlpPolicy", venv, replay_buffer_class=TaskReplayBuffer, learning_starts=10, policy_kwargs={"net_arch": [4]}
    )
    with pytest.raises(ConfigError, match=r"task_id of each of 2 rows.*replay_buffer\.watch"):
        model.learn(4)
    model.replay_buffer.watch(model.get_env())
    model.learn(4)
    assert model.replay_buffer.size() == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(4, sampling="even"), "'uniform' or 'proportional', got 'even'"),
        (lambda: TaskReplayBuffer(4, spaces.Dict(a=VIEW), ACTS), "not dicts"),
        (lambda: made(4).sample(1), "nothing is stored"),
        (lambda: made(4).sample_task(5, 1), "nothing of task 5"),
    ],
)
def test_misuse_is_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# --- in SB3's learners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner_class", [SAC, TD3, DQN])
@pytest.mark.parametrize("optimize", [False, True])
def test_learners_of_sb3_learn_from_it_save_it_and_load_it(learner_class, optimize, tmp_path):
    venv = VecMonitor(adapted(2, env_id="MetaFrozenLake-v0" if learner_class is DQN else POINT))
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = learner_class(
        "MlpPolicy", venv, replay_buffer_class=TaskReplayBuffer, buffer_size=60, learning_starts=8, batch_size=8,
        train_freq=4, policy_kwargs={"net_arch": [4]}, **(kwargs if optimize else {}),
    )  # fmt: skip
    model.replay_buffer.watch(venv)
    model.learn(160)
    assert model._n_updates > 0
    model.save_replay_buffer(tmp_path / "buffer")
    before = model.replay_buffer
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is not before
    assert model.replay_buffer._watched is None
    assert model.replay_buffer.present_tasks.tolist() == before.present_tasks.tolist()
