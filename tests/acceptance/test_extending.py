"""docs/extending.md, as a reader follows it: its Python is one module, and its commands print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.profiles import Profile, a_system
from tests.support.runs import ES
from tests.support.system import System
from tests.support.waiting import eventually

TEXT = (ROOT / "docs" / "extending.md").read_text("utf-8")
PYTHON = "\n\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
CONSOLE = re.findall(r"```console\n(.*?)```", TEXT, re.S)
pytestmark = pytest.mark.over("embedded", because="it checks a page, which names the embedded profile")


@pytest.fixture
def system(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    with a_system(profile, request) as made:
        (made.root / "library.py").write_text(PYTHON, "utf-8")
        yield made


def steps() -> list[tuple[str, str]]:
    """Each command of the page with the lines that it prints."""
    found: list[tuple[str, str]] = []
    for block in CONSOLE:
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command.partition("    #")[0], printed.rstrip("\n")))
    return found


def fits(printed: str, expected: str) -> bool:
    """Whether a text is as on the page, in which … stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.splitlines()), re.S) is not None


class Shell:
    """One shell that runs all commands of the page, as a reader does."""

    def __init__(self, system: System) -> None:
        self._environment = {**system.environment, "PATH": f"{Path(ES).parent}:/usr/bin:/bin"}
        self._root = system.root
        self._variables: dict[str, str] = {}

    def run(self, command: str) -> str:
        """What the command prints on both channels. Variables stay."""
        kept = self._root / "variables"
        given = "\n".join(self._variables.values())
        script = f"{given}\n{command}\ndeclare -p >{kept} 2>/dev/null"
        ran = subprocess.run(
            ["bash", "-c", script],
            cwd=self._root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        for name in ("PYTHONPATH", "ES_FEATURES", *re.findall(r"^(\w+)=\$\(", command)):
            if found := re.search(rf'^declare -\S+ {name}=(".*")$', kept.read_text(), re.M):
                self._variables[name] = f"export {name}={found[1]}"
        return ran.stdout.decode()


def test_the_page_does_what_it_says(system: System) -> None:
    shell = Shell(system)
    for command, expected in steps():
        printed = ""

        def as_written(command: str = command, expected: str = expected) -> bool:
            nonlocal printed
            printed = shell.run(command)
            return fits(printed, expected)

        if command.startswith("es streams read pair"):  # the process works in the background
            eventually(as_written, command)
        else:
            assert as_written(), f"{command} printed:\n{printed}\ninstead of:\n{expected}"


def test_its_module_is_typed_and_its_own_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "test_library.py").write_text(PYTHON, "utf-8")
    for tool in (["mypy", "--strict"], ["pytest", "-q", "-p", "no:cacheprovider"]):
        ran = subprocess.run(
            [sys.executable, "-m", *tool, "test_library.py"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout.decode()
