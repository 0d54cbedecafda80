"""The benchmark of the memory of gradients: what it measures and shows."""

import sys
from importlib import import_module

import pytest

from benchmarks import rl2_memory
from benchmarks.rl2_memory import (
    POLICIES,
    batch_of,
    bytes_per_trial,
    gradient,
    peak_of_training,
    policy_of,
    render,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")


@pytest.mark.parametrize("kind", POLICIES)
def test_a_chunked_gradient_is_that_of_the_same_policy(kind):
    batch = batch_of(3, 4, 5)
    whole, chunked = (policy_of(kind, 3, 4, chunk) for chunk in (None, 8))
    chunked.load_state_dict(whole.state_dict())
    for policy in (whole, chunked):
        sum(part.sum() for part in policy.evaluate_actions(*batch)).backward()
    for own, other in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert (own.grad - other.grad).abs().max() < 1e-4


@on_linux
@pytest.mark.slow
def test_cases_run_in_processes_of_their_own_and_are_shown():
    case = gradient("exchangeable", 3, 10, 8, None, repetitions=1)
    assert case["bytes"] >= 0.0
    assert case["seconds"] > 0.0
    shown = {"chunks": [case, case | {"chunk_steps": 1_000, "bytes": 2e6}], "shapes": [case]}
    text = render(shown | {"trial": {"64": 80_000.0, "256": 215_000.0}})
    assert "| exchangeable | 1,000 | 2 |" in text
    assert "takes 80 kB with 64 units and 215 kB with 256 units" in text


@on_linux
@pytest.mark.slow
def test_chunks_bound_the_memory_of_a_gradient():
    whole, chunked = (
        gradient("GRU of 256 units", 4, 100, 128, steps, repetitions=1)["bytes"] for steps in (None, 1600)
    )
    # 12,800 steps x 256 units x 4 bytes are 13 MB, and gates are three more.
    assert whole > 4 * 13e6
    assert 0.0 < chunked < 0.4 * whole


def test_bytes_of_a_trial_are_the_slope_between_processes_of_their_own(monkeypatch):
    def told(module, name, units, trials):
        assert getattr(import_module(module), name) is peak_of_training
        return 1000 + 7 * units * trials

    monkeypatch.setattr(rl2_memory, "apart", told)
    assert bytes_per_trial(2, 3, 9, repetitions=2) == 14


@on_linux
@pytest.mark.slow
def test_a_trial_in_training_takes_what_its_gates_do_and_not_much_more():
    # One of four minibatches is differentiated at a time: 4 numbers of each unit (three gates, a state), 4 bytes each.
    gates = 100 * 256 * 4 * 4 / 4
    assert gates < bytes_per_trial(256, 128, 512, 1) < 4 * gates
