"""The rows of many tasks step together as each task's rows do alone, and their episodes are counted as SB3 counts."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecMonitor

from metagym.algos.batched_rows import TaskRows, require_native
from metagym.engine import TaskVectorEnv
from metagym.envs import CartPole, FrozenLake, PointGoal
from metagym.errors import ConfigError
from metagym.wrappers import VectorEnvAdapter

NUM_ROWS, SEEDS = 3, [5, 900]


def monitored(family, **kwargs):
    return VecMonitor(
        VectorEnvAdapter(TaskVectorEnv(family, NUM_ROWS, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs))
    )


@pytest.mark.parametrize("family", [FrozenLake(), CartPole(), PointGoal()], ids=lambda family: family.name)
def test_rows_of_a_task_go_through_what_they_go_through_alone(family):
    envs = [monitored(family, max_episode_steps=12) for _ in SEEDS]
    native = require_native(envs[0])
    tasks = native.sample_tasks(len(SEEDS))
    rows = TaskRows(native, len(SEEDS), start=0.0, window=4)
    firsts = []
    for env, task, seed in zip(envs, tasks, SEEDS, strict=True):
        env.env_method("set_task", task)
        env.seed(seed)
        firsts.append(env.reset())
    np.testing.assert_array_equal(rows.reset(tasks, SEEDS), np.concatenate(firsts))
    native.single_action_space.seed(0)
    finished = {index: [] for index in range(len(SEEDS))}
    num_cut = 0
    for _ in range(40):
        actions = np.array([native.single_action_space.sample() for _ in range(rows.env.num_envs)])
        moment = rows.step(actions)
        steps = [env.step(own) for env, own in zip(envs, np.split(actions, len(SEEDS)), strict=True)]
        for index, name in ((0, "observations"), (1, "rewards"), (2, "dones")):
            np.testing.assert_array_equal(getattr(moment, name), np.concatenate([step[index] for step in steps]))
        infos = [info for step in steps for info in step[3]]
        cut = [row for row, info in enumerate(infos) if info.get("TimeLimit.truncated")]
        assert moment.cut.tolist() == cut
        for row, last in zip(cut, moment.last, strict=True):
            np.testing.assert_array_equal(last, infos[row]["terminal_observation"])
        num_cut += len(cut)
        for index, step in enumerate(steps):
            finished[index] += [(row, info) for row, info in enumerate(step[3]) if "episode" in info]
    assert num_cut
    for index, episodes in enumerate(rows.episodes):
        infos = [info for _, info in finished[index]]
        assert episodes.number == len(infos)
        shown = [(info["episode"]["r"], info["episode"]["l"]) for info in infos]
        assert [(record["r"], record["l"]) for record in episodes.latest] == shown[-4:]
        successes = [info["is_success"] for info in infos if "is_success" in info]
        assert list(episodes.successes) == successes[-4:]
        returns = {row: float(info["episode"]["r"]) for row, info in finished[index]}
        assert episodes.last == returns
        assert list(episodes.first) == list(dict.fromkeys(row for row, _ in finished[index]))


def test_monitors_that_write_files_are_refused(tmp_path):
    inner = monitored(FrozenLake()).venv
    logging = VecMonitor(inner, str(tmp_path / "log"))
    with pytest.raises(ConfigError, match="without wrappers and log files; got VecMonitor of VectorEnvAdapter"):
        require_native(logging)
    logging.close()
    with pytest.raises(ConfigError, match="got VecMonitor of VecMonitor"):
        require_native(VecMonitor(VecMonitor(inner)))
