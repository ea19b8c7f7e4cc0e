"""Every statement of the vault finds its rows by an index, with and without statistics, for any limit and number of values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg
import pytest

from adapters.postgres import statements
from adapters.postgres.vault import PostgresVault
from tests.support.postgres import Server, a_database, execute, with_option
from tests.support.vaults import KEK

ROWS = 60_000
VALUES = 64
_NUMBERS, _UUIDS = list(range(1000, 1000 + VALUES)), [UUID(int=n) for n in range(VALUES)]
_TAGS, _LABELS, _WRAPPED, _SEALED = ([bytes([n]) * size for n in range(VALUES)] for size in (40, 8, 60, 32))
_TEXTS = [str(n) for n in range(VALUES)]
ARGUMENTS: Mapping[str, Sequence[Any] | dict[str, Any]] = {
    "EXCLUDE_ROTATIONS": ["es"],
    "ROTATE": ["es"],
    "CHANGED": [_NUMBERS, _NUMBERS],
    "NEED_PRESENT": [VALUES, _NUMBERS, _NUMBERS],
    "TAG_VERSIONS": [],
    "LOAD_TAG_KEYS": [],
    "LOAD_FEW_KEYS": [_NUMBERS[:16]],
    "LOAD_KEYS": [_NUMBERS],
    "CREATE_BUCKETS": [_NUMBERS, _NUMBERS, VALUES],
    "CREATE_KEYS": [_NUMBERS, _NUMBERS, _LABELS, _WRAPPED],
    "BLOCKS_OF": [_NUMBERS],
    "FREED_BY": [_NUMBERS],
    "MEMBERS": [_NUMBERS],
    "OWED_IN": [_NUMBERS],
    "CLAIMS_IN": [_TAGS[3], _TAGS[4]],
    "REWRAP": [_NUMBERS, _WRAPPED],
    "SEAL_OWED_AGAIN": [_NUMBERS, _SEALED, _SEALED],
    "SEAL_CLAIMS_AGAIN": [_TAGS, _TAGS],
    "NEW_VERSIONS": [_NUMBERS, _NUMBERS],
    "NEW_KEY": [1, _LABELS[1], _WRAPPED[1], 5000],
    "FORGET_FREED": [_NUMBERS, _LABELS],
    "RESIDUE": [],
    "PURGED": [_TEXTS, _TEXTS],
    "CONFIRM": [_UUIDS],
    "EXTEND": [_UUIDS, 1, VALUES],
    "FIND_CLAIMS": [_TAGS],
    "CLAIMS_OF": [_NUMBERS],
    "CLAIMS_ON": [_TEXTS],
    "EXPIRED_CLAIMS": [10**6, 1000],
    "FIND_REGISTRATIONS": [_UUIDS],
    "FIND_SUBJECTS": [_NUMBERS, _UUIDS],
    "STILL_OPEN": [_NUMBERS, _NUMBERS],
    "CLAIM": [1, _TAGS, _NUMBERS, _UUIDS, _UUIDS, _TEXTS, _TEXTS, VALUES],
    "REGISTER": [_UUIDS, _NUMBERS, VALUES],
    "LOCK_CLAIMS": [_UUIDS, _NUMBERS],
    "RELEASE_RESERVATIONS": [_UUIDS],
    "RELEASE_CLAIMS_OF": [_NUMBERS],
    "FORGET_REGISTRATIONS": [_NUMBERS],
    "FIND_KEYS": [_NUMBERS],
    "SUBJECTS": {"after": 1000, "limit": 1000},
    "MINT": [_NUMBERS, _NUMBERS, _WRAPPED, VALUES],
    "DESTROY_KEYS": [_WRAPPED[0], _NUMBERS],
    "LEAVE_TOMBSTONES": [1, _NUMBERS, _TEXTS, _UUIDS],
    "FIND_OWN": ["x"],
    "KEEP_OWN": ["x", b"x"],
    "OWE": [1, _NUMBERS, _UUIDS, _NUMBERS],
    "QUARANTINE": [_NUMBERS, _TEXTS, _TEXTS, _TEXTS],
    "FIND_OWED": [1000, 1000],
    "FIND_OWED_IN_STATE": {"state": "decided", "after": 1000, "limit": 1000},
    "FIND_OWED_OF": [5],
    "BLOCKS_OF_OWED": [_NUMBERS],
    "KEEP_TAGS": [_NUMBERS, _NUMBERS, _SEALED, _NUMBERS],
    "FIND_OWED_TAGS": [_NUMBERS],
    "KEY_DESTROYED": [_NUMBERS],
    "FAILED": ["x", _NUMBERS],
    "FORGET_TAGS": [_NUMBERS],
    "COUNT_LETTERS": [_NUMBERS, _NUMBERS],
    "SETTLE": [_NUMBERS],
    "SAVE_CHECKPOINT": {"process": "x", "position": 1, "marks": b"x", "since": 0},
    "REWIND_CHECKPOINT": ["x", 1, 1, b"x", 1],
    "FIND_QUARANTINED": [100],
    "FIND_CHECKPOINT": ["x"],
    "FIND_DIVERGENCES": [],
}
UNBOUNDED = {"COUNT_OWED": "it counts what is still to be done"}
SMALL = ("pg_", "residue", "checkpoints", "divergences", "quarantine", "secrets", "bucket_keys_of_tags")
"""The beginnings of tables that do not grow with the number of people."""

_FILL = f"""
INSERT INTO {{schema}}.registrations SELECT md5(n::text)::uuid, n FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.data_keys SELECT n, false, 4097 + n / 64, decode(repeat('ab', 60), 'hex')
    FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.email_claims SELECT decode(md5((n % 4096)::text) || md5(n::text) || '0000000000000000', 'hex'),
    n, md5(n::text)::uuid, md5('r' || n)::uuid, n % 2 = 0, n,
    CASE WHEN n % 2 = 0 THEN 'wallet-' || n END, CASE WHEN n % 2 = 0 THEN 'label' END FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.buckets SELECT n, n FROM generate_series(4097, {ROWS}) n;
INSERT INTO {{schema}}.bucket_keys SELECT n, n, decode(lpad(to_hex(n), 16, '0'), 'hex'), decode(repeat('ab', 60), 'hex')
    FROM generate_series(4097, {ROWS}) n;
INSERT INTO {{schema}}.tombstones SELECT n, 'erasure', null, n FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.owed_erasures SELECT n, 'decided', null, n, n FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.owed_tags SELECT n, 4097 + n / 64, decode(repeat('ab', 32), 'hex'), 0 FROM generate_series(1, {ROWS}) n;
INSERT INTO {{schema}}.freed_tags SELECT n, decode(lpad(to_hex(n), 16, '0'), 'hex') FROM generate_series(1, {ROWS}) n;
"""


@pytest.fixture(scope="module")
def big(own_server: Server) -> Iterator[str]:
    """The URL of a vault with many rows, in a server without autovacuum."""
    with a_database(own_server.url) as database:
        url = with_option(database, "schema=big")
        PostgresVault(url, kek=KEK).close()
        execute(url, _FILL.format(schema="big_vault"))
        yield url


@pytest.fixture(scope="module", params=["without statistics", "with statistics"])
def filled(request: pytest.FixtureRequest, big: str) -> str:
    if request.param == "with statistics":
        execute(big, "ANALYZE")
    return big


def _plan(url: str, name: str, mode: str) -> dict[str, Any]:
    """The plan of a statement, for its values or for any."""
    statement = getattr(statements, name).format(schema="big_vault", table="x")
    arguments = ARGUMENTS[name]
    if isinstance(arguments, dict):
        for number, key in enumerate(arguments, start=1):
            statement = statement.replace(f"%({key})s", f"${number}")
        arguments = list(arguments.values())
    numbers = iter(range(1, 99))
    statement = re.sub("%[sbt]", lambda _: f"${next(numbers)}", statement)
    values = ", ".join(psycopg.sql.Literal(value).as_string() for value in arguments)
    with closing(psycopg.connect(url.partition("&schema=")[0])) as connection:
        connection.execute(f"SET plan_cache_mode = {mode}")
        connection.execute(f"PREPARE it AS {statement}")
        explained = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE it{f'({values})' if values else ''}")
        ((((top,)),),) = explained.fetchall()
        return dict(top["Plan"])


def _faults(node: Mapping[str, Any], above: Sequence[str] = ()) -> Iterator[str]:
    """What in a plan costs as much as its table is large."""
    kind, condition = node["Node Type"], node.get("Index Cond", "")
    table = node.get("Relation Name", node.get("Index Name", ""))
    if not table.startswith(SMALL):
        if kind == "Seq Scan":
            yield f"reads all of {table}"
        if kind in ("Index Scan", "Index Only Scan", "Bitmap Index Scan") and not condition:
            yield f"reads all of {table} by its index"
        gathers = [name for name in above if name in ("Limit", "Sort", "Aggregate", "Hash")]
        if re.search(" [<>]", condition) and gathers and gathers[-1] != "Limit":
            yield f"reads a range of {table} before it cuts it"
    for child in node.get("Plans", ()):
        strategy = "Sorted" if node.get("Strategy") == "Sorted" else kind
        yield from _faults(child, [*above, strategy])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_every_statement_finds_its_rows_by_an_index(filled: str, mode: str) -> None:
    faults = {name: [*_faults(_plan(filled, name, mode))] for name in ARGUMENTS}

    assert {name: found for name, found in faults.items() if found} == {}


def test_the_plans_of_all_statements_are_looked_at() -> None:
    names = {name for name, value in vars(statements).items() if name.isupper() and isinstance(value, str)}

    assert {name for name in names if not name.startswith("_")} == {*ARGUMENTS, *UNBOUNDED}
