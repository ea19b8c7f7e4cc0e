"""The lock of a home is on the folder, and names its holder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

import pytest

from adapters.local.home_lock import Holder, HomeLock, OpenedHome, find_holder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "run").mkdir(parents=True)
    return tmp_path / "home"


def test_the_holder_is_found_with_its_state_until_it_releases_the_lock(home: Path) -> None:
    assert find_holder(home) is None
    lock = HomeLock(home)
    assert find_holder(home) == Holder(None, None)
    for state in ("listening", "stopping"):
        lock.tell(state)
        assert find_holder(home) == Holder(os.getpid(), state)
    lock.close()
    assert find_holder(home) is None
    assert find_holder(home / "missing") is None


def test_no_second_lock_is_given_by_any_path_or_after_removals(home: Path) -> None:
    with closing(HomeLock(home)) as lock:
        lock.tell("listening")
        home.with_name("link").symlink_to(home)
        shutil.rmtree(home / "run")
        moved = home.rename(home.with_name("moved"))
        moved.with_name("home").symlink_to(moved)
        for path in (moved, home):
            assert find_holder(path) == Holder(None, None)
            with pytest.raises(BlockingIOError):
                HomeLock(path)
        (moved / "run").mkdir()
        lock.keep_told()
        assert find_holder(moved) == Holder(os.getpid(), "listening")


def test_a_holder_that_was_killed_is_told_to_the_next_one(home: Path) -> None:
    (home / "run" / "supervisor.lock").write_text('{"pid": 7, "state": "listening"}')

    with closing(HomeLock(home)) as lock:
        assert lock.killed_pid == 7
    with closing(HomeLock(home)) as lock:
        assert lock.killed_pid is None


def test_a_supervisor_of_an_earlier_version_is_found_by_its_file(home: Path) -> None:
    with (home / "run" / "supervisor.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        assert find_holder(home) == Holder(None, None)
        with pytest.raises(BlockingIOError):
            HomeLock(home)


def test_the_file_is_locked_where_folders_cannot_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def on_nfs(fd: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, "")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    with closing(HomeLock(home)):
        assert find_holder(home) is not None
        with pytest.raises(BlockingIOError):
            HomeLock(home)


def test_a_new_folder_at_the_same_path_is_another_home(home: Path) -> None:
    with closing(OpenedHome(home)) as opened:
        assert not opened.is_lost()
        shutil.rmtree(home)
        assert opened.is_lost()
        home.mkdir()
        assert opened.is_lost()
