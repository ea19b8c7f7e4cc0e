"""What a person meets who mistypes, hesitates, interrupts, or comes when the workers are in trouble."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.settings import load_settings
from cli import down
from tests.acceptance.conftest import DEADLINE_S, ES, System, wait_until

# --- wrong usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said", "hint"),
    [
        (("usres",), "Did you mean 'users'", "es --help"),
        (("users", "lst"), "Did you mean 'list'", "es users --help"),
        (("users", "get"), "Missing argument 'ID'", "es users get --help"),
        (("users", "list", "--limit", "0"), "'--limit'", "es users list --help"),
        (("users", "get", "5", "--jsn"), "--json", "es users get --help"),
        (("--json", "users", "list"), "No such option: --json", "es --help"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.over("embedded", because="nothing is asked")
def test_wrong_usage_is_one_line_and_where_to_look(
    shared: System, typed: tuple[str, ...], said: str, hint: str
) -> None:
    ran = shared.es(*typed)

    assert (ran.code, ran.out) == (2, "") if "--json" not in typed else ran.code == 2
    message, advice = ran.err.splitlines() if "--json" not in typed else (ran.err, ran.err)
    assert said in message
    assert f"`{hint}`" in advice


@pytest.mark.parametrize("where", [(), ("users",), ("users", "get"), ("up",)], ids=" ".join)
@pytest.mark.over("embedded", because="nothing is asked")
def test_h_is_help_everywhere(shared: System, where: tuple[str, ...]) -> None:
    assert shared.es(*where, "-h").ok().out == shared.es(*where, "--help").ok().out


# --- questions and interrupts ----------------------------------------------------------------


@pytest.mark.parametrize(("typed", "code", "said"), [(b"\x03", 130, b"interrupted"), (b"n\n", 1, b"--yes")])
@pytest.mark.over("embedded", because="nothing is asked")
def test_a_question_that_is_not_answered_with_yes_ends_the_command(
    shared: System, typed: bytes, code: int, said: bytes
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(ES, [ES, "gdpr", "erase", "5"], shared.environment)
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        shown = _read_until(screen, b"[y/N]")
        screen.write(typed)
        shown += _read_until(screen, None)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == code, shown
    assert said in shown
    assert b"Traceback" not in shown


def _read_until(screen: object, wanted: bytes | None) -> bytes:
    shown = b""
    while wanted is None or wanted not in shown:
        try:
            more = os.read(screen.fileno(), 4096)  # type: ignore[attr-defined]
        except OSError:  # the other end of a pseudo-terminal is gone
            break
        if not more:
            break
        shown += more
    return shown


def test_a_ctrl_c_before_the_command_has_begun_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import cli; raise KeyboardInterrupt"], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "es: interrupted\n")


# --- workers in trouble ----------------------------------------------------------------------


@pytest.mark.over("embedded", because="a key-encryption key of the home's own is moved away")
def test_up_does_not_repeat_an_error_that_was_mended(system: System) -> None:
    system.up()
    kek = system.home / "secrets" / "kek"
    aside = kek.rename(kek.with_name("aside"))
    system.signal("users", signal.SIGKILL)
    wait_until(lambda: system.worker("users")["state"] == "waiting", "the worker misses its key")
    assert "key-encryption key" in system.es("up").failed(4).err
    create = ("users", "create", "--email", "ada@example.com", "--name", "Ada")
    assert "key-encryption key" in system.es(*create).failed(4).err, "not only that nobody answers"

    aside.rename(kek)

    assert system.es("up").ok().err == ""
    assert system.worker("users")["state"] == "ready"


@pytest.mark.over("embedded", because="it is about the supervisor, which is the same everywhere")
def test_a_supervisor_that_does_not_answer_is_not_taken_for_absent(running: System) -> None:
    pid = running.signal("supervisor", signal.SIGSTOP)
    try:
        status, down = running.es("status"), running.es("down")
    finally:
        os.kill(pid, signal.SIGCONT)

    for ran in (status, down):
        assert "supervisor" in ran.failed(4).err
    wait_until(lambda: not running.processes(), "it does what it was told once it can")


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_down_ends_when_the_next_supervisor_has_taken_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A bulk that is under way starts the workers anew the moment they are gone.
    settings = load_settings(environment={"ES_HOME": str(tmp_path / "home")})
    monkeypatch.setattr(down, "ask_supervisor", lambda *_: {"pid": 42})
    monkeypatch.setattr(down, "DOWN_WAIT_S", DEADLINE_S)

    with _held(settings.run / "supervisor.lock"):
        down.wait_for_end(settings, 41)

    assert "started them again" in capsys.readouterr().err


@pytest.mark.over("embedded", because="it is about the supervisor, which is the same everywhere")
def test_the_status_says_since_when_the_supervisor_runs(shared: System) -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shared.status()["started_at"])


# --- lists -----------------------------------------------------------------------------------


def test_a_fresh_list_holds_all_that_was_stored_before(running: System) -> None:
    created = [running.create(f"fresh{n}@example.com", "Fresh") for n in range(5)]

    listed = running.es("users", "list", "--fresh", "--json", "--after", running.since).ok().objects

    assert [user["user_id"] for user in listed] == created
