import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from metagym import demo
from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.runs import load_agent


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo with a hundredth of its training and a tenth of its tasks: its folder and what it printed."""
    folder, text = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "NUM_TASKS", 50)
        demo.run(folder, seed=3, device="cpu", scale=0.01, console=Console(file=text, width=100))
    return folder, text.getvalue()


def test_the_demo_writes_agent_picture_animation_and_scores(shown):
    folder, _ = shown
    names = {"agent.zip", "adaptation.png", "trial.gif", "summary.json", "rl2.npz", "ppo.npz"}
    assert {path.name for path in folder.iterdir()} == names
    with Image.open(folder / "adaptation.png") as picture:
        assert picture.size[0] > 500
    with Image.open(folder / "trial.gif") as animation:
        assert animation.n_frames >= 2 * demo.EPISODES
    assert load_agent(folder / "agent.zip").num_timesteps >= 0.01 * demo.TIMESTEPS


def test_what_the_demo_prints_is_what_it_measured(shown):
    folder, text = shown
    curve = AdaptationCurve.load(folder / "rl2.npz")
    assert curve.scores.shape == (1, 50, demo.EPISODES)
    assert f"{curve.mean[0]:.2f} [" in text
    assert f"{curve.mean[-1] - curve.mean[0]:+.3f} [" in text
    assert json.loads((folder / "summary.json").read_text())["curves"][0]["last_mean"] == curve.mean[-1]


def test_both_methods_meet_the_same_held_out_lakes(shown):
    folder, _ = shown
    rl2, ppo = (AdaptationCurve.load(folder / name) for name in ("rl2.npz", "ppo.npz"))
    np.testing.assert_array_equal(rl2.task_ids, ppo.task_ids)
    assert rl2.split == "test"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_trains_nothing_is_refused(tmp_path, scale):
    with pytest.raises(ConfigError, match="scale"):
        demo.run(tmp_path / "out", seed=0, device="cpu", scale=scale, console=Console())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_full_demo_learns_to_learn(tmp_path):
    demo.run(tmp_path, seed=0, device="cpu", scale=1.0, console=Console(file=io.StringIO()))
    rl2, ppo = (AdaptationCurve.load(tmp_path / name) for name in ("rl2.npz", "ppo.npz"))
    first_high, last_low = rl2.interval("mean")[1, 0], rl2.interval("mean")[0, -1]
    assert last_low > first_high
    assert last_low > ppo.interval("mean")[1, -1]
