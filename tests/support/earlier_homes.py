"""Copies of the homes in tests/fixtures, which earlier versions wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from adapters.settings import Settings, load_settings
from adapters.sqlite.enciphering import encipher
from tests.support.postgres import execute
from tests.support.processes import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
PARTS = ("events.db", "vault.db", "read.db")
FUNCTIONS = {
    "encipher": partial(encipher, kek=bytes.fromhex("0123456789abcdef" * 4), secret="email-index-key")
}
"""What migrations of SQLite files call."""


@dataclass(frozen=True)
class EarlierHome:
    """A copy of an earlier version's home. `parts` are the settings that name parts outside of it."""

    home: Path
    parts: dict[str, str]
    shown: dict[str, Any]
    """What the earlier version showed: `users` by name, `histories` by user id, and `ids` that it gave out."""

    @property
    def settings(self) -> Settings:
        return load_settings(environment={"ES_HOME": str(self.home), **self.parts})

    def user(self, name: str) -> dict[str, str]:
        """The only user with this name and a status that is not erased."""
        (found,) = [user for user in self.shown["users"] if user["name"] == name]
        return dict(found)

    def ids(self, status: str) -> list[int]:
        return [int(user["user_id"]) for user in self.shown["users"] if user["status"] == status]


def earlier_home(home: Path, *, version: int = 1, postgres_url: str | None = None) -> EarlierHome:
    """Copy the home of a schema version. `postgres_url` names schemas that do not exist yet; None means SQLite."""
    source = FIXTURES / f"home_{version}"
    prefix = "" if postgres_url is None else "postgresql-"
    (home / "secrets").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    for name in PARTS if postgres_url is None else PARTS[:1]:
        _copy(source / f"{prefix}{name}", home / name)
    _copy(source / "kek", home / "secrets" / "kek")
    parts = {}
    if postgres_url is not None:
        (schema,) = parse_qs(urlsplit(postgres_url).query)["schema"]
        execute(postgres_url, (source / "postgresql.sql").read_text().replace(" es_", f" {schema}_"))
        parts = {"ES_VAULT": postgres_url, "ES_DATABASE": postgres_url}
    return EarlierHome(home, parts, json.loads((source / f"{prefix}shown.json").read_text()))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o600)
