"""Files that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "with_suffix"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: what is written there takes the place of `path` when the block ends well.

    Whatever happens in the block, `path` holds the old file or the whole new one.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def with_suffix(path: str | Path, suffix: str) -> Path:
    """The path, with `suffix` appended where it does not end so."""
    return Path(path) if str(path).endswith(suffix) else Path(f"{path}{suffix}")
