"""Values that a shell completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import completion, session
from domain.users.commands import BASES


def test_reasons_of_an_erasure_are_completed_with_their_meaning() -> None:
    assert completion.bases("") == [*BASES.items()]
    assert completion.bases("ret") == [("retention", BASES["retention"])]


def test_names_of_an_outside_service_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ES_HOME", str(tmp_path))
    monkeypatch.setenv("ES_FEATURES", "tests.support.shelves no_such_package")
    monkeypatch.setattr(session.options, "home", None)

    assert completion.roles("sh") == completion.logs("sh") == ["shelves"]
    assert completion.scales("sh") == ["shelves="]
    assert completion.projections("la") == ["labels"]
    assert completion.event_types("shelf") == ["shelf-closed.v2", "shelf-opened.v1"]
    assert completion.streams("sh") == ["shelf-"]
