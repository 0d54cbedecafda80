"""Checkpoints as an attacker would craft them: each asks for a module to be imported, which says so by existing."""

import sys
from contextlib import contextmanager

import gymnasium as gym

from metagym.encoding import encode
from metagym.saving import read_archive, write_archive

MODULE = "imported_by_a_checkpoint"
FOREIGN_ID = "OfTheAttacker-v0"
ALGORITHM = {"$": "class", "name": "stable_baselines3.ppo.ppo:PPO"}
LEARNER = {"$": "class", "name": "metagym.algos.rl2:RL2PPO"}
NAMING_A_FAMILY = {"family": f"{MODULE}:Family"}

ENVS = {
    "an id that names a module": {"env_id": f"{MODULE}:Env-v0"},
    "a registered id of another kind of env": {"env_id": FOREIGN_ID, "env_kwargs": {}},
    "a keyword that names a family": {"env_kwargs": NAMING_A_FAMILY},
    "keywords that only look like a dict": {"env_kwargs": encode(gym.spaces.Dict({"family": gym.spaces.Discrete(2)}))},
    "an id and a keyword": {"env_id": f"{MODULE}:Env-v0", "env_kwargs": NAMING_A_FAMILY},
}
"""Envs that are not made: the learner is loaded without one."""

POLICIES = {
    "an algorithm that makes its env": {
        "features_extractor_class": ALGORITHM,
        "features_extractor_kwargs": {"env": f"{MODULE}:Env-v0"},
    },
    "a learner that makes its env": {
        "features_extractor_class": LEARNER,
        "features_extractor_kwargs": {
            "env": "MetaBandit-v0", "env_kwargs": NAMING_A_FAMILY, "episodes_per_trial": 2, "_init_setup_model": False,
        },
    },
}  # fmt: skip
"""Keywords of policies that are refused."""


def craft(source, target, **changes):
    """Write the file of a learner anew, with another ``env_id``, ``env_kwargs`` or ``policy_kwargs``."""
    meta, arrays = read_archive(source)
    of_trials = "settings" in meta
    arguments = meta["settings"] if of_trials else meta["arguments"]
    if "policy_kwargs" in changes:
        arguments["policy_kwargs"] = changes["policy_kwargs"]
    if "env_kwargs" in changes:
        (meta["env"] if of_trials else arguments)["env_kwargs"] = changes["env_kwargs"]
    if "env_id" in changes:
        (meta["env"] if of_trials else meta).update({"id" if of_trials else "env_id": changes["env_id"]})
    write_archive(target, meta=meta, arrays=arrays)


@contextmanager
def nothing_imported(folder, monkeypatch):
    """Put a module where it would be found, and an id that leads there; neither is imported in the block."""
    (folder / f"{MODULE}.py").write_text("class Family: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    gym.register(FOREIGN_ID, entry_point=f"{MODULE}:Env", vector_entry_point=f"{MODULE}:VectorEnv")
    try:
        yield
        assert MODULE not in sys.modules
    finally:
        del gym.registry[FOREIGN_ID]
        sys.modules.pop(MODULE, None)
