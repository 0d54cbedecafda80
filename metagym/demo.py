"""The demo: an agent learns to learn frozen lakes, and shows it on lakes that it has never seen.

Every task is another lake whose four actions are, besides, secretly permuted: "left" may mean "down". Slippery 4x4
lakes with known actions leave little to adapt to, since one careful route serves most of them; here nobody can do
well in the first episode, and whoever remembers what the actions did can do well in the last.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor
from typing_extensions import override

from metagym.algos import RL2
from metagym.curves import AdaptationCurve
from metagym.errors import ConfigError
from metagym.evaluation import evaluate
from metagym.plots import plot_adaptation, save_figure
from metagym.render import canvas, draw_text, vstack, write_gif
from metagym.reports import adaptation_table, share_of_optimum
from metagym.statistics import paired_difference_ci
from metagym.wrappers import VectorEnvAdapter

__all__ = ["ENV_ID", "ENV_KWARGS", "EPISODES", "run", "train_memoryless", "train_rl2"]

ENV_ID = "MetaFrozenLake-v0"
ENV_KWARGS: dict[str, Any] = {"remap_actions": True, "is_slippery": False, "episode_length": 20}
EPISODES = 6
TIMESTEPS = 1_500_000
NUM_TASKS = 500
RL2_SETTINGS: dict[str, Any] = {"episodes_per_trial": EPISODES, "n_envs": 128}
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 2048,
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "ent_coef": 0.01,
}


class _Advance(BaseCallback):
    """Moves a progress bar."""

    def __init__(self, update: Callable[[int], None]) -> None:
        super().__init__()
        self._update = update

    @override
    def _on_step(self) -> bool:
        self._update(self.num_timesteps)
        return True


def train_rl2(timesteps: int, *, seed: int, device: str, callback: BaseCallback | None = None) -> RL2:
    """Meta-train the demo's agent on training lakes."""
    agent = RL2("MlpPolicy", ENV_ID, env_kwargs=ENV_KWARGS, seed=seed, device=device, **RL2_SETTINGS)
    return agent.learn(timesteps, callback)


def train_memoryless(timesteps: int, *, seed: int, device: str, callback: BaseCallback | None = None) -> PPO:
    """Train SB3's PPO, which has no memory, on the same lakes for the same number of steps."""
    venv = gym.make_vec(ENV_ID, num_envs=RL2_SETTINGS["n_envs"], autoreset_mode=AutoresetMode.SAME_STEP, **ENV_KWARGS)
    vec_env = VecMonitor(VectorEnvAdapter(venv))
    return PPO("MlpPolicy", vec_env, seed=seed, device=device, **PPO_SETTINGS).learn(timesteps, callback)


def run(out: Path, *, seed: int, device: str, scale: float, console: Console) -> None:
    """Train, measure, show, and say how to go on. Everything printed is measured in this run.

    Args:
        out: folder for what is written; made if missing.
        seed: everything random hangs on it.
        device: torch device.
        scale: multiplies the training steps.
        console: where to print.

    Raises:
        ConfigError: if `scale` is not above 0 or the folder cannot be written.
    """
    if not scale > 0:
        raise ConfigError(f"scale must be above 0, got {scale}")
    timesteps = max(1, round(TIMESTEPS * scale))
    _prepare(out)
    start = time.monotonic()
    console.print(
        "Every task is a 4x4 frozen lake whose actions are secretly permuted. The agent plays "
        f"{EPISODES} episodes of each lake and keeps its memory between them.\n"
        f"Training on 80 % of all lakes, {timesteps:,} steps; then {NUM_TASKS} of the lakes held out.",
    )
    with _progress(console) as progress:
        rl2 = _train(progress, "RL² (GRU memory)", train_rl2, timesteps, seed, device)
        rl2.save(out / "agent.zip")
        ppo = _train(progress, "PPO (no memory)", train_memoryless, timesteps, seed, device)
    curves = [_measure(rl2, "RL²", seed), _measure(ppo, "PPO, no memory", seed)]
    _write(out, curves, rl2, seed, time.monotonic() - start)
    console.print(adaptation_table(curves, title=f"Success on {NUM_TASKS} lakes never seen [95 % CI]"))
    _conclude(console, curves, out, time.monotonic() - start)


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to the folder {out}: {error.strerror}") from error


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:18}"), BarColumn(), TextColumn("{task.completed:,.0f} / {task.total:,.0f} steps"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _train(progress: Progress, name: str, trainer: Any, timesteps: int, seed: int, device: str) -> Any:
    bar = progress.add_task(name, total=timesteps)
    callback = _Advance(lambda steps: progress.update(bar, completed=min(steps, timesteps)))
    return trainer(timesteps, seed=seed, device=device, callback=callback)


def _measure(learner: Any, name: str, seed: int) -> AdaptationCurve:
    return evaluate(learner, ENV_ID, env_kwargs=ENV_KWARGS, n_tasks=NUM_TASKS, episodes=EPISODES, seed=seed, name=name)


def _write(out: Path, curves: list[AdaptationCurve], rl2: RL2, seed: int, seconds: float) -> None:
    for curve, stem in zip(curves, ("rl2", "ppo"), strict=True):
        curve.save(out / f"{stem}.npz")
    title = "Learning inside a task: success on unseen lakes with secretly permuted actions"
    save_figure(plot_adaptation(curves, title=title), out / "adaptation.png")
    summary = {"seconds": round(seconds, 1), "seed": seed, "curves": [curve.summary() for curve in curves]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_gif(out / "trial.gif", trial_frames(rl2, seed), fps=3)


def trial_frames(agent: RL2, seed: int) -> list[Any]:
    """Pictures of one trial of `agent` on a held-out lake: episode, step and outcome above the lake."""
    env = agent.make_env(split="test", render_mode="rgb_array")
    observation, info = env.reset(seed=seed + 1)
    state, starts = None, np.ones(1, dtype=np.bool_)
    frames = [_frame(env.render(), "episode 1", "a lake never seen")]
    finished = False
    while not finished:
        action, state = agent.predict(observation[None], state, starts)
        starts[0] = False
        observation, _, finished, _, info = env.step(action[0])
        episode = info["trial_episode"] + 1
        if info["episode_end"]:
            verdict = "reached the goal" if info["is_success"] else "failed"
            frames += [
                _frame(
                    frames[-1][_HEADER:], f"episode {episode}", f"{verdict} after {info['last_episode_length']} steps"
                )
            ] * 3
        frames.append(_frame(env.render(), f"episode {info['trial_episode'] + 1 + info['episode_end']}", ""))
    return frames


_HEADER = 44


def _frame(picture: Any, left: str, right: str) -> Any:
    header = canvas(_HEADER, picture.shape[1])
    draw_text(header, left, 8, 8, 2)
    draw_text(header, right, 8, 28, 1)
    return vstack([header, picture], gap=0)


def _conclude(console: Console, curves: list[AdaptationCurve], out: Path, seconds: float) -> None:
    rl2, ppo = curves
    gain, low, high = _gain(rl2)
    console.print(
        f"RL² gains {gain:+.3f} [{low:+.3f}, {high:+.3f}] from its first to its last episode and reaches "
        f"{share_of_optimum(rl2)} of the optimum of an agent that knows the lake; PPO without memory {share_of_optimum(ppo)}.\n"
        f"Measured in this run, in {seconds:.0f} s. Written to {out}/: agent.zip, adaptation.png, trial.gif, summary.json.\n"
        f"Next: metagym evaluate {out}/agent.zip --episodes 12     (more episodes than it was trained for)\n"
        f"      metagym train --algo rl2 --env MetaBandit-v0 --set steps_per_trial=100     (another family)\n"
        f"      metagym envs     (all families)",
        soft_wrap=True,
    )


def _gain(curve: AdaptationCurve) -> tuple[float, float, float]:
    low, high = paired_difference_ci(curve.scores[:, :, -1], curve.scores[:, :, 0])
    return float(curve.mean[-1] - curve.mean[0]), float(low), float(high)
