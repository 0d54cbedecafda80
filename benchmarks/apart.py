"""Measurements in processes of their own, and the most memory that a process has held."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["apart", "peak_memory"]

_ROOT = Path(__file__).parents[1]
_CODE = """
import json, sys
from importlib import import_module

module, name, arguments = json.loads(sys.argv[1])
print(json.dumps(getattr(import_module(module), name)(*arguments)))
"""


def apart(module: str, name: str, *arguments: Any) -> Any:
    """What a function of a module returns in a new process.

    Args:
        module: as ``benchmarks.rl2_memory``.
        name: of the function.
        *arguments: as JSON can hold them, and likewise what is returned.
    """
    command = [sys.executable, "-c", _CODE, json.dumps([module, name, arguments])]
    printed = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def peak_memory() -> int:
    """Bytes of resident memory that this process has held at most, on Linux.

    ``resource.getrusage`` tells no less than what the process that started this one held when it did.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError("/proc/self/status does not tell VmHWM")
    return 1024 * int(found[1])
