"""The command line through typer's own test runner: helps, shapes of answers, exit codes, completion."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner

from cli.main import COMMANDS, TOOLS, app
from domain.features import registry
from tests.acceptance.conftest import DEADLINE_S, ES, System, ndjson, people

# --- helps -------------------------------------------------------------------------------------------


def _walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name in getattr(command, "list_commands", lambda _: [])(None):
        yield from _walk(command.get_command(None, name), (*path, name))


ROOT = typer.main.get_command(app)
GROUPS = {feature.name: feature.help for feature in registry().features if feature.help} | TOOLS
EVERY_GROUP = [*GROUPS, *COMMANDS]


def _tree(name: str) -> list[tuple[tuple[str, ...], Any]]:
    return list(_walk(ROOT.get_command(None, name), (name,)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_every_command_says_what_it_does(name: str) -> None:
    for path, command in _tree(name):
        assert command is not None, path
        first = (command.help or "").strip().splitlines()[:1]
        assert first, f"es {' '.join(path)} has no help"
        assert first[0].endswith((".", "`")), f"es {' '.join(path)}: {first[0]!r} is no sentence"


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_every_option_and_argument_says_what_it_is_for(name: str) -> None:
    for path, command in _tree(name):
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"es {' '.join(path)}: {parameter.name} has no help"


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_every_help_can_be_shown(name: str) -> None:
    for path, command in _tree(name):
        shown = CliRunner().invoke(app, [*path, "--help"])
        assert shown.exit_code == 0, (path, shown.output)
        for option in (o for parameter in command.params for o in parameter.opts if o.startswith("--")):
            assert option in shown.output, (path, option)


def test_the_root_help_names_every_group_and_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name, text in {**GROUPS, **COMMANDS}.items():
        assert re.search(rf"^\W*{name}\s", shown.output, re.MULTILINE), name
        assert text.split()[0] in shown.output


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"es \d+\.\d+\.\d+\S*\n", CliRunner().invoke(app, ["--version"]).output)


def test_every_command_with_an_answer_takes_json() -> None:
    without = [
        " ".join(path)
        for name in EVERY_GROUP
        for path, command in _tree(name)
        if not hasattr(command, "list_commands") and not any("--json" in p.opts for p in command.params)
    ]
    # Logs are JSON lines as they are; a worker in the foreground answers nothing.
    assert set(without) <= {"logs", "workers run"}


def test_every_command_that_changes_something_takes_a_command_id() -> None:
    changing = {"users create", "users rename", "users change-email", "users delete", "gdpr erase"}
    for name in ("users", "gdpr"):
        for path, command in _tree(name):
            if " ".join(path) in changing:
                assert any("--command-id" in p.opts for p in command.params), path
                changing.discard(" ".join(path))
    assert changing == set()


# --- answers -----------------------------------------------------------------------------------------

Invoke = Callable[..., Any]

CHANGE = {"command_id", "user_id", "version", "position"}
USER = {"user_id", "email", "name", "status", "version", "registered_at", "updated_at"}
EVENT = {
    *("position", "stream", "version", "type", "time", "event_id", "command", "command_id"),
    *("correlation_id", "causation_id", "actor", "data"),
}
PROJECTION = {"projection", "generation", "state", "position", "head", "lag", "events", "parked"}


@pytest.fixture
def invoke(shared: System, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in this process against the shared system."""
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()

    def run(*arguments: str, stdin: bytes = b"") -> Any:
        return runner.invoke(app, list(arguments), input=stdin)

    return run


def _object(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def _objects(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _is_time(text: str) -> bool:
    """RFC 3339 in UTC."""
    return text.endswith("Z") and datetime.fromisoformat(text).utcoffset() is not None


def _new_user(invoke: Invoke) -> dict[str, Any]:
    email = f"{uuid4().hex}@example.com"
    return _object(invoke("users", "create", "--email", email, "--name", "New", "--json"))


def test_changes_answer_with_the_command_the_user_the_version_and_the_position(invoke: Invoke) -> None:
    made = _new_user(invoke)
    user_id = made["user_id"]
    answers = [
        made,
        _object(invoke("users", "rename", user_id, "Other", "--json")),
        _object(invoke("users", "change-email", user_id, f"{uuid4().hex}@example.com", "--json")),
        _object(invoke("users", "delete", user_id, "--json")),
    ]
    for version, answer in enumerate(answers):
        assert answer.keys() == CHANGE
        assert (answer["user_id"], answer["version"]) == (user_id, version)
        assert isinstance(answer["position"], int)
        UUID(answer["command_id"])
    assert user_id.isdigit()
    assert len({answer["command_id"] for answer in answers}) == len(answers)
    assert [a["position"] for a in answers] == sorted(a["position"] for a in answers)
    assert _object(invoke("gdpr", "erase", user_id, "--yes", "--json")).keys() >= CHANGE


def test_a_user_has_the_documented_fields_wherever_it_is_shown(invoke: Invoke) -> None:
    made = _new_user(invoke)
    user_id = made["user_id"]
    got = _object(invoke("users", "get", user_id, "--json"))
    assert got.keys() == USER
    assert got["user_id"] == user_id
    assert _is_time(got["registered_at"])
    assert _is_time(got["updated_at"])
    assert _object(invoke("users", "get", user_id, "--version", "0", "--json")) == got
    assert _object(invoke("users", "get", user_id, "--at", got["registered_at"], "--json")) == got
    assert _object(invoke("users", "get", user_id, "--fresh", "--json")) == got
    assert _object(invoke("users", "get", user_id, "--after", str(made["position"]), "--json")) == got
    assert _object(invoke("users", "find", "--email", got["email"], "--json")) == got
    assert _objects(invoke("users", "list", "--after", str(int(user_id) - 1), "--limit", "1", "--json")) == [
        got
    ]
    listed = ("users", "list", "--after", str(int(user_id) - 1), "--limit", "1000", "--json")
    assert got in _objects(invoke(*listed, "--status", "active"))
    assert got not in _objects(invoke(*listed, "--status", "deleted"))


def test_events_have_the_documented_fields_wherever_they_are_shown(invoke: Invoke) -> None:
    made = _new_user(invoke)
    (event,) = _objects(invoke("users", "history", made["user_id"], "--json"))
    assert event.keys() == EVENT
    assert (event["type"], event["command_id"]) == ("user-registered.v1", made["command_id"])
    assert _is_time(event["time"])
    (stored,) = _objects(invoke("streams", "read", f"user-{made['user_id']}", "--json"))
    assert stored.keys() == EVENT
    assert stored["event_id"] == event["event_id"]
    before = str(made["position"] - 1)
    tail = _objects(invoke("events", "tail", "--from", before, "--no-follow", "--stream", "user-", "--json"))
    assert stored in tail
    streams = _objects(invoke("streams", "list", "--prefix", stored["stream"], "--json"))
    assert streams == [{"stream": stored["stream"], "version": 0}]


def test_projections_have_the_documented_fields(invoke: Invoke) -> None:
    assert _objects(invoke("projections", "list", "--json")) == [{"projection": "users"}]
    for state in _objects(invoke("projections", "status", "--json")):
        assert state.keys() >= PROJECTION
    assert _object(invoke("projections", "rebuild", "users", "--json"))["state"] == "current"
    assert _object(invoke("projections", "rebuild", "users", "--no-wait", "--json"))["projection"] == "users"


def test_status_and_settings_have_their_fields(invoke: Invoke, shared: System) -> None:
    status = _object(invoke("status", "--json"))
    assert status.keys() >= {"pid", "home", "running", "workers", "projections"}
    for worker in status["workers"]:
        assert worker.keys() >= {"role", "instance", "pid", "state", "uptime_s", "restarts", "last_error"}
    settings = _object(invoke("config", "show", "--json"))
    assert settings["home"] == {"value": str(shared.home), "source": "ES_HOME"}
    assert all(setting.keys() == {"value", "source"} for setting in settings.values())


def test_ids_are_decimal_text_in_json(invoke: Invoke) -> None:
    drawn = _objects(invoke("ids", "next", "-n", "3", "--json"))
    assert drawn
    for answer in drawn:
        for name in ("id", "first"):
            assert isinstance(answer.get(name, ""), str), answer


def test_ranges_of_ids_have_the_documented_fields(invoke: Invoke) -> None:
    parts = _objects(invoke("ids", "next", "-n", "100", "--ranges", "--json"))
    assert sum(int(part["count"]) for part in parts) == 100
    assert all(part.keys() == {"first", "step", "count"} for part in parts)


def test_an_id_is_decoded_into_its_time_and_lane(invoke: Invoke) -> None:
    made = _new_user(invoke)
    got = _object(invoke("users", "get", made["user_id"], "--json"))
    (decoded,) = _objects(invoke("ids", "decode", made["user_id"], "--json"))
    assert decoded["id"] == made["user_id"]
    assert decoded["time"][:16] == got["registered_at"][:16]
    assert 0 <= int(decoded["lane"]) < 1024


def test_answers_for_people_are_plain_lines_in_a_pipe(invoke: Invoke) -> None:
    made = _new_user(invoke)
    for arguments in (
        ("users", "get", made["user_id"]),
        ("users", "list", "--after", str(int(made["user_id"]) - 1)),
        ("users", "history", made["user_id"]),
        ("projections", "status"),
        ("status",),
        ("config", "show"),
        ("streams", "list", "--prefix", f"user-{made['user_id']}"),
    ):
        shown = invoke(*arguments)
        assert shown.exit_code == 0
        assert shown.stdout
        assert not re.search(r"[\x1b─│━┃]", shown.stdout), arguments
        assert shown.stdout == "".join(f"{line.rstrip(' ')}\n" for line in shown.stdout.splitlines())


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("users", "get", "abc"), 2),
        (("users", "get", "5"), 3),
        (("users", "rename", "5", "X"), 3),
        (("users", "create", "--email", "x", "--name", "X"), 2),
        (
            (
                "users",
                "create",
            ),
            2,
        ),
        (("gdpr", "erase", "5"), 2),
        (("projections", "rebuild", "nonsense"), 3),
        (("streams", "read", "nonsense"), 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_errors_have_their_exit_code_and_are_said_on_standard_error(
    invoke: Invoke, arguments: tuple[str, ...], code: int
) -> None:
    plain, as_json = invoke(*arguments), invoke(*arguments, "--json")

    assert (plain.exit_code, plain.stdout) == (code, "")
    assert plain.stderr.startswith("error: ")
    assert "  hint: " in plain.stderr
    assert (as_json.exit_code, as_json.stdout) == (code, "")
    assert json.loads(as_json.stderr)["error"].keys() == {"code", "message", "hint"}


def test_a_refused_command_ends_with_1_and_a_refused_line_too(invoke: Invoke) -> None:
    email = f"{uuid4().hex}@example.com"
    create = ("users", "create", "--email", email, "--name", "X")
    assert [invoke(*create).exit_code for _ in range(2)] == [0, 1]
    bulk = invoke("users", "create", "--from", "-", stdin=ndjson([{"email": email, "name": "X"}]))
    assert bulk.exit_code == 1
    assert json.loads(bulk.stdout).keys() == {"command_id", "error"}


def test_a_bulk_answers_line_by_line_in_this_process_too(invoke: Invoke) -> None:
    inputs = people(20, prefix="inprocess")
    answers = _objects(invoke("users", "create", "--from", "-", stdin=ndjson(inputs)))
    assert [answer["command_id"] for answer in answers] == [person["command_id"] for person in inputs]
    assert all(answer.keys() == CHANGE for answer in answers)


def test_with_debug_an_error_is_raised_with_its_traceback(shared: System) -> None:
    ran = shared.es("--debug", "users", "get", "abc")
    assert ran.code != 0
    assert "Traceback" in ran.err


def test_an_erasure_asks_on_a_terminal(shared: System) -> None:
    user_id = shared.create(f"{uuid4().hex}@example.com", "Asked")
    for typed, code, status in ((b"n\n", 1, "active"), (b"y\n", 0, "erased")):
        ours, theirs = pty.openpty()
        asked = shared.start("gdpr", "erase", user_id, stdin=theirs)
        os.close(theirs)
        os.write(ours, typed)
        out, err = asked.communicate(timeout=DEADLINE_S)
        os.close(ours)
        assert b"cannot be undone" in err
        assert b"Traceback" not in out + err
        assert (asked.returncode, shared.get(user_id)["status"]) == (code, status), err


# --- completion --------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.over("embedded", because="nothing is asked")
def test_the_completion_script_is_one_that_bash_takes(system: System) -> None:
    script = 'PATH="$0:$PATH"; eval "$(es --show-completion; true)" && complete -p es'
    done = subprocess.run(
        ["bash", "-c", script, str(Path(ES).parent)],
        capture_output=True,
        text=True,
        env=system.environment,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done
    assert "_es_completion es" in done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("es ", {*GROUPS, *COMMANDS}),
        ("es us", {"users"}),
        ("es users ", {"create", "get", "list", "find", "rename", "change-email", "delete", "history"}),
        ("es users cr", {"create"}),
        ("es projections re", {"rebuild"}),
        ("es users create --na", {"--name"}),
        ("es workers run pro", {"projections"}),
    ],
)
@pytest.mark.over("embedded", because="nothing is asked")
def test_groups_commands_options_and_roles_are_completed(
    system: System, words: str, offered: set[str]
) -> None:
    request = {"_ES_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert set(system.es(environment=request).ok().out.split()) == offered
    assert system.processes() == []
