import sys
from argparse import Namespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecMonitor

from metagym.algos import RL2, Reptile
from metagym.errors import ConfigError
from metagym.zoo import main, native_tasks, native_trials, recipes, register
from metagym.zoo.registration import ZooReptile

BANDIT, POINT, LAKE = "MetaBandit-v0", "MetaPointGoal-v0", "MetaFrozenLake-v0"
PLACEHOLDERS = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}  # of rl_zoo3.enjoy
SMALL = {
    "rl2": {"n_envs": 4, "n_steps": 120, "batch_size": 240},
    "reptile": {"n_envs": 4, "inner_timesteps": 400, "meta_batch_size": 2, "learner_kwargs": {"n_steps": 10}},
}


@pytest.fixture
def zoo(monkeypatch):
    # RL Zoo puts a TimeLimit of its own into Gymnasium when it is imported; other tests need Gymnasium's back.
    for module in (gym.wrappers, gym.wrappers.common, gym.envs.registration):
        monkeypatch.setattr(module, "TimeLimit", gym.wrappers.common.TimeLimit, raising=False)
    return pytest.importorskip("rl_zoo3", reason="RL Zoo is not installed: pip install rl_zoo3")


@pytest.fixture
def command_line(zoo, monkeypatch, tmp_path):
    """A folder to log into; RL Zoo writes down how it was called."""
    monkeypatch.setattr(sys, "argv", ["metagym.zoo"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manager(algo, env_id, folder, **kwargs):
    from rl_zoo3.exp_manager import ExperimentManager

    settings = {
        "n_timesteps": 900, "eval_freq": -1, "config": str(recipes(algo)), "verbose": 0, "seed": 0,
        "hyperparams": dict(SMALL[algo]), "device": "cpu", "log_interval": -1,
    }  # fmt: skip
    return ExperimentManager(Namespace(env=env_id, env_kwargs=None), algo, env_id, str(folder), **settings | kwargs)


def test_without_rl_zoo_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(DependencyNotInstalled, match="pip install rl_zoo3"):
        register()
    with pytest.raises(DependencyNotInstalled, match="pip install rl_zoo3"):
        main([])


def test_the_learners_are_in_the_table_that_all_modules_hold(zoo):
    import rl_zoo3.exp_manager
    import rl_zoo3.train

    table = register()
    assert issubclass(table["rl2"], RL2)
    assert issubclass(table["reptile"], Reptile)
    assert zoo.ALGOS is rl_zoo3.exp_manager.ALGOS is rl_zoo3.train.ALGOS is table


def test_recipes_are_files_of_blocks_for_three_ids_and_a_default():
    import yaml

    for algo in ("rl2", "reptile"):
        blocks = yaml.safe_load(recipes(algo).read_text())
        assert {BANDIT, POINT, LAKE, "default"} <= set(blocks)
    with pytest.raises(ConfigError, match=r"'ppo' has no recipes; accepted are \['reptile', 'rl2'\]"):
        recipes("ppo")


@pytest.mark.parametrize("env_id", [BANDIT, POINT, LAKE, pytest.param("MetaDarkRoom-v0", marks=pytest.mark.slow)])
@pytest.mark.parametrize("algo", ["rl2", "reptile"])
def test_each_recipe_trains_and_saves_in_rl_zoos_manager(algo, env_id, command_line, capsys):
    kind = register()[algo]
    experiment = manager(algo, env_id, command_line)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    experiment.save_trained_model(model)

    assert isinstance(model, kind)
    assert model.num_timesteps >= 900
    loaded = kind.load(f"{experiment.save_path}/{env_id}.zip", device="cpu", seed=1, custom_objects=PLACEHOLDERS)
    observation = np.stack([model.observation_space.sample()] * 3)
    actions = loaded.predict(observation, deterministic=True)[0]
    assert np.array_equal(actions, model.predict(observation, deterministic=True)[0])
    assert load_results(experiment.save_path)["l"].min() >= 1


def test_rl_zoo_evaluates_and_keeps_checkpoints(command_line, capsys):
    register()
    experiment = manager(
        "rl2", BANDIT, command_line, eval_freq=240, save_freq=240, n_eval_episodes=4, eval_env_kwargs={"split": "test"}
    )
    model, _ = experiment.setup_experiment()
    experiment.learn(model)

    folder = command_line / "rl2" / f"{BANDIT}_1"
    evaluations = np.load(folder / "evaluations.npz")
    assert evaluations["results"].shape[1] == 4
    assert set(evaluations["ep_lengths"].ravel().tolist()) == {10}  # trials of ten pulls
    assert RL2.load(folder / "best_model.zip").num_timesteps in evaluations["timesteps"]
    assert len(list(folder.glob("rl_model_*_steps.zip"))) == model.num_timesteps // 240


@pytest.mark.slow
def test_rl_zoo_goes_on_with_a_trained_agent(command_line, capsys):
    register()
    experiment = manager("rl2", BANDIT, command_line)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    experiment.save_trained_model(model)

    again = manager("rl2", BANDIT, command_line, trained_agent=f"{experiment.save_path}/{BANDIT}.zip")
    resumed, _ = again.setup_experiment()
    assert isinstance(resumed, RL2)
    assert resumed.num_timesteps == model.num_timesteps
    resumed.env.close()


def test_the_command_trains_with_recipe_and_held_out_tasks(command_line, capsys):
    small = [f"{name}:{value!r}" for name, value in SMALL["rl2"].items()]
    arguments = ["--algo", "rl2", "--env", LAKE, "-n", "900", "--seed", "0", "--device", "cpu", "-f", "logs"]
    main([*arguments, "--eval-freq", "480", "--eval-episodes", "2", "-params", *small])

    folder = command_line / "logs" / "rl2" / f"{LAKE}_1"
    assert (folder / f"{LAKE}.zip").exists()
    assert (folder / "evaluations.npz").exists()
    shown = capsys.readouterr().out
    assert "'split': 'test'" in shown
    assert sys.argv == ["metagym.zoo"]


def test_the_command_leaves_alone_what_was_said():
    from metagym.zoo.registration import _completed

    plain = ["--algo", "ppo", "--env", "CartPole-v1"]
    assert _completed(plain) == plain
    said = ["--algo", "rl2", "--env", LAKE, "--conf-file", "my.py", "--eval-env-kwargs", "size:4"]
    assert _completed(said) == said
    given = _completed(["--algo", "reptile", "--env", BANDIT, "--env-kwargs", "num_arms:3"])
    assert given[-4:] == [str(recipes("reptile")), "--eval-env-kwargs", "num_arms:3", "split:'test'"]


def test_native_envs_have_the_family_tasks_and_seed_of_the_rows_they_replace(tmp_path):
    def made_in(folder):
        rows = make_vec_env(
            lambda: gym.make(BANDIT, num_arms=3, split="test"), n_envs=2, seed=5, monitor_dir=str(tmp_path / folder)
        )
        return native_trials(rows, episodes_per_trial=4)

    made, twin = made_in("a"), made_in("b")
    assert isinstance(made, VecMonitor)
    assert made.num_envs == 2
    assert made.get_attr("episodes_per_trial") == [4, 4]
    assert np.array_equal(made.reset(), twin.reset())
    assert made.get_attr("task") == twin.get_attr("task")
    for _ in range(8):
        made.step(np.zeros(2, np.int64))
    made.close()
    twin.close()
    assert load_results(str(tmp_path / "a"))["l"].tolist() == [4] * 4


def test_native_tasks_are_the_bare_family():
    bare = native_tasks(make_vec_env(BANDIT, n_envs=2, env_kwargs={"num_arms": 3}))
    assert bare.observation_space == gym.make(BANDIT, num_arms=3).observation_space
    assert bare.action_space.n == 3


def test_rows_without_tasks_are_refused():
    with pytest.raises(ConfigError, match="no envs of metagym's families"):
        native_tasks(make_vec_env("CartPole-v1", n_envs=1))


def test_reptile_of_the_zoo_loads_with_what_rl_zoo_passes(tmp_path):
    agent = ZooReptile("MlpPolicy", POINT, inner_timesteps=32, n_envs=2, policy_kwargs={"net_arch": [4]}, seed=3)
    agent.save(tmp_path / "agent.zip")
    loaded = ZooReptile.load(tmp_path / "agent.zip", seed=9, verbose=1, tensorboard_log=str(tmp_path))

    assert (loaded.seed, loaded.verbose, loaded.tensorboard_log) == (3, 1, str(tmp_path))


@pytest.mark.slow
def test_the_command_plays_what_it_trained(command_line, capsys):
    pytest.importorskip("requests", reason="rl_zoo3.enjoy needs requests")
    main(["train", "--algo", "reptile", "--env", BANDIT, "-n", "1", "--eval-freq", "-1", "-f", "logs", "--seed", "0"])
    main(["enjoy", "--algo", "reptile", "--env", BANDIT, "-f", "logs", "--no-render", "-n", "40", "--device", "cpu"])

    assert "Mean reward" in capsys.readouterr().out


def test_scalar_wrappers_in_a_recipe_do_as_well(command_line, capsys):
    register()
    wrappers = [
        {"metagym.wrappers.Trial": {"steps_per_trial": 7}},
        "metagym.wrappers.RL2Context",
        "stable_baselines3.common.monitor.Monitor",
    ]
    changes = {**SMALL["rl2"], "vec_env_wrapper": None, "env_wrapper": wrappers}
    experiment = manager("rl2", BANDIT, command_line, hyperparams=changes, eval_freq=240, n_eval_episodes=3)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)

    assert {episode["l"] for episode in model.ep_info_buffer} == {7}
    assert set(np.load(command_line / "rl2" / f"{BANDIT}_1" / "evaluations.npz")["ep_lengths"].ravel()) == {7}


@pytest.mark.parametrize("algo", ["rl2", "reptile"])
def test_linear_schedules_of_rl_zoo_are_stored(algo, command_line, capsys):
    kind = register()[algo]
    experiment = manager(algo, POINT, command_line, hyperparams={**SMALL[algo], "learning_rate": "lin_0.5"})
    model, _ = experiment.setup_experiment()
    experiment.save_trained_model(model)

    loaded = kind.load(f"{experiment.save_path}/{POINT}.zip", env=model.env)
    assert [loaded.lr_schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
    model.env.close()
