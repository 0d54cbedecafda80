"""Golden values: the tasks and trajectories that fixed seeds give. A change of them asks for a new version of the id.

`python -m tests.golden` adds what `golden.json` does not hold yet; `python -m tests.golden MetaTaxi-v0 ...` writes the
entries of these ids anew. Entries that exist already are left alone otherwise.
"""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from metagym.errors import ConfigError
from tests.strategies import EVERY_ID, SETTINGS, SIMULATED, family_of, has_simulator, label, rollout, scalar_env

GOLDEN = Path(__file__).with_name("golden.json")
NUM_STEPS = 40

TRANSCENDENTAL = {
    "MetaPointGoal-v0-variant=semicircle-episode_length=6": "goals are sines, which NumPy rounds by processor",
}
"""Settings without golden ids: the last bits of their tasks, and so ids and splits, depend on the processor."""
TASKS_ONLY = dict.fromkeys(SIMULATED, "trajectories belong to one version of the simulator")
"""Settings whose tasks are recorded, but no trajectory."""


def settings():
    """What golden values are kept of."""
    variants = [setting for setting in SETTINGS if setting[1]]
    return [*((name, {}) for name in EVERY_ID), *variants]


def golden(setting):
    """What seeds 0..9 give."""
    ids = []
    for split in ("train",) if family_of(setting).unsplit else ("train", "test"):
        env = scalar_env(setting, split=split)
        for seed in range(10):
            ids += [env.reset(seed=seed)[1]["task_id"], env.sample_task().id]
    entry = {} if label(setting) in TRANSCENDENTAL else {"ids": ids}
    if label(setting) in TASKS_ONLY:
        return entry
    # Which tasks are training tasks hangs on their ids as well; existing trajectories are of training tasks.
    env = scalar_env(setting, split=None if label(setting) in TRANSCENDENTAL else "train")
    results = rollout(env, _actions(env.action_space), seed=0)
    rewards = [result[1] for result in results if len(result) == 5]
    last = np.asarray(results[-1][0]).tolist()
    return {**entry, "rewards": rewards, "steps_and_resets": len(results), "last": last}


def _actions(space):
    # Written out, since Gymnasium may change how spaces draw.
    if isinstance(space, gym.spaces.Discrete):
        return [step * 7 % 5 % int(space.n) for step in range(NUM_STEPS)]
    size = int(np.prod(space.shape))
    steps = np.arange(NUM_STEPS)[:, None]
    prime = np.array([7, 5, 3, 11, 13, 17, 19, 23] * 8)[:size]
    span = 11 + 2 * np.arange(size)
    return list((((steps * prime) % span - span // 2) / 64).reshape(NUM_STEPS, *space.shape))


def stored():
    """What `golden.json` holds."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def main(names):
    """Write what is missing, and the entries of `names` anew."""
    kept = {name: entry for name, entry in stored().items() if name not in names}
    for setting in settings():
        if label(setting) in kept or (setting[0] in SIMULATED and not has_simulator):
            continue
        try:
            kept[label(setting)] = golden(setting)
        except ConfigError as missing:
            sys.stderr.write(f"{label(setting)}: {missing}\n")
    ordered = {name: kept[name] for name in sorted(kept)}
    GOLDEN.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
