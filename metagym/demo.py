"""The demo: an agent learns to learn frozen lakes, and shows it on lakes that it has never seen.

Every task is another lake, and the agent sees no map, only the number of the cell it stands on. On slippery ice there
is little to learn from a fall: one careful route serves most lakes, and luck decides. So the demo's ice is firm: a fall
tells where a hole is, and whoever remembers it reaches the goal in a later episode. Without a memory, the best to be
done is one route that is right for as many lakes as possible.
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
from metagym.runs import make_folder
from metagym.statistics import paired_difference_ci
from metagym.wrappers import RL2Context, Trial, VectorEnvAdapter

__all__ = ["ENV_ID", "ENV_KWARGS", "EPISODES", "run", "train_memoryless", "train_rl2", "trial_frames"]

ENV_ID = "MetaFrozenLake-v0"
ENV_KWARGS: dict[str, Any] = {"is_slippery": False, "episode_length": 20}
EPISODES = 6
TIMESTEPS = 1_500_000
NUM_TASKS = 500
HOLE = 2  # in the maps of MetaFrozenLake
RL2_SETTINGS: dict[str, Any] = {
    "episodes_per_trial": EPISODES,
    "n_envs": 128,
    "n_steps": 64,
    "batch_size": 2048,
}
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
    make_folder(out)
    start = time.monotonic()
    console.print(
        "Every task is another 4x4 frozen lake. The agent sees no map, only the cell it stands on; it plays "
        f"{EPISODES} episodes of each lake and keeps its memory from one to the next.\n"
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
    title = f"Learning inside a task: {NUM_TASKS} frozen lakes never seen in training"
    save_figure(plot_adaptation(curves, title=title), out / "adaptation.png")
    summary = {"seconds": round(seconds, 1), "seed": seed, "curves": [curve.summary() for curve in curves]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_gif(out / "trial.gif", trial_frames(rl2, seed), fps=4)


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Takes a picture after every step, inside the trial: so the last cell of each episode is seen as well."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.frames: list[Any] = []
        self._episode = self._steps = 0

    @override
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._episode, self._steps = self._episode + 1, 0
        self._shoot("")
        return result

    @override
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        _, _, terminated, truncated, info = result
        self._steps += 1
        end = "reached the goal" if info["is_success"] else "fell in" if terminated else "ran out of time"
        self._shoot(
            f"{end}: step {self._steps}" if terminated or truncated else "", 4 if terminated or truncated else 1
        )
        return result

    def _shoot(self, caption: str, times: int = 1) -> None:
        picture = self.env.render()
        header = canvas(44, picture.shape[1])  # type: ignore[union-attr]
        draw_text(header, f"episode {self._episode}", 8, 6, 2)
        draw_text(header, caption, 8, 28, 1)
        self.frames += [vstack([header, picture], gap=0)] * times  # type: ignore[list-item]


def trial_frames(agent: RL2, seed: int) -> list[Any]:
    """Pictures of one trial of `agent`, on the lake with most holes of twenty held out."""
    camera = _Camera(gym.make(ENV_ID, split="test", render_mode="rgb_array", **ENV_KWARGS))
    lakes = camera.env.unwrapped.sample_tasks(20)  # type: ignore[attr-defined]
    camera.env.unwrapped.set_task(max(lakes, key=lambda lake: (lake["map"] == HOLE).sum()))  # type: ignore[attr-defined]
    env = RL2Context(Trial(camera, episodes_per_trial=EPISODES))
    observation, _ = env.reset(seed=seed)
    state, starts, over = None, np.ones(1, dtype=np.bool_), False
    while not over:
        action, state = agent.predict(observation[None], state, starts)
        observation, _, over, _, _ = env.step(action[0])
        starts[0] = False
    return camera.frames


def _conclude(console: Console, curves: list[AdaptationCurve], out: Path, seconds: float) -> None:
    rl2, ppo = curves
    gain, low, high = _gain(rl2)
    console.print(
        f"RL² gains {gain:+.3f} [{low:+.3f}, {high:+.3f}] from its first to its last episode and reaches "
        f"{share_of_optimum(rl2)} of the optimum of an agent that knows the lake; PPO without memory "
        f"{share_of_optimum(ppo)}.\n"
        f"Measured in this run, in {seconds:.0f} s. Written to {out}/: agent.zip, adaptation.png, trial.gif, "
        "summary.json.\n"
        f"Next: metagym evaluate {out}/agent.zip --episodes 12     (more episodes than it was trained for)\n"
        f"      metagym train --algo rl2 --env MetaBandit-v0 --set steps_per_trial=100     (another family)\n"
        "      metagym envs     (all families)",
        soft_wrap=True,
    )


def _gain(curve: AdaptationCurve) -> tuple[float, float, float]:
    low, high = paired_difference_ci(curve.scores[:, :, -1], curve.scores[:, :, 0])
    return float(curve.mean[-1] - curve.mean[0]), float(low), float(high)
