"""The migration of a vault to bucket keys: nothing is lost, and nothing that is under no bucket key stays in the files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import apsw
import pytest

from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import KeyUnavailable, PartUnavailable
from domain.kernel.ports.vault import (
    ClaimState,
    DamagedKey,
    DestroyedKey,
    LivingKey,
    OwedState,
    OwedTag,
    Reason,
)
from tests.support.bucket_residue import files_of
from tests.support.earlier_homes import FIXTURES
from tests.support.earlier_vaults import earlier_vault
from tests.support.processes import ROOT
from tests.support.vaults import (
    KEK,
    LATER_US,
    NOW_US,
    PROCESS,
    change,
    history,
    holder,
    register,
    registration,
    reserve,
    secret_of,
    states,
)
from tests.support.waiting import DEADLINE_S

BUSY_KEK = bytes.fromhex("0123456789abcdef" * 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    folder.mkdir()
    return folder / "vault.db"


@pytest.fixture
def busy(path: Path) -> Path:
    """The vault of version 2 in tests/fixtures/home_2/busy.db, see the README there."""
    shutil.copyfile(FIXTURES / "home_2" / "busy.db", path)
    return path


def held(needles: list[bytes], path: Path) -> list[bytes]:
    content = b"".join(files_of(path).values())
    return [
        needle for needle in needles if needle in content or needle[:16] in content or needle[-16:] in content
    ]


# --- nothing is lost -------------------------------------------------------------------------


def test_keys_claims_and_owed_erasures_of_version_2_are_what_they_were(busy: Path) -> None:
    email = "user{}@example.com".format
    with closing(SqliteVault(busy, kek=BUSY_KEK)) as vault:
        keys = vault.data_keys(range(1, 301))
        assert {subject for subject, key in keys.items() if isinstance(key, LivingKey)} == {
            *range(1, 201)
        } - {3, 6, 9, 191}
        assert keys[191] == DestroyedKey(Reason.ABANDONED, None, NOW_US)
        assert keys[3] == DestroyedKey(Reason.ERASURE, UUID(int=9), NOW_US)
        assert isinstance(vault.data_keys([9], even_owed=True)[9], LivingKey)
        moved, deleted = [*range(1, 20, 3)], [*range(2, 20, 3)]
        for subject in moved:
            assert holder(vault, f"moved{subject}@example.com") == subject
        assert vault.holders([email(s) for s in (*moved, *deleted, 3, 6, 191)]) == {}
        assert holder(vault, "claim.alone@example.com") == 300
        assert [holder(vault, email(s)) for s in (9, 21, 190, 200)] == [9, 21, 190, 200]
        assert sorted(states(vault, 30)) == [ClaimState.CONFIRMED, ClaimState.RESERVED]
        assert len(vault.expired_claims(now_us=LATER_US, limit=99)) == 11
        tags = vault.owed_tags([3, 6, 9])
        assert {*tags[3]} == {*map(OwedTag, vault.tags([email(3), "name of 3"]), [0, 2])}
        assert set(tags) == {3, 6}
        assert vault.owed_count() == {OwedState.DECIDED: 1, OwedState.KEY_DESTROYED: 2}
        assert vault.checkpoint(PROCESS) == history(4, 9)


def test_a_migrated_vault_goes_on(busy: Path) -> None:
    with closing(SqliteVault(busy, kek=BUSY_KEK)) as vault:
        vault.forget_tags({3: 0, 6: 0})
        vault.remove_residue([3, 6])
        vault.settle_erasures([3, 6])
        register(vault, *range(1001, 1101))
        reserve(vault, change("user3@example.com", subject=50))

        assert holder(vault, "user3@example.com") == 50
        assert len({secret_of(vault, subject) for subject in (10, 11, 1001, 1100)}) == 4


def test_a_damaged_key_of_version_2_stays_damaged(path: Path) -> None:
    earlier_vault(path, people=3)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = 2")

    with closing(SqliteVault(path, kek=KEK)) as vault:
        keys = vault.data_keys([1, 2, 3])

    assert keys == {1: LivingKey(b"%032d" % 1), 2: DamagedKey(), 3: LivingKey(b"%032d" % 3)}


def test_blocks_hold_at_most_64_people_in_order(path: Path) -> None:
    earlier_vault(path, people=150)
    SqliteVault(path, kek=KEK).close()

    with closing(apsw.Connection(str(path))) as other:
        sizes = [count for (count,) in other.execute("SELECT count(*) FROM data_keys GROUP BY block")]
        blocks = [block for (block,) in other.execute("SELECT block FROM data_keys ORDER BY subject")]
    assert sizes == [64, 64, 22]
    assert all(before <= after for before, after in pairwise(blocks))


# --- nothing of it stays -----------------------------------------------------------------------


def test_no_file_holds_what_was_under_no_bucket_key(path: Path) -> None:
    stored = earlier_vault(path, people=500)
    assert held(stored, path) == stored, "the search finds stored bytes"

    with closing(SqliteVault(path, kek=KEK)):
        assert held(stored, path) == []


def test_the_bytes_of_version_2_are_removed_by_a_later_start_if_a_reader_kept_them(path: Path) -> None:
    stored = earlier_vault(path, people=50)
    with closing(apsw.Connection(str(path))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM checkpoints").fetchall()
        with closing(SqliteVault(path, kek=KEK)) as vault:
            assert secret_of(vault, 1) == b"%032d" % 1, "the vault works meanwhile"
            with pytest.raises(PartUnavailable, match="reader"):
                vault.remove_residue([1])
        assert held(stored, path)

    with closing(SqliteVault(path, kek=KEK)) as vault:
        vault.remove_residue([1])
        assert held(stored, path) == []


def test_an_erasure_removes_the_bytes_of_version_2_if_the_start_could_not(path: Path) -> None:
    stored = earlier_vault(path, people=50)
    with closing(apsw.Connection(str(path))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM checkpoints").fetchall()
        vault = SqliteVault(path, kek=KEK)
    with closing(vault):
        assert held(stored, path)

        vault.remove_residue([1])

        assert held(stored, path) == []


def test_a_new_vault_is_not_rewritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.sqlite.database.Database.rewrite", lambda _self: pytest.fail("rewritten"))

    SqliteVault(path, kek=KEK).close()
    SqliteVault(path, kek=KEK).close()


# --- as a whole or not at all ------------------------------------------------------------------


def rows_of(path: Path) -> list[object]:
    with closing(apsw.Connection(str(path))) as other:
        return [
            other.pragma("user_version"),
            other.execute("SELECT * FROM data_keys ORDER BY subject").fetchall(),
            other.execute("SELECT * FROM email_claims ORDER BY tag").fetchall(),
        ]


def test_a_wrong_key_encryption_key_migrates_nothing(path: Path) -> None:
    earlier_vault(path, people=5)
    before = rows_of(path)

    with pytest.raises(KeyUnavailable, match="does not fit"):
        SqliteVault(path, kek=os.urandom(32))

    assert rows_of(path) == before
    SqliteVault(path, kek=KEK).close()


def test_a_vault_without_its_secret_is_not_migrated(path: Path) -> None:
    earlier_vault(path, people=5)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("DELETE FROM secrets")
    before = rows_of(path)

    with pytest.raises(KeyUnavailable, match="the vault is empty"):
        SqliteVault(path, kek=KEK)

    assert rows_of(path) == before


_KILLED = """
import os, signal, sys
from pathlib import Path
from adapters.sqlite import enciphering, vault
from tests.support.vaults import KEK
def ends(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(*{"keys": (enciphering, "_claims", ends), "all": (enciphering, "_owed_tags", ends),
    "bytes": (vault.Database, "rewrite", ends)}[sys.argv[2]])
vault.SqliteVault(Path(sys.argv[1]), kek=KEK)
"""


@pytest.mark.parametrize("step", ["keys", "all", "bytes"])
def test_a_migration_that_is_killed_is_done_by_the_next_start(path: Path, step: str) -> None:
    stored = earlier_vault(path, people=200)
    before = rows_of(path)

    ended = subprocess.run([sys.executable, "-c", _KILLED, str(path), step], cwd=ROOT, timeout=DEADLINE_S)

    assert ended.returncode == -signal.SIGKILL
    if step != "bytes":
        assert rows_of(path) == before
    with closing(SqliteVault(path, kek=KEK)) as vault:
        assert vault.data_keys(range(1, 201)) == {s: LivingKey(b"%032d" % s) for s in range(1, 201)}
        assert holder(vault, "user200@example.com") == 200
        assert held(stored, path) == []
        with pytest.raises(Exception, match="had a data key"):
            reserve(vault, registration(subject=200))


# --- temporary files ---------------------------------------------------------------------------

_MIGRATE = """
import os, sys
from contextlib import closing
from pathlib import Path
from adapters.settings import load_settings
from adapters.sqlite.database import Database
from adapters.sqlite.vault import SqliteVault
from adapters.wiring import place_temporary_files
from tests.support.vaults import KEK
path = Path(sys.argv[1])
place_temporary_files(load_settings(environment={"ES_HOME": str(path.parent), "ES_VAULT": f"sqlite:{path}"}))
unnamed = set()
def look():
    for fd in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if place.endswith("(deleted)"):
            unnamed.add(os.path.dirname(place))
    return False
rewrite = Database.rewrite
def watched(database):
    database.connection.pragma("cache_size", 10)  # of a large vault most pages are not in memory
    database.connection.set_progress_handler(look, 20)
    return rewrite(database)
Database.rewrite = watched
SqliteVault(path, kek=KEK).close()
print(*unnamed)
"""


def _migrated(path: Path, temporary: Path, *before: str) -> str:
    process = subprocess.run(
        [*before, sys.executable, "-c", _MIGRATE, str(path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the open files of a process")
def test_a_migration_writes_its_temporary_file_beside_the_vault(path: Path, tmp_path: Path) -> None:
    earlier_vault(path, people=2000)
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    assert _migrated(path, temporary) == str(path.parent)


def test_a_full_temporary_folder_stops_no_migration(path: Path, tmp_path: Path) -> None:
    earlier_vault(path, people=2000)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    mount = 'mount -t tmpfs -o size=4k none "$0" && exec "$@"'
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(temporary)]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of its own")

    assert _migrated(path, temporary, *private) == str(path.parent)
