"""The sockets of the local transport: their paths, and who may use them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from adapters.local.address import is_served, listen, socket_path
from adapters.local.caller import LocalCaller
from adapters.local.server import LocalServer
from domain.kernel.errors import PartUnavailable
from tests.support.transports import ROLE, Serving, Transport
from tests.support.waiting import DEADLINE_S


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_socket_and_its_folder_are_for_their_owner_alone(run: Path, path: Path) -> None:
    with umask(0), closing(listen(path)):
        modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, run)]

    assert modes == [0o600, 0o700]


def test_listening_leaves_the_umask_as_it_was(path: Path) -> None:
    with umask(0o027):
        listen(path).close()
        assert os.umask(0o027) == 0o027


def _writable_by_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o702)


def _writable_by_a_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o720)


def _a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def _of_another_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize("make", [_writable_by_others, _writable_by_a_group, _a_link, _of_another_user])
def test_a_folder_that_is_not_private_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "run")

    with pytest.raises(PartUnavailable, match="not a private folder"):
        listen(socket_path(tmp_path / "run", ROLE))

    assert not (tmp_path / "run" / f"{ROLE}.sock").exists()


def test_a_caller_does_not_use_a_folder_that_others_can_write_to(run: Path, echoing: Serving) -> None:
    # The sockets of a home with a long path are in a folder below /tmp, which any user can create first.
    # Requests hold names and addresses of people.
    run.chmod(0o777)
    with closing(LocalCaller(run)) as caller, pytest.raises(PartUnavailable, match="not a private folder"):
        caller.ask(ROLE, "echo", {"n": "a secret"}, timeout_s=DEADLINE_S)


@pytest.mark.parametrize("length", [50, 99, 100, 101, 120, 200, 1000])
def test_a_run_folder_of_any_length_works(
    tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    base = tmp_path / "h"
    while len(str(base)) < length:
        base = base / ("d" * min(length - len(str(base)), 60))
    run = base / "run"
    (base / "other").mkdir(parents=True)

    path = socket_path(run, ROLE)

    assert len(os.fsencode(path)) <= 100
    assert path == socket_path(run, ROLE)
    assert path != socket_path(base / "other" / "run", ROLE)
    with transport.serving(LocalServer(listen(path))), closing(LocalCaller(run)) as caller:
        assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_long_run_folder_has_one_socket_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    real, link = tmp_path / ("d" * 120), tmp_path / ("l" * 120)
    real.mkdir()
    link.symlink_to(real)

    assert socket_path(link / "run", ROLE) == socket_path(real / "run", ROLE)


def test_the_socket_of_a_dead_process_is_replaced(run: Path, path: Path, transport: Transport) -> None:
    listen(path).close()
    assert path.exists()
    assert not is_served(path)

    with transport.serving(LocalServer(listen(path))), closing(LocalCaller(run)) as caller:
        assert is_served(path)
        assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
