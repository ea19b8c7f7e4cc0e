"""A disk that is full or read-only: a clear error, nothing that was confirmed is lost, and it goes on when mended."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.acceptance.conftest import System, confirmed, errors, new_root, people, wait_until

SMALL_BYTES = 6 << 20
BALLAST_BYTES = 3 << 20


@contextmanager
def _mounted(point: Path, options: str) -> Iterator[None]:
    """A small file system in memory, mounted at `point`; skips where that isn't allowed."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "es-test", str(point)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)
        shutil.rmtree(
            point.parent
        )  # what is left of the system's folder: it could not go while this was mounted


@pytest.fixture
def small() -> Iterator[System]:
    """A system whose home is a disk of a few megabytes, some of them taken by a file called `ballast`."""
    root = new_root()
    made = System(root, home=root / "disk" / "home")
    with _mounted(root / "disk", f"size={SMALL_BYTES},mode=0700"):
        try:
            (root / "disk" / "ballast").write_bytes(bytes(BALLAST_BYTES))
            yield made.up()
        finally:
            made.close()


def _fill(path: Path) -> None:
    """Write until nothing fits any more."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(fd, bytes(4096))
    finally:
        os.close(fd)


def _free(system: System) -> None:
    (system.home.parent / "ballast").unlink()


def test_a_full_disk_refuses_what_it_cannot_store_and_keeps_what_it_confirmed(small: System) -> None:
    inputs = people(8000)
    ran = small.bulk("create", inputs).without_traceback()
    held = confirmed(ran.objects)

    assert ran.code == 4, ran
    assert set(errors(ran.objects)) == {"unavailable"}
    said = {answer["error"]["message"] for answer in ran.objects if "error" in answer}
    assert any("disk is full" in message for message in said), said
    assert 0 < len(held) < len(inputs)

    _free(small)
    small.ready()
    wait_until(
        lambda: small.es("users", "create", "--email", "new@example.com", "--name", "New").code in (0, 1),
        "the freed disk takes a user",
    )
    some = people(200)
    settled = confirmed(small.bulk("create", some).ok().objects)
    assert {
        command_id: held[command_id] for command_id in settled if command_id in held
    }.items() <= settled.items()
    registered = {
        event["command_id"]: event["stream"].removeprefix("user-") for event in small.registrations()
    }
    assert held.items() <= registered.items()
    assert len(registered) == len(set(registered.values()))
    small.caught_up()
    assert small.es("gdpr", "erase", "--yes", next(iter(held.values()))).code == 0


def test_a_full_disk_is_named_by_a_single_command(small: System) -> None:
    user_id = small.create()
    small.caught_up()
    filler = small.home.parent / "filler"
    _fill(filler)

    def refused() -> bool:
        # What fits into pages that are there already may still succeed.
        ran = small.es(
            "users", "create", "--email", f"full-{os.urandom(4).hex()}@example.com", "--name", "F" * 200
        )
        if ran.code == 0:
            return False
        assert "disk is full" in ran.failed(4).err, ran
        return True

    wait_until(refused, "the disk is full")
    assert small.get(user_id)["name"] == "Ada Lovelace"  # reading needs no space
    filler.unlink()
    wait_until(
        lambda: small.es("users", "rename", user_id, "Ada King").code == 0, "the freed disk takes a change"
    )
    assert small.get(user_id)["name"] == "Ada King"


# --- read-only ------------------------------------------------------------------------------------------


@pytest.fixture
def read_only() -> Iterator[tuple[System, Callable[[], None]]]:
    """A system, and what makes its home read-only."""
    root = new_root()
    if os.geteuid() == 0:
        made = System(root, home=root / "disk" / "home")
        with _mounted(root / "disk", "size=32m,mode=0700"):
            made.home.mkdir()
            try:
                yield made, lambda: _remount_read_only(root / "disk")
            finally:
                made.close()
        return
    made = System(root)
    made.home.mkdir()
    try:
        yield made, lambda: _without_write_permission(made.home)
    finally:
        for folder in (made.home, *made.home.glob("*")):
            folder.chmod(0o700)
        made.close()


def _remount_read_only(point: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)


def _without_write_permission(home: Path) -> None:
    for path in home.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    home.chmod(0o500)


def test_a_home_that_cannot_be_made_is_an_error(read_only: tuple[System, Callable[[], None]]) -> None:
    system, make_read_only = read_only
    make_read_only()
    for command in (
        ("up",),
        ("users", "list"),
        ("users", "create", "--email", "a@example.com", "--name", "A"),
    ):
        ran = system.es(*command).failed(4)
        assert str(system.home) in ran.err
    assert system.es("status", "--json").ok().object["running"] is False
    system.es("down").ok()


def test_a_home_that_became_read_only_is_an_error_and_keeps_its_data(
    read_only: tuple[System, Callable[[], None]],
) -> None:
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
