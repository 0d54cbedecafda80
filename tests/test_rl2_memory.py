"""The benchmark of the memory of gradients: what it measures and shows."""

import pytest

from benchmarks.rl2_memory import POLICIES, apart, batch_of, policy_of, render


@pytest.mark.parametrize("kind", POLICIES)
def test_a_chunked_gradient_is_that_of_the_same_policy(kind):
    batch = batch_of(3, 4, 5)
    whole, chunked = (policy_of(kind, 3, 4, chunk) for chunk in (None, 8))
    chunked.load_state_dict(whole.state_dict())
    for policy in (whole, chunked):
        sum(part.sum() for part in policy.evaluate_actions(*batch)).backward()
    for own, other in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert (own.grad - other.grad).abs().max() < 1e-4


@pytest.mark.slow
def test_cases_run_in_processes_of_their_own_and_are_shown():
    case = apart("exchangeable", 3, 10, 8, None, repetitions=1)
    assert case["bytes"] >= 0.0
    assert case["seconds"] > 0.0
    text = render({"chunks": [case, case | {"chunk_steps": 1_000, "bytes": 2e6}], "shapes": [case]})
    assert "| exchangeable | 1,000 | 2 |" in text
