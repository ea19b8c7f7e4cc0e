"""A full or read-only disk is a clear error, loses nothing confirmed, and is recovered from once it is fixed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.people import command_ids, confirmed, errors, people
from tests.support.system import System, new_root
from tests.support.waiting import eventually

SMALL_BYTES = 6 << 20
BALLAST_BYTES = 3 << 20


@contextmanager
def _on_a_disk(options: str) -> Iterator[System]:
    """A system whose home is on a small file system in memory; skips where mounting is not allowed."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    root = new_root()
    disk = root / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "es-test", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        with closing(System(root, home=disk / "home")) as made:
            yield made
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(root)  # the rest of the folder, which could not be removed while the disk was mounted


@pytest.fixture
def small() -> Iterator[System]:
    """A running system on a disk of a few megabytes, half of them taken by the file `ballast`."""
    with _on_a_disk(f"size={SMALL_BYTES}") as made:
        (made.home.parent / "ballast").write_bytes(bytes(BALLAST_BYTES))
        yield made.up()


def _fill(path: Path) -> None:
    """Write until the disk is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(fd, bytes(4096))
    finally:
        os.close(fd)


def test_a_full_disk_refuses_new_users_and_keeps_confirmed_ones(small: System) -> None:
    inputs = people(8000)
    ran = small.bulk("create", inputs).without_traceback()
    held = confirmed(ran.objects)

    assert ran.code == 4, ran
    assert set(errors(ran.objects)) == {"unavailable"}
    said = {answer["error"]["message"] for answer in ran.objects if "error" in answer}
    assert any("disk is full" in message for message in said), said
    assert 0 < len(held) < len(inputs)
    assert len(ran.objects) < len(inputs), "it stops before the end of the input"
    repeat_from = int(ran.err.partition("again from line ")[2].split(";")[0])
    assert ran.objects[repeat_from - 1]["line"] == repeat_from
    assert sum("error" not in answer for answer in ran.objects[repeat_from:]) < len(held) / 10

    (small.home.parent / "ballast").unlink()
    small.ready()
    eventually(lambda: small.register().code in (0, 1), "the freed disk takes a user")
    again = inputs[repeat_from - 1 :][:200]
    settled = confirmed(small.bulk("create", again).ok().objects)
    assert command_ids(again) == [*settled]
    registered = small.registered()
    assert (held | settled).items() <= registered.items()
    assert len(registered) == len(set(registered.values()))
    small.caught_up()
    small.erase(next(iter(held.values())))


def test_a_full_disk_is_named_by_a_single_command(small: System) -> None:
    user_id = small.create()
    small.caught_up()
    filler = small.home.parent / "filler"
    _fill(filler)

    def is_refused() -> bool:
        # A create that fits into existing pages still succeeds.
        ran = small.register(f"full-{os.urandom(4).hex()}@example.com", "F" * 200)
        assert ran.code == 0 or "disk is full" in ran.failed(4).err, ran
        return ran.code != 0

    eventually(is_refused, "the disk is full")
    assert small.get(user_id)["name"] == "Ada Lovelace", "reading needs no space"
    filler.unlink()
    rename = ("users", "rename", user_id, "Ada King")
    eventually(lambda: small.es(*rename).code == 0, "the freed disk takes a change")
    assert small.get(user_id)["name"] == "Ada King"


def test_a_rebuild_on_a_full_disk_tells_its_error_and_continues_when_it_can(small: System) -> None:
    (small.home.parent / "ballast").unlink()
    small.bulk("create", people(1500)).ok()  # all of it takes less than the disk
    small.caught_up()
    filler = small.home.parent / "filler"
    _fill(filler)
    os.truncate(filler, filler.stat().st_size - (256 << 10))  # enough to begin

    assert "disk is full" in small.es("projections", "rebuild", "users").failed(4).err
    building = small.generations()[-1]
    assert (building["state"], building["last_error"]["code"]) == ("building", "unavailable")
    for command in (("status",), ("projections", "status")):
        assert f"{building['last_error']['at'][:13]}" in small.es(*command).out
        assert "disk is full" in small.es(*command).out
    filler.unlink()

    eventually(lambda: small.generation()["generation"] == 2, "the rebuild continues by itself")
    assert small.generation()["last_error"] is None
    assert len(small.users()) == 1500


ReadOnly = tuple[System, Callable[[], object]]


@pytest.fixture
def read_only() -> Iterator[ReadOnly]:
    """A system, and a function that makes its home read-only."""
    if os.geteuid() == 0:  # to whom permissions do not apply
        with _on_a_disk("size=32m") as made:
            made.home.mkdir()
            remount = ["mount", "-o", "remount,ro", str(made.home.parent)]
            yield made, lambda: subprocess.run(remount, check=True)
        return
    with closing(System(new_root())) as made:
        made.home.mkdir()
        try:
            yield made, lambda: _without_write_permission(made.home)
        finally:
            for folder in (made.home, *made.home.glob("*")):
                folder.chmod(0o700)


def _without_write_permission(home: Path) -> None:
    for path in home.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    home.chmod(0o500)


def test_a_home_that_cannot_be_written_is_an_error(read_only: ReadOnly) -> None:
    system, make_read_only = read_only
    make_read_only()
    create = ("users", "create", "--email", "a@example.com", "--name", "A")
    for command in (("up",), ("users", "list"), create):
        assert str(system.home) in system.es(*command).failed(4).err
    assert system.es("status", "--json").exits(4).object["running"] is False
    system.es("down").ok()


def test_a_home_that_became_read_only_is_an_error_and_keeps_its_data(read_only: ReadOnly) -> None:
    system, make_read_only = read_only
    system.up().create()
    system.es("down").ok()
    before = (system.home / "events.db").read_bytes()
    make_read_only()

    for command in (("up",), ("users", "list"), ("workers", "run", "users")):
        ran = system.es(*command).without_traceback()
        assert ran.code == 4, ran
    assert system.processes() == []
    assert (system.home / "events.db").read_bytes() == before
