"""The command line for a person who mistypes, hesitates or interrupts, or while workers fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from adapters.local.home_lock import HomeLock
from adapters.settings import load_settings
from cli import down
from tests.support.system import System
from tests.support.terminal import on_terminal
from tests.support.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

no_request_is_sent = pytest.mark.over("embedded", because="no request is sent")
about_the_supervisor = pytest.mark.over("embedded", because="the supervisor is the same in every profile")


@pytest.mark.parametrize(
    ("typed", "said", "hint"),
    [
        ("usres", "Did you mean 'users'", "es --help"),
        ("users lst", "Did you mean 'list'", "es users --help"),
        ("users get", "ID is missing", "es users get 2"),
        ("users find", "--email EMAIL is missing", "es users find --email ada@example.com"),
        ("users create", "--email EMAIL and --name NAME are missing", "es users create --email ada@"),
        ("users rename", "ID and NAME are missing", "es users rename 2"),
        ("users list --limit 0", "'--limit'", "N: The maximum number"),
        ("users get 5 6", "extra argument", "es users get 2"),
        ("users list --debug", "No such option: --debug", "es --debug"),
        ("users get 5 --jsn", "--json", "es users get --help"),
        ("--json users list", "No such option: --json", "es users list --json"),
    ],
)
@no_request_is_sent
def test_wrong_usage_is_one_line_and_a_hint(shared: System, typed: str, said: str, hint: str) -> None:
    ran = shared.es(*typed.split())

    assert (ran.code, ran.out) == (2, "") if "--json" not in typed else ran.code == 2
    message, advice = ran.err.splitlines() if "--json" not in typed else (ran.err, ran.err)
    assert said in message
    assert hint in advice


@pytest.mark.parametrize("where", [(), ("users",), ("users", "get"), ("up",)], ids=" ".join)
@no_request_is_sent
def test_h_is_help_in_every_place(shared: System, where: tuple[str, ...]) -> None:
    shown = shared.es(*where, "--help").ok().out
    assert shared.es(*where, "-h").ok().out == shared.es("help", *where).ok().out == shown


@pytest.mark.parametrize(("typed", "code", "said"), [(b"\x03", 130, "interrupted"), (b"n\n", 1, "--yes")])
@no_request_is_sent
def test_any_answer_but_yes_ends_the_command(shared: System, typed: bytes, code: int, said: str) -> None:
    ran = on_terminal(shared, "gdpr", "erase", "5", typed=typed)
    assert (ran.code, said in ran.out) == (code, True), ran


def test_an_interrupt_before_the_command_begins_is_no_traceback() -> None:
    code = "import cli; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "es: interrupted\n")


@pytest.mark.over("embedded", because="a key-encryption key of the home's own is moved")
def test_up_does_not_repeat_an_error_that_was_fixed(system: System) -> None:
    system.up()
    kek = system.home / "secrets" / "kek"
    aside = kek.rename(kek.with_name("aside"))
    system.kill("users")
    eventually(lambda: system.worker("users")["state"] == "waiting", "the worker misses its key")
    assert "key-encryption key" in system.es("up").failed(4).err
    assert "key-encryption key" in system.register().failed(4).err, "not only that no worker answers"

    aside.rename(kek)

    assert system.es("up").ok().err == ""
    assert system.worker("users")["state"] == "ready"


@about_the_supervisor
def test_a_supervisor_that_does_not_answer_is_not_taken_for_missing(running: System) -> None:
    with running.paused("supervisor"):
        asked = running.es("status"), running.es("down")

    for ran in asked:
        assert "supervisor" in ran.failed(4).err
    running.ended()  # it handles `down` once it runs again


def test_down_ends_when_the_next_supervisor_has_taken_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An `es up` waits until the others have stopped.
    settings = load_settings(environment={"ES_HOME": str(tmp_path / "home")})
    monkeypatch.setattr(down, "DOWN_WAIT_S", DEADLINE_S)

    settings.run.mkdir(parents=True)
    with closing(HomeLock(settings.home)) as lock:
        lock.tell("listening")
        down.wait_for_end(settings, os.getpid() + 1)

    assert "started them again" in capsys.readouterr().err


@about_the_supervisor
def test_the_status_shows_when_the_supervisor_started(shared: System) -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shared.status()["started_at"])


def test_a_fresh_list_holds_everything_stored_before(running: System) -> None:
    created = [running.create(f"fresh{n}@example.com", "Fresh") for n in range(5)]

    listed = running.es("users", "list", "--fresh", "--json", "--after", running.since).ok().objects

    assert [user["user_id"] for user in listed] == created
