"""Where a load run keeps its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import load_run


def test_runs_that_begin_at_once_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20261129T180000Z")
    made = [load_run._new_folder(tmp_path / "load", "a/b c") for _ in range(3)]

    assert [folder.name for folder in made] == [
        "a-b-c-20261129T180000Z",
        "a-b-c-20261129T180000Z-2",
        "a-b-c-20261129T180000Z-3",
    ]
    assert {folder.stat().st_mode & 0o777 for folder in made} == {0o700}
