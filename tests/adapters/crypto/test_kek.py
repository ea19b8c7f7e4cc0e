"""The key-encryption key: created completely, once, for its owner only, and never in place of another."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from adapters.crypto.kek import give_kek, load_kek, make_kek, read_kek
from domain.kernel.errors import KeyUnavailable, PartUnavailable
from tests.support.together import at_once, run_together


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "kek"


@pytest.fixture
def written(path: Path) -> Path:
    path.parent.mkdir()
    return path


def test_a_key_is_created_and_loaded(path: Path) -> None:
    make_kek(path)

    key = load_kek(path)

    assert len(key) == 32
    assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())
    assert path.read_text().strip() == key.hex()


def test_every_key_is_different(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(10)]
    for path in paths:
        make_kek(path)

    assert len(set(map(load_kek, paths))) == 10


def test_a_key_and_its_folder_are_for_their_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        make_kek(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["ab" * 32 + "\n", "damaged", ""])
def test_an_existing_file_is_never_replaced(written: Path, content: str) -> None:
    written.write_text(content)

    make_kek(written)

    assert written.read_text() == content
    assert [file.name for file in written.parent.iterdir()] == ["kek"]


def test_threads_that_create_a_key_at_once_load_the_same_one(path: Path) -> None:
    def make_and_load(_: int) -> bytes:
        make_kek(path)
        return load_kek(path)

    assert len(set(at_once(make_and_load, range(64)))) == 1
    assert [file.name for file in path.parent.iterdir()] == ["kek"], "no draft is left"


_MAKE_AND_LOAD = """
import sys
from pathlib import Path
from adapters.crypto.kek import load_kek, make_kek
print("ready", flush=True)
input()
make_kek(Path(sys.argv[1]))
print(load_kek(Path(sys.argv[1])).hex())
"""


def test_processes_that_create_a_key_at_once_load_the_same_one(path: Path) -> None:
    assert len(set(run_together(_MAKE_AND_LOAD, [[str(path)]] * 4))) == 1


def test_a_failing_disk_leaves_no_half_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(PartUnavailable, match="No space left"):
        make_kek(path)

    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"ab" * 31, b"ab" * 33, b"zz" * 32, b"\xff" * 32, b"ab" * 32 + b" more"),
        os.urandom(32).replace(b"a", b"\xff"),
        ("ü" * 64).encode(),
    ],
    ids=range(9),
)
def test_a_file_without_a_key_is_unavailable_and_not_shown(written: Path, content: bytes) -> None:
    written.write_bytes(content)

    with pytest.raises(KeyUnavailable) as refused:
        load_kek(written)

    assert str(written) in str(refused.value)
    if content.strip():
        assert content.decode("latin-1").strip() not in str(refused.value)


def test_a_key_that_cannot_be_stored_is_an_error_with_the_reason(path: Path) -> None:
    path.parent.write_text("a file in place of the folder")

    with pytest.raises(PartUnavailable, match="cannot be created: File exists"):
        make_kek(path)


def test_a_missing_key_is_unavailable_and_not_created(path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="is missing") as refused:
        load_kek(path)

    assert str(path) in str(refused.value)
    assert not path.parent.exists()
    subprocess.run(["sh", "-c", refused.value.hint.split("`")[1]], check=True)  # the command of the hint
    assert len(load_kek(path)) == 32


def test_a_key_may_have_white_space_around_it(written: Path) -> None:
    written.write_text(f"\n  {'AB' * 32}\r\n\n")

    assert load_kek(written) == b"\xab" * 32


# --- the system of a key ---------------------------------------------------------------------

OWN, OTHER = UUID(int=1), UUID(int=2)


def test_a_key_that_is_made_for_a_system_opens_nothing_of_another(path: Path) -> None:
    make_kek(path, system=OWN)

    key = load_kek(path, system=OWN)
    with pytest.raises(KeyUnavailable, match=f"belongs to system {OWN}") as refused:
        load_kek(path, system=OTHER)

    assert str(OTHER) in str(refused.value)
    assert key.hex() not in str(refused.value)
    assert load_kek(path) == key, "who does not know the system is not refused"


def test_a_key_without_a_system_belongs_to_any(written: Path) -> None:
    make_kek(written)

    assert load_kek(written, system=OWN) == load_kek(written, system=OTHER)


def test_a_key_is_given_to_a_system_and_stays_the_same(written: Path) -> None:
    make_kek(written)
    key = load_kek(written)

    for system in (OWN, OTHER, OTHER):
        give_kek(written, system)
        assert read_kek(written) == (key, system)

    assert written.stat().st_mode & 0o777 == 0o600
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("line", ["sistem", "system", "system 7", f"system {OWN} more", f"{OWN}"])
def test_a_second_line_that_names_no_system_is_refused(written: Path, line: str) -> None:
    written.write_text(f"{'ab' * 32}\n{line}\n")

    with pytest.raises(KeyUnavailable, match="cannot be read"):
        load_kek(written)
