"""Every id keeps the laws that users check their own families, envs and wrappers against."""

import inspect

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from metagym.checks import check_env, check_family
from metagym.checks.family import FAMILY_LAWS
from metagym.checks.laws import hold
from metagym.checks.probe import Probe
from metagym.errors import ContractError
from metagym.registry import make_family
from tests.exemptions import FEW_TASKS, LAWS, NO_OOD, UNBOUNDED
from tests.strategies import EVERY_ID, PLAIN, SETTINGS, SIMULATED, label, some_ids

SMALL = {"num_rows": 8, "num_steps": 6, "num_episodes": 100}
QUICK = {"num_steps": 12, "num_episodes": 1000}
MODES = list(AutoresetMode)
VARIANTS = [
    *(setting for setting in SETTINGS if setting[1]),
    ("MetaCliffWalking-v0", {"is_slippery": True, "random_goal": True}),
    ("MetaFrozenLake-v0", {"size": 3, "recover_from_holes": True, "can_stay": True, "observe_coordinates": True}),
    ("MetaTwoStep-v0", {"random_transitions": True, "switch_probability": 0.025}),
]


@some_ids(EVERY_ID)
def test_every_family_keeps_all_laws(name):
    sizes = SMALL if name in SIMULATED else QUICK

    report = check_family(make_family(name), exempt=LAWS.get(name, {}), **sizes)

    assert report["scalar equals vector"] == report["row independence"] == "holds"
    assert (report["ood outside"] == "does not apply: there is no ood region") == (name in NO_OOD)


@pytest.mark.parametrize("setting", VARIANTS, ids=label)
def test_variants_of_families_keep_all_laws(setting):
    name, kwargs = setting

    check_family(make_family(name, **kwargs), **QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{"is_rainy": True}, {"is_rainy": True, "fickle_passenger": True}], ids=str)
def test_taxis_in_the_rain_keep_all_laws(kwargs):
    check_family(make_family("MetaTaxi-v0", **kwargs), **QUICK)


@pytest.mark.slow
@some_ids(EVERY_ID)
@pytest.mark.parametrize("seed", range(1, 6))
def test_every_family_keeps_all_laws_under_other_seeds(name, seed):
    sizes = {"num_rows": 16, "num_steps": 40, "num_episodes": 200} if name in SIMULATED else {"num_steps": 150}

    check_family(make_family(name), seed=seed, exempt=LAWS.get(name, {}), **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_compiled_families_keep_all_laws(name):
    pytest.importorskip("numba")
    if "compiled" not in inspect.signature(type(make_family(name)).__init__).parameters:
        pytest.skip("the family has no compiled step")

    check_family(make_family(name, compiled=True), **QUICK)


@pytest.mark.parametrize(("name", "law"), [(name, law) for name, laws in LAWS.items() for law in laws])
def test_exempt_laws_are_indeed_broken(name, law):
    (exempt,) = (one for one in FAMILY_LAWS if one.name == law)

    with pytest.raises(ContractError, match=law):
        hold([exempt], Probe(make_family(name)), {})


@pytest.mark.parametrize("table", [LAWS, UNBOUNDED, NO_OOD, FEW_TASKS], ids=["laws", "unbounded", "no ood", "few"])
def test_exemptions_name_ids_and_give_reasons(table):
    assert set(table) <= set(EVERY_ID)
    reasons = [
        reason for value in table.values() for reason in (value.values() if isinstance(value, dict) else [value])
    ]
    assert all(len(reason) > 10 for reason in reasons)


@some_ids(EVERY_ID, slow=["MetaTaxi-v0"])  # its tables make every copy and seed of an env cost as much as a test
def test_every_env_keeps_all_laws(name):
    place = EVERY_ID.index(name)
    env = gym.make(name, render_mode=["ansi", "rgb_array"][place % 2])
    exempt = {law: reason for law, reason in LAWS.get(name, {}).items() if law == "hidden task"}
    num_steps = 10 if name in SIMULATED else 25

    assert check_env(env, num_steps=num_steps, exempt=exempt)["set tasks"] == "holds"
    envs = gym.make_vec(name, num_envs=3, autoreset_mode=MODES[place % 3])
    assert check_env(envs, num_steps=num_steps)["rows apart"] == "holds"
