"""The shape of the package: layers, sizes, names, public lists, cost of an import. Exemptions are data with reasons."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from metagym.registry import BUILTIN

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metagym"
FOLDERS = ("metagym", "tests", "examples", "benchmarks", "docs", ".ci")

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}
IMPORT_SECONDS = 0.4  # of processor time; 0.5 by the clock, of which little is waiting where nobody else works

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
ROOT_IMPORTERS = {
    "metagym.cli": "the top of the house, which nothing imports: it prints the version",
}
TESTED_IN = {
    "metagym.wrappers.base": "wrappers/test_wrapper_parity.py",
    "metagym.wrappers.context": "wrappers/test_rl2_context.py",
    "metagym.wrappers.flat": "wrappers/test_rl2_context.py",
    "metagym.wrappers.reveal": "wrappers/test_wrapper_parity.py",
    "metagym.wrappers.sb3": "wrappers/test_sb3_adapter.py",
}
WITHOUT_TEST = {
    "metagym.algos.base": "protocols without a line of code; mypy checks them",
    "metagym.errors": "five classes without a line of code",
    "metagym.types": "aliases; mypy checks them",
}
INCOMPLETE_ALL = {
    "metagym.cli": "commands are reached through the app, not by import",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@lru_cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


MODULES = {module_name(path): path for path in sources()}


def of_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.stmt) and of_type_checking(child)):
            yield child
            yield from runtime_nodes(child)


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in runtime_nodes(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in MODULES else node.module for member in members}
    return found & MODULES.keys()


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert node.end_lineno is not None
    total = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        assert first.end_lineno is not None
        total -= first.end_lineno - first.lineno + 1
    return total


def public_definitions(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in tree(path).body if isinstance(node, kinds) and not node.name.startswith("_")}


def declared_all(path: Path) -> list[str] | None:
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            value = ast.literal_eval(node.value)
            return [str(name) for name in value]
    return None


def order_of_lists(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order in which ruff keeps lists of names."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_contracts_of_pyproject_hold():
    pytest.importorskip("importlinter")

    output = run_python(
        "import sys; from importlinter.cli import lint_imports_command as run; sys.argv += ['--no-cache']; run()"
    )

    assert " 0 broken" in output


def test_the_contract_of_independent_families_lists_them_all():
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.importlinter]")[2]

    assert [entry for entry, _ in BUILTIN.values() if f'"{entry.partition(":")[0]}"' not in contracts] == []


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name: imported_modules(path) for name, path in MODULES.items()}

    assert circle(graph) == []


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}

    assert set(circle(graph)) == {"a", "b", "c"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(ROOT_IMPORTERS)))
def test_inside_the_package_nobody_imports_its_root(name):
    assert "metagym" not in imported_modules(MODULES[name])


@pytest.mark.parametrize("folder", ["metagym", "tests", "examples", "benchmarks"])
def test_files_are_short(folder):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(ROOT / folder)}

    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE}.keys() <= LONG_FILES.keys()


def test_functions_are_short():
    too_long = {
        f"{name}.{node.name}": code_lines(node)
        for name, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > LONGEST_FUNCTION
    }

    assert too_long.keys() <= LONG_FUNCTIONS.keys(), too_long


def test_no_module_has_a_name_that_says_nothing():
    assert not [name for name in MODULES if FORBIDDEN_NAMES & set(name.split("."))]


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(WITHOUT_TEST)))
def test_every_module_has_a_test_file(name):
    path = MODULES[name]
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    accepted = [ROOT / "tests" / TESTED_IN.get(name, Path(*parts[:-1]) / f"test_{parts[-1]}.py")]
    if len(parts) > 1:
        # A package's parts may be tested together, where the package is one subject.
        accepted.append(ROOT / "tests" / Path(*parts[:-2]) / f"test_{parts[-2]}.py")
        # A learner's parts lie in files that start with its name.
        accepted.append(ROOT / "tests" / Path(*parts[:-1]) / f"test_{parts[-1].split('_')[0]}.py")

    is_plain_init = path.name == "__init__.py"
    assert is_plain_init or any(test.exists() for test in accepted)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_public_list_is_there_sorted_and_complete(name):
    path = MODULES[name]
    declared = declared_all(path)

    if path.name == "__init__.py" and declared is None:
        assert len(tree(path).body) == 1, "a package without __all__ holds its docstring alone"
        return
    assert declared is not None
    assert declared == sorted(declared, key=order_of_lists)
    module = importlib.import_module(name)
    assert [entry for entry in declared if not hasattr(module, entry)] == []
    if name not in INCOMPLETE_ALL:
        assert public_definitions(path) - set(declared) == set()


def test_the_public_names_of_the_package_are_documented_where_they_are_defined():
    metagym = importlib.import_module("metagym")

    assert [name for name in metagym.__all__ if not getattr(metagym, name).__doc__] == []


def test_generic_named_tuples_are_those_that_python_3_10_has_too():
    generic = [
        path
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases) and len(node.bases) > 1
    ]
    imports = [ast.unparse(node) for path in generic for node in tree(path).body if isinstance(node, ast.ImportFrom)]

    # Those of `typing` became possible with Python 3.11.
    assert [line for line in imports if line.startswith("from typing import") and "NamedTuple" in line] == []


def test_importing_metagym_is_light():
    heavy = ("torch", "stable_baselines3", "sb3_contrib", "matplotlib", "pandas", "pygame", "rich", "typer")

    output = run_python(f"import metagym, sys; print([name for name in {heavy} if name in sys.modules])")

    assert output.strip() == "[]"


def test_importing_metagym_is_fast():
    code = "import time; start = time.process_time(); import metagym; print(time.process_time() - start)"
    best = float("inf")
    for _ in range(8):  # others may be using the caches; the best of a few is the cost of the import
        best = min(best, float(run_python(code)))
        if best < IMPORT_SECONDS:
            break

    assert best < IMPORT_SECONDS


def texts() -> list[Path]:
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ""}
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    top = sorted(path for path in ROOT.iterdir() if not path.name.startswith("."))
    return [
        path for path in inside + top if path.is_file() and path.suffix in kinds and "__pycache__" not in path.parts
    ]


def test_nothing_is_left_to_do_and_no_path_of_a_machine_is_named():
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b|(?<![\w.])/(work|root|home|Users|tmp)/")

    found = {
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    }

    assert found == set()


@pytest.mark.parametrize(
    ("exempt", "known"),
    [(ROOT_IMPORTERS, MODULES), (WITHOUT_TEST, MODULES), (TESTED_IN, MODULES), (INCOMPLETE_ALL, MODULES)],
    ids=["root importers", "without test", "tested elsewhere", "incomplete list"],
)
def test_exemptions_name_modules_that_exist_and_give_reasons(exempt, known):
    assert exempt.keys() <= known.keys()
    assert all(len(reason) > 10 for reason in exempt.values())
