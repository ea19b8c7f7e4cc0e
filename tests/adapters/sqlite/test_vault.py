"""The vault in SQLite: the bytes in its files, old backups, damaged rows and full disks."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.ports.vault import DamagedKey, LivingKey, Reserved
from tests.support.full_disk import limited
from tests.support.processes import ROOT, raw_bytes
from tests.support.vaults import (
    ADA,
    GRACE,
    KEK,
    PROCESS,
    abandon,
    are_destroyed,
    change,
    destroy,
    freed_tags,
    history,
    register,
    registered,
    registration,
    reserve,
    reserved,
    secret_of,
    shuffled,
)
from tests.support.waiting import DEADLINE_S

CANARY, OTHER_CANARY = "canary-5f1d@example.com", "canary-77aa@example.com"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "vault"
    folder.mkdir()
    return folder / "vault.db"


@pytest.fixture
def vault(path: Path) -> Iterator[SqliteVault]:
    with closing(SqliteVault(path, kek=KEK)) as opened:
        yield opened


def column(path: Path, name: str, subjects: Sequence[int]) -> list[bytes]:
    table = "data_keys" if name == "wrapped" else "email_claims"
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as other:
        found = dict(other.execute(f"SELECT subject, {name} FROM {table}"))
    return [found[subject] for subject in subjects]


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of the vault's files: the database, its write-ahead log and its index."""
    return {file.name: raw_bytes(file) for file in path.parent.iterdir()}


def files_with(needles: Sequence[bytes], path: Path) -> list[str]:
    """The files that hold one of the needles, raw or in a common encoding."""
    forms = [
        form
        for raw in needles
        for form in (raw, raw.hex().encode(), b64encode(raw), urlsafe_b64encode(raw), raw[:20], raw[-20:])
    ]
    return [name for name, content in contents(path).items() if any(form in content for form in forms)]


def crowd(vault: SqliteVault) -> None:
    for subjects in shuffled(600):
        register(vault, *subjects)


# --- no residue ------------------------------------------------------------------------------


def test_the_row_of_a_destroyed_key_is_blank(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    destroy(vault, 1)

    assert column(path, "wrapped", [1]) == [bytes(60)]


def test_no_file_holds_a_destroyed_key_or_its_tag(vault: SqliteVault, path: Path) -> None:
    crowd(vault)
    victims = [*range(1, 30), 300, 301, 599, 600]
    destroyed = [*column(path, "wrapped", victims), *column(path, "tag", victims)]
    assert all(files_with([needle], path) for needle in destroyed), "the search finds stored bytes"

    destroy(vault, *victims)
    vault.remove_residue()

    assert path.with_name("vault.db-wal").exists(), "the vault is still open, so its log is searched too"
    assert files_with(destroyed, path) == []


def test_a_retry_removes_a_key_whose_removal_a_reader_prevented(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sqlite.database.BUSY_TIMEOUT_MS", 50)
    with closing(SqliteVault(path, kek=KEK)) as vault:
        register(vault, 1, 2)
        destroyed = column(path, "wrapped", [1])
        with closing(apsw.Connection(str(path))) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM data_keys").get == 2
            destroy(vault, 1)
            with pytest.raises(PartUnavailable):  # destroyed, but its bytes are still in a file
                vault.remove_residue()
            assert are_destroyed(vault, 1)
            reader.execute("ROLLBACK")

        vault.remove_residue()

        assert files_with(destroyed, path) == []


def test_no_file_holds_a_freed_tag_once_the_residue_is_removed(vault: SqliteVault, path: Path) -> None:
    crowd(vault)

    freed = freed_tags(vault)
    assert files_with(freed, path), "the search finds freed bytes"
    vault.remove_residue()

    assert path.with_name("vault.db-wal").exists(), "the vault is still open, so its log is searched too"
    assert files_with(freed, path) == []


@pytest.mark.parametrize("how", ["released", "abandoned"])
def test_a_closed_vault_holds_no_tag_of_a_free_address(vault: SqliteVault, path: Path, how: str) -> None:
    crowd(vault)
    reservation = reserved(vault, registration(ADA, subject=1000))
    removed = column(path, "tag", [1000])
    if how == "released":
        vault.release([reservation])
    else:
        removed += column(path, "wrapped", [1000])
        abandon(vault, 1000)

    vault.close()

    assert files_with(removed, path) == []


def test_no_file_ever_holds_an_address_or_an_unwrapped_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, CANARY)
    reserve(vault, change(OTHER_CANARY, subject=1))
    secrets = [secret_of(vault, 1), KEK]

    for closed in (False, True):
        if closed:
            vault.close()
        text = b"".join(contents(path).values())
        assert b"canary" not in text
        assert "canary".encode("utf-16-le") not in text
        assert files_with(secrets, path) == []


def test_no_error_of_the_vault_shows_an_address(vault: SqliteVault) -> None:
    registered(vault, 1, CANARY)

    with pytest.raises(EsError) as refused:
        reserve(vault, registration(OTHER_CANARY, subject=1))

    shown = [str(refused.value), repr(refused.value), json.dumps(refused.value.to_wire())]
    assert not [text for text in shown if "canary" in text]


def test_two_vaults_have_different_tags_for_one_address(
    vault: SqliteVault, path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    with closing(SqliteVault(other, kek=os.urandom(32))) as another:
        registered(another, 1, ADA)
        registered(vault, 1, ADA)

        assert column(path, "tag", [1]) != column(other, "tag", [1])


def test_the_files_of_a_vault_are_readable_by_their_owner_only(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}


# --- damage and backups ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["(SELECT wrapped FROM data_keys WHERE subject = 1)", "zeroblob(60)"],
    ids=["the key of another subject", "zeros"],
)
def test_a_damaged_key_is_damaged_and_never_erased(vault: SqliteVault, path: Path, damage: str) -> None:
    registered(vault, 1, ADA)
    registered(vault, 2, GRACE)
    with closing(apsw.Connection(str(path))) as other:
        other.execute(f"UPDATE data_keys SET wrapped = {damage} WHERE subject = 2")

    found = vault.data_keys([1, 2])
    assert isinstance(found[1], LivingKey)
    assert found[2] == DamagedKey()


def test_an_old_backup_restores_the_old_checkpoint_with_the_old_key(vault: SqliteVault, path: Path) -> None:
    registered(vault, 1, ADA)
    vault.save_checkpoint(PROCESS, history(4))
    vault.close()
    backup = path.read_bytes()
    with closing(SqliteVault(path, kek=KEK)) as later:
        destroy(later, 1)
    path.write_bytes(backup)

    with closing(SqliteVault(path, kek=KEK)) as restored:
        assert restored.checkpoint(PROCESS) == history(4), "so `erasures` processes the erasure again"
        assert isinstance(restored.data_keys([1])[1], LivingKey)


# --- a full disk -----------------------------------------------------------------------------


def _fill(vault: SqliteVault, *, batch_size: int) -> list[int]:
    """Register users until the disk is full; returns the stored ones."""
    kept: list[int] = []

    def register_for_ever() -> None:
        while True:
            subjects = range(len(kept) + 1, len(kept) + 1 + batch_size)
            register(vault, *subjects)
            kept.extend(subjects)

    with pytest.raises(PartUnavailable, match="the disk is full"):
        register_for_ever()
    return kept


def test_on_a_full_disk_a_batch_is_reserved_as_a_whole_or_not_at_all(path: Path) -> None:
    with closing(limited(SqliteVault(path, kek=KEK))) as full:
        kept = _fill(full, batch_size=50)

        assert kept
        assert set(full.data_keys(range(1, 5000))) == set(kept)
        assert full.holder(f"user{kept[-1] + 1}@example.com") is None
        assert full.holder("user1@example.com") == 1, "reading still works"

    with closing(SqliteVault(path, kek=KEK)) as roomy:
        assert isinstance(register(roomy, kept[-1] + 1)[0], Reserved)


def test_a_key_can_be_destroyed_on_a_full_disk(path: Path) -> None:
    with closing(limited(SqliteVault(path, kek=KEK))) as full:
        _fill(full, batch_size=1)
        destroyed = column(path, "wrapped", [1])

        destroy(full, 1)
        full.remove_residue()

        assert are_destroyed(full, 1)
        assert files_with(destroyed, path) == []


# --- temporary files -------------------------------------------------------------------------

_REMOVE_RESIDUE = """
import os, sys
from contextlib import closing
from pathlib import Path
from adapters.settings import load_settings
from adapters.sqlite.vault import SqliteVault
from adapters.wiring import place_temporary_files
from tests.support.vaults import KEK, destroy, register
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
with closing(SqliteVault(path, kek=KEK)) as vault:
    register(vault, *range(1, 2001))
    destroy(vault, 1)
    connection = vault._database.connection
    connection.pragma("cache_size", 10)  # of a large vault most pages are not in memory
    connection.set_progress_handler(look, 20)
    vault.remove_residue()
print(*unnamed)
"""


def _removing_residue(path: Path, temporary: Path, *before: str) -> str:
    process = subprocess.run(
        [*before, sys.executable, "-c", _REMOVE_RESIDUE, str(path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the open files of a process")
def test_removing_residue_writes_its_temporary_file_beside_the_vault(path: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    assert _removing_residue(path, temporary) == str(path.parent)


def test_a_full_temporary_folder_stops_no_removal_of_residue(path: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    mount = 'mount -t tmpfs -o size=4k none "$0" && exec "$@"'
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(temporary)]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of its own")

    assert _removing_residue(path, temporary, *private) == str(path.parent)
