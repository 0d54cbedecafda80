"""Families that keep all laws pass; each law is broken by a family made for it, and by few others."""

import numpy as np
import pytest

from metagym import ConfigError
from metagym.checks import check_family
from metagym.checks.family import FAMILY_LAWS
from metagym.errors import ContractError
from tests.checks.broken import Strip, Walk, broken_by
from tests.checks.broken_families import CASES
from tests.checks.broken_tables import StatesTooMuch


@pytest.mark.parametrize(("kind", "laws"), CASES)
def test_a_law_is_broken_by_the_family_that_was_made_to(kind, laws):
    # This law takes longer than all others together: where it should hold, that is for the slow test.
    quick = [law for law in FAMILY_LAWS if law.name != "scalar equals vector" or law.name in laws]

    assert broken_by(kind(), quick) == set(laws)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "laws"), CASES)
def test_no_other_law_is_broken_by_the_family_that_was_made_to_break_one(kind, laws):
    assert broken_by(kind()) == set(laws)


def test_every_law_has_a_family_that_breaks_it():
    assert {case.values[1][0] for case in CASES} == {law.name for law in FAMILY_LAWS}


@pytest.mark.parametrize("kind", [Walk, Strip])
def test_families_that_keep_all_laws_pass_under_several_seeds(kind):
    reports = [check_family(kind(), seed=seed, num_steps=12, num_episodes=400) for seed in range(3)]

    assert reports[0] == reports[1] == reports[2]
    assert list(reports[0]) == [law.name for law in FAMILY_LAWS]
    assert reports[0]["row independence"] == "holds"
    assert (reports[0]["table of steps"] == "holds") == (kind is Strip)


def test_the_error_names_law_place_found_and_accepted():
    with pytest.raises(ContractError) as caught:
        check_family(StatesTooMuch(), num_steps=2)

    message = str(caught.value)
    assert message.startswith("the law 'simulated returns' is broken (random actions earn random_return")
    assert "mean return of random actions of 8 tasks: found " in message
    assert "; accepted is random_return, " in message
    assert isinstance(caught.value, AssertionError)


def test_code_that_raises_breaks_the_law_during_which_it_does():
    class Short(Walk):
        num_step_draws = 1

    with pytest.raises(ContractError, match=r"'returned types' could not be checked.*IndexError") as caught:
        check_family(Short())
    assert isinstance(caught.value.__cause__, IndexError)


def test_warnings_of_numpy_break_the_law_during_which_they_come():
    class Overflows(Walk):
        def step(self, state, action, params, noise):
            np.exp(1000.0 * np.ones(3))
            return super().step(state, action, params, noise)

    with pytest.raises(ContractError, match="overflow encountered in exp"):
        check_family(Overflows())


def test_exempt_laws_are_reported_with_their_reasons():
    report = check_family(StatesTooMuch(), num_steps=4, exempt={"simulated returns": "it is stated too high"})

    assert report["simulated returns"] == "exempt: it is stated too high"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": Walk}, "pass an instance, not the class"),
        ({"family": 3}, "family=3 is not accepted"),
        ({"family": Walk(), "exempt": {"no such law": "x"}}, "'no such law', which is no law here; accepted are decl"),
        ({"family": Walk(), "exempt": {"purity": ""}}, "must be a text that says why"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_family(**arguments)


class Inside(Walk):
    def draw_structure(self, noise, region):
        if region == "ood":
            raise ConfigError("Walk has no ood region")
        return super().draw_structure(noise, region)


def test_a_family_without_ood_region_is_checked_without_one():
    assert check_family(Inside(), num_steps=4)["ood outside"] == "does not apply: there is no ood region"
