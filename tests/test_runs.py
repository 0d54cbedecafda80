import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from metagym.errors import CheckpointError, ConfigError
from metagym.runs import ALGOS, RunConfig, env_of, load_agent, read_progress, replace_timesteps, train
from metagym.saving import read_archive

SETTINGS = {
    "rl2": {"episodes_per_trial": 2, "n_envs": 4, "n_steps": 40, "policy_kwargs": {"rnn_hidden_size": 8}},
    "reptile": {"n_envs": 4, "inner_timesteps": 80, "policy_kwargs": {"net_arch": [8]}},
}


def config(algo="rl2", timesteps=320, **changes):
    return RunConfig(
        algo=algo,
        env_id="MetaFrozenLake-v0",
        env_kwargs={"is_slippery": False, "episode_length": 10},
        settings=SETTINGS[algo],
        total_timesteps=timesteps,
        device="cpu",
        **changes,
    )


def arrays_of(path):
    return read_archive(path)[1]


def assert_same_arrays(left, right):
    assert sorted(left) == sorted(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize("algo", sorted(ALGOS))
def test_a_run_writes_its_configuration_log_checkpoint_and_agent(tmp_path, algo):
    final = train(config(algo), tmp_path / "run")
    assert final == tmp_path / "run" / "agent.zip"
    assert RunConfig.read(tmp_path / "run") == config(algo)
    assert read_progress(tmp_path / "run")["time/total_timesteps"].is_monotonic_increasing
    agent = load_agent(tmp_path / "run")
    assert agent.num_timesteps >= 320
    assert env_of(agent) == ("MetaFrozenLake-v0", {"is_slippery": False, "episode_length": 10})


@pytest.mark.parametrize("algo", sorted(ALGOS))
def test_training_in_two_parts_ends_bit_identical_to_training_in_one(tmp_path, algo):
    whole = train(config(algo, 640), tmp_path / "whole")
    train(config(algo, 320), tmp_path / "parts")
    parts = train(replace_timesteps(config(algo), 640), tmp_path / "parts", resume=True)
    assert_same_arrays(arrays_of(whole), arrays_of(parts))


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(ALGOS))
def test_a_killed_run_resumes_and_ends_bit_identical(tmp_path, algo):
    whole = train(config(algo, 20_000), tmp_path / "whole")
    code = (
        "import torch; torch.set_num_threads(1); "  # as here: other threads add up in another order
        "from tests.test_runs import config; from metagym.runs import train; "
        f"train(config({algo!r}, 20_000), {str(tmp_path / 'killed')!r}, checkpoint_seconds=0.05)"
    )
    checkpoint = tmp_path / "killed" / "checkpoint.zip"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."}) as process:
        try:
            deadline = time.monotonic() + 120
            while not (checkpoint.exists() and read_archive(checkpoint)[0]["counters"]["num_timesteps"] > 0):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "agent.zip").exists()
    resumed = train(config(algo, 20_000), tmp_path / "killed", resume=True)
    assert_same_arrays(arrays_of(whole), arrays_of(resumed))


def test_an_interrupted_run_leaves_a_checkpoint_that_resumes_to_the_same_result(tmp_path, monkeypatch):
    whole = train(config(timesteps=640), tmp_path / "whole")
    steps = iter(range(1000))

    def interrupt(self):
        if next(steps) == 50:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr("metagym.runs._Checkpoints._on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config(timesteps=640), tmp_path / "stopped")
    assert 0 < load_agent(tmp_path / "stopped" / "checkpoint.zip").num_timesteps < 640
    resumed = train(config(timesteps=640), tmp_path / "stopped", resume=True)
    assert_same_arrays(arrays_of(whole), arrays_of(resumed))


def test_an_error_in_training_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("broken")

    monkeypatch.setattr("metagym.runs._Checkpoints._on_step", fail)
    with pytest.raises(RuntimeError, match="broken"):
        train(config(), tmp_path / "run")
    assert load_agent(tmp_path / "run" / "checkpoint.zip").num_timesteps == 0


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(config(), tmp_path / "run")
    before = (tmp_path / "run" / "agent.zip").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(config(timesteps=999), tmp_path / "run")
    assert (tmp_path / "run" / "agent.zip").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "ppo"}, "accepted are reptile, rl2"),
        ({"env_id": "MetaNothing-v0"}, "MetaNothing-v0"),
        ({"total_timesteps": 0}, "at least 1"),
        ({"env_kwargs": {"sizes": 3}}, "sizes"),
        ({"settings": {"episodes_per_trial": 0}}, "episodes_per_trial"),
        ({"settings": {"episodes_per_trial": 2, "n_stepz": 3}}, "n_stepz"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(RunConfig(**{**config().__dict__, **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to the folder"):
        train(config(), tmp_path / "file" / "run")


def test_resuming_where_there_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        train(config(), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds no run"):
        RunConfig.read(tmp_path)
    (tmp_path / "config.json").write_text('{"algo": 3')
    with pytest.raises(CheckpointError, match="damaged"):
        RunConfig.read(tmp_path)


def test_progress_that_was_logged_after_the_last_checkpoint_is_left_out(tmp_path):
    (tmp_path / "progress.csv").write_text("time/total_timesteps,x\n10,1\n20,2\n30,3\n")
    (tmp_path / "progress.2.csv").write_text("time/total_timesteps,x\n20,4\n30,5\n")
    assert read_progress(tmp_path)["x"].tolist() == [1, 4, 5]


def test_a_config_file_holds_plain_json(tmp_path):
    train(config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["algo"] == "rl2"
