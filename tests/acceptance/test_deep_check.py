"""`es doctor --deep`: damage in every store is named, and a sound system has none, also while it works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.support import effort
from tests.support.people import people
from tests.support.postgres import copied_tables, execute
from tests.support.processes import start_python
from tests.support.profiles import Profile, a_system
from tests.support.runs import Ran
from tests.support.system import System
from tests.support.waiting import DEADLINE_S

_FLIP = """
import sys
import apsw
path, select, number = sys.argv[1:]
connection = apsw.Connection(path)
(value,) = connection.execute(select).fetchone()
connection.close()
value = value.encode() if isinstance(value, str) else value
content = bytearray(open(path, "rb").read())
at = -1
for _ in range(int(number) + 1):
    at = content.index(value, at + 1)
content[at + len(value) // 2] ^= 1
open(path, "r+b").write(content)
"""


def flip_a_bit(system: System, file: str, select: str, number: int = 0) -> None:
    """Flip a bit of a selected value where it is in the file for the `number`-th time. Nothing runs."""
    arguments = [str(system.home / file), select, str(number)]
    said = start_python(_FLIP, *arguments).communicate(timeout=DEADLINE_S)
    assert said == ("", "")


def found(ran: Ran) -> list[tuple[str, str]]:
    """Part and detail of every problem of what is stored: not that no workers run."""
    problems = [each for each in ran.objects if each["state"] == "failed" and each["part"] != "workers"]
    return [(each["part"], each["detail"]) for each in problems]


def deep(system: System) -> Ran:
    return system.es("doctor", "--deep", "--json").without_traceback()


def with_users(system: System) -> list[str]:
    """A stopped system with users in every state, whose read model is complete; the ids of the active ones."""
    answers = system.up().bulk("create", people(12)).ok().objects
    ids = [answer["user_id"] for answer in answers]
    system.es("users", "change-email", ids[0], "changed@example.com").ok()
    system.es("users", "rename", ids[1], "Renamed").ok()
    system.es("users", "delete", ids[2]).ok()
    system.erase(ids[3])
    system.erase(ids[2])
    system.caught_up()
    system.es("down").ok()
    return [ids[0], ids[1], *ids[4:]]


@pytest.fixture(scope="module")
def sound(profile: Profile, request: pytest.FixtureRequest) -> Iterator[tuple[System, list[str]]]:
    """A stopped system, and the ids of its active users."""
    with a_system(profile, request) as made:
        yield made, with_users(made)


@pytest.fixture
def stopped(sound: tuple[System, list[str]]) -> Iterator[tuple[System, list[str]]]:
    """The same. What a test changes in it is put back."""
    system, active = sound
    copy = system.root / "copy"
    with ExitStack() as ending:
        if url := system.environment.get("ES_VAULT"):
            for part in ("vault", "read_models"):
                ending.callback(ending.enter_context(copied_tables(url, part)))
        shutil.copytree(system.home, copy)
        yield system, active
        shutil.rmtree(system.home)
        copy.rename(system.home)


def test_a_sound_system_has_no_finding_and_the_counts_are_said(system: System) -> None:
    with_users(system)

    ran = deep(system.up()).ok()

    assert found(ran) == []
    (said,) = (each["detail"] for each in ran.objects if each["part"] == "deep check")
    streams = system.es("streams", "count").ok().out.strip()
    days = len(system.es("users", "count", "--by-day", "--json").ok().objects)
    counted = days + 2  # registrations has a row for each user who is not active as well
    assert f"12 users, 12 keys and {12 + int(streams) + counted} rows were compared" in said
    assert "compared everything" in ran.err, "the progress is on standard error"


def test_what_workers_change_meanwhile_is_no_finding(running: System) -> None:
    inputs = people(effort.sized(800, 3000))
    bulk = running.start_bulk("create", inputs)
    checked = 0
    while bulk.process.poll() is None or checked == 0:
        assert found(deep(running).ok()) == []
        checked += 1
    bulk.end().ok()


_PERSON = "FROM events WHERE type = 'user-registered.v1' ORDER BY position DESC LIMIT 1"
_LAST = "ORDER BY 1 DESC LIMIT 1"


@pytest.mark.over("embedded", because="it flips bits in the files of SQLite")
@pytest.mark.parametrize(
    ("file", "select", "number", "part"),
    [
        ("vault.db", "SELECT tag FROM claim_tags", 0, "vault"),
        ("vault.db", "SELECT claim FROM claim_tags", 0, "vault"),
        ("vault.db", "SELECT wrapped FROM bucket_keys WHERE bucket = 4096", 0, "vault"),
        ("vault.db", "SELECT wrapped FROM bucket_keys JOIN claim_tags USING (bucket)", 0, "vault"),
        ("vault.db", "SELECT command_id FROM email_claims", 0, "vault"),
        ("vault.db", "SELECT reservation_id FROM email_claims", 0, "vault"),
        ("vault.db", "SELECT wrapped FROM data_keys WHERE NOT destroyed", 0, "vault"),
        ("vault.db", "SELECT wrapped FROM secrets", 0, "vault"),
        ("events.db", f"SELECT data {_PERSON}", 0, "event store"),
        ("events.db", f"SELECT event_id {_PERSON}", 0, "event store"),
        ("events.db", f"SELECT json_extract(data, '$.name') {_PERSON}", 0, "event store"),
        ("events.db", f"SELECT json_extract(metadata, '$.command_id') {_PERSON}", 0, "event store"),
        ("events.db", "SELECT stream FROM events ORDER BY position DESC LIMIT 1", 0, "event store"),
        ("events.db", "SELECT 'user-renamed.v1'", 0, "event store"),
        (
            "read.db",
            "SELECT name FROM users_g1 WHERE name IS NOT NULL ORDER BY 1 DESC LIMIT 1",
            0,
            "read models",
        ),
        ("read.db", "SELECT 'erased'", 0, "read models"),
    ],
)
def test_a_flipped_bit_is_found(
    stopped: tuple[System, list[str]], file: str, select: str, number: int, part: str
) -> None:
    system, _ = stopped
    flip_a_bit(system, file, select, number)

    ran = deep(system)

    assert part in [name for name, _ in found(ran)], ran
    assert ran.code == (4 if "secrets" in select else 5), "a damaged secret looks like a wrong key"


@pytest.mark.over("distributed", because="it changes rows of PostgreSQL")
@pytest.mark.parametrize(
    ("table", "change", "part"),
    [
        ("vault.email_claims", "tag = set_byte(tag, 0, get_byte(tag, 0) # 1)", "vault"),
        ("vault.data_keys", "wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)", "vault"),
        ("vault.data_keys", "destroyed = NOT destroyed", "vault"),
        ("read_models.users_g1", "name = overlay(name placing '!' from 60)", "read models"),
        ("read_models.users_g1", "user_id = user_id + 1", "read models"),
    ],
)
def test_a_changed_row_of_postgresql_is_found(
    stopped: tuple[System, list[str]], table: str, change: str, part: str
) -> None:
    system, active = stopped
    url = system.environment["ES_VAULT"]
    schema = url.rpartition("schema=")[2]
    key = "subject" if part == "vault" else "user_id"
    assert urlsplit(url).scheme
    execute(url, f"UPDATE {schema}_{table} SET {change} WHERE {key} = {active[-1]}")

    ran = deep(system)

    assert ran.code == 5, ran
    assert [name for name, _ in found(ran)][:1] == [part]
    assert active[-1] in json.dumps(ran.objects)


def change(system: System, part: str, statement: str) -> None:
    """Change what a part has stored, in a consistent way: an index agrees with its table afterwards."""
    url = system.environment.get({"vault": "ES_VAULT", "read models": "ES_DATABASE"}.get(part, ""), "")
    if url:
        schema = url.rpartition("schema=")[2]
        execute(url, statement.replace("TABLE ", f"{schema}_{part.replace(' ', '_')}."))
        return
    file = {"vault": "vault.db", "read models": "read.db"}.get(part, "events.db")
    code = "import apsw, sys; apsw.Connection(sys.argv[1]).execute(sys.argv[2])"
    arguments = (str(system.home / file), statement.replace("TABLE ", ""))
    assert start_python(code, *arguments).communicate(timeout=DEADLINE_S) == ("", "")


@pytest.mark.parametrize(
    ("part", "statement", "said"),
    [
        ("vault", "DELETE FROM TABLE email_claims WHERE subject = {id}", "has no claim"),
        ("vault", "DELETE FROM TABLE data_keys WHERE subject = {id}", "has no usable data key"),
        ("vault", "UPDATE TABLE email_claims SET subject = 77 WHERE subject = {id}", "user 77 has a claim"),
        ("read models", "DELETE FROM TABLE users_g1 WHERE user_id = {id}", "row {id} of users"),
        ("read models", "UPDATE TABLE users_g1 SET version = 9 WHERE user_id = {id}", "row {id} of users"),
    ],
)
def test_parts_that_contradict_each_other_are_found(
    stopped: tuple[System, list[str]], part: str, statement: str, said: str
) -> None:
    system, (*_, user_id) = stopped
    change(system, part, statement.format(id=user_id))

    ran = deep(system)

    assert ran.code == 5
    assert said.format(id=user_id) in json.dumps(ran.objects), ran


_LATEST = "stream = 'user-{id}' AND version = 0"


@pytest.mark.over("embedded", because="it changes rows of SQLite's files")
@pytest.mark.parametrize(
    ("part", "statement", "said"),
    [
        (
            "vault",
            "UPDATE claim_tags SET tag = randomblob(32)",
            "is not on the user's e-mail address",
        ),
        ("events", "DELETE FROM events WHERE stream = 'user-{id}'", "user {id} has a claim"),
        ("events", "UPDATE events SET version = 7 WHERE stream = 'user-{id}'", "comes where event 0 is due"),
        (
            "events",
            f"UPDATE events SET event_id = randomblob(16) WHERE {_LATEST}",
            "event 0 of user-{id} has not the id that follows from its command id",
        ),
        (
            "events",
            "UPDATE events SET metadata = CAST(json_set(metadata, '$.command_id', "
            f"'00000000-0000-4000-8000-000000000001') AS BLOB) WHERE {_LATEST}",
            "event 0 of user-{id} has not the id that follows from its command id",
        ),
    ],
)
def test_a_changed_row_whose_index_agrees_is_found(
    stopped: tuple[System, list[str]], part: str, statement: str, said: str
) -> None:
    system, (*_, user_id) = stopped
    drop = "DROP TRIGGER events_are_not_deleted; DROP TRIGGER events_are_not_updated; "
    change(system, part, (drop if part == "events" else "") + statement.format(id=user_id))

    ran = deep(system)

    assert ran.code == 5
    assert said.format(id=user_id) in json.dumps(ran.objects), ran


def test_of_many_problems_the_first_are_listed_and_the_others_counted(system: System) -> None:
    system.up().bulk("create", people(25)).ok()
    system.caught_up()
    system.es("down").ok()
    change(system, "vault", "DELETE FROM TABLE data_keys")

    details = [detail for part, detail in found(deep(system)) if part == "vault"]

    assert [detail.startswith("user ") for detail in details] == [*[True] * 20, False]
    assert details[-1] == "5 more problems"
