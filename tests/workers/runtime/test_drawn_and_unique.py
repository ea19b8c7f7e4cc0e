"""Drawn ids and unique values together: what a crash leaves is one instance with the value, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.aggregate import Aggregate
from domain.kernel.messages import Reply, Request
from domain.kernel.ports.event_store import Append, AppendResult
from domain.kernel.unique import Unique, UniqueTaken
from tests.support.builders import streams_of
from tests.support.leases import LEASE, Lease, LeaseSigned
from tests.support.letting import Letting, let_request
from tests.support.parts import replaced

ONE_LEASE_FOR_A_FLAT: Aggregate[Lease, Any] = replace(
    LEASE, unique=(Unique("flat", ("flat",), taken_by=(LeaseSigned,)),)
)


class Crash(Exception):
    pass


@pytest.fixture
def letting(tmp_path: Path, read_model: SqliteReadModel, log: Log) -> Iterator[Letting]:
    with closing(Letting(tmp_path / "letting", read_model, log)) as opened:
        yield opened


def sign(tenant: int, command_id: UUID | None = None) -> Request:
    return let_request("leases.sign", command_id, tenant_id=tenant, tenant="Ada", flat="attic")


def asked(letting: Letting, *requests: Request, append: Callable[..., Any] | None = None) -> list[Reply]:
    store: Any = replaced(letting.store, append=append) if append else letting.store
    return letting.leases(ONE_LEASE_FOR_A_FLAT, store=store).handle(requests)


def test_of_two_creations_one_has_the_value(letting: Letting) -> None:
    ada = letting.a_user()
    command_id = uuid4()

    first, second = asked(letting, sign(ada, command_id), sign(ada))

    assert isinstance(first, dict)
    assert isinstance(second, UniqueTaken)
    assert asked(letting, sign(ada, command_id)) == [first]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_stored", [False, True], ids=["before", "after"])
def test_a_crash_leaves_a_value_to_its_command(letting: Letting, number: int, is_stored: bool) -> None:
    ada = letting.a_user()
    command_id, done = uuid4(), list[int]()

    def append(batch: Sequence[Append]) -> list[AppendResult]:
        done.append(len(batch))
        is_last = len(done) == number + 1
        if is_last and not is_stored:
            raise Crash
        results = letting.store.append(batch)
        if is_last:
            raise Crash
        return results

    with suppress(Crash):
        asked(letting, sign(ada, command_id), append=append)

    (again,) = asked(letting, sign(ada, command_id))

    assert isinstance(again, dict), again
    assert asked(letting, sign(ada, command_id)) == [again]
    assert [type(reply) for reply in asked(letting, sign(ada))] == [UniqueTaken]
    signed = [
        stream
        for stream, _ in streams_of(letting.store, LEASE.prefix)
        if LeaseSigned.type in [event.type for event in letting.store.read_stream(stream)]
    ]
    assert signed == [f"lease-{again['lease_id']}"]
