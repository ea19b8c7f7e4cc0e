"""The data of a load process: what operations pick, and what they learn from replies."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

import es
from domain.kernel.errors import Kind
from domain.users.commands import parse_email, parse_name
from load.data import Data, Pool
from load.keys import InvalidScenario
from load.people import People, read_people
from load.scenario import Operation
from load.scenario_file import parse_scenario
from load.templates import Made, Person, Template, WrongPlaceholder

ALL = "create = 1\nget = 1\nfind = 1\nlist = 1\nrename = 1\nchange-email = 1\ndelete = 1\nids = 1\nids-range = 1"


def operations(mix: str = ALL, more: str = "") -> dict[str, Operation]:
    text = f'[[phases]]\nduration = "1s"\nrate = 1\n[mix]\n{mix}\n{more}'
    found = parse_scenario(text, Path("a.toml"), features=("examples.wallets",)).operations
    return {operation.name: operation for operation in found}


class Serving:
    """Data whose requests are answered at once."""

    def __init__(self, found: dict[str, Operation]) -> None:
        self.operations = found
        self.data = Data(tuple(found.values()), People(1, "tag"), Random(1))
        self.count = 0

    def do(self, name: str, reply: Any = None) -> tuple[str, dict[str, Any]]:
        """Send an operation. What was sent: its name and its input."""
        prepared = self.data.prepare(self.operations[name])
        self.count += 1
        key = "wallet_id" if prepared.operation.kind == "wallets.open" else "user_id"
        answer = {"command_id": "c", key: str(1000 + self.count), "version": 0, "position": self.count}
        self.data.learn(prepared, answer if reply is None else reply)
        return prepared.operation.name, prepared.input


def failure(kind: Kind) -> es.EsError:
    return {Kind.REFUSED: es.Refused, Kind.UNAVAILABLE: es.Unavailable}[kind](
        "code", kind, "a text", "A hint."
    )


def test_an_operation_without_users_becomes_a_create() -> None:
    serving = Serving(operations())

    assert [serving.do(name)[0] for name in ("get", "get", "rename")] == ["create", "get", "rename"]


def test_operations_use_the_users_that_this_run_created() -> None:
    serving = Serving(operations())
    _, person = serving.do("create")

    assert serving.do("get") == ("get", {"user_id": "1001", "after_position": 1})
    assert serving.do("find") == ("find", {"email": person["email"]})
    assert serving.do("list")[1]["after"] == "1001"
    assert serving.do("rename")[1]["user_id"] == "1001"
    assert serving.do("ids") == ("ids", {"count": 1})
    assert serving.do("ids-range") == ("ids-range", {"count": 1000})


def test_a_deleted_user_is_used_no_more() -> None:
    serving = Serving(operations())
    serving.do("create")

    assert serving.do("delete")[0] == "delete"
    assert serving.do("get")[0] == "create"


def test_a_user_is_found_by_the_changed_address() -> None:
    serving = Serving(operations())
    serving.do("create")
    _, changed = serving.do("change-email")

    assert serving.do("find") == ("find", {"email": changed["email"]})
    assert serving.do("get")[1]["after_position"] == 2


def test_a_user_has_no_other_operation_while_the_address_changes() -> None:
    serving = Serving(operations())
    serving.do("create")
    changing = serving.data.prepare(serving.operations["change-email"])

    assert serving.do("find")[0] == "create"
    serving.data.learn(changing, failure(Kind.REFUSED))  # type: ignore[arg-type]
    assert len(serving.data.pools["users.create"]) == 2, "a refused change leaves the user as it was"


def test_a_user_whose_change_has_an_unknown_outcome_is_used_no_more() -> None:
    serving = Serving(operations())
    serving.do("create")
    serving.do("change-email", failure(Kind.UNAVAILABLE))

    assert len(serving.data.pools["users.create"]) == 0


@pytest.mark.parametrize("name", ["delete", "change-email"])
def test_a_user_in_use_is_neither_deleted_nor_changed(name: str) -> None:
    serving = Serving(operations())
    serving.do("create")
    finding = serving.data.prepare(serving.operations["find"])

    assert serving.data.prepare(serving.operations[name]).operation.name == "create"
    serving.data.learn(finding, failure(Kind.UNAVAILABLE))  # type: ignore[arg-type]
    assert serving.do(name)[0] == name


def test_a_pool_has_a_bounded_size_and_loses_none_of_its_ids_to_removals() -> None:
    pool, random = Pool(limit=10), Random(1)
    for number in range(1000):
        pool.add(Made(str(number), "", 0), random)
    assert len(pool) == 10

    taken = [pool.take(random) for _ in range(10)]

    assert len({made.id for made in taken if made}) == 10
    assert pool.take(random) is None
    assert len(pool) == 0


WALLETS = """
[[operations]]
name = "open"
command = "wallets.open"
weight = 1
input = { owner_id = "{user}", label = "purse {1..9}" }
[[operations]]
command = "wallets.transfer"
weight = 1
input = { source_id = "{wallets.open}", target_id = "{wallets.open}", amount = "{1..100}" }
"""


def test_a_transfer_needs_two_wallets_and_a_wallet_needs_a_user() -> None:
    serving = Serving(operations("ids = 1", WALLETS))

    assert [serving.do("transfer")[0] for _ in range(4)] == ["create", "open", "open", "transfer"]
    for _ in range(50):
        _, given = serving.do("transfer")
        assert given["source_id"] != given["target_id"]
        assert 1 <= int(given["amount"]) <= 100


# --- templates -----------------------------------------------------------------------------------


def filled(value: str) -> Any:
    template = Template({"field": value})
    return template.fill(Random(1), Person("Ada", "ada@example.com"), [Made("7", "u@example.com", 5)])[
        "field"
    ]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("plain", "plain"),
        ("{person.name}", "Ada"),
        ("{person.name} <{person.email}>", "Ada <ada@example.com>"),
        ("{user}", "7"),
        ("{user.position}", 5),
        ("at {user.position}", "at 5"),
        ("{user.email}", "u@example.com"),
        ("{5..5}", "5"),
        ("{-3..-3} €", "-3 €"),
        ("{wallets.open}", "7"),
    ],
)
def test_a_placeholder_is_filled(value: str, result: Any) -> None:
    assert filled(value) == result


@pytest.mark.parametrize(
    "value", ["{", "}", "a{b", "{}", "{users}", "{person.age}", "{9..1}", "{1..}", "{{user}}"]
)
def test_a_wrong_placeholder_is_refused_with_those_that_exist(value: str) -> None:
    with pytest.raises(WrongPlaceholder) as raised:
        Template({"field": value})
    assert raised.value.hint


# --- people --------------------------------------------------------------------------------------


def people(count: int, **options: Any) -> list[Person]:
    supply = People(options.pop("seed", 1), options.pop("tag", "a1b2"), **options)
    return [supply.next() for _ in range(count)]


def test_two_runs_of_a_seed_have_the_same_names_and_no_address_in_common() -> None:
    one, two, other = people(500), people(500, tag="c3d4"), people(500, seed=2)

    assert [person.name for person in one] == [person.name for person in two]
    assert [person.name for person in one] != [person.name for person in other]
    addresses = {person.email for person in (*one, *two)}
    assert len(addresses) == 1000
    for person in one:
        assert parse_email(person.email).value == person.email
        assert parse_name(person.name).value == person.name


def test_two_processes_have_no_address_in_common() -> None:
    shares = [people(100, process=number, processes=2) for number in range(2)]
    assert len({person.email for share in shares for person in share}) == 200


GIVEN = [Person(f"Name {number}", f"p{number}@example.com") for number in range(5)]


def test_given_people_are_shared_and_get_new_addresses_when_they_are_used_up() -> None:
    shares = [people(4, process=number, processes=2, given=GIVEN) for number in range(2)]

    assert [person.email for person in shares[0][:3]] == [
        "p0@example.com",
        "p2@example.com",
        "p4@example.com",
    ]
    assert [person.email for person in shares[1][:2]] == ["p1@example.com", "p3@example.com"]
    assert shares[0][3].email == "p0+a1b2-0-3@example.com"
    assert len({person.email for share in shares for person in share}) == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "email,name\nada@example.com,Ada Lovelace\nalan@example.com,Alan Turing\n"),
        (
            "a.csv",
            '\ufeffname,age,email\n"Ada Lovelace",36,ada@example.com\nAlan Turing,41,alan@example.com\n',
        ),
        (
            "a.ndjson",
            '{"name": "Ada Lovelace", "email": "ada@example.com"}\n\n{"email": "alan@example.com", "name": "Alan Turing"}',
        ),
    ],
)
def test_people_are_read_from_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")

    assert read_people(tmp_path / name) == [
        Person("Ada Lovelace", "ada@example.com"),
        Person("Alan Turing", "alan@example.com"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", b"", ""),
        ("a.csv", b"name,email\n", ""),
        ("a.csv", b"name,email\nAda,ada@example.com\nBob,secret-address\n", "line 3"),
        ("a.csv", b"who,where\nAda,ada@example.com\n", "line 2"),
        ("a.ndjson", b'{"name": "Ada", "email": "ada@example.com"}\nsecret', "line 2"),
        ("a.ndjson", b"[1]", "line 1"),
        ("a.ndjson", b'{"name": "secret", "email": 7}', "line 1"),
        ("a.ndjson", b"\xff\xfe", ""),
        ("none/a.csv", None, ""),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_without_its_values(
    tmp_path: Path, name: str, content: bytes | None, place: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InvalidScenario) as raised:
        read_people(tmp_path / name)
    assert raised.value.place == place
    assert "secret" not in str(raised.value)
