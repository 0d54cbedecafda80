"""One cell of the matrix, run: it trains, saves, loads, goes on, adapts, acts and is evaluated."""

import json
import warnings
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS, MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from metagym.algos import RL2, FromScratch, JointTraining, Reptile, RevealedTask
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.learner_state import LearnerState, get_rng_state, preserved_rng
from metagym.saving import read_archive
from metagym.window_replay import WindowReplayBuffer
from metagym.wrappers import RL2Context, Trial
from tests.matrix.support import IMAGES, OFF_POLICY, ON_POLICY, policy_of
from tests.matrix.worlds import EPISODES, LENGTH, ROWS, dict_rows, dict_trials, env_id, family, masked_rows, scalar_of

CLASSES = {
    "Reptile": Reptile, "JointTraining": JointTraining, "FromScratch": FromScratch, "RevealedTask": RevealedTask,
    "RL2": RL2,
}  # fmt: skip
STEPS = 16
# When an episode ended, and where the last call of `learn` began.
OF_A_CALL = ('"t":', '"_num_timesteps_at_start":', '"num_timesteps_at_start":')


def learner_arguments(learner):
    """Keywords with which a learner updates a few times in 16 steps."""
    if learner in OFF_POLICY:
        return {"learning_starts": 4, "batch_size": 4, "buffer_size": 64, "train_freq": 2}
    if learner is ARS:
        return {"n_delta": 1}
    steps = {"n_steps": 4} if learner in ON_POLICY else {}
    batch = {"batch_size": 8} if hasattr(learner, "train") and "A2C" not in learner.__name__ else {}
    return steps | batch | ({"n_epochs": 1} if issubclass(learner, PPO | RecurrentPPO | MaskablePPO) else {})


def nets_of(cell):
    """Keywords of the smallest policy."""
    if cell.method == "RL2":
        own = {"rnn_hidden_size": 4} if cell.learner in ON_POLICY else {}
        window = {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 4}}
        return own | _image(cell) if cell.learner in ON_POLICY else window
    lstm = {"lstm_hidden_size": 4} if cell.learner is RecurrentPPO else {}
    return {"net_arch": [4]} | lstm | (_image(cell) if cell.method != "RevealedTask" else {})


def _image(cell):
    name = "cnn_output_dim" if cell.method == "RL2" else "features_dim"
    return {"features_extractor_kwargs": {name: 4}} if cell.observation in IMAGES else {}


def env_of(cell):
    """What the method is given to train in, and the keywords that go with it."""
    if cell.method == "RL2":
        trials = {"episodes_per_trial": EPISODES, "n_envs": ROWS}
        return (dict_trials(cell.action), {}) if cell.observation == "dict" else (_id(cell), trials)
    if cell.learner is MaskablePPO and cell.method != "RevealedTask":
        return masked_rows(cell.observation, cell.action), {}
    if cell.observation == "dict":
        given = scalar_of("dict", cell.action) if cell.method == "RevealedTask" else dict_rows(cell.action)
        return given, {"n_envs": ROWS}
    return _id(cell), {"n_envs": ROWS}


def _id(cell):
    return env_id(cell.observation, cell.action)


def make(cell):
    """A tiny learner of the cell."""
    env, keywords = env_of(cell)
    kwargs = {"learner_class": cell.learner, "seed": 0, "device": "cpu", "policy_kwargs": nets_of(cell), **keywords}
    if cell.method == "RL2":
        own = {"n_delta": 1} if cell.learner is ARS else learner_arguments(cell.learner)
        window = {} if cell.learner in ON_POLICY else {"window": 4}
        return RL2("MlpPolicy", env, **kwargs, **own, **window)
    kwargs["learner_kwargs"] = learner_arguments(cell.learner)
    if cell.method != "RevealedTask":
        kwargs["inner_timesteps"] = STEPS
    if cell.method == "Reptile":
        kwargs["meta_batch_size"] = 2
    shown = "box" if cell.method == "RevealedTask" and cell.observation in IMAGES else cell.observation
    return CLASSES[cell.method](policy_of(cell.learner, shown), env, **kwargs)


def contents(agent, folder, name="contents"):
    """All that a checkpoint of the agent holds."""
    agent.save(folder / name)
    return read_archive(folder / name)


def assert_same_archives(left, right):
    """Array by array, and every counter and setting but those that tell of `learn` alone."""
    assert [pair for pair in zip_longest(_described(left[0]), _described(right[0])) if pair[0] != pair[1]] == []
    assert sorted(left[1]) == sorted(right[1])
    for name in sorted(left[1]):
        np.testing.assert_array_equal(left[1][name], right[1][name], err_msg=name)


def _described(meta):
    lines = json.dumps(meta, indent=1, sort_keys=True).splitlines()
    return [line for line in lines if not line.strip().startswith(OF_A_CALL)]


def resumes(cell):
    """Whether the env of a cell can be stored, so that training goes on to the bit."""
    foreign = cell.learner is MaskablePPO  # rows of SB3's, whose episodes begin anew
    return not foreign or cell.method in {"Reptile", "FromScratch"}


def run(cell, folder):
    """The whole cycle; what does not hold raises."""
    agent = make(cell).learn(STEPS)
    assert cell.method == "FromScratch" or agent.num_timesteps >= STEPS
    saved = contents(agent, folder, "half")
    loaded = _load(cell, folder / "half")
    _act_alike(cell, agent, loaded)
    agent.learn(STEPS, reset_num_timesteps=False)
    loaded.learn(STEPS, reset_num_timesteps=False)
    whole, parts = contents(agent, folder, "whole"), contents(loaded, folder, "parts")
    if resumes(cell):
        assert_same_archives(whole, parts)
        _replay_alike(agent, loaded)
    assert cell.method == "FromScratch" or not _equal(saved[1], whole[1])
    _adapts(cell, agent, folder)
    _is_evaluated(cell, agent)


def _replay_alike(agent, loaded):
    buffers = [vars(each).get("replay_buffer") for each in (agent, loaded)]
    if isinstance(buffers[0], WindowReplayBuffer):
        samples = []
        for buffer in buffers:
            with preserved_rng():
                np.random.seed(0)  # noqa: NPY002 (SB3's stream)
                samples.append(list(_leaves(buffer.sample(32))))
        for left, right in zip(*samples, strict=True):
            assert th.equal(left, right)


def _leaves(sample):
    for part in sample:
        yield from part.values() if isinstance(part, dict) else [] if part is None else [part]


def _load(cell, path):
    needs_env = cell.observation == "dict" or cell.learner is MaskablePPO
    with warnings.catch_warnings():
        if cell.learner is MaskablePPO:
            warnings.filterwarnings("ignore", "The state of this training env")
        return CLASSES[cell.method].load(path, env=env_of(cell)[0] if needs_env else None, device="cpu")


def _equal(left, right):
    return all(np.array_equal(array, right[name]) for name, array in left.items() if name in right)


def _act_alike(cell, agent, loaded):
    rng = np.random.default_rng(0)
    space = agent.observation_space
    space.seed(int(rng.integers(100)))
    seen = space.sample()
    left, right = (each.predict(seen, deterministic=True)[0] for each in (agent, loaded))
    np.testing.assert_array_equal(left, right)
    assert agent.action_space.contains(left if agent.action_space.shape else int(left))


def _adapts(cell, agent, folder):
    """`adapt` changes nothing of the learner or the process; what it returns acts on its own."""
    if cell.method == "RevealedTask":
        assert not hasattr(agent, "adapt")
        return
    task = family(cell.observation, cell.action).make(split="test").sample_task()
    if cell.method == "RL2":
        if cell.observation == "dict":
            with pytest.raises(ConfigError, match="cannot repeat"):
                agent.adapt(task, episodes=EPISODES)
            return
        with left_alone(agent, folder):
            adapted = agent.adapt(task, episodes=EPISODES, seed=0)
        assert adapted.returns.shape == (EPISODES,)
        assert np.isfinite(adapted.returns).all()
        adapted.predict(adapted.observation)
        return
    with left_alone(agent, folder):
        adapted = agent.adapt(task, total_timesteps=STEPS, seed=1)
    acts_without_metagym(cell, adapted, folder)


@contextmanager
def left_alone(agent, folder):
    """What happens inside changes nothing of the learner, nor of the process's random states."""
    before, rng = contents(agent, folder, "before"), get_rng_state()
    yield
    assert_same_archives(before, contents(agent, folder, "after"))
    for name, array in get_rng_state().items():
        np.testing.assert_array_equal(array, rng[name], err_msg=name)


def acts_without_metagym(cell, expert, folder):
    """What `adapt` returned is SB3's own: saved and loaded by SB3, it has the same parameters and acts alike."""
    assert type(expert) is cell.learner
    expert.save(folder / "expert.zip")
    plain = cell.learner.load(folder / "expert.zip", device="cpu")
    left, right = LearnerState.capture(plain), LearnerState.capture(expert)
    assert all(th.equal(value, right.tensors[name]) for name, value in left.tensors.items())
    seen = expert.get_env().reset()
    np.testing.assert_array_equal(*(each.predict(seen, deterministic=True)[0] for each in (plain, expert)))


def _is_evaluated(cell, agent):
    if cell.observation == "dict":
        # No family observes a Dict: SB3's own evaluation plays the wrapped env.
        env = scalar_of("dict", cell.action)
        env = RL2Context(Trial(env, episodes_per_trial=EPISODES)) if cell.method == "RL2" else env
        returns, lengths = evaluate_policy(agent, Monitor(env), 2, return_episode_rewards=True)
        assert np.isfinite(returns).all()
        assert lengths == [LENGTH * (EPISODES if cell.method == "RL2" else 1)] * 2
        return
    of = family(cell.observation, cell.action)
    curve = evaluate(agent, of, n_tasks=2, episodes=EPISODES, eval_episodes=1)
    assert curve.scores.shape == (1, 2, EPISODES)
    assert np.isfinite(curve.scores).all()
    kinds = {"RL2": "memory", "RevealedTask": "revealed"}
    assert curve.settings["kind"] == kinds.get(cell.method, "gradient")
