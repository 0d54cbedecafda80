"""How a benchmark ends: its result is stored for the docs, and printed as they show it."""

import json
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["parser", "store"]

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def parser(description: str | None, name: str) -> ArgumentParser:
    """A parser with ``--out``, by default where the docs look for the result called `name`."""
    made = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return made


def store(result: dict[str, Any], out: Path, render: Callable[[dict[str, Any]], str]) -> None:
    """Write the result as JSON, and print its tables."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_to_json(result))
    print(render(result))


def _to_json(result: dict[str, Any]) -> str:
    """Indented, but for lists of plain values, which take one line."""
    lists = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")
    text = lists.sub(lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", json.dumps(result, indent=2))
    return text + "\n"
