import json
import sys

import pytest
from gymnasium.error import DependencyNotInstalled

from metagym import cli
from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.runs import REFERENCES, steps_taken


def run(monkeypatch, capsys, *arguments):
    """Run `metagym` with these arguments: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["metagym", *map(str, arguments)])
    monkeypatch.setattr(cli, "console", cli.Console(width=200))
    monkeypatch.setattr(cli, "errors", cli.Console(stderr=True, width=200))
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


TINY = [
    "--env-set", "episode_length=10", "--set", "episodes_per_trial=2", "--set", "n_envs=4", "--set", "n_steps=40",
    "--timesteps", "320", "--device", "cpu",
]  # fmt: skip


def test_settings_are_json_or_else_strings():
    pairs = ["size=5", "success_rate=[0.3, 0.9]", "is_slippery=false", "learner_class=A2C", "x=a=b"]
    assert cli.parse_settings(pairs) == {
        "size": 5, "success_rate": [0.3, 0.9], "is_slippery": False, "learner_class": "A2C", "x": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["size", "=3", "1x=2"])
def test_a_setting_that_is_no_pair_is_refused(pair):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        cli.parse_settings([pair])


def test_envs_lists_every_family(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "envs")
    assert code == 0
    for env_id in ("MetaFrozenLake-v0", "MetaBandit-v0", "MetaPointGoal-v0"):
        assert env_id in out


def _needs_an_extra(self, **kwargs):
    raise DependencyNotInstalled('pip install "metagym-rl[abacus]"')


def test_a_family_whose_extra_is_missing_is_listed_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("metagym.envs.bandit.Bandit.__init__", _needs_an_extra)
    code, out, _ = run(monkeypatch, capsys, "envs")
    assert code == 0
    assert "MetaBandit-v0" in out
    assert "metagym-rl[abacus]" in " ".join(out.split())
    assert run(monkeypatch, capsys, "envs", "MetaBandit-v0")[0] == 0


def test_training_without_the_extra_of_a_family_ends_in_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("metagym.envs.bandit.Bandit.__init__", _needs_an_extra)
    code, _, err = run(monkeypatch, capsys, "train", "--env", "MetaBandit-v0", "--out", tmp_path / "run")
    assert code == 2
    assert 'pip install "metagym-rl[abacus]"' in err
    assert not (tmp_path / "run").exists()


def test_envs_shows_one_family_in_full(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "envs", "MetaFrozenLake-v0")
    assert code == 0
    assert "## Task Space" in out


@pytest.mark.parametrize("command", [(), ("train",), ("evaluate",), ("plot",), ("demo",), ("envs",)])
def test_every_command_has_help(monkeypatch, capsys, command):
    code, out, _ = run(monkeypatch, capsys, *command, "--help")
    assert code == 0
    assert "Usage" in out


def test_train_evaluate_plot_and_resume(monkeypatch, capsys, tmp_path):
    folder, scores, picture = tmp_path / "run", tmp_path / "scores.npz", tmp_path / "curve.png"
    code, out, _ = run(monkeypatch, capsys, "train", *TINY, "--out", folder)
    assert code == 0
    assert "metagym evaluate" in out
    code, out, _ = run(monkeypatch, capsys, "evaluate", folder, "--tasks", 5, "--episodes", 3, "--out", scores)
    assert code == 0
    assert "random" in out
    assert AdaptationCurve.load(scores).scores.shape == (1, 5, 3)
    assert run(monkeypatch, capsys, "plot", scores, "--out", picture)[0] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, _, _ = run(monkeypatch, capsys, "train", "--resume", "--timesteps", 640, "--out", folder)
    assert code == 0
    assert run(monkeypatch, capsys, "plot", folder, "--out", tmp_path / "training.png")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--env", "MetaNothing-v0"), "accepted are MetaAcrobot-v0, MetaAntDir-v0"),
        (("train", "--env", "nowhere:MetaNothing-v0"), "nowhere"),
        (("train", "--algo", "sarsa"), "accepted are emaml, fomaml, from-scratch, joint-training"),
        (("train", "--set", "episodes_per_trial=0"), "episodes_per_trial"),
        (("train", "--set", "learner_class=Dyna"), "learner_class"),
        (("train", "--env-set", "size=1"), "size"),
        (("train", "--env-set", "sizes=4"), "sizes"),
        (("train", "--env-set", "size"), "KEY=VALUE"),
        (("train", "--timesteps", "0"), "timesteps"),
        (("train", "--device", "abacus"), "abacus"),
        (("train", "--env", "CartPole-v1"), "CartPole-v1"),
        (("train", "--resume"), "no run to resume"),
        (("evaluate", "nothing.zip"), "nothing.zip"),
        (("evaluate", "text.zip"), "text.zip"),
        (("plot", "nothing.npz"), "nothing.npz"),
        (("plot", "text.zip"), "text.zip"),
        (("demo", "--scale", "0"), "scale"),
        (("demo", "--out", "text.zip/demo"), "text.zip"),
        (("envs", "MetaNothing-v0"), "MetaNothing-v0"),
        (("fly",), "fly"),
    ],
)
def test_a_mistake_ends_in_a_short_message_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.zip").write_text("no checkpoint")
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.zip"]


def test_a_run_that_exists_is_not_overwritten(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "train", *TINY, "--out", tmp_path)[0] == 0
    code, _, err = run(monkeypatch, capsys, "train", *TINY, "--out", tmp_path)
    assert code == 2
    assert "--resume" in err


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("metagym.runs.training._Checkpoints._on_step", interrupt)
    code, _, err = run(monkeypatch, capsys, "train", *TINY, "--out", tmp_path / "run")
    assert code == 130
    assert "--resume" in err
    monkeypatch.undo()
    assert run(monkeypatch, capsys, "train", "--resume", "--out", tmp_path / "run")[0] == 0


POINT = ["--env", "MetaPointGoal-v0", "--env-set", "episode_length=10", "--device", "cpu", "--set", "n_envs=4"]
MAKES = {
    "rl2-SAC": (["--algo", "rl2", "--learner", "SAC", "--set", "window=4"], ["learning_starts=20", "batch_size=8"]),
    "reptile-SAC": (["--algo", "reptile", "--learner", "SAC", "--set", "inner_timesteps=40"], ["batch_size=8"]),
    "joint-training-A2C": (["--algo", "joint-training", "--learner", "A2C"], ["learning_rate=1e-3"]),
    "from-scratch-TD3": (["--algo", "from-scratch", "--learner", "TD3"], ["batch_size=8"]),
    "revealed-task-PPO": (["--algo", "revealed-task"], ["n_steps=20", "batch_size=40"]),
}


@pytest.mark.parametrize("make", MAKES)
def test_every_algorithm_is_trained_and_measured_after_budgets(monkeypatch, capsys, tmp_path, make):
    own, of_learner = MAKES[make]
    inner = [word for pair in of_learner for word in ("--learner-set", pair)]
    folder, scores = tmp_path / "run", tmp_path / "scores.npz"
    code, out, err = run(
        monkeypatch, capsys, "train", *own, *inner, *POINT, "--timesteps", 120, "--tensorboard", "--out", folder
    )
    assert (code, err.count("Traceback")) == (0, 0)
    taken = steps_taken(folder / "agent.zip")
    assert "scratch" in make or taken >= 120
    assert ("nothing to train" if "scratch" in make else f" {taken:,} steps") in out
    measured = ["--budgets", 0, 2, "--tasks", 2, "--eval-episodes", 1, "--device", "cpu"]
    code, out, _ = run(monkeypatch, capsys, "evaluate", *measured, folder, "--out", scores)
    assert code == 0
    curve = AdaptationCurve.load(scores)
    assert curve.experience.tolist() == [0, 2]
    assert curve.name.split()[1] == make.rpartition("-")[2]


def test_references_play_beside_runs_and_everything_is_written(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arms = ["--env", "MetaBandit-v0", "--env-set", "num_arms=2", "--tasks", "5", "--budgets", "0,1,4"]
    code, out, _ = run(
        monkeypatch, capsys, "evaluate", "--beside", "random", "gittins", *arms, "--csv", "all.csv", "--json",
        "all.json", "--plot", "all.png", "--out", "scores.npz",
    )  # fmt: skip
    assert code == 0
    assert "gittins" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "all.csv", "all.json", "all.png", "scores-gittins.npz", "scores-random.npz"
    ]  # fmt: skip
    floor = AdaptationCurve.load("scores-random.npz")
    assert floor.scores.shape == (1, 5, 3)
    methods = json.loads((tmp_path / "all.json").read_text())["methods"]
    assert [method["name"] for method in methods] == ["random", "gittins"]
    assert methods[0]["experience"] == [0, 1, 4]
    code, _, _ = run(monkeypatch, capsys, "evaluate", "--beside", "random", *arms, "--limits", "scores-gittins.npz")
    assert code == 0
    assert AdaptationCurve.load("evaluation.npz").scores.tolist() == floor.scores.tolist()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--budgets", "0", "1", "2", "run", "5"], ["--budgets=0", "--budgets=1", "--budgets=2", "run", "5"]),
        (["run", "--budgets", "0,1", "--tasks", "3"], ["run", "--budgets=0", "--budgets=1", "--tasks", "3"]),
        (["--beside", "random", "run", "gittins"], ["--beside=random", "run", "gittins"]),
        (["--beside", "random", "--budgets", "1"], ["--beside=random", "--budgets=1"]),
        (["--budgets=7", "--beside=best"], ["--budgets=7", "--beside=best"]),
    ],
)
def test_some_options_take_several_values(words, expected):
    assert cli.spread(words) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budgets", "--tasks", "3"), "--budgets needs one value or more"),
        (("x.zip", "--budgets"), "--budgets needs one value or more"),
        (("x.zip", "--budgets", "1", "--episodes", "3"), "not both"),
        ((), "nobody plays"),
        (("--beside", "random"), "--env"),
        (("--beside", "best", "--env", "MetaBandit-v0"), "accepted are bandit-epsilon-greedy, bandit-greedy, beb,"),
        (("--beside", "optimal", "--env", "MetaBandit-v0"), "Optimal solves families"),
        (("--beside", "random", "--env", "MetaBandit-v0", "--budgets", "3", "1"), "increasing"),
        (("--beside", "random", "--env", "MetaBandit-v0", "--limits", "nothing.npz"), "nothing.npz"),
        (("--beside", "random", "--env", "MetaBandit-v0", "--plot", "x.txt"), ".png"),
        (("--beside", "random", "--env", "MetaBandit-v0", "--csv", "x", "--json", "x"), "two outputs have one name"),
        (("--beside", "random", "--env", "MetaBandit-v0", "--out", "."), "is a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, "evaluate", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        ("--learner", "A2C"),
        ("--learner-set", "n_steps=8"),
        ("--seed", 1),
        ("--set", "n_envs=8"),
        ("--env", "MetaBandit-v0"),
    ],
)
def test_a_resumed_run_keeps_its_settings(monkeypatch, capsys, tmp_path, option):
    code, _, err = run(monkeypatch, capsys, "train", "--resume", *option, "--out", tmp_path)
    assert code == 2
    assert "settings of the run" in err


def test_a_device_that_is_not_there_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(monkeypatch, capsys, "train", *TINY[:-1], "cuda", "--out", tmp_path / "run")
    assert code == 2
    assert "not available" in err


def test_scores_that_could_not_be_written_are_not_measured(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run(monkeypatch, capsys, "evaluate", tmp_path / "agent.zip", "--out", tmp_path / "file" / "x.npz")
    assert code == 2
    assert "cannot write to the folder" in err


def test_the_command_line_names_all_references():
    assert set(cli._REFERENCES) == set(REFERENCES)
