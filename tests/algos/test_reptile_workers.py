"""Worker processes: the result of one process, to the bit, whatever happens to them."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS, CrossQ, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from metagym.algos.reptile import Reptile
from metagym.algos.reptile_env import packed_env, unpacked_env
from metagym.algos.reptile_normalize import capture_statistics
from metagym.algos.reptile_run import DivergenceError
from metagym.algos.reptile_workers import WorkerError, WorkerPool, parcel_of
from metagym.errors import ConfigError
from tests.algos.reptile_setup import LAKE, POINT, Line, Recorder, line_env, same, state, tiny
from tests.algos.reptile_spaces import Steps, agent_of
from tests.algos.test_reptile_normalize import dict_env, same_statistics
from tests.strategies import plainly


def children():
    return [child for child in multiprocessing.active_children() if child.name == "metagym-worker"]


def logged(agent, steps, *callbacks):
    recorder = Recorder("meta/post_adapt_return")
    agent.learn(steps, callback=[recorder, *callbacks], log_interval=None)
    returns = [info["r"] for info in agent.ep_info_buffer]
    return recorder.values, returns, agent.num_timesteps


def test_workers_change_no_bit_of_the_result_even_when_one_dies_and_end_with_learn(tmp_path):
    """With all that an iteration has: outer moments, frozen parts, several tasks a worker, and one that is killed."""
    kwargs = {
        "seed": 0, "meta_batch_size": 3, "outer_optimizer": "adam", "learning_rate": 0.01, "frozen": ["value_net"],
        "inner_timesteps": 400, "learner_kwargs": {"n_steps": 50},
    }  # fmt: skip
    alone, together = tiny(**kwargs), tiny(**kwargs, n_workers=2)
    before = th.get_rng_state()
    killed = []

    def kill_one(*_):
        if not killed:
            killed.append(children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)
        return True

    assert logged(alone, 2400) == logged(together, 2400, ConvertCallback(kill_one))
    assert killed
    assert same(state(alone), state(together))
    assert th.equal(before, th.get_rng_state())
    assert children() == []
    together.save(tmp_path / "agent")
    resumed = Reptile.load(tmp_path / "agent", device="cpu")
    assert resumed.n_workers == 2
    resumed.n_workers = 1
    resumed.learn(1, reset_num_timesteps=False)
    alone.learn(1, reset_num_timesteps=False)
    assert same(state(alone), state(resumed))


CASES = {
    "foreign": lambda: (PPO, line_env(), "box"),
    "SAC": lambda: (SAC, POINT, "box"),
    "DQN": lambda: (DQN, LAKE, "box"),
    "ARS": lambda: (ARS, POINT, "box"),
    "CrossQ": lambda: (CrossQ, line_env(), "box"),
    "RecurrentPPO": lambda: (RecurrentPPO, make_vec_env(Steps, 2, seed=0), "box"),
    "image": lambda: (PPO, make_vec_env(lambda: Steps("image"), 2, seed=0), "image"),
    "VecNormalize": lambda: (PPO, VecNormalize(line_env()), "box"),
    "VecNormalize of a dict": lambda: (PPO, dict_env(), "dict"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_workers_change_no_bit_of_any_learners_result(case):
    agents = []
    for n_workers in (1, 2):
        learner_class, env, observation = case()
        agents.append(agent_of(learner_class, env, observation, n_workers=n_workers, meta_batch_size=3))
    assert logged(agents[0], 192) == logged(agents[1], 192)
    assert same(state(agents[0]), state(agents[1]))
    assert same_statistics(*(capture_statistics(agent.env) for agent in agents))
    assert children() == []


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_run_is_replaced_and_the_result_is_the_same():
    alone = tiny(seed=0, inner_timesteps=320, meta_batch_size=3)
    together = tiny(seed=0, inner_timesteps=320, meta_batch_size=3, n_workers=1)
    alone.learn(1)
    pool = WorkerPool(1, parcel_of(together, together.env, ()))
    (victim,) = pool.processes
    killer = threading.Thread(target=lambda: (wait_for(pool), os.kill(victim.pid, signal.SIGKILL)))
    killer.start()
    finished = play(together, pool)
    killer.join()
    assert victim.exitcode is None or victim.exitcode == -signal.SIGKILL
    assert [process.pid for process in pool.processes] != [victim.pid]
    pool.close()
    assert children() == []
    assert same(finished, state(alone))


def wait_for(pool):
    """Until the first worker has a run in hand."""
    while not pool._workers[0].is_ready:
        time.sleep(0.001)


def play(agent, pool):
    from tqdm import tqdm

    from metagym.algos import reptile_iteration

    agent._setup_learn(1)
    reptile_iteration.iterate(agent, agent.env, pool, tqdm(disable=True))
    return state(agent)


class Deadly(Line):
    """Ends its process."""

    def step(self, action):
        os._exit(7)


class Failing(Line):
    def step(self, action):
        raise ArithmeticError("no such number")


class Poisonous(Line):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class Attached(Line):
    def __reduce__(self):
        raise TypeError("there is only one")


class Unready(Line):
    """Can be sent, and not be received."""

    def __reduce__(self):
        return (os.path.join, (3,))


def agent_in(kind, **kwargs):
    return tiny(make_vec_env(kind, 2), n_workers=2, **{"learner_kwargs": {"n_steps": 4}, **kwargs})


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Deadly, WorkerError, "3 worker processes died over one run .*exit code 7"),
        (Failing, ArithmeticError, "no such number"),
        (Poisonous, DivergenceError, "PPO diverged in run"),
        (Unready, TypeError, "str, bytes"),
    ],
)
@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_raised_here_and_theta_stays(kind, error, message):
    agent = agent_in(kind, seed=0)
    before = state(agent)
    with pytest.raises(error, match=message) as caught:
        agent.learn(64)
    assert same(state(agent), before)
    assert agent.num_timesteps == 0
    assert children() == []
    if error is ArithmeticError:
        assert "in step" in str(caught.value.__cause__)
        assert any(
            "while PPO learnt run" in note for note in getattr(caught.value, "__notes__", ["while PPO learnt run"])
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_vec_env(Attached, 2), "DummyVecEnv cannot be sent to worker processes .*only one.*n_workers=1"),
        (lambda: SubprocVecEnv([Line, Line], start_method="fork"), "SubprocVecEnv cannot be sent to worker processes"),
    ],
    ids=["unique", "processes"],
)
def test_an_env_that_cannot_be_sent_is_refused_before_anything_starts(make, message):
    env = make()
    agent = tiny(env, n_workers=2)
    with pytest.raises(ConfigError, match=message):
        agent.learn(64)
    assert children() == []
    env.close()


def test_arguments_that_cannot_be_sent_are_refused():
    agent = tiny(line_env(2), n_workers=2, learner_kwargs={"n_steps": 4})
    agent._inner_arguments["rollout_buffer_kwargs"] = {"lock": threading.Lock()}
    with pytest.raises(ConfigError, match=r"arguments cannot be sent .*n_workers=1"):
        agent.learn(64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_workers": 0}, "n_workers must be an integer of at least 1, got 0"),
        ({"n_workers": 2, "inner_optimizer": "carry"}, "n_workers=2 with inner_optimizer='carry'"),
    ],
    ids=plainly,
)
def test_numbers_of_workers_that_do_not_do_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**arguments)


def test_an_env_goes_to_another_process_and_plays_the_same_there():
    for env in (tiny().env, line_env(), VecNormalize(line_env()), dict_env()):
        env.seed(3)
        env.reset()
        copies = [env, unpacked_env(packed_env(env))]
        played = []
        for each in copies:
            each.seed(5)
            each.reset()
            actions = np.full((each.num_envs, *each.action_space.shape), 0.25, np.float32)
            played.append([each.step(actions)[:3] for _ in range(7)])
        for left, right in zip(*played, strict=True):
            assert repr(left) == repr(right)
        assert same_statistics(*map(capture_statistics, copies))


def test_a_script_without_a_guard_is_told_so(tmp_path):
    class Stillborn(WorkerPool):
        def _launch(self):
            worker = super()._launch()
            worker.process.kill()
            return worker

    agent = tiny(seed=0)
    pool = Stillborn(1, parcel_of(agent, agent.env, ()))
    with pytest.raises(WorkerError, match='if __name__ == "__main__"'):
        play(agent, pool)
    pool.close()
    assert children() == []
