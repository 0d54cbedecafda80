"""What a fresh clone needs: the two commands, tested versions, one version number."""

import os
import re
import subprocess
from importlib.metadata import requires
from pathlib import Path

import metagym

ROOT = Path(__file__).resolve().parents[1]
UNPINNED = dict.fromkeys(["envpool", "flax", "jax"], "peers to measure against; no part of metagym or of its tests")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def setup_commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", read("README.md"), flags=re.MULTILINE | re.DOTALL)
    return [block.strip() for block in blocks]


def test_the_readme_has_two_setup_commands_of_one_line():
    demo, test = setup_commands()

    assert "\n" not in demo + test
    assert demo.endswith("/bin/metagym demo")
    assert test.endswith("-m pytest")
    assert "-c constraints.txt" in demo
    assert "-c constraints.txt" in test


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    pattern = re.search(r"grep -E '([^']+)' README\.md", script.read_text(encoding="utf-8"))[1]

    done = subprocess.run(["grep", "-E", pattern, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [setup_commands()[1]]
    assert os.access(script, os.X_OK)


def test_every_dependency_has_a_tested_version():
    pinned = {normal(line.partition("==")[0]) for line in read("constraints.txt").splitlines() if "==" in line}
    needed = {normal(re.match(r"[\w.-]+", line)[0]) for line in requires("metagym-rl") or []}

    assert needed - pinned == UNPINNED.keys()


def test_constraints_name_versions_and_nothing_else():
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]

    assert [
        line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+(; python_version [<>=]+ \"3\.\d+\")?", line)
    ] == []


def test_there_is_one_version_number():
    stated = re.search(r'^version = "(.+)"$', read("pyproject.toml"), flags=re.MULTILINE)[1]
    latest = re.search(r"^## \[(\d.+?)\]", read("CHANGELOG.md"), flags=re.MULTILINE)[1]

    assert stated == latest == metagym.__version__
