"""Names of parts: what is put under a prefix comes back, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from metagym.sections import prefixed, section

NAMES = st.text(st.characters(blacklist_characters="/"), max_size=4)
PARTS = st.dictionaries(NAMES, st.dictionaries(st.text(max_size=6), st.integers(), max_size=4), max_size=4)


@given(PARTS)
def test_every_part_comes_back_from_the_whole(parts):
    whole = {}
    for prefix, part in parts.items():
        whole |= prefixed(prefix, part)
    assert len(whole) == sum(len(part) for part in parts.values())
    assert {prefix: section(prefix, whole) for prefix in parts} == parts


def test_sections_nest_and_are_not_taken_by_names_that_only_begin_alike():
    whole = prefixed("a", prefixed("b", {"c": 1, "d/e": 2})) | {"a": 3, "ab/b": 4, "b/c": 5}
    assert whole == {"a/b/c": 1, "a/b/d/e": 2, "a": 3, "ab/b": 4, "b/c": 5}
    assert section("b", section("a", whole)) == {"c": 1, "d/e": 2}
    assert section("nothing", whole) == {}
