"""The command line: ``metagym envs | train | evaluate | plot | demo``."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Space
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metagym import __version__
from metagym.errors import ConfigError, MetagymError
from metagym.registry import family_ids, family_type

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Meta-reinforcement learning for Gymnasium and Stable-Baselines3.\n\n"
        "Start with `metagym demo`: it trains an agent that learns inside its memory, shows it lakes it has never "
        "seen, and takes under three minutes. Then `metagym envs`, `metagym train`, `metagym evaluate`, `metagym plot`."
    ),
)
console = Console()
errors = Console(stderr=True)

EnvOption = Annotated[str, typer.Option("--env", help="Id of a family; `metagym envs` lists them.")]
EnvSetOption = Annotated[
    list[str] | None,
    typer.Option("--env-set", metavar="KEY=VALUE", help="Keyword of the family, value as JSON; may be repeated."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Everything random hangs on it.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Torch device: auto, cpu, cuda, ...")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Torch threads; one is often faster for small networks.")
]


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """``["n_envs=32", "device=cpu"]`` as a dict; values are JSON, and what is no JSON is a string.

    Raises:
        ConfigError: if a pair has no "=".
    """
    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"{pair!r} is no KEY=VALUE")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


@app.command()
def envs(
    name: Annotated[str | None, typer.Argument(help="Show one family in full.")] = None,
) -> None:
    """List the families, or show one: its tasks, spaces, rewards and limits."""
    if name is not None:
        import inspect

        console.print(inspect.cleandoc(family_type(name)[0].__doc__ or ""), markup=False, highlight=False)
        return
    table = Table(title=f"metagym {__version__}: families of tasks")
    table.add_column("id", no_wrap=True)
    for heading in ("what", "observation", "actions", "steps"):
        table.add_column(heading)
    for env_id in family_ids():
        table.add_row(env_id, *_summary(env_id))
    console.print(table)
    console.print("`metagym envs ID` shows one in full; in Python: gymnasium.make(ID), after `import metagym`.")


def _summary(env_id: str) -> list[str]:
    """What a family is, its observation and action spaces and steps; or what must be installed to see them."""
    kind, defaults = family_type(env_id)
    what = (kind.__doc__ or "").strip().splitlines()[0]
    try:
        family = kind(**defaults)
    except DependencyNotInstalled as missing:
        return [what, escape(str(missing)), "", ""]
    return [what, _brief(family.observation_space), _brief(family.action_space), str(family.episode_length)]


def _brief(space: Space[Any]) -> str:
    return f"Box{space.shape}" if isinstance(space, Box) else str(space)


@app.command()
def train(
    context: typer.Context,
    algo: Annotated[
        str, typer.Option("--algo", help="`rl2` (learns in its memory) or `reptile` (learns to be fine-tuned).")
    ] = "rl2",
    env: EnvOption = "MetaFrozenLake-v0",
    env_set: EnvSetOption = None,
    timesteps: Annotated[
        int | None,
        typer.Option("--timesteps", min=1, help="Environment steps, over all tasks. [default: 1,000,000]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Keyword of the learner, value as JSON; may be repeated."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run. [default: runs/ALGO-ENV-seedN]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, from its last checkpoint.")
    ] = False,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="Time between checkpoints.")] = 30.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
) -> None:
    """Meta-train a learner; Ctrl-C stops it with a checkpoint, `--resume` goes on.

    Example: `metagym train --algo rl2 --env MetaFrozenLake-v0 --env-set remap_actions=true --set episodes_per_trial=5
    --timesteps 2000000 --out runs/lakes`
    """
    from metagym import runs

    _prepare_torch(threads, device)
    folder = out or Path("runs") / f"{algo}-{env}-seed{seed}"
    if resume:
        _refuse_beside_resume(context)
        config = runs.RunConfig.read(folder)
        if timesteps is not None:
            config = runs.replace_timesteps(config, timesteps)
    else:
        chosen = parse_settings(settings)
        if algo == "rl2" and not {"episodes_per_trial", "steps_per_trial"} & set(chosen):
            chosen["episodes_per_trial"] = 5
        config = runs.RunConfig(
            algo=algo, env_id=env, env_kwargs=parse_settings(env_set), settings=chosen, seed=seed, device=device,
            total_timesteps=timesteps or 1_000_000, tensorboard=tensorboard,
        )  # fmt: skip
    try:
        agent = runs.train(config, folder, resume=resume, checkpoint_seconds=checkpoint_seconds, progress_bar=True)
    except KeyboardInterrupt:
        errors.print(f"stopped; go on with: metagym train --resume --out {folder}", soft_wrap=True)
        raise typer.Exit(130) from None
    console.print(f"trained {config.total_timesteps:,} steps: {agent}", soft_wrap=True)
    console.print(f"next: metagym evaluate {agent}", soft_wrap=True)


def _refuse_beside_resume(context: typer.Context) -> None:
    """A resumed run keeps its settings: refuse the options that would say otherwise."""
    for name in ("algo", "env", "env_set", "settings", "seed", "device", "tensorboard"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--resume goes on with the settings of the run; {name!r} cannot be given beside it")


@app.command()
def evaluate(
    agents: Annotated[list[Path], typer.Argument(help="Checkpoints (or run folders): the runs of one method.")],
    env: Annotated[str | None, typer.Option("--env", help="Id of a family. [default: that of training]")] = None,
    env_set: EnvSetOption = None,
    split: Annotated[str, typer.Option("--split", help="test, train, ood or all.")] = "test",
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Number of tasks.")] = 100,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes per task.")] = 10,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Take the most probable action.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 1,
    out: Annotated[Path, typer.Option("--out", help="Where to write the scores (.npz).")] = Path("evaluation.npz"),
) -> None:
    """Measure learners on tasks they were not trained on, episode by episode, beside random and the optimum."""
    from metagym import reports, runs
    from metagym.evaluation import evaluate as measure

    _prepare_torch(threads, device)
    runs.make_folder(out.parent)  # before the work, not after it
    learners = [runs.load_agent(path, device=device) for path in agents]
    env_id, env_kwargs = runs.env_of(learners[0])
    if env is not None:
        env_id, env_kwargs = env, parse_settings(env_set)
    elif env_set:
        env_kwargs = {**env_kwargs, **parse_settings(env_set)}
    curve = measure(
        learners, env_id, env_kwargs=env_kwargs, split=None if split == "all" else split, n_tasks=tasks,
        episodes=episodes, seed=seed, deterministic=deterministic, progress_bar=True,
    )  # fmt: skip
    path = curve.save(out)
    console.print(reports.adaptation_table([curve]))
    console.print(f"scores: {path}\nnext: metagym plot {path}", soft_wrap=True)


@app.command()
def plot(
    sources: Annotated[list[Path], typer.Argument(help="Scores (.npz) of `metagym evaluate`, or run folders.")],
    out: Annotated[Path, typer.Option("--out", help="Picture; the suffix names the format.")] = Path("plot.png"),
    statistic: Annotated[str, typer.Option("--statistic", help="mean or iqm.")] = "mean",
    y: Annotated[str, typer.Option("--y", help="For run folders: the column to draw.")] = "rollout/ep_rew_mean",
) -> None:
    """Draw adaptation curves (from scores) or learning curves (from run folders)."""
    from metagym import reports, runs

    runs.make_folder(out.parent)
    path = reports.draw(sources, out, statistic=statistic, y=y)
    console.print(f"wrote {path}", soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for agent, picture, animation and scores.")] = Path("demo"),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    scale: Annotated[
        float, typer.Option("--scale", help="Multiply the training steps; 1 takes under 3 minutes.")
    ] = 1.0,
) -> None:
    """Meta-train on frozen lakes and watch the agent learn lakes it has never seen, episode by episode."""
    from metagym import demo as show

    _prepare_torch(threads, device)
    show.run(out, seed=seed, device=device, scale=scale, console=console)


def _prepare_torch(threads: int, device: str) -> None:
    """Set the threads, and refuse a device that is not there: SB3 would quietly use the processor instead."""
    import torch as th

    th.set_num_threads(threads)
    try:
        wanted = "cpu" if device == "auto" else th.device(device).type
    except RuntimeError as unknown:
        raise ConfigError(f"device {device!r} is unknown; accepted are auto, cpu, cuda, cuda:0, ...") from unknown
    if wanted == "cuda" and not th.cuda.is_available():
        raise ConfigError(f"device {device!r} is not available on this machine; use --device cpu")


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line and exit code 2."""
    try:
        app()
    except (MetagymError, DependencyNotInstalled, TypeError, OSError) as mistake:
        _fail(mistake)


def _fail(mistake: BaseException) -> None:
    errors.print(f"metagym: {' '.join(str(mistake).split())}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
