"""The entry point of the processes that `es` starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from workers import __main__ as entry


@pytest.mark.parametrize(
    ("surroundings", "beside"),
    [
        ({"ES_VAULT": "sqlite:"}, "home"),
        ({"ES_VAULT": "sqlite:{}/elsewhere/vault.db"}, "elsewhere"),
        ({"ES_VAULT": "postgresql://localhost/es"}, "home"),
        ({"SQLITE_TMPDIR": "{}/own"}, "own"),
    ],
)
@pytest.mark.parametrize("what", ["serve", "supervise"])
def test_every_process_lets_sqlite_write_temporary_files_beside_the_vault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, surroundings: dict[str, str], beside: str, what: str
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", "")  # put back after the test
    monkeypatch.delenv("SQLITE_TMPDIR")
    for name, value in {"ES_HOME": "{}/home", **surroundings}.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setattr(sys, "argv", ["workers", what, *(["users"] if what == "serve" else [])])
    monkeypatch.setattr(os, "umask", lambda mask: None)
    monkeypatch.setattr("resource.setrlimit", lambda *limit: None)
    monkeypatch.setattr(entry, f"_{what}", lambda settings, arguments: 0)

    assert entry.main() == 0

    assert os.environ["SQLITE_TMPDIR"] == str(tmp_path / beside)
