"""The identity contract: every part that stores something carries the id of one system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import load_settings
from domain.kernel.ports.identity import Identified
from tests.support.builders import open_store
from tests.support.together import at_once, run_together

PARTS = [
    ("store", "memory:"),
    ("store", "sqlite:"),
    ("store", "esdb:"),
    ("vault", "sqlite:"),
    ("vault", "postgresql:"),
    ("read model", "sqlite:"),
    ("read model", "postgresql:"),
]
OpenPart = Callable[[], Identified]
FIRST, SECOND = UUID(int=1), UUID(int=2)


def open_part(part: str, url: str, home: str) -> Any:
    """A part as a worker opens it."""
    if part == "store":
        return open_store(f"sqlite:{home}/events.db" if url == "sqlite:" else url)
    variable = "ES_VAULT" if part == "vault" else "ES_DATABASE"
    settings = load_settings(environment={"ES_HOME": home, variable: url})
    return wiring.open_vault(settings) if part == "vault" else wiring.open_read_model(settings)


@pytest.fixture(params=PARTS, ids=lambda param: "-".join(param))
def place(request: pytest.FixtureRequest, home: Path) -> tuple[str, str, str]:
    """The arguments of `open_part`."""
    part, url = request.param
    if url == "postgresql:":
        url = request.getfixturevalue("postgres_url")
        make_kek(home / "secrets" / "kek")
    elif url == "esdb:":
        url = request.getfixturevalue("node_url")
    return part, url, str(home)


@pytest.fixture
def open_again(place: tuple[str, str, str]) -> Iterator[OpenPart]:
    """Opens the part under test, each time as another worker would."""
    with ExitStack() as opened:
        if place[1] == "memory:":
            only = open_part(*place)  # it ends with its process
            yield lambda: only
        else:
            yield lambda: opened.enter_context(closing(open_part(*place)))


def test_a_new_part_has_no_system_id(open_again: OpenPart) -> None:
    assert open_again().system_id() is None


def test_a_claimed_part_keeps_its_id_after_reopening(open_again: OpenPart) -> None:
    assert open_again().claim_system(FIRST) == FIRST

    assert open_again().system_id() == FIRST


@pytest.mark.parametrize("instead_of", [None, SECOND])
def test_a_part_that_has_another_id_keeps_and_returns_it(
    open_again: OpenPart, instead_of: UUID | None
) -> None:
    part = open_again()
    part.claim_system(FIRST)

    assert part.claim_system(SECOND, instead_of=instead_of) == FIRST

    assert open_again().system_id() == FIRST


def test_a_part_is_claimed_instead_of_the_id_that_it_has(open_again: OpenPart) -> None:
    part = open_again()
    part.claim_system(FIRST)

    assert part.claim_system(SECOND, instead_of=FIRST) == SECOND

    assert open_again().system_id() == SECOND
    assert part.claim_system(SECOND) == SECOND, "repeating changes nothing"


def test_a_part_without_an_id_is_claimed_instead_of_any(open_again: OpenPart) -> None:
    assert open_again().claim_system(SECOND, instead_of=FIRST) == SECOND


def test_of_several_threads_that_claim_a_part_one_succeeds_and_all_get_its_id(open_again: OpenPart) -> None:
    part = open_again()
    ids = [uuid4() for _ in range(6)]

    answers = at_once(part.claim_system, ids)

    (winner,) = set(answers)
    assert winner in ids
    assert open_again().system_id() == winner


_CLAIM_IN_A_PROCESS = """
import sys
from contextlib import closing
from uuid import UUID, uuid4
from tests.contract.test_identity import open_part
with closing(open_part(*sys.argv[1:4])) as part:
    print("ready", flush=True)
    input()
    instead_of = UUID(sys.argv[4]) if sys.argv[4] else None
    print(part.claim_system(uuid4(), instead_of=instead_of))
"""


@pytest.mark.parametrize("instead_of", [None, FIRST])
def test_of_several_processes_that_claim_a_part_one_succeeds_and_all_get_its_id(
    place: tuple[str, str, str], open_again: OpenPart, instead_of: UUID | None
) -> None:
    if place[1] == "memory:":
        pytest.skip("the store in memory ends with its process")
    if instead_of is not None:
        open_again().claim_system(instead_of)

    outs = run_together(_CLAIM_IN_A_PROCESS, [(*place, str(instead_of or ""))] * 4)

    (winner,) = {UUID(out.strip()) for out in outs}
    assert open_again().system_id() == winner != instead_of
