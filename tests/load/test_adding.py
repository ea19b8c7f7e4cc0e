"""What load processes tell, added second by second while a run goes on."""

from __future__ import annotations

from typing import Any

from load.adding import Adder
from load.counts import Counts
from load.histograms import Histogram
from load.results import Second
from load.scenario import Operation, Phase

PHASES = (Phase("warm-up", 1.0, 10.0, 10.0, is_warm_up=True), Phase("load", 2.0, 10.0, 10.0))
OPERATIONS = (
    Operation("get", "users.get", "projections", 1.0, {}),
    Operation("create", "users.create", "users", 0.0, {}),
)


def news(number: int, wanted: int, us: list[int], name: str = "get", **errors: int) -> dict[str, Any]:
    succeeded = len(us) - sum(errors.values())
    tally = {"wanted": wanted, "dropped": 0, "succeeded": succeeded, "errors": errors, "us": us}
    return {"number": number, "operations": {name: tally}}


def tick(number: int, *seconds: dict[str, Any], in_flight: int = 0) -> dict[str, Any]:
    return {"tick": number, "in_flight": in_flight, "seconds": [*seconds]}


def told(adder: Adder, line: dict[str, Any]) -> list[Second]:
    return list(adder.tick(line))


def test_a_second_is_told_once_all_processes_have_told_it() -> None:
    adder = Adder(PHASES, OPERATIONS, 2, 3)

    assert told(adder, tick(0, news(0, 5, [100] * 5), in_flight=1)) == []
    assert told(adder, tick(1, in_flight=2)) == []
    [second] = told(adder, tick(0, news(0, 4, [300] * 3, unavailable=1), in_flight=3))

    assert (second.number, second.in_flight, second.warm_up) == (0, 4, True)
    get = second.operations["get"]
    assert (get.wanted, get.succeeded, get.errors) == (9, 7, {"unavailable": 1})
    assert Histogram(get.latency).count == 8
    assert [each.number for each in told(adder, tick(1))] == [1]


def test_late_replies_are_told_as_what_is_new_and_added_to_their_second() -> None:
    adder = Adder(PHASES, OPERATIONS, 1, 3)
    told(adder, tick(0))
    told(adder, tick(1, news(1, 10, [100] * 6), in_flight=4))
    again, now = told(adder, tick(2, news(1, 0, [1_000_000] * 4), news(2, 10, [100] * 10), in_flight=1))

    assert [(each.number, each.in_flight) for each in (again, now)] == [(1, 0), (2, 1)]
    assert (again.operations["get"].wanted, again.operations["get"].succeeded) == (0, 4)
    told(adder, tick(3, news(1, 0, [5]), news(2, 0, [6])))
    told(adder, tick(4, news(1, 0, [5])))

    seconds = adder.seconds()
    assert [each.number for each in seconds] == [0, 1, 2], "no second begins after the run"
    assert [(each.operations.get("get") or None) and each.operations["get"].wanted for each in seconds] == [
        None,
        10,
        10,
    ]
    assert seconds[1].operations["get"].succeeded == 12
    assert adder.totals["get"].succeeded == 23
    assert Histogram(adder.totals["get"].latency).count == 23
    assert adder.measured_s == 2


def test_a_warm_up_is_in_the_seconds_and_not_in_the_totals() -> None:
    adder = Adder(PHASES, OPERATIONS, 1, 3)
    told(adder, tick(0, news(0, 10, [100] * 10)))

    assert adder.totals["get"].wanted == adder.measured_s == 0
    assert adder.seconds()[0].operations["get"].wanted == 10


def test_an_operation_without_a_weight_is_in_the_totals_once_it_was_sent() -> None:
    adder = Adder(PHASES, OPERATIONS, 1, 3)
    assert list(adder.totals) == ["get"]

    told(adder, tick(0))
    told(adder, tick(1, news(1, 1, [5], "create")))

    assert list(adder.totals) == ["get", "create"]


def test_ticks_that_not_all_processes_told_are_added_at_the_end() -> None:
    adder = Adder(PHASES, OPERATIONS, 2, 3)
    told(adder, tick(0))
    told(adder, tick(0))
    told(adder, tick(1, news(1, 3, [5] * 3)))

    assert [each.operations["get"].wanted for each in adder.rest()] == [3]
    assert adder.totals["get"].wanted == 3


def test_a_load_process_keeps_nothing_that_it_told() -> None:
    counts = Counts()
    for second in range(3):
        counts.start(second, "get")
        counts.end(second, "get", 100, None)
    counts.drop(3, "get", is_late=True)

    assert [each["number"] for each in counts.news()] == [0, 1, 2, 3]
    assert counts.news() == []
    assert (counts.started, counts.ended, counts.late) == (3, 3, 1)
