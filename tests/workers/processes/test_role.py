"""The role runs only where a feature has a process, so that other systems run and show what they did."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapters.settings import load_settings
from adapters.wiring import usual_roles
from tests.support.managing import FEATURE


def roles(home: Path, features: str) -> list[str]:
    settings = load_settings(environment={"ES_HOME": str(home), "ES_FEATURES": features})
    return [role.name for role in usual_roles(settings)]


@pytest.mark.parametrize(
    ("features", "runs"), [("", False), ("tests.support.shelves", False), (FEATURE, True)]
)
def test_the_role_runs_only_with_a_process(tmp_path: Path, features: str, runs: bool) -> None:
    assert ("processes" in roles(tmp_path, features)) is runs


def test_without_outside_features_no_model_is_imported_to_see_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "domain.users.model", None)  # an import of it would fail

    assert "processes" not in roles(tmp_path, "")
