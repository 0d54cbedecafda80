import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from metagym.errors import CheckpointError, ConfigError
from metagym.runs import (
    Players,
    RunConfig,
    accepted_keywords,
    env_of,
    load_agent,
    method_of,
    read_progress,
    reference,
    replace_timesteps,
    steps_taken,
    train,
)
from metagym.runs.training import _Checkpoints
from metagym.saving import read_archive

SMALL = {"n_envs": 4, "policy_kwargs": {"net_arch": [8]}}
ROLLOUTS = {"n_steps": 20, "batch_size": 40, "n_epochs": 1}
# Without a schedule of exploration, which would hang on the number of steps asked for.
EXPLORATION = {"exploration_initial_eps": 0.05, "exploration_final_eps": 0.05}
REPLAY = {"learning_starts": 20, "batch_size": 8, "buffer_size": 400, **EXPLORATION}
TRIALS = {"episodes_per_trial": 2, "n_envs": 4}
KINDS = {
    "rl2": ("rl2", None, {**TRIALS, "n_steps": 40, "policy_kwargs": {"rnn_hidden_size": 8}}, {}),
    "rl2-DQN": ("rl2", "DQN", {**TRIALS, "window": 4}, REPLAY),
    "reptile": ("reptile", None, {**SMALL, "inner_timesteps": 80}, {}),
    "reptile-DQN": ("reptile", "DQN", {**SMALL, "inner_timesteps": 80}, {"batch_size": 8}),
    "maml": ("maml", None, {**SMALL, "meta_batch_size": 2}, {}),
    "promp-A2C": ("promp", "A2C", {**SMALL, "meta_batch_size": 2, "outer": "ppo", "inner_kl_coef": 0.1}, {}),
    "joint-training": ("joint-training", None, SMALL, ROLLOUTS),
    "joint-training-QRDQN": ("joint-training", "QRDQN", SMALL, REPLAY),
    "from-scratch": ("from-scratch", "A2C", SMALL, {}),
    "revealed-task": ("revealed-task", "PPO", SMALL, ROLLOUTS),
}  # fmt: skip
LAKE = ("MetaFrozenLake-v0", {"is_slippery": False, "episode_length": 10})
every_kind = pytest.mark.parametrize("kind", KINDS)


def config(kind="rl2", timesteps=320, **changes):
    algo, learner, settings, learner_settings = KINDS[kind]
    return RunConfig(
        algo=algo,
        env_id=LAKE[0],
        env_kwargs=LAKE[1],
        learner=learner,
        settings=settings,
        learner_settings=learner_settings,
        total_timesteps=timesteps,
        device="cpu",
        **changes,
    )


def arrays_of(path):
    return read_archive(path)[1]


def comparable(kind, path):
    """What two runs have in common that ended alike."""
    # From-scratch never resets its env, whose streams start there.
    few = kind == "from-scratch"
    return {key: value for key, value in arrays_of(path).items() if key.startswith("learner/") or not few}


def counters_of(path):
    meta = read_archive(path)[0]
    return meta["counters"] if "counters" in meta else meta["position"]["counters"]


def assert_same_arrays(left, right):
    assert sorted(left) == sorted(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@every_kind
def test_a_run_writes_what_it_was_and_goes_on_to_the_bit(tmp_path, kind):
    final = train(config(kind), tmp_path / "parts")
    assert final == tmp_path / "parts" / "agent.zip"
    assert RunConfig.read(tmp_path / "parts") == config(kind)
    agent = load_agent(tmp_path / "parts")
    assert env_of(agent) == LAKE
    assert steps_taken(final) == agent.num_timesteps
    assert agent.num_timesteps == 0 if kind == "from-scratch" else 320 <= agent.num_timesteps < 640
    assert method_of(agent).split()[1] == (KINDS[kind][1] or "PPO")

    resumed = train(replace_timesteps(config(kind), 640), tmp_path / "parts", resume=True)
    whole = train(config(kind, 640), tmp_path / "whole")
    assert_same_arrays(comparable(kind, whole), comparable(kind, resumed))
    if kind != "from-scratch":
        assert read_progress(tmp_path / "parts")["time/total_timesteps"].is_monotonic_increasing


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(KINDS.keys() - {"from-scratch"}))
def test_a_killed_run_resumes_and_ends_bit_identical(tmp_path, algo):
    steps = 6_000 if algo.endswith("DQN") else 20_000  # seconds, enough to be killed in
    whole = train(config(algo, steps), tmp_path / "whole")
    code = (
        "import torch; torch.set_num_threads(1); "  # as here: other threads add up in another order
        "from tests.test_runs import config; from metagym.runs import train; "
        f"train(config({algo!r}, {steps}), {str(tmp_path / 'killed')!r}, checkpoint_seconds=0.05)"
    )
    checkpoint = tmp_path / "killed" / "checkpoint.zip"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."}) as process:
        try:
            deadline = time.monotonic() + 120
            while not (checkpoint.exists() and counters_of(checkpoint)["num_timesteps"] > 0):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "agent.zip").exists()
    resumed = train(config(algo, steps), tmp_path / "killed", resume=True)
    assert_same_arrays(comparable(algo, whole), comparable(algo, resumed))


def test_an_interrupted_run_leaves_a_checkpoint_that_resumes_to_the_same_result(tmp_path, monkeypatch):
    whole = train(config(timesteps=640), tmp_path / "whole")
    steps = iter(range(1000))

    def interrupt(self):
        if next(steps) == 50:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr("metagym.runs.training._Checkpoints._on_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config(timesteps=640), tmp_path / "stopped")
    assert 0 < load_agent(tmp_path / "stopped" / "checkpoint.zip").num_timesteps < 640
    resumed = train(config(timesteps=640), tmp_path / "stopped", resume=True)
    assert_same_arrays(arrays_of(whole), arrays_of(resumed))


@pytest.mark.parametrize("kind", ["joint-training", "joint-training-QRDQN"])
def test_ctrl_c_in_the_middle_of_a_rollout_loses_nothing(tmp_path, monkeypatch, kind):
    whole, on_step, calls = train(config(kind, 640), tmp_path / "whole"), _Checkpoints._on_step, iter(range(1000))

    def press(self):
        if next(calls) == 49:
            signal.raise_signal(signal.SIGINT)
        return on_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Checkpoints, "_on_step", press)
        with pytest.raises(KeyboardInterrupt):
            train(config(kind, 640), tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 0 < load_agent(tmp_path / "stopped" / "checkpoint.zip").num_timesteps < 640
    resumed = train(config(kind, 640), tmp_path / "stopped", resume=True)
    assert_same_arrays(arrays_of(whole), arrays_of(resumed))


def test_a_second_ctrl_c_is_heard_at_once_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    def press_twice(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(_Checkpoints, "_on_step", press_twice)
        with pytest.raises(KeyboardInterrupt):
            train(config("joint-training"), tmp_path / "run")
    assert load_agent(tmp_path / "run" / "checkpoint.zip").num_timesteps == 0


def test_an_error_in_training_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("broken")

    monkeypatch.setattr("metagym.runs.training._Checkpoints._on_step", fail)
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
        ({"algo": "ppo"}, r"accepted are emaml, fomaml, from-scratch, .*, maml, .*, revealed-task, rl2"),
        ({"env_id": "MetaNothing-v0"}, "MetaNothing-v0"),
        ({"total_timesteps": 0}, "at least 1"),
        ({"env_kwargs": {"sizes": 3}}, "sizes"),
        ({"settings": {"episodes_per_trial": 0}}, "episodes_per_trial"),
        ({"settings": {"episodes_per_trial": 2, "n_stepz": 3}}, r"unknown \['n_stepz'\]: RL2 with PPO takes .*n_steps"),
        ({"learner": "DQN", "settings": {"n_epochs": 3}}, r"unknown \['n_epochs'\]: .*'window'.*'buffer_size'"),
        ({"learner": "SAK"}, "learner_class must be PPO"),
        ({"algo": "reptile", "learner": "SAK", "settings": {}}, "accepted are A2C, ARS, CrossQ"),
        ({"algo": "reptile", "settings": {"rate": 1}}, r"unknown \['rate'\]: Reptile with PPO takes .*'learning_rate'"),
        ({"algo": "reptile", "settings": {"n_epochs": 1}}, r"\['n_epochs'\] are keywords of PPO.*--learner-set"),
        ({"algo": "reptile", "settings": {}, "learner_settings": {"tau": 1}}, r"unknown \['tau'\]: PPO, .*'n_epochs'"),
        ({"algo": "joint-training", "settings": {"seed": 1}}, r"unknown \['seed'\]: JointTraining"),
        ({"learner": "A2C", "settings": {"learner_class": "PPO"}}, "named twice: 'A2C' and 'PPO'"),
        ({"algo": "reptile", "settings": {"policy_kwargs": {"activation_fn": "Rely"}}}, "names no class of torch.nn"),
        ({"algo": "reptile", "learner": "SAC", "settings": {}}, "SAC does not support"),
        ({"algo": "reptile", "policy": "Foo", "settings": {}}, "PPO has no policy 'Foo'"),
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
    with pytest.raises(CheckpointError, match="holds no run"):
        train(config(), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds no run"):
        RunConfig.read(tmp_path)
    (tmp_path / "config.json").write_text('{"algo": 3')
    with pytest.raises(CheckpointError, match="damaged"):
        RunConfig.read(tmp_path)


def test_a_run_killed_before_its_first_checkpoint_begins_again_and_leaves_no_partial_files(tmp_path):
    (tmp_path / "killed").mkdir()
    config().write(tmp_path / "killed")
    (tmp_path / "killed" / ".checkpoint.zip.0a.partial").write_bytes(b"half")
    resumed, whole = train(config(), tmp_path / "killed", resume=True), train(config(), tmp_path / "whole")
    assert_same_arrays(comparable("rl2", whole), comparable("rl2", resumed))
    assert not list((tmp_path / "killed").glob(".*.partial"))


def test_progress_that_was_logged_after_the_last_checkpoint_is_left_out(tmp_path):
    (tmp_path / "progress.csv").write_text("time/total_timesteps,x\n10,1\n20,2\n30,3\n")
    (tmp_path / "progress.2.csv").write_text("time/total_timesteps,x\n20,4\n30,5\n")
    assert read_progress(tmp_path)["x"].tolist() == [1, 4, 5]


def test_a_config_file_holds_plain_json(tmp_path):
    train(config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["algo"] == "rl2"


def test_classes_are_named_and_the_policy_is_that_of_the_learner():
    names = {"activation_fn": "ReLU", "optimizer_class": "RMSprop"}
    changes = {"settings": {"policy_kwargs": names}, "learner": "RecurrentPPO"}
    agent = RunConfig(**{**config("reptile").__dict__, **changes}).build()
    assert type(agent.learner.policy).__name__ == "RecurrentActorCriticPolicy"
    assert type(agent.learner.policy.optimizer).__name__ == "RMSprop"

    settings = {"replay_buffer_class": "TaskReplayBuffer", "learning_starts": 5}
    joint = RunConfig(**{**config("joint-training-QRDQN").__dict__, "learner_settings": settings}).build()
    assert type(joint.learner.replay_buffer).__name__ == "TaskReplayBuffer"


def test_keywords_of_the_learner_inside_rl2_are_rl2s_own_too():
    one = RunConfig(**{**config().__dict__, "settings": {"episodes_per_trial": 2, "n_steps": 24}}).build()
    other = RunConfig(
        **{**config().__dict__, "settings": {"episodes_per_trial": 2}, "learner_settings": {"n_steps": 24}}
    )
    assert one.n_steps == other.build().n_steps == 24
    own, inner = accepted_keywords("rl2", "DQN")
    assert {"window", "policy_kwargs", "episodes_per_trial"} <= set(own)
    assert {"buffer_size", "tau"} <= set(inner)
    assert "privileged_critic" in accepted_keywords("rl2")[0]


def test_the_log_of_an_off_policy_run_does_not_grow_with_the_steps(tmp_path):
    from metagym.runs.training import _log_interval

    agent = config("joint-training-QRDQN").build()
    assert _log_interval(agent, config("joint-training-QRDQN", 320)) == 4
    assert _log_interval(agent, config("joint-training-QRDQN", 1_000_000)) == 50  # 2,000 lines of episodes of ten steps
    assert _log_interval(config().build(), config()) == 1


def test_players_are_grouped_by_method_and_play_what_they_were_trained_on(tmp_path):
    for name, kind in (("a", "rl2"), ("b", "from-scratch")):
        config(kind).build().save(tmp_path / name)
    paths = [tmp_path / "a.zip", tmp_path / "b.zip", tmp_path / "a.zip"]
    players = Players.of(paths, ["optimal", "optimal"], episodes=3, device="cpu")
    assert {name: len(runs) for name, runs in players.methods.items()} == {
        "RL2 PPO": 2, "FromScratch A2C": 1, "optimal": 1
    }  # fmt: skip
    assert (players.env_id, players.env_kwargs) == LAKE
    changed = Players.of(paths[:1], env_kwargs={"episode_length": 20}, name="mine")
    assert (list(changed.methods), changed.env_kwargs["episode_length"]) == (["mine"], 20)
    with pytest.raises(ConfigError, match="--name is for one method"):
        Players.of(paths, name="mine")
    RunConfig(**{**config().__dict__, "env_kwargs": {}}).build().save(tmp_path / "c")
    with pytest.raises(ConfigError, match="name what they shall play with --env"):
        Players.of([tmp_path / "a.zip", tmp_path / "c.zip"])


def test_references_are_made_for_a_family_or_refused_by_name():
    assert reference("gittins", "MetaBandit-v0", {"num_arms": 2}, episodes=7).episodes_per_trial == 7
    assert reference("random", *LAKE, episodes=1).action_space.n == 4
    with pytest.raises(ConfigError, match=r"'best' is unknown; accepted are .*gittins, .*optimal"):
        reference("best", *LAKE, episodes=1)
    with pytest.raises(ConfigError, match="sizes"):
        reference("random", LAKE[0], {"sizes": 1}, episodes=1)
