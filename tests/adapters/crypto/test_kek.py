"""The key-encryption key: made whole, once, for its owner alone, and never in place of another."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.crypto.kek import load_kek, make_kek
from domain.kernel.errors import KeyUnavailable, PartUnavailable
from tests.support.builders import DEADLINE_S, start_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "kek"


def test_a_key_is_made_and_loaded(path: Path) -> None:
    make_kek(path)

    key = load_kek(path)

    assert len(key) == 32
    assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())
    assert path.read_text().strip() == key.hex()


def test_every_key_is_another(tmp_path: Path) -> None:
    for number in range(10):
        make_kek(tmp_path / str(number))

    assert len({load_kek(tmp_path / str(number)) for number in range(10)}) == 10


def test_a_key_and_its_folder_are_for_their_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        make_kek(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["ab" * 32 + "\n", "damaged", ""])
def test_what_is_there_is_never_replaced(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)

    make_kek(path)

    assert path.read_text() == content
    assert [file.name for file in path.parent.iterdir()] == ["kek"]


def test_of_many_threads_that_make_one_at_once_all_load_the_same(path: Path) -> None:
    def make_and_load(_: int) -> bytes:
        make_kek(path)
        return load_kek(path)

    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(make_and_load, range(64)))

    assert len(keys) == 1
    assert [file.name for file in path.parent.iterdir()] == ["kek"], "no draft is left behind"


def test_of_many_processes_that_make_one_at_once_all_load_the_same(path: Path) -> None:
    code = """
import sys
from pathlib import Path
from adapters.crypto.kek import load_kek, make_kek
print("ready", flush=True)
input()
make_kek(Path(sys.argv[1]))
print(load_kek(Path(sys.argv[1])).hex())
"""
    processes = [start_python(code, str(path)) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        said = [process.communicate("\n", timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()

    assert [err for _, err in said] == [""] * 4
    assert len({out for out, _ in said}) == 1


def test_a_disk_that_fails_leaves_no_half_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(PartUnavailable, match="No space left"):
        make_kek(path)

    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"ab" * 31,
        b"ab" * 33,
        b"zz" * 32,
        b"\xff" * 32,
        os.urandom(32).replace(b"a", b"\xff"),
        b"ab" * 32 + b" more",
        ("ü" * 64).encode(),
    ],
    ids=range(9),
)
def test_what_is_no_key_is_unavailable_and_not_repeated(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(KeyUnavailable) as refused:
        load_kek(path)

    assert str(path) in str(refused.value)
    if content.strip():
        assert content.decode("latin-1").strip() not in str(refused.value)


def test_a_key_that_cannot_be_stored_is_an_error_that_says_why(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")

    with pytest.raises(PartUnavailable, match="cannot be made: File exists"):
        make_kek(path)


def test_a_missing_key_is_unavailable_and_none_is_made(path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="is not there") as refused:
        load_kek(path)

    assert str(path) in str(refused.value)
    assert not path.parent.exists()
    subprocess.run(["sh", "-c", refused.value.hint.split("`")[1]], check=True)  # what it tells to type
    assert len(load_kek(path)) == 32


def test_a_key_may_have_blanks_around_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"\n  {'AB' * 32}\r\n\n")

    assert load_kek(path) == b"\xab" * 32
