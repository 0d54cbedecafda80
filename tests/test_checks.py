"""The parts of the checks by themselves: comparison, statistics, probes, parity."""

import numpy as np
import pytest
from gymnasium import spaces

from metagym import ConfigError, TaskEnv, TaskVectorEnv
from metagym.checks.distributions import chi_square_excess, wrong_values
from metagym.checks.driven import fresh_copy, require_same_future, rollout, sizes_and_modes
from metagym.checks.laws import (
    Law,
    arrays_of,
    hold,
    require,
    require_apart,
    require_refusal,
    require_same,
    unchanged_generators,
)
from metagym.checks.limits import simulated_returns
from metagym.checks.parity import Pair, require_parity
from metagym.checks.probe import Probe, outcomes_of
from metagym.checks.rows import padded
from metagym.errors import ContractError
from tests.checks.broken import Strip, Walk
from tests.parity import MODES

# --- laws ------------------------------------------------------------------------------------------------------------


def test_laws_are_held_in_order_and_reported():
    laws = [Law("a", "A holds", lambda subject: None), Law("b", "B holds", lambda subject: f"of {subject}")]

    assert hold(laws, 3, {}) == {"a": "holds", "b": "does not apply: of 3"}
    assert hold(laws, 3, {"a": "for a reason"})["a"] == "exempt: for a reason"
    with pytest.raises(ConfigError, match="'c', which is no law here; accepted are a, b"):
        hold(laws, 3, {"c": "x"})


def test_the_first_broken_law_is_named_and_later_ones_are_not_checked():
    def never(subject):
        raise AssertionError("checked")

    laws = [Law("a", "A holds", lambda subject: require(False, "there", 3, "4")), Law("b", "B holds", never)]

    with pytest.raises(ContractError) as caught:
        hold(laws, None, {})
    assert str(caught.value) == "the law 'a' is broken (A holds): there: found 3; accepted is 4"


def test_what_was_found_is_cut_to_a_length_that_can_be_read():
    with pytest.raises(ContractError) as caught:
        require(False, "there", list(range(1000)), "less")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), r"result\[1\]: found .*2\.0.*; accepted is .*2\.5.*, to the last"),
        (np.array([0.0]), np.array([-0.0]), r"result\[0\]"),
        (np.array([1.0]), np.array([1.0], np.float32), "found float64 of shape"),
        (np.zeros((2, 1)), np.zeros(2), r"shape \(2, 1\); accepted is float64 of shape \(2,\)"),
        ({"a": 1}, {"b": 1}, "keys of result"),
        ({"a": (1, 2)}, {"a": (1, 3)}, r"result\['a'\]\[1\]: found 2; accepted is 3"),
        ([1], (1,), "found list; accepted is tuple"),
        ((1, 2), (1,), "length of result: found 2"),
        (1, 1.0, "found int; accepted is float"),
        (np.array([[1, 2]], object)[0], np.array([[1, 3]], object)[0], r"result\[1\]"),
    ],
)
def test_differences_are_found_to_the_last_bit(actual, expected, message):
    require_same(expected, expected)
    with pytest.raises(ContractError, match=message):
        require_same(actual, expected)


def test_not_a_number_is_the_same_as_itself():
    require_same(np.array([np.nan]), np.array([np.nan]))


def test_arrays_are_found_in_nested_results():
    array, inner = np.zeros(2), np.zeros(3)
    holder = np.empty(2, object)
    holder[0] = inner

    assert [len(found) for found in arrays_of(({"a": [array]}, 3, holder))] == [2, 2, 3]


def test_shared_memory_is_found_and_named():
    array = np.zeros(4)
    require_apart({"a": array}, {"a": array, "b": array.copy()}, "x")
    with pytest.raises(ContractError, match="a: found memory shared with b; accepted is fresh"):
        require_apart({"a": [array]}, {"b": {"inside": array[1:2]}}, "fresh")


def test_draws_from_global_generators_are_found():
    with pytest.raises(ContractError, match=r"generator of numpy\.random"), unchanged_generators():
        np.random.rand()  # noqa: NPY002
    with unchanged_generators():
        np.random.default_rng(0).random()


def test_refusals_must_be_of_the_kind_and_name_what_was_wrong():
    def refuse():
        raise ValueError("size=3")

    require_refusal(refuse, ValueError, "call", "size")
    with pytest.raises(ContractError, match="call: found size=3; accepted is a ValueError that names 'speed'"):
        require_refusal(refuse, ValueError, "call", "speed")
    with pytest.raises(ContractError, match="found no error"):
        require_refusal(lambda: None, ValueError, "call", "speed")


# --- statistics ------------------------------------------------------------------------------------------------------


def test_chi_square_excess_is_a_normal_deviate_where_the_probabilities_are_right():
    rng, shares = np.random.default_rng(0), np.array([0.4, 0.3, 0.2, 0.05, 0.03, 0.02])

    found = [chi_square_excess(rng.multinomial(2000, shares), shares) for _ in range(2000)]

    assert abs(np.mean(found)) < 0.1
    assert abs(np.std(found) - 1.0) < 0.1


def test_chi_square_excess_is_large_where_they_are_wrong():
    rng = np.random.default_rng(0)

    assert chi_square_excess(rng.multinomial(2000, [0.5, 0.5]), np.array([0.4, 0.6])) > 5.0
    assert chi_square_excess(rng.multinomial(5000, [1e-2] * 100), np.array([2e-2] * 49 + [2e-2 / 51] * 51)) > 5.0
    assert chi_square_excess(np.array([7]), np.array([1.0])) == -np.inf


def test_simulated_returns_agree_with_the_exact_ones():
    probe = Probe(Walk(), num_episodes=4000)
    params = probe.tasks(4)

    mean, error, size = simulated_returns(probe, params)

    assert (np.abs(mean - Walk().random_return(params)) < 4.0 * error).all()
    assert (error < 0.1).all()
    assert size > mean.max()


def test_values_that_no_field_may_have_lie_outside_of_its_space():
    for space, value in [
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.uint8)),
        (spaces.Box(-1.0, 1.0, (), np.float64), np.float64(0.0)),
        (spaces.Discrete(3, start=2), np.int64(2)),
        (spaces.MultiBinary(3), np.zeros(3, np.int8)),
    ]:
        wrong = wrong_values(space, value)
        assert {"text", "None", "complex", "another shape", "NaN", "too high"} <= set(wrong)
        for what in ("too high", "too low"):
            if what in wrong:
                assert np.asarray(wrong[what]) not in space


def test_bounds_that_do_not_exist_cannot_be_exceeded():
    assert "too high" not in wrong_values(spaces.Box(-np.inf, np.inf, (2,)), np.zeros(2))


# --- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [Walk(), Strip()])
def test_probes_draw_the_same_whatever_was_looked_at_before(family):
    first, second = Probe(family, seed=3), Probe(family, seed=3)
    second.tasks(5)
    second.actions(second.rng("other"), 4)

    for mine, theirs in zip(first.moments, second.moments, strict=True):
        require_same(mine.columns(), theirs.columns())
    assert len(first.moments) == 2 * 5  # two regions, at steps 0, 1, 3, 7 and 15
    other = Probe(family, seed=4).moments[1]
    assert not np.array_equal(other.action, first.moments[1].action)


def test_moments_are_copied_for_every_law():
    probe = Probe(Walk())
    probe.moments[0].action[...] = 0

    assert probe.moments[0].action.any()


def test_moments_take_rows_and_outcomes_have_names():
    moment = Probe(Walk(), num_rows=9).moments[2].take(np.array([3, 1]))

    assert {len(column) for column in moment.columns().values()} == {2}
    assert set(outcomes_of(Walk(), moment)) == {
        "initial().position", "initial().visits", "step().state.position", "step().state.visits", "step().reward",
        "step().terminated", "step().success", "observe()",
    }  # fmt: skip


def test_padded_noise_is_the_same_and_read_only_with_nothing_to_use_behind_it():
    noise = np.random.default_rng(0).random((3, 2))
    wide = padded(noise)

    assert np.array_equal(wide, noise)
    assert not wide.flags.writeable
    assert np.isnan(wide.base[:, 2:]).all()


# --- drivers ---------------------------------------------------------------------------------------------------------


def test_rollouts_reset_where_episodes_end():
    results = rollout(TaskEnv(Walk()), [1] * 30, seed=0)

    ends = [len(result) == 5 and (result[2] or result[3]) for result in results]
    assert len(results) == 31 + sum(ends)
    assert all(len(after) == 2 for end, after in zip(ends, results[1:], strict=False) if end)


class Forgets(TaskEnv):
    def __deepcopy__(self, memo):
        other = TaskEnv(self.family)
        other.reset(seed=7)
        return other


def test_copies_that_go_on_otherwise_are_found():
    env = Forgets(Walk())
    env.reset(seed=0)
    with pytest.raises(ContractError, match="a copy made by deepcopy"):
        require_same_future(env, [2] * 9)
    assert isinstance(fresh_copy(env), TaskEnv)


def test_every_mode_and_every_number_of_rows_is_compared():
    for seed in range(3):
        chosen = sizes_and_modes(seed)
        assert {mode for _, mode in chosen} == set(MODES)
        assert {size for size, _ in chosen} == {1, 2, 7}
    assert {mode for seed in range(3) for size, mode in sizes_and_modes(seed) if size == 7} == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_parity_counts_finished_rows(mode):
    env = TaskVectorEnv(Walk(), 3, autoreset_mode=mode)

    assert require_parity(env, lambda: TaskEnv(Walk()), num_steps=20) > 5


def test_envs_of_different_spaces_are_no_pair():
    with pytest.raises(ContractError, match="single_observation_space of the vector env"):
        Pair(TaskVectorEnv(Walk(), 2), lambda: TaskEnv(Strip()))
