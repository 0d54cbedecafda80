import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import metagym
from metagym.errors import ConfigError, TaskError
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter
from tests.parity import assert_same

SAME_STEP, DISABLED, NEXT_STEP = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP
WRAPS = {
    "bare": lambda env: env,
    "trial": lambda env: Trial(env, episodes_per_trial=2),
    "rl2": lambda env: RL2Context(Trial(env, steps_per_trial=9)),
}
LAKE = ("MetaFrozenLake-v0", {"episode_length": 12})
BANDIT = ("MetaBandit-v0", {})
POINT = ("MetaPointGoal-v0", {"episode_length": 10, "reveal_task": True})
LIMITED = ("MetaBandit-v0", {"max_episode_steps": 1})


@pytest.fixture(autouse=True)
def _one_thread():
    th.set_num_threads(1)


def native(mode=SAME_STEP, wrap=WRAPS["bare"], num_envs=4, env_id=LAKE[0], **kwargs):
    kwargs = kwargs or (LAKE[1] if env_id == LAKE[0] else {})
    return wrap(gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **kwargs))


def synchronous(mode=SAME_STEP, wrap=WRAPS["bare"], num_envs=4, env_id=LAKE[0], **kwargs):
    kwargs = kwargs or LAKE[1]
    return SyncVectorEnv([lambda: wrap(gym.make(env_id, **kwargs))] * num_envs, autoreset_mode=mode)


def without_masks(infos):
    return {
        key: without_masks(value) if isinstance(value, dict) else value
        for key, value in infos.items()
        if not key.startswith("_")
    }


def as_columns(row_infos):
    first = row_infos[0]
    if isinstance(first, dict):
        return {key: as_columns([info[key] for info in row_infos]) for key in first}
    return np.array(row_infos)


def assert_equals_dummy(adapter, dummy, num_steps):
    """Compares everything; a row's infos at its last step, those of all rows in `last_infos`."""
    adapter.seed(5)
    dummy.seed(5)
    assert_same(adapter.reset(), dummy.reset(), "reset")
    assert_same(adapter.reset_infos, dummy.reset_infos, "reset_infos")
    adapter.action_space.seed(5)
    num_done = 0
    for _ in range(num_steps):
        actions = np.array([adapter.action_space.sample() for _ in range(adapter.num_envs)])
        observation, reward, done, infos = adapter.step(actions)
        expected = dummy.step(actions)
        assert_same((observation, reward, done), expected[:3], "step")
        for row, (info, full) in enumerate(zip(infos, expected[3], strict=True)):
            assert_same(info, full if done[row] else {}, f"infos[{row}]")
            full.pop("TimeLimit.truncated")
            full.pop("terminal_observation", None)
        assert_same(without_masks(adapter.last_infos), as_columns(expected[3]), "last_infos")
        if done.any():
            assert_same(adapter.reset_infos, dummy.reset_infos, "reset_infos")
        num_done += int(done.sum())
    return num_done


@pytest.mark.parametrize("make", [native, synchronous])
@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
@pytest.mark.parametrize("name", WRAPS)
def test_an_adapted_env_equals_sb3s_own_vector_env_of_scalar_envs(name, mode, make):
    dummy = DummyVecEnv([lambda: WRAPS[name](gym.make(LAKE[0], **LAKE[1]))] * 4)
    adapter = VectorEnvAdapter(make(mode, WRAPS[name]))
    assert adapter.observation_space == dummy.observation_space
    assert adapter.action_space == dummy.action_space
    assert assert_equals_dummy(adapter, dummy, 500 if make is native else 100) > 20


@pytest.mark.parametrize(("env_id", "kwargs"), [BANDIT, POINT])
@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_other_families_agree_too(env_id, kwargs, mode):
    dummy = DummyVecEnv([lambda: WRAPS["rl2"](gym.make(env_id, **kwargs))] * 3)
    adapter = VectorEnvAdapter(native(mode, WRAPS["rl2"], 3, env_id, **kwargs))
    assert assert_equals_dummy(adapter, dummy, 60) > 10


def test_truncation_and_termination_are_told_apart():
    adapter = VectorEnvAdapter(native(num_envs=64))
    adapter.seed(0)
    adapter.reset()
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        _, _, done, infos = adapter.step(rng.integers(0, 4, 64))
        for row in np.flatnonzero(done):
            seen.add(infos[row]["TimeLimit.truncated"])
            assert isinstance(infos[row]["terminal_observation"], np.int64)
    assert seen == {True, False}


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_an_episode_that_terminates_at_its_time_limit_is_not_truncated(mode):
    env_id, kwargs = LIMITED
    adapter = VectorEnvAdapter(native(mode, env_id=env_id, **kwargs))
    assert assert_equals_dummy(adapter, DummyVecEnv([lambda: gym.make(env_id, **kwargs)] * 4), 5) == 20
    *_, infos = adapter.step(np.zeros(4, np.int64))
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 4


def test_what_is_returned_belongs_to_the_caller():
    adapter = VectorEnvAdapter(native(DISABLED))
    adapter.seed(0)
    kept = [adapter.reset()]
    copies = [kept[0].copy()]
    for _ in range(60):
        observation, _, _, infos = adapter.step(np.ones(4, np.int64))
        assert not any("written" in info for info in infos)
        for info in infos:
            info["written"] = True
        kept.append(observation)
        copies.append(observation.copy())
    assert_same(kept, copies)


# --- seeds, options and tasks ------------------------------------------------------------------------------------


def test_seeds_and_options_hold_for_one_reset():
    adapter = VectorEnvAdapter(native())
    assert list(adapter.seed(3)) == [3, 4, 5, 6]
    adapter.reset()
    first = adapter.get_attr("task")
    adapter.reset()
    assert adapter.get_attr("task") != first
    adapter.seed(3)
    adapter.reset()
    assert adapter.get_attr("task") == first
    one, *_, last = adapter.env.sample_tasks(4)
    adapter.set_options({"task": one})
    adapter.reset()
    assert adapter.get_attr("task") == [one] * 4
    adapter.reset()
    assert adapter.get_attr("task") != [one] * 4
    adapter.set_options([{"task": one}, {}, {"task": last}, {}])
    adapter.reset()
    assert adapter.get_attr("task", [0, 2]) == [one, last]
    assert one not in adapter.get_attr("task", [1, 3])
    adapter.set_options([{"repeat_task": True}, {}, {}, {}])
    with pytest.raises(ConfigError, match="repeat_task"):
        adapter.reset()
    foreign = VectorEnvAdapter(synchronous())
    foreign.set_options([{"task": one}, {}, {}, {}])
    with pytest.raises(ConfigError, match="set_tasks"):
        foreign.reset()
    foreign.set_options({"task": one})
    foreign.reset()
    assert foreign.get_attr("task") == [one] * 4


@pytest.mark.parametrize("make", [native, synchronous])
@pytest.mark.parametrize("name", ["bare", "rl2"])
def test_tasks_are_set_through_every_channel(make, name):
    adapter = VectorEnvAdapter(make(wrap=WRAPS[name]))
    adapter.seed(0)
    adapter.reset()
    tasks = [adapter.env_method("sample_task", indices=0)[0] for _ in range(4)]
    assert len(set(tasks)) == 4
    for row, task in enumerate(tasks):
        assert adapter.env_method("set_task", task, indices=row) == [None]
    adapter.reset()
    assert adapter.get_attr("task") == adapter.env_method("get_task") == tasks
    adapter.set_attr("task", tasks[0], indices=[1, 3])
    adapter.reset()
    assert adapter.get_attr("task") == [tasks[0], tasks[0], tasks[2], tasks[0]]
    adapter.set_tasks(tasks)
    adapter.reset()
    assert adapter.get_attr("task") == tasks
    metagym.set_tasks(VecMonitor(adapter), tasks[::-1])
    adapter.reset()
    assert adapter.get_attr("task") == tasks[::-1]
    adapter.env_method("set_task", None)
    adapter.reset()
    assert adapter.get_attr("task") != tasks[::-1]
    with pytest.raises(TaskError):
        adapter.env_method("set_task", {"map": ["SH", "HG"]})


def test_attributes_are_those_of_the_env():
    adapter = VectorEnvAdapter(native(wrap=WRAPS["rl2"]))
    assert adapter.get_attr("steps_per_trial") == [9] * 4
    assert adapter.get_attr("family", 0) == [adapter.env.family]
    assert adapter.has_attr("task_space")
    assert not adapter.has_attr("action_masks")
    with pytest.raises(ConfigError, match="only 'task'"):
        adapter.set_attr("family", None)
    assert adapter.env_is_wrapped(Trial) == adapter.env_is_wrapped(RL2Context) == [True] * 4
    assert adapter.env_is_wrapped(Monitor, [0]) == [False]
    plain = VectorEnvAdapter(synchronous(wrap=lambda env: Trial(TimeLimit(env, 3), episodes_per_trial=2)))
    assert plain.env_is_wrapped(TimeLimit) == plain.env_is_wrapped(Trial) == [True] * 4
    assert plain.env_is_wrapped(Monitor, 1) == [False]
    plain.set_attr("anything", 7, indices=1)
    assert plain.get_attr("anything", 1) == [7]


def test_pictures_and_closing():
    adapter = VectorEnvAdapter(native(env_id="MetaFrozenLake-v0", render_mode="rgb_array"))
    assert adapter.render_mode == "rgb_array"
    adapter.reset()
    images = adapter.get_images()
    assert len(images) == 4
    assert adapter.render().shape == (2 * images[0].shape[0], 2 * images[0].shape[1], 3)
    adapter.close()
    assert adapter.env.closed
    assert VectorEnvAdapter(synchronous()).render_mode is None


def test_a_pickled_adapter_goes_on():
    adapter = VectorEnvAdapter(native(wrap=WRAPS["rl2"]))
    adapter.seed(1)
    adapter.reset()
    twin = pickle.loads(pickle.dumps(adapter))
    for _ in range(30):
        assert_same(twin.step(np.full(4, 2)), adapter.step(np.full(4, 2)))


# --- foreign vector envs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [native, synchronous])
def test_an_env_that_resets_in_the_next_step_is_refused_with_the_way_out(make):
    with pytest.raises(ConfigError, match=r"NEXT_STEP.*autoreset_mode=gymnasium\.vector\.AutoresetMode\.SAME_STEP"):
        VectorEnvAdapter(make(NEXT_STEP))


def test_what_is_no_vector_env_is_refused():
    with pytest.raises(ConfigError, match="got TaskEnv"):
        VectorEnvAdapter(gym.make(LAKE[0]).unwrapped)


def test_envs_in_other_processes_work():
    makers = [lambda: WRAPS["rl2"](gym.make(LAKE[0], **LAKE[1]))] * 2
    adapter = VectorEnvAdapter(AsyncVectorEnv(makers, autoreset_mode=SAME_STEP))
    try:
        assert assert_equals_dummy(adapter, DummyVecEnv(makers), 40) > 5
        task = adapter.env_method("sample_task")[0]
        adapter.env_method("set_task", task)
        adapter.reset()
        assert adapter.get_attr("task", 1) == [task]
        adapter.set_attr("task", None)
        with pytest.raises(ConfigError, match="all rows"):
            adapter.env_method("set_task", task, indices=1)
        adapter.set_tasks([None, task])
        adapter.reset()
        assert adapter.get_attr("task", 1) == [task]
        assert adapter.env_is_wrapped(Monitor) == [False, False]
    finally:
        adapter.close()


def test_gymnasiums_vector_wrappers_may_lie_between():
    adapter = VectorEnvAdapter(RecordEpisodeStatistics(native(wrap=WRAPS["trial"])))
    assert adapter.get_attr("episodes_per_trial") == [2] * 4
    adapter.reset()
    returns = np.zeros(4)
    for _ in range(80):
        _, reward, done, infos = adapter.step(np.full(4, 1))
        returns += reward
        for row in np.flatnonzero(done):
            assert infos[row]["episode"]["r"] == returns[row]
            returns[row] = 0.0
    adapter.env_method("set_task", adapter.env_method("sample_task")[0])


class SometimesInfo(gym.Wrapper):
    """Reports a key only where there is a reward, so that rows of one step differ in their keys."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, **({"won": "yes"} if reward else {})}


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_rows_have_only_the_keys_that_they_reported(mode):
    makers = [lambda: SometimesInfo(gym.make(BANDIT[0]))] * 4
    adapter, dummy = VectorEnvAdapter(SyncVectorEnv(makers, autoreset_mode=mode)), DummyVecEnv(makers)
    adapter.seed(0)
    dummy.seed(0)
    adapter.reset()
    dummy.reset()
    num_reports = 0
    for _ in range(20):
        infos = adapter.step(np.zeros(4, np.int64))[3]
        assert_same(infos, dummy.step(np.zeros(4, np.int64))[3])
        num_reports += sum("won" in info for info in infos)
    assert 0 < num_reports < 80


# --- SB3 ---------------------------------------------------------------------------------------------------------


def test_ppo_learns_the_same_on_it_as_on_sb3s_own_vector_env():
    parameters = []
    for vec_env in (
        VectorEnvAdapter(native(wrap=WRAPS["rl2"])),
        DummyVecEnv([lambda: WRAPS["rl2"](gym.make(LAKE[0], **LAKE[1]))] * 4),
    ):
        model = PPO("MlpPolicy", VecMonitor(vec_env), n_steps=32, batch_size=64, n_epochs=2, seed=1, device="cpu")
        model.learn(256)
        assert len(model.ep_info_buffer) > 10
        parameters.append([value.clone() for value in model.policy.parameters()])
    assert all(th.equal(left, right) for left, right in zip(*parameters, strict=True))


def test_off_policy_learners_and_normalisation_run_on_it():
    vec_env = VecNormalize(VecMonitor(VectorEnvAdapter(native(env_id=POINT[0], episode_length=10))))
    SAC("MlpPolicy", vec_env, learning_starts=20, batch_size=16, device="cpu", buffer_size=500).learn(60)
    assert vec_env.obs_rms.count > 50


def test_evaluate_policy_counts_trials_and_comes_to_an_end():
    vec_env = VecMonitor(VectorEnvAdapter(native(wrap=WRAPS["rl2"])))
    model = PPO("MlpPolicy", vec_env, device="cpu")
    _, lengths = evaluate_policy(model, vec_env, n_eval_episodes=8, return_episode_rewards=True)
    assert lengths == [9] * 8
    scalar = Monitor(WRAPS["rl2"](gym.make(LAKE[0])))
    _, lengths = evaluate_policy(model, scalar, n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [9] * 2
