"""Bad input gets the right exit code, one line with the error and one with a hint; all other input takes effect."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from domain.kernel.messages import INPUT_DEPTH
from tests.support.people import confirmed, ndjson, people
from tests.support.runs import Ran
from tests.support.system import System

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

no_request_is_sent = pytest.mark.over("embedded", because="no request is sent")

UNKNOWN_ID = "123"
HUGE = "9" * 30
NOT_IDS = ("0", "-1", str(2**64), str(2**63), "1e18", "abc", "", " 5", "٣", "0x10", "1_000")


@pytest.mark.parametrize(
    ("email", "name", "said"),
    [
        ("", "Ada", "email is empty"),
        ("   ", "Ada", "email is empty"),
        ("ada@example.com", "", "name is empty"),
        ("ada@example.com", "x" * 201, "name is longer than 200 characters"),
        ("a" * 250 + "@example.com", "Ada", "email is longer than 254 characters"),
        ("a" * 65 + "@example.com", "Ada", "64 characters before the @"),
        ("ada@example.com", "x" * 120_000, "name is longer than 200 characters"),
        ("ada@example.com", "two\nlines", "control"),
        ("ada@example.com", "tab\tbed", "control"),
        ("ada@example.com", "bell\x07", "control"),
        ("ada@example.com", "turned\u202eround", "control"),
        ("ada\x7f@example.com", "Ada", "control"),
        ("nobody", "Ada", "not an e-mail address"),
        ("@example.com", "Ada", "not an e-mail address"),
        ("ada@", "Ada", "not an e-mail address"),
        ("ada@example", "Ada", "not an e-mail address"),
        ("a b@example.com", "Ada", "not an e-mail address"),
        ("a@b@example.com", "Ada", "not an e-mail address"),
        ("ada@example..com", "Ada", "not an e-mail address"),
        (b"ad\xff@example.com", "Ada", "not text"),
        ("ada@example.com", b"\xed\xa0\x80", "not text"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_user_with_an_invalid_field_is_refused(
    shared: System, email: str | bytes, name: str | bytes, said: str
) -> None:
    refused = shared.register(email, name).failed(2)
    assert (said in refused.err, refused.out) == (True, ""), refused


def test_the_longest_allowed_values_are_stored_completely(shared: System) -> None:
    email = "a" * 64 + "@" + ".".join(["b" * 61] * 3) + ".com"
    name = "ß" * 200
    user = shared.get(shared.register(email, name).ok().out.strip())
    assert (user["email"], user["name"]) == (email, name)


@pytest.mark.parametrize("not_an_id", NOT_IDS, ids=repr)
def test_text_that_is_no_id_is_invalid_and_not_unknown(shared: System, not_an_id: str) -> None:
    assert "not an id" in shared.es("users", "get", "--", not_an_id).failed(2).err


@pytest.mark.parametrize("command", ["users history", "users delete", "gdpr erase --yes"])
def test_every_command_on_a_user_separates_bad_ids_from_unknown_ones(shared: System, command: str) -> None:
    shared.es(*command.split(), "--", "1e18").failed(2)
    assert UNKNOWN_ID in shared.es(*command.split(), UNKNOWN_ID).failed(3).err


def test_commands_on_unknown_things_are_not_found(shared: System) -> None:
    for command in (
        f"users rename {UNKNOWN_ID} Nobody",
        f"users change-email {UNKNOWN_ID} nobody@example.com",
        f"users get {UNKNOWN_ID}",
        "users find --email unknown@example.com",
        "streams read user-123",
        "projections rebuild nonsense",
    ):
        assert shared.es(*command.split()).failed(3).out == "", command
    # The failed change must not keep its claim.
    assert shared.get(shared.create("nobody@example.com", "Heir"))["email"] == "nobody@example.com"


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "users create --name 'No Address'",
        "users create --email x@example.com",
        "users create --from - --name Both",
        "users create --from /does/not/exist",
        "users create --from /",
        "users create --email x@example.com --name X --command-id nonsense",
        f"users rename {UNKNOWN_ID}",
        f"users get {UNKNOWN_ID} --at yesterday",
        "logs nonsense",
        "logs ../../etc/passwd",
        "up --scale users",
        "up --scale users=0",
        "up --scale users=²",
        "up --scale nonsense=2",
    ],
)
@no_request_is_sent
def test_wrong_arguments_are_an_error_of_two_lines(shared: System, command: str) -> None:
    nowhere = {"ES_AUTOSTART": "0", "ES_HOME": str(shared.root / "nowhere")}
    assert shared.es(*shlex.split(command), environment=nowhere).failed(2).out == ""


@pytest.mark.parametrize(
    "command",
    [
        "users list --status nonsense",
        "users list --after nonsense",
        f"users get {UNKNOWN_ID} --after -5",
        f"users get {UNKNOWN_ID} --after {HUGE}",
        f"users get {UNKNOWN_ID} --after {'9' * 15}",
        f"users get {UNKNOWN_ID} --version {HUGE}",
        "users find --email nonsense",
        f"streams read user-1 --from {HUGE}",
        f"events tail --no-follow --from {HUGE}",
    ],
)
def test_arguments_that_a_worker_refuses_are_an_error_of_two_lines(shared: System, command: str) -> None:
    assert shared.es(*command.split()).failed(2).out == ""


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "users nonsense",
        "users get",
        f"users get {UNKNOWN_ID} --nonsense",
        f"users get {UNKNOWN_ID} extra",
        "users list --limit 0",
        "users list --limit many",
        "users get -1",
        "workers run",
        "workers run nonsense",
    ],
)
@no_request_is_sent
def test_wrong_usage_ends_with_2_and_names_the_help(shared: System, command: str) -> None:
    ran = shared.es(*command.split()).without_traceback()
    assert (ran.code, ran.out) == (2, "")
    assert "--help" in ran.err


# --- with --json -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "name"),
    [
        ("users get abc", 2, "invalid-input"),
        (f"users get {UNKNOWN_ID}", 3, "user-not-found"),
        (f"users rename {UNKNOWN_ID} X", 3, "user-not-found"),
        ("users create --email x --name X", 2, "invalid-input"),
        ("users create --email x@example.com --name X --command-id x", 2, "invalid-input"),
        ("projections status nonsense", 3, "projection-not-found"),
        ("streams read nonsense", 3, "stream-not-found"),
        (f"gdpr erase {UNKNOWN_ID}", 2, "invalid-input"),
    ],
)
def test_with_json_an_error_is_an_object(shared: System, command: str, code: int, name: str) -> None:
    ran = shared.es(*command.split(), "--json").without_traceback().refused(name, code)
    assert (ran.out, len(ran.err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    "command", ["users get", f"users get {UNKNOWN_ID} --nonsense", "users list --limit 0"]
)
@no_request_is_sent
def test_with_json_wrong_usage_is_an_object_too(shared: System, command: str) -> None:
    ran = shared.es(*command.split(), "--json").without_traceback()
    assert (ran.code, json.loads(ran.err)["error"]) == (2, ran.error)


def test_a_value_like_the_json_flag_does_not_change_the_form_of_errors(shared: System) -> None:
    assert shared.es("users", "rename", "--", UNKNOWN_ID, "--json").failed(3).err.startswith("error: ")


def test_an_error_carries_the_given_command_id(shared: System) -> None:
    command_id = people(1, prefix="shown")[0]["command_id"]
    ran = shared.es("users", "rename", UNKNOWN_ID, "X", "--json", "--command-id", command_id)
    assert json.loads(ran.err)["command_id"] == command_id


# --- standard input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe\n", b"\xed\xa0\x80@example.com\n", b"a\x00b@example.com\n", b"", b"\n"]
)
def test_standard_input_without_an_address_is_invalid(shared: System, raw: bytes) -> None:
    ran = shared.es("users", "create", "--email", "-", "--name", "Ada", stdin=raw).failed(2)
    assert "email" in ran.err or "standard input" in ran.err


def test_two_megabytes_instead_of_an_address_are_invalid(shared: System) -> None:
    ran = shared.es("users", "create", "--email", "-", "--name", "Ada", stdin=b"x" * 2_000_000).failed(2)
    assert "email" in ran.err


# --- a bad line of a bulk fails alone --------------------------------------------------------

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "broken JSON": (b'{"email": ', "JSON"),
    "text": (b"hello", "JSON"),
    "array": (b"[]", "object"),
    "null": (b"null", "object"),
    "number": (b"1e999", "object"),
    "missing field": (b'{"email":"m@example.com"}', "missing"),
    "unknown field": (b'{"email":"m@example.com","name":"M","admin":true}', "unknown field"),
    "number as address": (b'{"email":5,"name":"M"}', "must be text"),
    "null as name": (b'{"email":"m@example.com","name":null}', "must be text"),
    "object as name": (b'{"email":"m@example.com","name":{"a":1}}', "must be text"),
    "boolean as name": (b'{"email":"m@example.com","name":true}', "must be text"),
    "empty name": (b'{"email":"m@example.com","name":""}', "empty"),
    "bad address": (b'{"email":"m","name":"M"}', "e-mail address"),
    "over-long name": (b'{"email":"m@example.com","name":"' + b"x" * 201 + b'"}', "200"),
    "escaped control character": (b'{"email":"m@example.com","name":"a\\u0000b"}', "control"),
    "raw control character": (b'{"email":"m@example.com","name":"a\tb"}', "JSON"),
    "lone surrogate": (b'{"email":"m@example.com","name":"\\ud800"}', "surrogate"),
    "lone surrogate in the address": (b'{"email":"\\udfff@example.com","name":"M"}', "surrogate"),
    "lone surrogate as a field's name": (
        b'{"email":"m@example.com","name":"M","\\ud800":1}',
        "unknown field",
    ),
    "lone surrogate as command id": (b'{"email":"m@example.com","name":"M","command_id":"\\ud800"}', "UUID"),
    "command id that is no UUID": (b'{"email":"m@example.com","name":"M","command_id":"x"}', "UUID"),
    "number as command id": (b'{"email":"m@example.com","name":"M","command_id":5}', "UUID"),
    "invalid UTF-8": (b'{"email":"m@example.com","name":"\xff\xfe"}', "UTF-8"),
    "UTF-8 of a surrogate": (b'{"email":"m@example.com","name":"\xed\xa0\x80"}', ""),
    "UTF-16": ('{"email":"m@example.com","name":"M"}'.encode("utf-16"), ""),
    "deep nesting": (b"[" * 30_000 + b"]" * 30_000, "nested"),
    **{
        f"nesting of {levels} in a field": (
            b'{"email":"m@example.com","name":' + b"[" * levels + b"]" * levels + b"}",
            "nested" if levels >= INPUT_DEPTH else "must be text",
        )
        # From the allowed depth through those at which parsers of Python give up.
        for levels in (INPUT_DEPTH - 1, INPUT_DEPTH, 31, 900, *range(980, 996))
    },
    "a number of 6000 digits": (b'{"email":"m@example.com","name":' + b"9" * 6000 + b"}", ""),
    "not a number": (b'{"email":"m@example.com","name":NaN}', ""),
    "60 kB": (b'{"email":"m@example.com","name":"' + b"x" * 60_000 + b'"}', "200"),
    "2 MB": (b'{"email":"m@example.com","name":"' + b"x" * 2_000_000 + b'"}', "64 KiB"),
}


def _create_from(system: System, stdin: bytes) -> Ran:
    return system.es("users", "create", "--from", "-", stdin=stdin).without_traceback()


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda name: name.replace(" ", "-"))
def test_a_bad_line_gets_its_error_and_the_others_take_effect(shared: System, bad: str) -> None:
    line, said = BAD_LINES[bad]
    before, after = people(2, prefix=f"around-{list(BAD_LINES).index(bad)}-")
    ran = _create_from(shared, ndjson([before]) + line + b"\n" + ndjson([after]))

    assert ran.code == 2, ran
    first, wrong, last = ran.objects
    assert confirmed([first, last]).keys() == {before["command_id"], after["command_id"]}
    assert wrong["error"]["code"] in ("invalid-input", "line-too-long")
    assert said in wrong["error"]["message"]
    assert wrong["error"]["hint"]


def test_all_bad_lines_at_once_do_not_affect_the_others(shared: System) -> None:
    good = people(len(BAD_LINES), prefix="whole")
    pairs = zip(good, BAD_LINES.values(), strict=True)
    ran = _create_from(shared, b"".join(ndjson([person]) + line + b"\n\n" for person, (line, _) in pairs))

    assert len(ran.objects) == 2 * len(BAD_LINES)
    assert ["error" in answer for answer in ran.objects] == [False, True] * len(BAD_LINES)
    assert ran.objects[::2] == shared.bulk("create", good).ok().objects


def test_a_last_line_without_a_line_feed_counts(shared: System) -> None:
    assert len(_create_from(shared, ndjson(people(1, prefix="unended")).rstrip()).ok().objects) == 1


def test_empty_input_is_no_work(shared: System) -> None:
    for nothing in (b"", b"\n\n", b" \t\n"):
        assert _create_from(shared, nothing).ok().out == ""


def test_bulk_changes_accept_ids_as_text_and_refuse_others_by_line(shared: System) -> None:
    ids = [shared.create(f"bulk-change-{n}@example.com", "Before") for n in range(2)]
    given = [ids[0], UNKNOWN_ID, "1e18", -1, 2**64, None, ids[1]]
    lines: list[Mapping[str, Any]] = [{"user_id": user_id, "name": "After"} for user_id in given]
    ran = shared.bulk("rename", lines).without_traceback()

    codes = [answer.get("error", {}).get("code", "done") for answer in ran.objects]
    assert codes == ["done", "user-not-found", *["invalid-input"] * 4, "done"]
    assert ran.code in (2, 3)
    assert [shared.get(user_id)["name"] for user_id in ids] == ["After", "After"]
