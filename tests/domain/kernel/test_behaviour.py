"""The behaviour of a projection changes with the rows that it makes, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from domain.features import registry
from domain.kernel.behaviour import behaviour_of, golden_history
from domain.kernel.events import Event, Recorded
from domain.kernel.projection import Delete, Operation, Projection, Put, Row
from domain.streams.projection import STREAMS, Streams
from domain.users.account import USER, UserErased, UserRenamed
from domain.users.projection import USERS, Users
from tests.support.processes import ROOT

AGGREGATES = registry().aggregates


def changed(**attributes: Any) -> Projection:
    """The projection of users with other attributes or methods."""
    made: type[Projection] = type("OtherUsers", (Users,), attributes)
    return made()


def _keeps_names(self: Any, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
    return [] if isinstance(event, UserErased) else Users.apply(USERS, recorded, event, row)


def _ignores_renames(self: Any, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
    return [] if isinstance(event, UserRenamed) else Users.apply(USERS, recorded, event, row)


def _removes_erased(self: Any, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
    if isinstance(event, UserErased):
        return [Delete(USER.id_of(recorded.stream))]
    return Users.apply(USERS, recorded, event, row)


def _fails_at_renames(self: Any, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
    if isinstance(event, UserRenamed):
        raise ValueError("not this one")
    return Users.apply(USERS, recorded, event, row)


@pytest.mark.parametrize(
    "other",
    [
        {"apply": _keeps_names},
        {"apply": _ignores_renames},
        {"apply": _removes_erased},
        {"apply": _fails_at_renames},
        {"version": 2},
        {"columns": {**Users.columns, "nickname": "TEXT"}},
        {"key": "person_id"},
    ],
    ids=["erasures", "renames", "removal", "failure", "version", "columns", "key"],
)
def test_code_that_makes_other_rows_behaves_otherwise(other: Mapping[str, Any]) -> None:
    assert behaviour_of(changed(**other), AGGREGATES) != behaviour_of(USERS, AGGREGATES)


def test_code_that_makes_the_same_rows_in_another_way_behaves_the_same() -> None:
    def apply(self: Any, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        return [*reversed([*Users.apply(USERS, recorded, event, row)])]

    assert behaviour_of(changed(apply=apply), AGGREGATES) == behaviour_of(USERS, AGGREGATES)


def test_a_projection_that_decodes_nothing_behaves_the_same_beside_any_feature() -> None:
    assert behaviour_of(STREAMS, AGGREGATES) == behaviour_of(STREAMS, ())

    class Counting(Streams):
        def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
            return (Put(recorded.stream, {"version": recorded.version + 1}),)

    assert behaviour_of(Counting(), ()) != behaviour_of(STREAMS, ())


def test_a_projection_that_sees_rows_gets_them() -> None:
    class Counts(Projection):
        name: ClassVar[str] = "counts"
        prefixes: ClassVar[Sequence[str] | None] = (USER.prefix,)
        key: ClassVar[str] = "user_id"
        columns: ClassVar[Mapping[str, str]] = {"events": "INTEGER"}
        sees_rows: ClassVar[bool] = True
        step: ClassVar[int] = 1

        def key_of(self, recorded: Recorded, event: Event) -> int:
            return USER.id_of(recorded.stream)

        def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
            before = row["events"] if row else 0
            assert isinstance(before, int)
            return [Put(USER.id_of(recorded.stream), {"events": before + self.step})]

    twice: type[Counts] = type("Twice", (Counts,), {"step": 2})
    assert behaviour_of(Counts(), AGGREGATES) != behaviour_of(twice(), AGGREGATES)


def test_the_history_plays_every_event_of_the_streams_in_several_orders() -> None:
    played = [event.type for _, event in golden_history(USERS, AGGREGATES)]

    assert {*played} == {each.type for each in USER.events}
    assert all(played.count(each.type) > 2 for each in USER.events)


def test_the_behaviour_is_the_same_in_another_process() -> None:
    code = (
        "from domain.features import registry; from domain.kernel.behaviour import behaviour_of\n"
        "print([behaviour_of(p, registry().aggregates) for p in registry().projections])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(found) == 1


def test_it_is_computed_in_milliseconds() -> None:
    started_s = time.process_time()
    behaviour_of(USERS, AGGREGATES)

    assert time.process_time() - started_s < 0.1


@pytest.mark.parametrize("outside", ["tests.support.shelves", "tests.support.leases", "examples.wallets"])
def test_every_projection_makes_rows_of_its_history(outside: str) -> None:
    found = registry((outside,))
    assert not found.broken
    for projection in found.projections:
        rows = 0
        for recorded, event in golden_history(projection, found.aggregates):
            given = event if projection.decodes else Event()
            if not projection.sees_rows:
                try:
                    rows += bool(projection.apply(recorded, given, None))
                except (ValueError, TypeError, KeyError):
                    continue  # it would be parked
        assert rows or projection.sees_rows or projection.name.startswith("person_streams_"), projection.name
