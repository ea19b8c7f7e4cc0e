"""The declared packages, their pinned versions, and `make install`, for every supported Python."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MACHINES = [
    {"python_version": f"3.{minor}", "sys_platform": platform}
    for minor in range(11, 16)
    for platform in ("linux", "darwin")
]
CLIENTS = {"esdbclient", "kurrentdbclient"}
STUB = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *eventstoredb*) exit 1 ;; esac
"""


def names(requirements: list[str], machine: dict[str, str]) -> list[str]:
    parsed = [Requirement(text) for text in requirements]
    return [
        canonicalize_name(each.name)
        for each in parsed
        if each.marker is None or each.marker.evaluate(machine)
    ]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_every_declared_package_has_one_pinned_version(machine: dict[str, str]) -> None:
    pinned = Counter(names((ROOT / "constraints.txt").read_text().splitlines(), machine))
    declared = PROJECT["dependencies"] + [each for name in EXTRAS if name != "bench" for each in EXTRAS[name]]

    assert {name for name, count in pinned.items() if count > 1} == set()
    assert {*names(declared, machine)} - {"es"} <= pinned.keys()
    assert len(CLIENTS & {*names(EXTRAS["eventstoredb"], machine)}) == 1


def test_no_client_of_eventstoredb_is_needed_without_the_extra() -> None:
    for machine in MACHINES:
        assert not CLIENTS & {*names(PROJECT["dependencies"] + EXTRAS["dev"], machine)}


def test_make_installs_the_rest_where_the_client_has_no_wheel(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB.format(log=tmp_path / "log"))
    python.chmod(0o755)

    done = subprocess.run(["make", "install"], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert "installing without the extra eventstoredb" in done.stdout
    asked = (tmp_path / "log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in asked if " install " in line] == [
        ".[dev,eventstoredb]",
        ".[dev]",
        ".[load]",
    ]
    assert (tmp_path / ".venv" / ".installed").exists()
