"""Documentation that can be parsed is compared with the code; documentation that can be run is run."""

import ast
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import metagym
from metagym.registry import BUILTIN, family_type

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = [
    "Task Space", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End", "Information",
    "Arguments", "Splits", "Reference Returns", "References", "Version History",
]  # fmt: skip
COMMON_INFO = {"task_id", "trial_start"}
IDS = sorted(BUILTIN)


# --- docstrings ------------------------------------------------------------------------------------------------------


def undocumented(path):
    """Public classes, functions and methods without a docstring; overriding methods have their base's."""

    def visit(body, prefix):
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            inherited = decorators & {"override", "overload"} or any(".setter" in name for name in decorators)
            if ast.get_docstring(node) is None and not inherited:
                yield f"{prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{prefix}{node.name}.")

    return list(visit(ast.parse(path.read_text(encoding="utf-8")).body, ""))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "metagym").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "metagym"))
)
def test_everything_public_has_a_docstring(path):
    assert undocumented(path) == []
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def sections(env_id):
    """Heading to text, in order, of a family's docstring."""
    text = inspect.cleandoc(type(metagym.make_family(env_id)).__doc__)
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text):
    """Rows of the first table, as dicts."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:] if len(row) == len(cells[0])]


@pytest.mark.parametrize("env_id", IDS)
def test_a_family_has_all_sections_in_order(env_id):
    found = sections(env_id)

    assert list(found) == SECTIONS
    assert [name for name, text in found.items() if not text.strip()] == []


@pytest.mark.parametrize("env_id", IDS)
def test_the_documented_task_space_is_the_space(env_id):
    space = metagym.make_family(env_id).task_space

    documented = {
        row["Parameter"]: (ast.literal_eval(row["Shape"]), float(row["Low"]), float(row["High"]))
        for row in table(sections(env_id)["Task Space"])
    }

    assert documented == {
        name: (part.shape, float(part.low.min()), float(part.high.max())) for name, part in space.items()
    }


@pytest.mark.parametrize("env_id", IDS)
def test_the_documented_observation_space_is_the_space(env_id):
    space = metagym.make_family(env_id).observation_space
    rows = table(sections(env_id)["Observation Space"])

    bounds = [
        (number, float(row["Low"]), float(row["High"]))
        for row in rows
        for number in range(int(row["Num"].partition("-")[0]), int(row["Num"].rpartition("-")[2]) + 1)
    ]

    if isinstance(space, spaces.Discrete):
        assert bounds == [(0, float(space.start), float(space.start + space.n - 1))]
    else:
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
        assert bounds == [(index, low[index], high[index]) for index in range(len(low))]


@pytest.mark.parametrize("env_id", IDS)
def test_the_documented_action_space_is_the_space(env_id):
    family = metagym.make_family(env_id)
    written = re.match(r"\s*`([^`]+)`", sections(env_id)["Action Space"])[1]

    names = {"Discrete": spaces.Discrete, "float32": np.float32, "Box": spaces.Box}

    assert eval(written, {"__builtins__": {}}, {**names, **vars(family)}) == family.action_space


@pytest.mark.parametrize("env_id", IDS)
def test_the_documented_info_keys_are_those_of_a_step(env_id):
    env = gym.make(env_id)
    _, at_reset = env.reset(seed=0)
    *_, at_step = env.step(env.action_space.sample())

    documented = set(re.findall(r"^`(\w+)`", sections(env_id)["Information"], flags=re.MULTILINE))

    assert set(at_step) == documented | COMMON_INFO
    assert set(at_reset) == set(at_step)


@pytest.mark.parametrize("env_id", IDS)
def test_the_documented_arguments_are_those_of_the_constructor(env_id):
    parameters = inspect.signature(type(metagym.make_family(env_id))).parameters

    documented = re.findall(r"^- `(\w+)`", sections(env_id)["Arguments"], flags=re.MULTILINE)

    assert documented == list(parameters)
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())


@pytest.mark.parametrize("env_id", IDS)
def test_the_latest_documented_version_is_that_of_the_id(env_id):
    versions = re.findall(r"^- (v\d+):", sections(env_id)["Version History"], flags=re.MULTILINE)

    assert env_id.rpartition("-")[2] in versions


def page_of(env_id):
    """The page of a family: Walker2DParams has docs/families/walker-2d-params.md."""
    name = family_type(env_id)[0].__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return ROOT / "docs" / "families" / f"{words.lower()}.md"


@pytest.mark.parametrize("env_id", IDS)
def test_every_family_has_a_page_and_a_line_in_the_list(env_id):
    page = page_of(env_id)
    listed = (ROOT / "docs" / "families" / "index.md").read_text(encoding="utf-8")

    assert f"`{env_id}`" in page.read_text(encoding="utf-8")
    assert any(f"]({page.name})" in line and f"`{env_id}`" in line for line in listed.splitlines())


# --- pages that run --------------------------------------------------------------------------------------------------


@dataclass
class Block:
    """A block of Python on a page."""

    line: int
    source: str = ""
    file: str | None = None
    budget: list[tuple[str, str]] = field(default_factory=list)

    def shortened(self):
        source = self.source
        for before, after in self.budget:
            assert before in source, f"the block in line {self.line} has no {before!r} to be shortened"
            source = source.replace(before, after)
        return source


def python_blocks(text):
    blocks, pending, inside = [], Block(0), False
    for number, line in enumerate(text.splitlines(), 1):
        if inside and line == "```":
            blocks.append(pending)
            pending, inside = Block(0), False
        elif inside:
            pending.source += f"{line}\n"
        elif line == "```python":
            pending.line, inside = number, True
        elif match := re.fullmatch(r"<!-- file: (\S+) -->", line):
            pending.file = match[1]
        elif match := re.fullmatch(r"<!-- budget: (.+) -->", line):
            pending.budget = [tuple(pair.split(" -> ")) for pair in match[1].split(", ")]
    return blocks


WITH_CODE = [page for page in PAGES if python_blocks(page.read_text(encoding="utf-8"))]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder to import from, one torch thread, and no traces afterwards."""
    import torch as th

    threads, modules, registry = th.get_num_threads(), set(sys.modules), dict(gym.registry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    th.set_num_threads(1)
    yield tmp_path
    th.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]
    for name in set(gym.registry) - set(registry):
        del gym.registry[name]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_the_page_runs(page, workplace, capsys):
    namespace = {"__name__": "page"}

    for block in python_blocks(page.read_text(encoding="utf-8")):
        if block.file is not None:
            (workplace / block.file).write_text(block.source, encoding="utf-8")
            importlib.invalidate_caches()
            continue
        place = "\n" * block.line
        exec(compile(place + block.shortened(), str(page), "exec", dont_inherit=True), namespace)

    assert capsys.readouterr().err == ""


def test_the_quick_start_is_short():
    (block,) = python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))

    assert len([line for line in block.source.splitlines() if line]) <= 22


# --- links, numbers, help --------------------------------------------------------------------------------------------


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_readme():
    found, pending = set(), {ROOT / "README.md"}
    while pending:
        page = pending.pop()
        found.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        linked = {(page.parent / target).resolve() for target in targets if not target.startswith("http")}
        pending |= {target for target in linked if target.suffix == ".md"} - found

    assert set((ROOT / "docs").rglob("*.md")) - found == set()


@pytest.fixture
def write_docs(monkeypatch):
    # Last, so that an installed metagym stays the one under test.
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    return importlib.import_module("benchmarks.write_docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_stands_between_markers_was_written_by_the_command(page, write_docs):
    text = page.read_text(encoding="utf-8")

    assert text.count("<!-- numbers:") == text.count("<!-- /numbers -->")
    assert text.count("<!-- help:") == text.count("<!-- /help -->")
    assert write_docs.filled(text) == text


def test_every_stored_result_is_shown_on_a_page():
    stored = {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
    shown = {name for page in PAGES for name in re.findall(r"<!-- numbers:([\w-]+) -->", page.read_text("utf-8"))}

    assert stored - shown == set()
