"""The page about the checks lists every law, in its words."""

import re
from pathlib import Path

from metagym.checks.family import FAMILY_LAWS
from metagym.checks.scalar import SCALAR_LAWS
from metagym.checks.vector import VECTOR_LAWS
from metagym.checks.wrapper import WRAPPER_LAWS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checks.md"


def tables():
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^\| Law \| It says \|\n\|---\|---\|\n", text, flags=re.MULTILINE)[1:]
    return [re.findall(r"^\| (.+?) \| (.+) \|$", part.partition("\n\n")[0], flags=re.MULTILINE) for part in parts]


def test_the_page_lists_every_law_in_its_words():
    known = {law.name for law in SCALAR_LAWS} | {f"vector: {law.name}" for law in VECTOR_LAWS}
    own = [law for law in WRAPPER_LAWS if law.name not in {*known, "vector interface"}]

    expected = [[(law.name, law.says) for law in laws] for laws in (FAMILY_LAWS, SCALAR_LAWS, VECTOR_LAWS, own)]

    assert tables() == expected
