"""Bad input: the right exit code, one line that says what is wrong, one that says what to do, and nothing lost."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.conftest import System, confirmed, ndjson, people

nothing_is_asked = pytest.mark.over("embedded", because="nothing is asked")

UNKNOWN_ID = "123"
NOT_IDS = (
    "0",
    "-1",
    "18446744073709551616",
    "9223372036854775808",
    "1e18",
    "abc",
    "",
    " 5",
    "٣",
    "0x10",
    "1_000",
)


def _create(system: System, email: str | bytes, name: str | bytes) -> tuple[str | bytes, ...]:
    return ("users", "create", "--email", email, "--name", name)


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
def test_a_user_that_cannot_be_is_refused_as_invalid(
    shared: System, email: str | bytes, name: str | bytes, said: str
) -> None:
    refused = shared.es(*_create(shared, email, name)).failed(2)
    assert said in refused.err
    assert refused.out == ""


def test_longest_values_that_are_allowed_are_stored_whole(shared: System) -> None:
    email = "a" * 64 + "@" + ".".join(["b" * 61] * 3) + ".com"
    name = "ß" * 200
    user = shared.get(shared.es(*_create(shared, email, name)).ok().out.strip())
    assert (user["email"], user["name"]) == (email, name)


@pytest.mark.parametrize("not_an_id", NOT_IDS, ids=repr)
def test_what_is_not_an_id_is_invalid_and_not_merely_unknown(shared: System, not_an_id: str) -> None:
    assert "not an id" in shared.es("users", "get", "--", not_an_id).failed(2).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "history"),
        ("users", "delete"),
        ("gdpr", "erase", "--yes"),
    ],
    ids=" ".join,
)
def test_every_command_on_a_user_tells_bad_ids_from_unknown_ones(
    shared: System, arguments: tuple[str, ...]
) -> None:
    shared.es(*arguments, "--", "1e18").failed(2)
    unknown = shared.es(*arguments, UNKNOWN_ID).failed(3)
    assert UNKNOWN_ID in unknown.err


def test_changes_of_an_unknown_user_are_not_found(shared: System) -> None:
    shared.es("users", "rename", UNKNOWN_ID, "Nobody").failed(3)
    shared.es("users", "change-email", UNKNOWN_ID, "nobody@example.com").failed(3)
    shared.es("users", "get", UNKNOWN_ID).failed(3)
    shared.es("users", "find", "--email", "unknown@example.com").failed(3)
    shared.es("streams", "read", "user-123").failed(3)
    shared.es("projections", "rebuild", "nonsense").failed(3)
    # The address of a change that failed is not taken.
    shared.create("nobody@example.com", "Somebody")


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "create", "--name", "No Address"),
        ("users", "create", "--email", "x@example.com"),
        ("users", "create", "--from", "-", "--name", "Both"),
        ("users", "create", "--from", "/does/not/exist"),
        ("users", "create", "--from", "/"),
        ("users", "create", "--email", "x@example.com", "--name", "X", "--command-id", "nonsense"),
        ("users", "rename", UNKNOWN_ID),
        ("users", "get", UNKNOWN_ID, "--at", "yesterday"),
        ("logs", "nonsense"),
        ("logs", "../../etc/passwd"),
        ("up", "--scale", "users"),
        ("up", "--scale", "users=0"),
        ("up", "--scale", "users=²"),
        ("up", "--scale", "nonsense=2"),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
@nothing_is_asked
def test_wrong_arguments_are_an_error_of_two_lines(shared: System, arguments: tuple[str, ...]) -> None:
    ran = shared.es(*arguments, environment={"ES_AUTOSTART": "0", "ES_HOME": str(shared.root / "nobody")})
    assert ran.failed(2).out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "list", "--status", "nonsense"),
        ("users", "list", "--after", "nonsense"),
        ("users", "get", UNKNOWN_ID, "--after", "-5"),
        ("users", "get", UNKNOWN_ID, "--after", "9" * 30),
        ("users", "get", UNKNOWN_ID, "--after", "9" * 15),
        ("users", "get", UNKNOWN_ID, "--version", "9" * 30),
        ("users", "find", "--email", "nonsense"),
        ("streams", "read", "user-1", "--from", "9" * 30),
        ("events", "tail", "--no-follow", "--from", "9" * 30),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_wrong_arguments_that_a_worker_refuses_are_an_error_of_two_lines(
    shared: System, arguments: tuple[str, ...]
) -> None:
    ran = shared.es(*arguments)
    assert ran.failed(2).out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("users", "nonsense"),
        ("users", "get"),
        ("users", "get", UNKNOWN_ID, "--nonsense"),
        ("users", "get", UNKNOWN_ID, "extra"),
        ("users", "list", "--limit", "0"),
        ("users", "list", "--limit", "many"),
        ("users", "get", "-1"),
        ("workers", "run"),
        ("workers", "run", "nonsense"),
    ],
    ids=" ".join,
)
@nothing_is_asked
def test_wrong_usage_ends_with_2_and_points_to_the_help(shared: System, arguments: tuple[str, ...]) -> None:
    ran = shared.es(*arguments).without_traceback()
    assert (ran.code, ran.out) == (2, "")
    assert "--help" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("users", "get", "abc"), 2, "invalid-input"),
        (("users", "get", UNKNOWN_ID), 3, "user-not-found"),
        (("users", "rename", UNKNOWN_ID, "X"), 3, "user-not-found"),
        (("users", "create", "--email", "x", "--name", "X"), 2, "invalid-input"),
        (
            ("users", "create", "--email", "x@example.com", "--name", "X", "--command-id", "x"),
            2,
            "invalid-input",
        ),
        (("projections", "status", "nonsense"), 3, "projection-not-found"),
        (("streams", "read", "nonsense"), 3, "stream-not-found"),
        (("gdpr", "erase", UNKNOWN_ID), 2, "invalid-input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_with_json_an_error_is_an_object(
    shared: System, arguments: tuple[str, ...], code: int, name: str
) -> None:
    ran = shared.es(*arguments, "--json").without_traceback()
    assert (ran.code, ran.error["code"], ran.out) == (code, name, ""), ran
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [("users", "get"), ("users", "get", UNKNOWN_ID, "--nonsense"), ("users", "list", "--limit", "0")],
    ids=" ".join,
)
@nothing_is_asked
def test_with_json_wrong_usage_is_an_object_too(shared: System, arguments: tuple[str, ...]) -> None:
    ran = shared.es(*arguments, "--json").without_traceback()
    assert ran.code == 2
    assert set(json.loads(ran.err)["error"]) == {"code", "message", "hint"}, ran


def test_a_value_that_looks_like_the_json_flag_does_not_change_how_errors_look(shared: System) -> None:
    ran = shared.es("users", "rename", "--", UNKNOWN_ID, "--json")
    assert ran.failed(3).err.startswith("error: ")


def test_an_error_carries_the_command_id_that_was_given(shared: System) -> None:
    command_id = people(1, prefix="shown")[0]["command_id"]
    ran = shared.es("users", "rename", UNKNOWN_ID, "X", "--json", "--command-id", command_id)
    assert json.loads(ran.err)["command_id"] == command_id


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe\n", b"\xed\xa0\x80@example.com\n", b"a\x00b@example.com\n", b"", b"\n"]
)
def test_standard_input_that_is_no_address_is_invalid(shared: System, raw: bytes) -> None:
    ran = shared.es("users", "create", "--email", "-", "--name", "Ada", stdin=raw).failed(2)
    assert "email" in ran.err or "standard input" in ran.err


def test_two_megabytes_instead_of_an_address_are_invalid(shared: System) -> None:
    ran = shared.es("users", "create", "--email", "-", "--name", "Ada", stdin=b"x" * 2_000_000).failed(2)
    assert "email" in ran.err


# --- bulk: a bad line has an error in its place, the rest goes on -----------------------------------

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "broken JSON": (b'{"email": ', "JSON"),
    "text": (b"hello", "JSON"),
    "array": (b"[]", "object"),
    "null": (b"null", "object"),
    "number": (b"1e999", "object"),
    "missing field": (b'{"email":"m@example.com"}', "missing"),
    "unknown field": (b'{"email":"m@example.com","name":"M","admin":true}', "not known"),
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
    "lone surrogate as a field's name": (b'{"email":"m@example.com","name":"M","\\ud800":1}', "not known"),
    "lone surrogate as command id": (b'{"email":"m@example.com","name":"M","command_id":"\\ud800"}', "UUID"),
    "command id that is no UUID": (b'{"email":"m@example.com","name":"M","command_id":"x"}', "UUID"),
    "number as command id": (b'{"email":"m@example.com","name":"M","command_id":5}', "UUID"),
    "invalid UTF-8": (b'{"email":"m@example.com","name":"\xff\xfe"}', "UTF-8"),
    "UTF-8 of a surrogate": (b'{"email":"m@example.com","name":"\xed\xa0\x80"}', ""),
    "UTF-16": ('{"email":"m@example.com","name":"M"}'.encode("utf-16"), ""),
    "deep nesting": (b"[" * 30_000 + b"]" * 30_000, "JSON"),
    "deep nesting in a field": (b'{"email":"m@example.com","name":' + b"[" * 900 + b"]" * 900 + b"}", ""),
    "a number of 6000 digits": (b'{"email":"m@example.com","name":' + b"9" * 6000 + b"}", ""),
    "not a number": (b'{"email":"m@example.com","name":NaN}', ""),
    "60 kB": (b'{"email":"m@example.com","name":"' + b"x" * 60_000 + b'"}', "200"),
    "2 MB": (b'{"email":"m@example.com","name":"' + b"x" * 2_000_000 + b'"}', "64 KiB"),
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda name: name.replace(" ", "-"))
def test_a_bad_line_has_its_error_in_its_place_and_the_rest_goes_on(shared: System, bad: str) -> None:
    line, said = BAD_LINES[bad]
    before, after = people(2, prefix=f"around-{list(BAD_LINES).index(bad)}-")
    ran = shared.es(
        "users", "create", "--from", "-", stdin=ndjson([before]) + line + b"\n" + ndjson([after])
    ).without_traceback()

    assert ran.code == 2, ran
    first, wrong, last = ran.objects
    assert confirmed([first, last]).keys() == {before["command_id"], after["command_id"]}
    assert wrong["error"]["code"] in ("invalid-input", "line-too-long")
    assert said in wrong["error"]["message"]
    assert wrong["error"]["hint"]


def test_all_bad_lines_at_once_leave_everything_else_whole(shared: System) -> None:
    good = people(len(BAD_LINES), prefix="whole")
    mixed = b"".join(
        ndjson([person]) + line + b"\n\n" for person, (line, _) in zip(good, BAD_LINES.values(), strict=True)
    )
    ran = shared.es("users", "create", "--from", "-", stdin=mixed).without_traceback()

    assert len(ran.objects) == 2 * len(BAD_LINES)
    assert ["error" in answer for answer in ran.objects] == [False, True] * len(BAD_LINES)
    assert ran.objects[::2] == shared.bulk("create", good).ok().objects


def test_a_last_line_without_a_line_feed_counts(shared: System) -> None:
    (person,) = people(1, prefix="unended")
    assert len(shared.es("users", "create", "--from", "-", stdin=ndjson([person]).rstrip()).ok().objects) == 1


def test_no_input_is_no_work(shared: System) -> None:
    for nothing in (b"", b"\n\n", b" \t\n"):
        assert shared.es("users", "create", "--from", "-", stdin=nothing).ok().out == ""


def test_bulk_changes_take_ids_as_text_and_refuse_the_rest_by_line(shared: System) -> None:
    ids = [shared.create(f"bulk-change-{n}@example.com", "Before") for n in range(2)]
    lines = [
        {"user_id": ids[0], "name": "After"},
        {"user_id": UNKNOWN_ID, "name": "After"},
        {"user_id": "1e18", "name": "After"},
        {"user_id": -1, "name": "After"},
        {"user_id": 2**64, "name": "After"},
        {"user_id": None, "name": "After"},
        {"user_id": ids[1], "name": "After"},
    ]
    ran = shared.bulk("rename", lines).without_traceback()

    codes = [answer.get("error", {}).get("code", "done") for answer in ran.objects]
    assert codes == ["done", "user-not-found", *["invalid-input"] * 4, "done"]
    assert ran.code in (2, 3)
    assert [shared.get(user_id)["name"] for user_id in ids] == ["After", "After"]
