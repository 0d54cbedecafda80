"""Wall-clock of adaptation and of the inner update alone: all tasks at once, beside loops that compute the same.

    python -m benchmarks.maml_inner        # prints the table and writes docs/results/maml_inner.json

One gradient step on each task's own episodes of 2-D navigation: with playing them (the loop plays one task after the
other in metagym's own vector env), and the step alone (the loop takes SB3's policy and PyTorch's distributions through
``functional_call``, task by task). Both ways give the same parameters, to 1e-6 of their size. Rounds alternate, and
medians are shown.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.func import functional_call

from benchmarks.stored import parser, store
from metagym.algos import MAML
from metagym.algos.maml_actions import law_of
from metagym.algos.maml_baselines import Experience, LinearBaseline, credited
from metagym.algos.maml_inner import InnerLoop
from metagym.algos.maml_iteration import play_and_adapt
from metagym.algos.maml_policy import Parameters, policy_function, stacked
from metagym.algos.maml_rollout import Collector
from metagym.algos.reptile_env import draw_tasks, task_vec_env

ENV_ID = "MetaPointGoal-v0"
EPISODES = (1, 5, 20)
RATE = 0.1
TOLERANCE = 1e-6
REPEATS = 5
"""Updates that one time is the mean of."""
Update = Callable[[], Parameters]


class LogProb(nn.Module):
    """``forward``, since ``functional_call`` calls nothing else."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Logarithms of densities of actions, (B,)."""
        return self.policy.get_distribution(observations).log_prob(actions)


def adaptations(num_tasks: int, num_rows: int, num_steps: int, width: int) -> tuple[Update, Update]:
    """Episodes of all tasks and a step on them, at once, and task by task."""
    kwargs = {"net_arch": [width, width], "activation_fn": nn.ReLU}
    env_kwargs = {"episode_length": num_steps}
    agent = MAML("MlpPolicy", ENV_ID, env_kwargs=env_kwargs, meta_batch_size=num_tasks, n_envs=num_rows,
                 inner_learning_rate=RATE, policy_kwargs=kwargs, device="cpu", seed=0)  # fmt: skip
    env, parts = agent.get_env(), agent._parts
    assert env is not None
    tasks, seeds = draw_tasks(env, num_tasks), [[task] for task in range(num_tasks)]
    whole, single = (Collector(parts.function, parts.law, env, number) for number in (num_tasks, 1))

    def at_once() -> Parameters:
        return play_and_adapt(agent, whole, tasks, seeds, 1, plays_on=False).parameters

    def one_by_one() -> Parameters:
        adapted = [
            play_and_adapt(agent, single, [task], [seed], 1, plays_on=False).parameters
            for task, seed in zip(tasks, seeds, strict=True)
        ]
        return {name: th.cat([own[name] for own in adapted]) for name in adapted[0]}

    return at_once, one_by_one


def updates(num_tasks: int, num_rows: int, num_steps: int, width: int) -> tuple[Update, Update]:
    """The update of all tasks at once, and the loop's."""
    env = task_vec_env(ENV_ID, n_envs=num_rows, split="train", env_kwargs={"episode_length": num_steps})
    kwargs = {"net_arch": [width, width], "activation_fn": nn.ReLU}
    policy = A2C("MlpPolicy", env, policy_kwargs=kwargs, device="cpu", seed=0).policy
    function, law = policy_function(policy), law_of(env.action_space)
    begin = stacked({name: tensor.detach() for name, tensor in function.parameters(function.actor_names).items()},
                    num_tasks)  # fmt: skip
    collector = Collector(function, law, env, num_tasks)
    rollout = collector.collect(begin, draw_tasks(env, num_tasks), list(range(num_tasks)))
    fitted, last = LinearBaseline(0.99).values(rollout, begin)
    experience = credited(rollout, fitted, last, gamma=0.99, gae_lambda=1.0, normalize=True)
    inner, rates = InnerLoop(function, law), dict.fromkeys(function.actor_names, RATE)
    module = LogProb(policy)

    def at_once() -> Parameters:
        return inner.take(begin, experience, rates)

    def one_by_one() -> Parameters:
        adapted = [_updated(module, function.actor_names, experience, task) for task in range(num_tasks)]
        return {name: th.stack([own[name] for own in adapted]) for name in function.actor_names}

    return at_once, one_by_one


def _updated(module: LogProb, names: tuple[str, ...], experience: Experience, task: int) -> dict[str, th.Tensor]:
    rollout, live = experience.rollout, dict(module.policy.named_parameters())
    assert isinstance(rollout.seen, th.Tensor)
    own = {name: live[name] for name in names}
    named = {f"policy.{name}": tensor for name, tensor in own.items()}
    log_probs = functional_call(module, named, (rollout.seen[task], rollout.actions[task]), tie_weights=False)
    loss = -(log_probs * experience.advantages[task] * rollout.weights[task]).sum()
    slopes = th.autograd.grad(loss, list(own.values()))
    return {name: (tensor - RATE * slope).detach() for (name, tensor), slope in zip(own.items(), slopes, strict=True)}


WORK: dict[str, Callable[[int, int, int, int], tuple[Update, Update]]] = {
    "episodes and step": adaptations, "step": updates
}  # fmt: skip


def measure(rounds: int, num_tasks: int, num_steps: int, width: int) -> dict[str, Any]:
    """Milliseconds, wall-clock and of processor time, both ways, and the largest difference."""
    th.set_num_threads(1)
    rows = []
    for work, make in WORK.items():
        for num_rows in EPISODES:
            contenders = make(num_tasks, num_rows, num_steps, width)
            difference = _difference(*(update() for update in contenders))
            assert difference <= TOLERANCE, f"the two ways differ by {difference:.1e}"
            times = np.array([[_milliseconds(update) for update in contenders] for _ in range(rounds)])
            once, loop = np.median(times, axis=0).tolist()
            rows.append({"work": work, "episodes": num_rows, "at once": once, "loop": loop, "difference": difference})
    return {"rows": rows, "rounds": rounds, "tasks": num_tasks, "steps": num_steps, "width": width}


def _difference(once: Parameters, one_by_one: Parameters) -> float:
    """The largest one, relative where numbers are larger than 1."""
    sizes = [((once[name] - own).abs() / own.abs().clamp(min=1.0)).max() for name, own in one_by_one.items()]
    return float(th.stack(sizes).max())


def _milliseconds(update: Update) -> tuple[float, float]:
    start = time.perf_counter(), time.process_time()
    for _ in range(REPEATS):
        update()
    return 1e3 * (time.perf_counter() - start[0]) / REPEATS, 1e3 * (time.process_time() - start[1]) / REPEATS


def render(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    lines = [
        "| work | episodes of a task | loop over tasks, ms | at once, ms | wall-clock | processor time "
        "| largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        once, one_by_one = row["at once"], row["loop"]
        ratios = f"{one_by_one[0] / once[0]:.1f}x | {one_by_one[1] / once[1]:.1f}x"
        times = f"{one_by_one[0]:.1f} | {once[0]:.1f} | {ratios}"
        lines.append(f"| {row['work']} | {row['episodes']} | {times} | {row['difference']:.0e} |")
    lines += [
        "",
        f"Adapting to {result['tasks']} tasks by one gradient step, {result['steps']} steps an episode, two layers of "
        f"{result['width']}; one thread, medians of {result['rounds']} rounds in turns.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    arguments = parser(__doc__, "maml_inner")
    arguments.add_argument("--rounds", type=int, default=21)
    arguments.add_argument("--tasks", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--width", type=int, default=100)
    options = arguments.parse_args()
    store(measure(options.rounds, options.tasks, options.steps, options.width), options.out, render)


if __name__ == "__main__":
    main()
