"""The command line in typer's own test runner: helps, the shapes of answers, exit codes, completion."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from typer.testing import CliRunner

from cli.main import COMMANDS, TOOLS, app
from domain.features import registry
from tests.support.people import command_ids, ndjson, people
from tests.support.runs import ES, Ran
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

# --- helps -----------------------------------------------------------------------------------

ROOT = typer.main.get_command(app)
GROUPS = {feature.name: feature.help for feature in registry().features if feature.help} | TOOLS
NAMES = [*GROUPS, *COMMANDS]
every_name = pytest.mark.parametrize("name", NAMES)
no_request_is_sent = pytest.mark.over("embedded", because="no request is sent")


def _tree(name: str) -> list[tuple[str, Any]]:
    """A group or command with everything below it: the words that call each, and the command."""
    return list(_walk(name, ROOT.get_command(None, name)))  # type: ignore[attr-defined]


def _walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name in getattr(command, "list_commands", lambda _: [])(None):
        yield from _walk(f"{words} {name}", command.get_command(None, name))


def _has(command: Any, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


@every_name
def test_every_command_has_a_help_of_one_sentence(name: str) -> None:
    for words, command in _tree(name):
        first = (command.help or "").strip().splitlines()[:1]
        assert first, f"es {words} has no help"
        assert first[0].endswith((".", "`")), f"es {words}: {first[0]!r} is no sentence"


@every_name
def test_every_option_and_argument_has_a_help(name: str) -> None:
    for words, command in _tree(name):
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"es {words}: {parameter.name} has no help"


@every_name
def test_every_help_can_be_shown(name: str) -> None:
    for words, command in _tree(name):
        shown = CliRunner().invoke(app, [*words.split(), "--help"])
        assert shown.exit_code == 0, (words, shown.output)
        for option in (o for parameter in command.params for o in parameter.opts if o.startswith("--")):
            assert option in shown.output, (words, option)


def test_the_root_help_names_every_group_and_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name, text in {**GROUPS, **COMMANDS}.items():
        assert re.search(rf"^\W*{name}\s", shown.output, re.MULTILINE), name
        assert text.split()[0] in shown.output


@pytest.mark.parametrize(
    "words", ["users list --limit", "projections parked list --limit", "ids next -n", "up --scale"]
)
def test_an_option_without_its_value_is_answered_by_the_help_of_its_command(words: str) -> None:
    shown = CliRunner().invoke(app, words.split())

    command, _, option = words.rpartition(" ")
    assert shown.exit_code == 2
    assert f"Option '{option}' requires an argument" in shown.output
    assert f"See `es {command} --help`" in shown.output.replace("root", "es")


def test_the_version_is_a_version() -> None:
    shown = CliRunner().invoke(app, ["--version"]).output
    assert re.fullmatch(r"es \d+\.\d+\.\d+\S*\n", shown)
    assert CliRunner().invoke(app, ["version"]).output == shown


@every_name
def test_every_command_has_an_example_that_can_be_typed(name: str) -> None:
    for words, command in _tree(name):
        example = shlex.split(command.epilog.removeprefix("Example: "))
        assert example[: len(words.split()) + 1] == ["es", *words.split()], words
        if not hasattr(command, "list_commands"):
            command.make_context(words, example[len(words.split()) + 1 :])  # it parses


@every_name
def test_no_value_is_named_after_its_type(name: str) -> None:
    for words, command in _tree(name):
        for parameter in command.params:
            assert parameter.metavar or parameter.is_flag, (words, parameter.name)
            assert parameter.metavar not in ("TEXT", "STR", "INTEGER"), (words, parameter.name)


def test_every_command_with_an_answer_takes_json() -> None:
    without = {
        words
        for name in NAMES
        for words, command in _tree(name)
        if not hasattr(command, "list_commands") and not _has(command, "--json")
    }
    # Logs are JSON lines already; a worker in the foreground prints no answer.
    assert without <= {"logs", "workers run", "help"}


def test_every_command_that_changes_something_takes_a_command_id() -> None:
    changing = {"users create", "users rename", "users change-email", "users delete", "gdpr erase"}
    found = dict(_tree("users") + _tree("gdpr"))
    assert {words for words in changing if _has(found[words], "--command-id")} == changing


# --- answers ---------------------------------------------------------------------------------

CHANGE = {"command_id", "user_id", "version", "position"}
USER = {"user_id", "email", "name", "status", "version", "registered_at", "updated_at"}
EVENT = {
    *("position", "stream", "version", "type", "time", "event_id", "command", "command_id"),
    *("correlation_id", "causation_id", "actor", "data"),
}
PROJECTION = {"projection", "generation", "state", "position", "head", "lag", "events", "parked"}


class InProcess:
    """Runs command lines in this process."""

    def __call__(self, line: str, stdin: bytes = b"") -> Ran:
        ran = CliRunner().invoke(app, line.split(), input=stdin)
        return Ran(line.split(), ran.exit_code, ran.stdout_bytes, ran.stderr_bytes)

    def object(self, line: str) -> dict[str, Any]:
        return self(f"{line} --json").ok().object

    def objects(self, line: str) -> list[dict[str, Any]]:
        return self(f"{line} --json").ok().objects


@pytest.fixture
def es(shared: System, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    return InProcess()


@pytest.fixture
def made(es: InProcess) -> dict[str, Any]:
    """The answer to the registration of a new user."""
    return es.object(f"users create --email {_new_email()} --name New")


def _new_email() -> str:
    return f"{uuid4().hex}@example.com"


def _is_time(text: str) -> bool:
    """Whether a text is a time of RFC 3339 in UTC."""
    return text.endswith("Z") and datetime.fromisoformat(text).utcoffset() is not None


def test_changes_answer_with_command_user_version_and_position(es: InProcess, made: dict[str, Any]) -> None:
    user_id = made["user_id"]
    changes = (f"rename {user_id} Other", f"change-email {user_id} {_new_email()}", f"delete {user_id}")
    answers = [made, *(es.object(f"users {change}") for change in changes)]
    for version, answer in enumerate(answers):
        assert answer.keys() == CHANGE
        assert (answer["user_id"], answer["version"]) == (user_id, version)
        assert isinstance(answer["position"], int)
        UUID(answer["command_id"])
    assert user_id.isdigit()
    assert len(set(command_ids(answers))) == len(answers)
    assert [a["position"] for a in answers] == sorted(a["position"] for a in answers)
    assert es.object(f"gdpr erase {user_id} --yes").keys() >= CHANGE


def test_a_user_has_the_same_fields_in_every_query(es: InProcess, made: dict[str, Any]) -> None:
    user_id = made["user_id"]
    got = es.object(f"users get {user_id}")
    assert got.keys() == USER
    assert got["user_id"] == user_id
    assert _is_time(got["registered_at"])
    assert _is_time(got["updated_at"])
    for option in ("--version 0", f"--at {got['registered_at']}", "--fresh", f"--after {made['position']}"):
        assert es.object(f"users get {user_id} {option}") == got
    assert es.object(f"users find --email {got['email']}") == got
    listed = f"users list --after {int(user_id) - 1} --limit"
    assert es.objects(f"{listed} 1") == [got]
    assert got in es.objects(f"{listed} 1000 --status active")
    assert got not in es.objects(f"{listed} 1000 --status deleted")


def test_an_event_has_the_same_fields_in_every_query(es: InProcess, made: dict[str, Any]) -> None:
    event = es.object(f"users history {made['user_id']}")
    assert event.keys() == EVENT
    assert (event["type"], event["command_id"]) == ("user-registered.v1", made["command_id"])
    assert _is_time(event["time"])
    stored = es.object(f"streams read user-{made['user_id']}")
    assert stored.keys() == EVENT
    assert stored["event_id"] == event["event_id"]
    assert stored in es.objects(f"events tail --from {made['position'] - 1} --no-follow --stream user-")
    assert es.objects(f"streams list --prefix {stored['stream']}") == [
        {"stream": stored["stream"], "version": 0}
    ]


def test_projections_have_the_documented_fields(es: InProcess) -> None:
    names = [found["projection"] for found in es.objects("projections list")]
    assert names == ["users", "registrations", "streams"]
    for state in es.objects("projections status"):
        assert state.keys() >= PROJECTION
    assert es.object("projections rebuild users")["state"] == "current"
    assert es.object("projections rebuild users --no-wait")["projection"] == "users"


def test_status_and_settings_have_their_fields(es: InProcess, shared: System) -> None:
    status = es.object("status")
    assert status.keys() >= {"pid", "home", "running", "workers", "projections"}
    for worker in status["workers"]:
        assert worker.keys() >= {"role", "instance", "pid", "state", "uptime_s", "restarts", "last_error"}
    settings = es.object("config show")
    assert settings["home"] == {"value": str(shared.home), "source": "ES_HOME"}
    assert all(setting.keys() == {"value", "source"} for setting in settings.values())


def test_ids_are_decimal_text_in_json(es: InProcess) -> None:
    drawn = es.objects("ids next -n 3")
    assert drawn
    for answer in drawn:
        for name in ("id", "first"):
            assert isinstance(answer.get(name, ""), str), answer


def test_ranges_of_ids_have_the_documented_fields(es: InProcess) -> None:
    parts = es.objects("ids next -n 100 --ranges")
    assert sum(int(part["count"]) for part in parts) == 100
    assert all(part.keys() == {"first", "step", "count"} for part in parts)


def test_an_id_is_decoded_into_its_time_and_lane(es: InProcess, made: dict[str, Any]) -> None:
    got = es.object(f"users get {made['user_id']}")
    decoded = es.object(f"ids decode {made['user_id']}")
    assert decoded["id"] == made["user_id"]
    drawn, stored = (datetime.fromisoformat(time) for time in (decoded["time"], got["registered_at"]))
    assert abs(stored - drawn) < timedelta(minutes=5), "the id may be drawn before its command"
    assert 0 <= int(decoded["lane"]) < 1024


def test_answers_without_json_are_plain_lines_in_a_pipe(es: InProcess, made: dict[str, Any]) -> None:
    user_id = made["user_id"]
    for line in (
        f"users get {user_id}",
        f"users list --after {int(user_id) - 1}",
        f"users history {user_id}",
        "projections status",
        "status",
        "config show",
        f"streams list --prefix user-{user_id}",
    ):
        shown = es(line).ok().out
        assert shown
        assert not re.search(r"[\x1b─│━┃]", shown), line
        assert shown == "".join(f"{line.rstrip(' ')}\n" for line in shown.splitlines())


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("users get abc", 2),
        ("users get 5", 3),
        ("users rename 5 X", 3),
        ("users create --email x --name X", 2),
        ("users create", 2),
        ("users count --status odd", 2),
        ("users count --status users", 2),
        ("users count --by-day --status odd", 2),
        ("gdpr erase 5", 2),
        ("projections rebuild nonsense", 3),
        ("streams read nonsense", 3),
    ],
)
def test_errors_go_to_standard_error_with_their_exit_code(es: InProcess, line: str, code: int) -> None:
    plain, as_json = es(line), es(f"{line} --json")

    assert plain.failed(code).out == ""
    assert plain.err.startswith("error: ")
    assert (as_json.code, as_json.out) == (code, "")
    assert json.loads(as_json.err)["error"] == as_json.error


def test_a_refused_command_ends_with_1_and_a_refused_line_too(es: InProcess) -> None:
    email = _new_email()
    assert [es(f"users create --email {email} --name X").code for _ in range(2)] == [0, 1]
    bulk = es("users create --from -", stdin=b"\n" + ndjson([{"email": email, "name": "X"}]))
    assert bulk.code == 1
    assert bulk.object.keys() == {"line", "command_id", "error"}
    assert bulk.object["line"] == 2, "blank lines are counted"


def test_a_bulk_answers_line_by_line_in_one_process(es: InProcess) -> None:
    inputs = people(20, prefix="inprocess")
    answers = es("users create --from -", stdin=ndjson(inputs)).ok().objects
    assert command_ids(answers) == command_ids(inputs)
    assert all(answer.keys() == CHANGE for answer in answers)


def test_with_debug_an_error_is_raised_with_its_traceback(shared: System) -> None:
    ran = shared.es("--debug", "users", "get", "abc")
    assert ran.code != 0
    assert "Traceback" in ran.err


# --- completion ------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@no_request_is_sent
def test_bash_accepts_the_completion_script(system: System) -> None:
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
        (
            "es users ",
            {"create", "get", "list", "count", "find", "rename", "change-email", "delete", "history"},
        ),
        ("es users cr", {"create"}),
        ("es projections re", {"rebuild"}),
        ("es users create --na", {"--name"}),
        ("es workers run pro", {"processes", "projections"}),
        ("es help st", {"streams", "status"}),
        ("es help users re", {"rename"}),
        ("es logs su", {"supervisor"}),
        ("es users list --status ", {"active", "deleted", "erased"}),
        ("es projections rebuild ", {"users", "registrations", "streams"}),
        ("es projections status us", {"users"}),
        ("es dead show us", {"users"}),
        ("es up --scale us", {"users="}),
        ("es events tail --type user-re", {"user-registered.v1", "user-renamed.v1"}),
        ("es streams read us", {"user-"}),
    ],
)
@no_request_is_sent
def test_groups_commands_options_and_roles_are_completed(
    system: System, words: str, offered: set[str]
) -> None:
    request = {"_ES_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert set(system.es(environment=request).ok().out.split()) == offered
    assert system.processes() == []
