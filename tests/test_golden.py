"""Golden tasks and trajectories are unchanged."""

import json

import numpy as np
import pytest

from tests import golden
from tests.exemptions import FEW_TASKS
from tests.strategies import SIMULATED, has_simulator, label

SETTINGS = golden.settings()
STORED = golden.stored()


def test_golden_values_are_kept_of_every_id():
    missing = {label(setting) for setting in SETTINGS} - set(STORED)

    assert missing == set(), "python -m tests.golden adds what is missing"


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if label(setting) in STORED], ids=label)
def test_golden_tasks_and_trajectories_are_unchanged(setting):
    if setting[0] in SIMULATED and not has_simulator:
        pytest.skip("mujoco is not installed")
    found, expected = golden.golden(setting), STORED[label(setting)]

    assert found.keys() == expected.keys()
    assert found.get("ids") == expected.get("ids")
    if "rewards" in expected:
        assert found["steps_and_resets"] == expected["steps_and_resets"]
        # Sines and powers differ in the last bit from processor to processor.
        assert np.allclose(found["rewards"], expected["rewards"], rtol=1e-9, atol=1e-9)
        assert np.allclose(found["last"], expected["last"], rtol=1e-6, atol=1e-6)


def test_every_golden_entry_is_of_a_setting_that_exists():
    assert set(STORED) <= {label(setting) for setting in SETTINGS}


def test_golden_tasks_are_many():
    for name, entry in STORED.items():
        assert ("ids" in entry) == (name not in golden.TRANSCENDENTAL)
        ids = entry.get("ids", range(40))
        assert len(ids) in {20, 40}
        assert name in FEW_TASKS or len(set(ids)) > 3


@pytest.mark.parametrize("table", [golden.TRANSCENDENTAL, golden.TASKS_ONLY])
def test_exemptions_give_reasons(table):
    assert all(len(reason) > 20 for reason in table.values())


def test_existing_entries_are_left_alone(tmp_path, monkeypatch):
    name = "MetaBandit-v0"
    file = tmp_path / "golden.json"
    file.write_text(json.dumps({name: {"ids": [1]}}), encoding="utf-8")
    monkeypatch.setattr(golden, "GOLDEN", file)
    monkeypatch.setattr(golden, "settings", lambda: [(name, {}), ("MetaPointGoal-v0", {})])

    golden.main([])
    assert golden.stored()[name] == {"ids": [1]}
    assert golden.stored()["MetaPointGoal-v0"] == STORED["MetaPointGoal-v0"]
    golden.main([name])
    assert golden.stored()[name] == STORED[name]
