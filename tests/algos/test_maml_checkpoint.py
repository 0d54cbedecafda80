"""Saved and loaded: training goes on to the bit."""

import numpy as np
import pytest
import torch as th

from metagym.algos.maml import MAML
from metagym.algos.maml_meta_sgd import MetaSGD
from metagym.algos.maml_promp import ProMP
from metagym.errors import CheckpointError, ConfigError
from metagym.learner_state import get_rng_state
from metagym.saving import read_archive, write_archive
from tests.algos.checkpoint_setup import StopAfter, assert_learns_once_it_has_an_env, assert_same_archives
from tests.algos.maml_setup import CART, METHODS, POINT, Layered, parameters_of, same, task_of, tiny
from tests.algos.reptile_setup import line_env

ITERATION = 2 * 2 * 3 * 6


CASES = [(method, POINT, {}) for method in METHODS] + [
    (MAML, CART, {"outer": "ppo", "baseline": "value_net", "learning_rate": 1e-2}),
    (MAML, POINT, {"inner_learning_rate": (0.2, 0.1), "n_inner_steps": 2, "sub_sampling_factor": 2, "n_steps": 4}),
    (ProMP, POINT, {"target_inner_kl": 0.01}),
]


@pytest.mark.parametrize(("method", "env", "kwargs"), CASES)
def test_a_run_with_save_and_load_between_ends_bit_identical(method, env, kwargs, tmp_path):
    whole = tiny(method, env, **kwargs).learn(4 * ITERATION)
    part = tiny(method, env, **kwargs)
    part.learn(4 * ITERATION, callback=StopAfter(2, tmp_path / "agent"))
    th.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = method.load(tmp_path / "agent", device="cpu")
    resumed.learn(whole.num_timesteps - part.num_timesteps, reset_num_timesteps=False)

    assert resumed.num_timesteps == whole.num_timesteps
    assert same(parameters_of(resumed), parameters_of(whole))
    assert {name: resumed.__dict__[name] for name in kwargs} == {name: whole.__dict__[name] for name in kwargs}
    for step in ("outer", "critic"):
        one, other = (getattr(agent._parts, step) for agent in (resumed, whole))
        if one is not None:
            assert all(np.array_equal(one.arrays()[name], array) for name, array in other.arrays().items())


def test_saving_again_after_loading_writes_the_same_file(tmp_path):
    tiny(MetaSGD, outer="ppo").learn(1).save(tmp_path / "a")
    MetaSGD.load(tmp_path / "a", device="cpu").save(tmp_path / "b")
    assert_same_archives(tmp_path / "a", tmp_path / "b")


def test_what_is_loaded_predicts_and_adapts_as_before_and_touches_no_random_state(tmp_path):
    agent = tiny(policy_kwargs={"features_extractor_class": Layered}).learn(1)
    agent.save(tmp_path / "agent")
    before = get_rng_state()
    with pytest.raises(CheckpointError, match="pass custom_objects"):
        MAML.load(tmp_path / "agent", device="cpu")
    own = {"policy_kwargs.features_extractor_class": Layered}
    loaded = MAML.load(tmp_path / "agent", device="cpu", custom_objects=own)
    one, other = (learner.adapt(task_of(), n_steps=2, seed=1) for learner in (agent, loaded))

    assert same(dict(one.policy.state_dict()), dict(other.policy.state_dict()))
    assert all(np.array_equal(before[name], value) for name, value in get_rng_state().items())
    observation = np.zeros(2, np.float32)
    assert np.array_equal(
        agent.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


def test_another_method_or_a_damaged_file_is_refused(tmp_path):
    tiny(MetaSGD).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="a checkpoint of 'MetaSGD', not of MAML"):
        MAML.load(tmp_path / "agent")
    meta, arrays = read_archive(tmp_path / "agent")
    name = next(name for name in arrays if name.startswith("extra/"))
    write_archive(tmp_path / "short", meta=meta, arrays={key: array for key, array in arrays.items() if key != name})
    with pytest.raises(CheckpointError, match="other parameters"):
        MetaSGD.load(tmp_path / "short")
    write_archive(tmp_path / "wide", meta=meta, arrays={**arrays, name: np.zeros((1, 1), np.float32)})
    with pytest.raises(CheckpointError, match="has shape"):
        MetaSGD.load(tmp_path / "wide")


def test_a_foreign_env_is_said_to_start_anew(tmp_path):
    whole = tiny(env=line_env(3)).learn(100)
    tiny(env=line_env(3)).learn(1).save(tmp_path / "agent")
    with pytest.warns(UserWarning, match="starts anew"):
        resumed = MAML.load(tmp_path / "agent", env=line_env(3), device="cpu")
    resumed.learn(1, reset_num_timesteps=False)
    assert same(parameters_of(resumed), parameters_of(whole))
    assert_learns_once_it_has_an_env(MAML.load(tmp_path / "agent", device="cpu"), line_env(3))
    with pytest.raises(ConfigError, match="were trained on"):
        MAML.load(tmp_path / "agent", env=line_env(3, discrete=True))
