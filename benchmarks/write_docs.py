"""Write what commands say into the pages: stored results as tables, and the command line's help.

    python -m benchmarks.write_docs

A page holds ``<!-- numbers:NAME -->`` and ``<!-- /numbers -->``; what lies between is ``benchmarks.NAME.render`` of
``docs/results/NAME.json``. Likewise ``<!-- help:COMMAND -->`` and ``<!-- /help -->`` hold the help of ``metagym
COMMAND``. Nobody types between the markers: a test compares.
"""

import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- (numbers|help):([\w-]*) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
COMMANDS = ("", "envs", "train", "evaluate", "plot", "demo")
_HELP = """
import json, sys
from typer.testing import CliRunner
from metagym.cli import app
say = lambda *words: CliRunner().invoke(app, [*words, "--help"], prog_name="metagym", terminal_width=80).stdout
print(json.dumps({name: say(*name.split()) for name in json.loads(sys.argv[1])}))
"""


@lru_cache
def helps() -> dict[str, str]:
    """Help of every command, as plain text."""
    plain = {**os.environ, "TYPER_USE_RICH": "0", "TERM": "dumb", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", _HELP, json.dumps(COMMANDS)], env=plain, cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def numbers(name: str) -> str:
    """The tables of one stored result; nothing if it was not measured yet."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    text: str = import_module(f"benchmarks.{name}").render(json.loads(path.read_text(encoding="utf-8")))
    return f"{text.strip()}\n"


def helped(name: str) -> str:
    """The help of one command as a block of text."""
    lines = (line.rstrip() for line in helps()[name].strip().splitlines())
    return "\n".join(["```text", *lines, "```", ""])


def pages() -> list[Path]:
    """Every page that may hold markers."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with what belongs between its markers."""

    def fill(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        content = numbers(name) if kind == "numbers" else helped(name)
        return f"<!-- {kind}:{name} -->\n{content}<!-- /{kind} -->"

    return BLOCK.sub(fill, text)


def main() -> None:
    """Fill all pages."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
