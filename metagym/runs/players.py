"""Who plays in an evaluation: learners from files, and references that need no training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from metagym.errors import CheckpointError, ConfigError
from metagym.registry import make_family
from metagym.runs.config import ALGOS, learner_type, named_class
from metagym.saving import read_meta

__all__ = ["REFERENCES", "Players", "env_of", "load_agent", "method_of", "reference"]

REFERENCES = {
    "random": "metagym.algos.references:Random",
    "optimal": "metagym.algos.optimal:Optimal",
    "gittins": "metagym.algos.gittins:Gittins",
    "thompson": "metagym.algos.bandit_agents:ThompsonSampling",
    "optimistic-thompson": "metagym.algos.bandit_agents:OptimisticThompsonSampling",
    "ucb1": "metagym.algos.bandit_agents:UCB1",
    "bandit-epsilon-greedy": "metagym.algos.bandit_agents:EpsilonGreedyBandit",
    "bandit-greedy": "metagym.algos.bandit_agents:GreedyBandit",
    "psrl": "metagym.algos.mdp_agents:PSRL",
    "opsrl": "metagym.algos.mdp_agents:OPSRL",
    "ucrl2": "metagym.algos.mdp_agents:UCRL2",
    "beb": "metagym.algos.mdp_agents:BEB",
    "epsilon-greedy": "metagym.algos.mdp_agents:EpsilonGreedyMDP",
    "greedy": "metagym.algos.mdp_agents:GreedyMDP",
    "q-learning": "metagym.algos.mdp_agents:QLearning",
}
"""What needs no training and is played beside learners."""
_KINDS = {path.partition(":")[2]: algo for algo, path in ALGOS.items()} | {"WindowRL2": "rl2"}


def reference(name: str, env_id: str, env_kwargs: Mapping[str, Any], *, episodes: int) -> Any:
    """An agent of `REFERENCES`.

    Args:
        name: which.
        env_id: id of a family.
        env_kwargs: keywords of the family.
        episodes: that it will play of each task.

    Raises:
        ConfigError: if the name is unknown, or the agent does not play this family.
    """
    if name not in REFERENCES:
        raise ConfigError(f"reference {name!r} is unknown; accepted are {', '.join(sorted(REFERENCES))}")
    options = {} if name in {"random", "optimal"} else {"episodes_per_trial": episodes}
    try:
        make_family(env_id, **env_kwargs)  # names a wrong id or keyword better than a learner can
        return named_class(REFERENCES[name])(env=env_id, env_kwargs=dict(env_kwargs), **options)
    except TypeError as error:
        raise ConfigError(f"{env_id} does not take these keywords: {error}") from error


def load_agent(path: str | Path, *, device: str = "auto") -> Any:
    """A learner from a checkpoint of any of metagym's learners; nothing in the file is executed.

    Raises:
        CheckpointError: if the file is no checkpoint of metagym's.
    """
    path = Path(path) / "agent.zip" if Path(path).is_dir() else Path(path)
    kind = read_meta(path).get("kind")
    if kind not in _KINDS:
        raise CheckpointError(f"{path} is a checkpoint of {kind!r}; accepted are {sorted(_KINDS)}")
    return learner_type(_KINDS[kind]).load(path, device=device)


def method_of(agent: Any) -> str:
    """What a learner is an example of, as tables and figures name it: "RL2 PPO", "Reptile SAC"."""
    known = {kind: kind.replace("WindowRL2", "RL2") for kind in _KINDS}
    names = [kind.__name__ for kind in type(agent).__mro__]
    label = next((known[name] for name in names if name in known), names[0])
    inside = getattr(agent, "learner_class", None)
    return label if inside is None else f"{label} {inside.__name__}"


@dataclass(frozen=True)
class Players:
    """Who plays what in one evaluation.

    Attributes:
        methods: name of a method to its runs.
        env_id: id of the family.
        env_kwargs: its keywords.
    """

    methods: dict[str, list[Any]]
    env_id: str
    env_kwargs: dict[str, Any]

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        references: Sequence[str] = (),
        *,
        env_id: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        episodes: int = 10,
        device: str = "auto",
        name: str | None = None,
    ) -> Self:
        """Learners from files, those of one algorithm and learner as runs of one method, and references.

        Args:
            paths: checkpoints or folders of runs.
            references: names of `REFERENCES`.
            env_id: the family to play; None: that of training.
            env_kwargs: its keywords; without `env_id` they are put over those of training.
            episodes: that will be played of each task.
            device: of the learners.
            name: of the only method that is read from files.

        Raises:
            ConfigError: if nobody plays, nothing is said about what to play, or learners were trained on different
                families.
            CheckpointError: if a file is no checkpoint of metagym's.
        """
        methods: dict[str, list[Any]] = {}
        agents = [load_agent(path, device=device) for path in paths]
        for agent in agents:
            methods.setdefault(method_of(agent), []).append(agent)
        if name is not None:
            if len(methods) != 1:
                raise ConfigError(f"--name is for one method, and these are {sorted(methods)}")
            methods = {name: agents}
        if not (agents or references):
            raise ConfigError("nobody plays: give checkpoints or run folders, or --beside with --env")
        if env_id is None:
            env_id, trained = _common_env(agents)
            env_kwargs = {**trained, **(env_kwargs or {})}
        keywords = dict(env_kwargs or {})
        for one in dict.fromkeys(references):
            methods[one] = [reference(one, env_id, keywords, episodes=episodes)]
        return cls(methods, env_id, keywords)


def _common_env(agents: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    if not agents:
        raise ConfigError("references play the family that --env names, and none was given")
    envs = [env_of(agent) for agent in agents]
    if other := next((env for env in envs if env != envs[0]), None):
        raise ConfigError(f"learners were trained on {envs[0]} and on {other}: name what they shall play with --env")
    return envs[0]


def env_of(agent: Any) -> tuple[str, dict[str, Any]]:
    """Id and keywords of the family that a loaded learner was trained on.

    Raises:
        ConfigError: if it was trained on an env without an id.
    """
    trained_in = agent if hasattr(agent, "env_id") else agent._source
    env_id, env_kwargs = trained_in.env_id, dict(trained_in.env_kwargs or {})
    if env_id is None:
        raise ConfigError("the learner was trained on an env without an id; name one with --env")
    return env_id, env_kwargs
