"""What a user sees on a terminal of 80 and of 40 columns. Pipes and --json get the same values as ever."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from tests.support.people import ndjson
from tests.support.system import System
from tests.support.terminal import on_terminal, plain

no_request_is_sent = pytest.mark.over("embedded", because="no request is sent")
same_everywhere = pytest.mark.over("embedded", because="the terminal is the same in every profile")


@pytest.mark.parametrize("columns", [80, 40])
@same_everywhere
def test_tables_fit_and_say_what_they_lack(shared: System, columns: int) -> None:
    user_id = shared.create(f"{'wide' * 12}{columns}@example.com", "日本語の名前 👩‍👩‍👧 " * 4)

    for command in (
        ("users", "list", "--fresh", "--after", str(int(user_id) - 1)),
        ("users", "history", user_id),
        ("status",),
        ("ids", "lanes"),
        ("projections", "status"),
        ("streams", "read", f"user-{user_id}"),
    ):
        shown = plain(on_terminal(shared, *command, columns=columns).ok().out)
        lines = [line for line in shown.splitlines() if str(shared.home) not in line]  # a path can be copied
        assert max(map(cell_len, lines)) <= columns, shown
    listed = plain(on_terminal(shared, "users", "list", columns=columns).ok().out)
    assert "No room for: version, registered_at" in listed


@no_request_is_sent
def test_a_cure_is_whole_below_the_table(system: System) -> None:
    system.home.mkdir(parents=True)
    path = f"{system.root}/{'long' * 30}"

    shown = on_terminal(system, "doctor", columns=40, environment={"ES_KEK_FILE": path}).out

    assert path in plain(shown).replace("\n", "")
    assert "  next: " in plain(shown)
    assert "\x1b[1;31mfailed\x1b[0m" in shown


# --- changes and questions -------------------------------------------------------------------


@same_everywhere
def test_a_change_says_what_happened_and_gives_a_pipe_its_position(shared: System) -> None:
    user_id = shared.create("changed@example.com", "Changed")
    changes = {
        "renamed user": ("rename", user_id, "Other"),
        "changed the e-mail address of user": ("change-email", user_id, "other@example.com"),
        "deleted user": ("delete", user_id, "--yes"),
    }

    for said, change in changes.items():
        shown = plain(on_terminal(shared, "users", *change).ok().out)
        assert f"{said} {user_id}" in shown.replace("\n", " ")
    assert shared.es("users", "rename", shared.create("p@example.com"), "Piped").ok().out.strip().isdigit()


@pytest.mark.parametrize(
    ("command", "question"),
    [(("users", "delete"), "Close this account"), (("gdpr", "erase"), "Erase this person")],
    ids=["delete", "erase"],
)
@same_everywhere
def test_a_question_shows_the_person_and_a_no_changes_nothing(
    shared: System, command: tuple[str, str], question: str
) -> None:
    user_id = shared.create(f"{command[1]}@example.com", "日本 Person")

    for typed, code, status in ((b"n\n", 1, "active"), (b"y\n", 0, f"{command[1]}d".replace("ee", "e"))):
        ran = on_terminal(shared, *command, user_id, typed=typed)
        assert f"日本 Person <{command[1]}@example.com>" in plain(ran.out)
        assert question in plain(ran.out)
        assert (ran.code, shared.get(user_id)["status"]) == (code, status), ran


@pytest.mark.parametrize("command", [("users", "delete"), ("gdpr", "erase")], ids=["delete", "erase"])
@same_everywhere
def test_the_question_is_asked_although_the_person_cannot_be_read(
    running: System, command: tuple[str, str]
) -> None:
    user_id = running.create()

    with running.paused("projections"):
        ran = on_terminal(running, *command, user_id, typed=b"n\n")

    assert "cannot be shown" in ran.out
    assert ran.code == 1, ran


@same_everywhere
def test_a_bulk_asks_once_and_ends_with_a_summary(shared: System) -> None:
    users = [shared.create(f"bulk{n}@example.com") for n in range(2)]
    path = shared.root / "users.ndjson"
    path.write_bytes(ndjson([{"user_id": user_id} for user_id in users]))

    refused = on_terminal(shared, "users", "delete", "--from", str(path), typed=b"n\n")
    assert (refused.code, str(path) in refused.out.replace("\r\n", "")) == (1, True), refused
    assert {shared.get(user_id)["status"] for user_id in users} == {"active"}
    done = on_terminal(shared, "users", "delete", "--from", str(path), typed=b"y\n").ok()
    assert "es: 2 done, 0 failed" in done.out


@same_everywhere
def test_a_script_deletes_without_a_question(shared: System) -> None:
    user_id = shared.create("scripted@example.com")
    assert shared.es("users", "delete", user_id).ok().err == ""
    assert shared.get(user_id)["status"] == "deleted"


@same_everywhere
def test_what_ends_without_an_answer_says_so_on_a_terminal_only(running: System) -> None:
    began = on_terminal(running, "projections", "rebuild", "users", "--no-wait").ok().out
    assert "the rebuild of users runs" in began
    assert running.es("projections", "rebuild", "users", "--no-wait").ok().out == ""
    assert "stopped the workers" in on_terminal(running, "down").ok().out
    running.es("up").ok()
    assert running.es("down").ok().out == ""


@same_everywhere
def test_an_error_is_red_unless_colour_is_turned_off(shared: System) -> None:
    assert "\x1b[1;31merror:\x1b[0m there is no user 5" in on_terminal(shared, "users", "get", "5").out
    assert "\x1b" not in on_terminal(shared, "users", "get", "5", environment={"NO_COLOR": "1"}).out
