"""Updates of sb3-contrib's RecurrentPPO with its own policy and with metagym's drop-in, on the same rollouts.

    python -m benchmarks.recurrent_ppo

Both learners start from the same parameters and train on the same rollout; their updates take turns, so that whatever
else the machine does falls on both. One thread. Where numba is installed, metagym's policy runs compiled.
"""

import time
from importlib.metadata import version
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.stored import parser, store
from metagym.nets import FusedRecurrentActorCriticPolicy
from metagym.nets.compiled_sequence import has_numba

# rows, steps of a rollout, minibatch, steps of an episode, units of an LSTM; the last one is sb3-contrib's default.
SETTINGS = (
    (40, 100, 4000, 100, 32),
    (40, 100, 4000, 100, 64),
    (16, 100, 1600, 100, 64),
    (16, 100, 400, 100, 64),
    (8, 128, 128, 50, 64),
    (8, 128, 128, 50, 256),
)
REPETITIONS = 9


class Flicker(gym.Env[Any, Any]):
    """Noise to read: episodes of a fixed length."""

    def __init__(self, episode_steps: int) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.episode_steps, self.steps = episode_steps, 0

    def _look(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 8).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed, options=options)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step."""
        self.steps += 1
        return self._look(), float(action == 0), self.steps >= self.episode_steps, False, {}


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


def with_rollout(policy: Any, rows: int, steps: int, batch: int, episode: int, units: int) -> RecurrentPPO:
    """A learner that has collected one rollout; equal ones for equal arguments, whichever policy."""
    env = make_vec_env(Flicker, n_envs=rows, env_kwargs={"episode_steps": episode}, seed=0)
    agent = RecurrentPPO(
        policy, env, n_steps=steps, batch_size=batch, n_epochs=1, seed=0, device="cpu",
        policy_kwargs={"lstm_hidden_size": units},
    )  # fmt: skip
    _, callback = agent._setup_learn(rows * steps, _Nothing())
    agent.collect_rollouts(env, callback, agent.rollout_buffer, steps)
    return agent


def seconds(agent: RecurrentPPO) -> float:
    """Processor time of one update over the rollout, whose minibatches are the same each time."""
    np.random.seed(0)  # noqa: NPY002 (the stream that sb3-contrib shuffles with)
    start = time.process_time()
    agent.train()
    return time.process_time() - start


def difference(one: RecurrentPPO, other: RecurrentPPO) -> float:
    """Largest difference of any parameter."""
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return max(float((first - second).detach().abs().max()) for first, second in pairs)


def measure(rows: int, steps: int, batch: int, episode: int, units: int) -> dict[str, Any]:
    """Medians for one setting."""
    theirs = with_rollout("MlpLstmPolicy", rows, steps, batch, episode, units)
    ours = with_rollout(FusedRecurrentActorCriticPolicy, rows, steps, batch, episode, units)
    seconds(theirs), seconds(ours)
    after_one_update = difference(theirs, ours)
    times = [(seconds(theirs), seconds(ours)) for _ in range(REPETITIONS)]
    return {
        "rows": rows,
        "steps": steps,
        "batch": batch,
        "episode": episode,
        "units": units,
        "theirs_ms": 1e3 * median(one for one, _ in times),
        "ours_ms": 1e3 * median(other for _, other in times),
        "ratio": median(one / other for one, other in times),
        "difference": after_one_update,
    }


def render(result: dict[str, Any]) -> str:
    """The table of the docs."""
    rows = [
        f"| {row['rows']} x {row['steps']} | {row['batch']} | {row['episode']} | {row['units']} "
        f"| {row['theirs_ms']:.0f} | {row['ours_ms']:.0f} | {row['ratio']:.1f} | {row['difference']:.0e} |"
        for row in result["settings"]
    ]
    compiled = f", numba {result['numba']}" if "numba" in result else ""
    return "\n".join(
        [
            "| rows x steps | minibatch | steps of an episode | LSTM units | sb3-contrib, ms | metagym, ms "
            "| times faster | parameters differ by |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Processor time of one epoch over a rollout, medians of {result['repetitions']} updates of each in turn, "
            f"one thread; sb3-contrib {result['sb3_contrib']}, torch {result['torch']}{compiled}.",
        ]
    )


def main() -> None:
    """Measure, store and print."""
    args = parser(__doc__, "recurrent_ppo").parse_args()
    th.set_num_threads(1)
    result = {
        "settings": [measure(*setting) for setting in SETTINGS],
        "repetitions": REPETITIONS,
        "sb3_contrib": version("sb3-contrib"),
        "torch": version("torch"),
        **({"numba": version("numba")} if has_numba() else {}),
    }
    store(result, args.out, render)


if __name__ == "__main__":
    main()
