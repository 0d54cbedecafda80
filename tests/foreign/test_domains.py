import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from metagym.errors import ConfigError
from metagym.foreign.domains import Choices, Ranges, coded, domain_of, is_code
from tests.strategies import plainly


def noise_of(domain, n=400):
    return np.random.default_rng(0).random((n, domain.num_draws))


def test_a_tuple_is_every_number_between():
    domain = domain_of("gravity", (5, 15))

    assert domain.dtype == np.float64
    np.testing.assert_allclose(domain.draw(np.array([[0.0], [0.25], [0.5]])), [5.0, 7.5, 10.0])
    assert domain.listed() is None


def test_a_list_of_tuples_is_a_union_drawn_from_by_width():
    domain = domain_of("gravity", [(0.0, 1.0), (10.0, 13.0)])
    drawn = domain.draw(noise_of(domain, 4000))

    assert ((drawn < 1.0) | (drawn >= 10.0)).all()
    assert abs((drawn < 1.0).mean() - 0.25) < 0.03


def test_a_list_is_these_choices_alone_each_as_probable():
    domain = domain_of("mass", [3, 1, 2])
    drawn = domain.draw(noise_of(domain, 3000))

    assert domain.dtype == np.int64
    assert domain.listed().tolist() == [3, 1, 2]
    assert np.abs(np.bincount(drawn)[1:] / 3000 - 1 / 3).max() < 0.04


def test_a_list_with_a_float_holds_floats():
    assert domain_of("mass", [1, 2.5]).dtype == np.float64


@pytest.mark.parametrize(
    ("space", "num_values", "dtype"),
    [
        (spaces.Discrete(4, start=3), 4, np.int64),
        (spaces.MultiDiscrete([2, 3]), 6, np.int64),
        (spaces.MultiBinary(3), 8, np.int64),
        (spaces.Box(-1, 1, (2,), np.int64), 9, np.int64),
        (spaces.Box(-1.0, 1.0, (2, 2), np.float32), None, np.float64),
    ],
    ids=plainly,
)
def test_a_space_is_all_its_values(space, num_values, dtype):
    domain = domain_of("x", space)
    drawn = domain.draw(noise_of(domain))
    listed = domain.listed()

    assert drawn.dtype == dtype
    assert drawn.shape == (400, *space.shape)
    assert all(space.contains(value.astype(space.dtype)) for value in drawn)
    assert (None if listed is None else len(listed)) == num_values
    if listed is not None:
        assert len(np.unique(listed.reshape(len(listed), -1), axis=0)) == num_values
        assert all(domain.contains(value) for value in drawn)


def test_both_ends_of_whole_numbers_are_drawn():
    domain = domain_of("x", spaces.Discrete(3))

    assert set(domain.draw(noise_of(domain)).tolist()) == {0, 1, 2}


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-6, 1e6), unit=st.floats(0.0, 1.0, exclude_max=True))
@settings(max_examples=50, deadline=None)
def test_draws_stay_in_their_range(low, width, unit):
    domain = Ranges(np.array([low]), np.array([low + width]), np.dtype(np.float64))

    assert domain.contains(domain.draw(np.array([[unit]]))[0])


def test_a_coordinate_that_does_not_vary_is_drawn_as_it_is():
    domain = domain_of("x", spaces.Box(np.array([0.0, 2.0]), np.array([1.0, 2.0]), dtype=np.float64))

    assert set(domain.draw(noise_of(domain))[:, 1].tolist()) == {2.0}


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        ((0.0, 1.0), (1.0, 2.0), False),
        ((0.0, 1.0), (0.9, 2.0), True),
        ((0.0, 1.0), [2.0, 0.5], True),
        ([1, 2], [3, 4], False),
        ([1, 2], [2, 3], True),
        ([(0.0, 1.0), (5.0, 6.0)], (5.5, 7.0), True),
        (spaces.Box(0.0, 1.0, (2,)), spaces.Box(np.float32([0, 1]), np.float32([1, 2])), False),
    ],
    ids=plainly,
)
def test_domains_overlap_where_they_share_more_than_a_boundary(left, right, share):
    assert domain_of("x", left).overlaps(domain_of("x", right)) is share


@pytest.mark.parametrize(
    "wrong",
    [
        (1.0,), (2.0, 1.0), (1.0, 1.0), (0.0, np.inf), (1.0, 2.0, 3.0), ("a", "b"), [], 3.0, None, "text", [1, 1],
        [1.0, np.nan], spaces.Box(-np.inf, np.inf, (1,)), spaces.Text(3), [(1.0, 2.0), (3.0, 2.0)],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_domain_is_named_with_what_is_accepted(wrong):
    with pytest.raises(ConfigError, match=r"gravity=.*(accepted are a range \(low, high\)|twice)"):
        domain_of("gravity", wrong)


def test_choices_that_are_no_numbers_are_coded():
    assert is_code(["a", "b"])
    assert is_code([True, False])
    assert is_code([None, 1])
    assert not is_code([1, 2.0])
    assert not is_code([(1.0, 2.0)])
    assert not is_code((1.0, 2.0))
    assert coded("x", ["a", "b"], first=3).listed().tolist() == [3, 4]


def test_no_choice_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"map=\[\] is empty"):
        coded("map", [])


def test_whole_numbers_become_floats_where_floats_are_asked_for():
    assert Choices(np.array([1, 2])).as_dtype(np.dtype(np.float64)).dtype == np.float64
    assert Choices(np.array([1, 2])).as_dtype(np.dtype(np.int64)).dtype == np.int64


def test_the_uniform_between_two_ranges_belongs_to_the_second():
    union = domain_of("x", [(0.0, 1.0), (5.0, 6.0)])

    assert union.draw(np.array([[0.25, np.nextafter(0.5, 0.0)], [0.25, 0.5]])).tolist() == [0.25, 5.25]
