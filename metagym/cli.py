"""The command line: ``metagym envs | train | evaluate | plot | demo``."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Space
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand
from typing_extensions import override

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

# Here too, since loading them takes PyTorch; a test compares.
_REFERENCES = (
    "random", "optimal", "gittins", "thompson", "optimistic-thompson", "ucb1", "bandit-epsilon-greedy",
    "bandit-greedy", "psrl", "opsrl", "ucrl2", "beb", "epsilon-greedy", "greedy", "q-learning",
)  # fmt: skip
# Options with several values, and what can be one of them after the first.
_LISTS: dict[str, Callable[[str], bool]] = {
    "--beside": _REFERENCES.__contains__,
    "--budgets": str.isdecimal,
}

EnvOption = Annotated[str, typer.Option("--env", help="Id of a family; `metagym envs` lists them.")]
EnvSetOption = Annotated[
    list[str] | None,
    typer.Option("--env-set", metavar="KEY=VALUE", help="Keyword of the family, value as JSON; may be repeated."),
]
AlgoOption = Annotated[
    str,
    typer.Option(
        "--algo",
        help="`rl2` (learns in its memory), `reptile` (learns to be fine-tuned), `maml`, `fomaml`, `promp`, `emaml`, "
        "`meta-sgd` or `probabilistic-maml` (learn to take policy-gradient steps), or what to compare them with: "
        "`joint-training`, `from-scratch`, `revealed-task`.",
    ),
]
LearnerOption = Annotated[
    str | None,
    typer.Option("--learner", help="The learner inside: PPO, A2C, DQN, SAC, ... of SB3 or its contrib package."),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Keyword of the algorithm, value as JSON; may be repeated."),
]
LearnerSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--learner-set",
        metavar="KEY=VALUE",
        help="Keyword of the learner inside, likewise. (RL2 is that learner: `--set` takes its keywords too.)",
    ),
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="Policy of the learner. [default: the one for the observations]")
]
TimestepsOption = Annotated[
    int | None,
    typer.Option("--timesteps", min=1, help="Environment steps, over all tasks. [default: 1,000,000]"),
]
BudgetsOption = Annotated[
    list[int] | None,
    typer.Option(
        "--budgets", min=0, metavar="N ...", help="Instead: episodes of experience to measure after, 0 1 2 5 10."
    ),
]
LimitsOption = Annotated[
    Path | None,
    typer.Option("--limits", help="Earlier scores (.npz) on these tasks, whose limits are taken over."),
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option("--beside", metavar="NAME ...", help=f"Play these too: {', '.join(_REFERENCES)}."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Everything random hangs on it.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Torch device: auto, cpu, cuda, ...")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Torch threads; one is often faster for small networks.")
]


class _WithLists(TyperCommand):
    """A command some of whose options take several values."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread(args))


def spread(words: Sequence[str]) -> list[str]:
    """``--budgets 0 1 2 RUN`` or ``--budgets 0,1,2 RUN`` as one option for each value, which Click understands.

    Raises:
        ConfigError: if there is no value.
    """
    found: list[str] = []
    option, is_first = "", False
    for word in [*words, "--"]:
        if is_first and word.startswith("-"):
            raise ConfigError(f"{option} needs one value or more")
        if word in _LISTS:
            option, is_first = word, True
            continue
        values = [value for value in word.split(",") if value]
        if option and (is_first or all(map(_LISTS[option], values))):
            found += [f"{option}={value}" for value in values]
        else:
            option = ""
            found.append(word)
        is_first = False
    return found[:-1]


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
    algo: AlgoOption = "rl2",
    env: EnvOption = "MetaFrozenLake-v0",
    env_set: EnvSetOption = None,
    learner: LearnerOption = None,
    timesteps: TimestepsOption = None,
    settings: SettingsOption = None,
    learner_set: LearnerSetOption = None,
    policy: PolicyOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run. [default: runs/ALGO-LEARNER-ENV-seedN]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, from its last checkpoint.")
    ] = False,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="Time between checkpoints.")] = 30.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
) -> None:
    """Meta-train a learner; Ctrl-C stops it with a checkpoint, `--resume` goes on.

    Example: `metagym train --algo reptile --learner SAC --env MetaPointGoal-v0 --set inner_timesteps=512 --learner-set
    learning_rate=0.001 --timesteps 200000 --out runs/points`
    """
    from metagym import runs

    _prepare_torch(threads, device)
    folder = out or Path("runs") / "-".join([algo, *([learner] if learner else []), env, f"seed{seed}"])
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
            algo=algo, env_id=env, env_kwargs=parse_settings(env_set), settings=chosen, learner=learner,
            learner_settings=parse_settings(learner_set), policy=policy, seed=seed, device=device,
            total_timesteps=timesteps or 1_000_000, tensorboard=tensorboard,
        )  # fmt: skip
    try:
        agent = runs.train(config, folder, resume=resume, checkpoint_seconds=checkpoint_seconds, progress_bar=True)
    except KeyboardInterrupt:
        errors.print(f"stopped; go on with: metagym train --resume --out {folder}", soft_wrap=True)
        raise typer.Exit(130) from None
    learnt = (
        "nothing to train before evaluation" if config.algo == "from-scratch" else f"{runs.steps_taken(agent):,} steps"
    )
    console.print(f"trained {config.algo}, {learnt}: {agent}", soft_wrap=True)
    console.print(f"next: metagym evaluate {agent}", soft_wrap=True)


def _refuse_beside_resume(context: typer.Context) -> None:
    """A resumed run keeps its settings: refuse the options that would say otherwise."""
    kept = ("algo", "env", "env_set", "learner", "settings", "learner_set", "policy", "seed", "device", "tensorboard")
    for name in kept:
        if _given(context, name):
            raise ConfigError(f"--resume goes on with the settings of the run; {name!r} cannot be given beside it")


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command(cls=_WithLists)
def evaluate(
    context: typer.Context,
    agents: Annotated[
        list[Path] | None,
        typer.Argument(help="Checkpoints or run folders; those of one algorithm and learner are runs of one method."),
    ] = None,
    env: Annotated[str | None, typer.Option("--env", help="Id of a family. [default: that of training]")] = None,
    env_set: EnvSetOption = None,
    split: Annotated[str, typer.Option("--split", help="test, train, ood or all.")] = "test",
    tasks: Annotated[int, typer.Option("--tasks", min=1, help="Number of tasks.")] = 100,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Episodes per task.")] = 10,
    budgets: BudgetsOption = None,
    eval_episodes: Annotated[
        int, typer.Option("--eval-episodes", min=1, help="Episodes in each score of what adapts by gradient.")
    ] = 10,
    beside: BesideOption = None,
    limits: LimitsOption = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Take the most probable action.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = 1,
    name: Annotated[str | None, typer.Option("--name", help="Of the method. [default: algorithm and learner]")] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Scores (.npz); with several methods one file each, OUT-METHOD.npz.")
    ] = Path("evaluation.npz"),
    csv: Annotated[Path | None, typer.Option("--csv", help="Also every return as a line of this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also the means and intervals.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Also a picture; the suffix names its format.")] = None,
) -> None:
    """Measure learners on tasks they were not trained on, episode by episode, beside random and the optimum.

    Example: `metagym evaluate runs/reptile-seed0 runs/reptile-seed1 --budgets 0 1 2 5 10 --beside optimal`
    """
    from metagym import reports, runs

    _prepare_torch(threads, device)
    if budgets and _given(context, "episodes"):
        raise ConfigError("give --episodes or --budgets, not both")
    extra = {"csv": csv, "json": json_file, "plot": picture}
    reports.check_places({"out": out, **extra})  # before the work, not after it
    players = runs.Players.of(
        agents or [], beside or [], env_id=env, env_kwargs=None if env_set is None else parse_settings(env_set),
        episodes=max(budgets) + 1 if budgets else episodes, device=device, name=name,
    )  # fmt: skip
    curves = reports.measure(
        players.methods, players.env_id, env_kwargs=players.env_kwargs, split=None if split == "all" else split,
        n_tasks=tasks, episodes=episodes, budgets=budgets, eval_episodes=eval_episodes, seed=seed,
        deterministic=deterministic, limits=limits, progress_bar=True,
    )  # fmt: skip
    files = reports.save_scores(curves, out)
    written = [*files, *reports.export(curves, **extra)]
    console.print(reports.adaptation_table(curves))
    console.print(f"wrote {' '.join(map(str, written))}", soft_wrap=True)
    console.print(f"next: metagym plot {' '.join(map(str, files))}", soft_wrap=True)


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
