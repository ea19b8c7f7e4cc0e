"""Homes of earlier versions open with nothing lost, and their migration is done as a whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import apsw
import psycopg
import pytest

from adapters import wiring
from adapters.sqlite.database import Database, migration_files
from domain.kernel.errors import Damaged, PartUnavailable
from domain.kernel.history import History
from domain.kernel.personal import Personal
from domain.kernel.ports.read_model import Why
from domain.kernel.ports.vault import (
    ClaimRequest,
    DestroyedKey,
    Destruction,
    HeldByOther,
    LivingKey,
    Reason,
    Reserved,
)
from domain.users.projection import USERS
from tests.support.earlier_homes import FIXTURES, FUNCTIONS, PARTS, EarlierHome, earlier_home
from tests.support.postgres import execute
from tests.support.processes import ROOT
from tests.support.vaults import NOW_US, history, holder
from tests.support.waiting import DEADLINE_S

SCHEMAS = {"events.db": "events", "vault.db": "vault", "read.db": "read_model"}


@pytest.fixture(params=["sqlite", "postgresql"])
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> EarlierHome:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return earlier_home(tmp_path / "home", postgres_url=url)


# --- nothing is lost -------------------------------------------------------------------------


def test_keys_and_tombstones_of_an_earlier_version_stay_what_they_are(earlier: EarlierHome) -> None:
    with closing(wiring.open_vault(earlier.settings)) as vault:
        keys = dict(vault.data_keys([int(user["user_id"]) for user in earlier.shown["users"]]))

    erased = earlier.ids("erased")
    assert len(erased) == 2
    assert {subject: keys.pop(subject) for subject in erased} == dict.fromkeys(
        erased, DestroyedKey(Reason.UNKNOWN, None, None)
    )
    assert {type(key) for key in keys.values()} == {LivingKey}
    assert len(keys) == len(earlier.shown["users"]) - 2


def test_addresses_of_an_earlier_version_stay_held_and_freed_ones_free(earlier: EarlierHome) -> None:
    with closing(wiring.open_vault(earlier.settings)) as vault:
        active = [user for user in earlier.shown["users"] if user["status"] == "active"]
        assert {user["email"]: holder(vault, user["email"]) for user in active} == {
            user["email"]: int(user["user_id"]) for user in active
        }
        free = ["katherine@example.com", "dorothy@example.com", "dora@example.com", "dora.later@example.com"]
        assert [holder(vault, email) for email in free] == [None] * 4
        (taken,) = vault.reserve([_request("ada@example.com", 1)], now_us=NOW_US)
        (given,) = vault.reserve([_request("dora@example.com", 2)], now_us=NOW_US)

    assert taken == HeldByOther(int(earlier.user("Ada King")["user_id"]), confirmed=True)
    assert isinstance(given, Reserved)


def _request(email: str, subject: int) -> ClaimRequest:
    return ClaimRequest(email, subject, uuid4(), uuid4(), registers=True)


def test_a_tombstone_of_an_earlier_version_gets_its_reason_when_it_is_found_again(
    earlier: EarlierHome,
) -> None:
    (erased, _) = earlier.ids("erased")
    with closing(wiring.open_vault(earlier.settings)) as vault:
        vault.destroy([Destruction(erased, Reason.ERASURE, None)], now_us=NOW_US)

        assert vault.data_keys([erased]) == {erased: DestroyedKey(Reason.ERASURE, None, NOW_US)}


def test_checkpoints_of_an_earlier_version_have_positions_without_marks(earlier: EarlierHome) -> None:
    with closing(wiring.open_vault(earlier.settings)) as vault:
        assert vault.checkpoint("erasures") == History(16)
        assert vault.checkpoint("erasures-listed") == History()
        assert (vault.owed(limit=9), vault.quarantined(), vault.divergences()) == ([], [], [])
    with closing(wiring.open_read_model(earlier.settings)) as read_model:
        (generation,) = read_model.generations(USERS)
        assert (generation.history, generation.events) == (History(18), 15)
        assert (generation.why, generation.code) == (Why.UNKNOWN, "")
        (phase,) = read_model.phases(USERS, limit=9)
        assert (phase.generation, phase.state, phase.to_us, phase.events) == (1, generation.state, None, 0)


def test_events_of_an_earlier_version_are_read_and_opened(earlier: EarlierHome) -> None:
    settings = earlier.settings
    with closing(wiring.open_store(settings.store)) as store, closing(wiring.open_vault(settings)) as vault:
        assert store.head() == 19
        codec = wiring.open_codec()
        for user_id, history in earlier.shown["histories"].items():
            events = list(store.read_stream(f"user-{user_id}"))
            assert [event.version for event in events] == list(range(len(history)))
            for recorded in events:
                codec.decode(recorded)
        assert store.system_id() is None
        assert vault.system_id() is None


def test_rows_of_an_earlier_version_are_shown_by_the_read_model(earlier: EarlierHome) -> None:
    with closing(wiring.open_read_model(earlier.settings)) as read_model:
        rows = read_model.rows(USERS)

    assert {row["user_id"]: (row["status"], row["version"]) for row in rows} == {
        int(user["user_id"]): (user["status"], int(user["version"])) for user in earlier.shown["users"]
    }


def test_people_of_version_2_keep_their_keys_and_addresses(tmp_path: Path) -> None:
    earlier = earlier_home(tmp_path / "home", version=2)
    people = earlier.shown["users"]
    with closing(wiring.open_vault(earlier.settings)) as vault:
        keys = dict(vault.data_keys([int(user["user_id"]) for user in people]))
        held = {user["email"]: holder(vault, user["email"]) for user in people if user["status"] == "active"}
        with closing(wiring.open_store(earlier.settings.store)) as store:
            opener = wiring.keyring_of(vault)([*keys])
            codec = wiring.open_codec()
            (first,) = store.read_stream(f"user-{earlier.user('Mary Jackson')['user_id']}")
            event = codec.decode(first, subject=int(earlier.user("Mary Jackson")["user_id"]), opener=opener)

    assert held == {user["email"]: int(user["user_id"]) for user in people if user["status"] == "active"}
    destroyed = {subject for subject, key in keys.items() if isinstance(key, DestroyedKey)}
    assert destroyed == {*earlier.ids("erased")}
    assert all(isinstance(key, LivingKey) for subject, key in keys.items() if subject not in destroyed)
    assert getattr(event, "name") == Personal("Mary Jackson")  # noqa: B009 - an event of any type


# --- as a whole or not at all ----------------------------------------------------------------


def _content(path: Path) -> list[Any]:
    """Everything in a SQLite file: its version, its tables and their rows."""
    with closing(apsw.Connection(str(path))) as connection:
        tables = list(connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name"))
        names = [name for name, sql in tables if sql and sql.upper().startswith("CREATE TABLE")]
        rows = [sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names]
        return [connection.pragma("user_version"), tables, rows]


_KILLED = """
import os, signal, sys
from adapters.{kind}.database import Database, migration_files
from tests.support.earlier_homes import FUNCTIONS
class Deadly:
    def read_text(self, encoding):
        os.kill(os.getpid(), signal.SIGKILL)
place, part, schema = sys.argv[1:]
Database({place}, part=part, migrations=[*migration_files(schema), Deadly()]{functions})
"""


def _killed_in_a_migration(kind: str, place: str, part: str, schema: str) -> None:
    """Open a part, and kill the program after it ran the last migration and before it commits."""
    is_sqlite = kind == "sqlite"
    code = (
        _KILLED.replace("{kind}", kind)
        .replace("{place}", "__import__('pathlib').Path(place)" if is_sqlite else "place")
        .replace("{functions}", ", functions=FUNCTIONS" if is_sqlite else "")
    )
    ended = subprocess.run([sys.executable, "-c", code, place, part, schema], cwd=ROOT, timeout=DEADLINE_S)
    assert ended.returncode == -signal.SIGKILL


def _migrate(path: Path, name: str, *later: Path) -> None:
    migrations = [*migration_files(SCHEMAS[name]), *later]
    Database(path, part=name, migrations=migrations, functions=FUNCTIONS).close()


@pytest.mark.parametrize("name", PARTS)
def test_a_program_that_is_killed_in_a_migration_leaves_the_file_as_it_was(tmp_path: Path, name: str) -> None:
    earlier = earlier_home(tmp_path / "home")
    path = earlier.home / name
    before = _content(path)
    assert before[0] == 1

    _killed_in_a_migration("sqlite", str(path), name, SCHEMAS[name])

    assert _content(path) == before
    _migrate(path, name)
    assert _content(path)[0] == len(migration_files(SCHEMAS[name]))


@pytest.mark.parametrize("name", PARTS)
def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, name: str) -> None:
    earlier = earlier_home(tmp_path / "home")
    path, broken = earlier.home / name, tmp_path / "broken.sql"
    broken.write_text("CREATE TABLE fresh(a); INSERT INTO missing VALUES(1)")
    before = _content(path)

    with pytest.raises(Damaged, match="no such table: missing"):
        _migrate(path, name, broken)

    assert _content(path) == before


@pytest.mark.parametrize(("part", "schema"), [("vault", "vault"), ("read models", "read_model")])
def test_a_program_that_is_killed_in_a_migration_leaves_the_schema_as_it_was(
    tmp_path: Path, postgres_url: str, part: str, schema: str
) -> None:
    earlier = earlier_home(tmp_path / "home", postgres_url=postgres_url)
    prefix = f"{postgres_url.partition('schema=')[2]}_{part.replace(' ', '_')}"
    version = f"SELECT version FROM {prefix}.schema_version"
    columns = f"""SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = '{prefix}' ORDER BY table_name, column_name"""
    before = execute(postgres_url, version), execute(postgres_url, columns)
    assert before[0] == [(1,)]

    _killed_in_a_migration("postgres", postgres_url, part, schema)

    assert (execute(postgres_url, version), execute(postgres_url, columns)) == before
    opens = wiring.open_vault if part == "vault" else wiring.open_read_model
    opens(earlier.settings).close()
    assert execute(postgres_url, version) > [(1,)]


# --- an earlier program ------------------------------------------------------------------------


def _supporting_version_1(name: str, home: Path) -> Callable[[], Database]:
    files = migration_files(SCHEMAS[name])[:1]
    return lambda: Database(home / name, part=name, migrations=files)


@pytest.mark.parametrize("name", PARTS)
def test_a_program_of_the_earlier_version_refuses_a_migrated_file_by_name(tmp_path: Path, name: str) -> None:
    earlier = earlier_home(tmp_path / "home")
    opens = _supporting_version_1(name, earlier.home)
    opens().close()
    _migrate(earlier.home / name, name)

    version = len(migration_files(SCHEMAS[name]))
    with pytest.raises(PartUnavailable, match=f"has schema version {version}, but this program supports 1"):
        opens()


@pytest.mark.parametrize("version", [1, 2])
def test_the_fixture_is_kept_as_it_was_written(version: int) -> None:
    names = {path.name for path in (FIXTURES / f"home_{version}").iterdir()}

    assert not [name for name in names if name.endswith(("-wal", "-shm", "-journal"))]


# --- workers of the earlier version that run on ------------------------------------------------

_SAVE_OF_VERSION_1 = """INSERT INTO {prefix}_vault.checkpoints AS stored VALUES('erasures', {position})
    ON CONFLICT (process) DO UPDATE SET position = greatest(stored.position, excluded.position)"""
_DESTROY_OF_VERSION_1 = """INSERT INTO {prefix}_vault.data_keys(wrapped, subject, destroyed)
    VALUES(decode(repeat('00', 60), 'hex'), {subject}, true)
    ON CONFLICT (subject) DO UPDATE SET destroyed = true, wrapped = excluded.wrapped"""


def test_a_worker_of_the_earlier_version_that_runs_on_changes_no_key(
    tmp_path: Path, postgres_url: str
) -> None:
    earlier = earlier_home(tmp_path / "home", postgres_url=postgres_url)
    prefix = postgres_url.partition("schema=")[2]
    ada = int(earlier.user("Ada King")["user_id"])
    with closing(wiring.open_vault(earlier.settings)) as vault:
        vault.save_checkpoint("erasures", history(16, 20))

        execute(postgres_url, _SAVE_OF_VERSION_1.format(prefix=prefix, position=30))
        # It knows no block of the person, so it can neither destroy a key nor store one under the old key.
        with pytest.raises(psycopg.errors.NotNullViolation):
            execute(postgres_url, _DESTROY_OF_VERSION_1.format(prefix=prefix, subject=ada))

        reached = vault.checkpoint("erasures")
        assert (reached.position, reached.marks) == (30, history(16, 20).marks)
        assert isinstance(vault.data_keys([ada])[ada], LivingKey)
