"""What a running load run shows: rates and latencies of its last seconds, sums since its start, its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from load.histograms import Histogram
from load.recent import WINDOW, Recent
from load.results import Second, ServerSide, Tally
from load.scenario import Scenario
from load.scenario_file import parse_scenario

SCENARIO = """
[[phases]]
name = "warm-up"
duration = "2s"
rate = 10
warm_up = true
[[phases]]
name = "climb"
duration = "8s"
rate = [10, 100]
[mix]
create = 1
get = 1
"""


def _scenario() -> Scenario:
    return parse_scenario(SCENARIO, Path("ramp.toml"))


def _tally(wanted: int, *latencies_ms: float, dropped: int = 0, **errors: int) -> Tally:
    latency = Histogram()
    for each in latencies_ms:
        latency.record(round(each * 1000))
    return Tally(wanted, dropped, len(latencies_ms) - sum(errors.values()), errors, latency.encoded())


def test_rates_and_latencies_are_those_of_the_last_seconds() -> None:
    recent = Recent(_scenario())
    recent.add(Second(0, {"create": _tally(100, *[500.0] * 100)}), None)
    for number in range(1, WINDOW + 1):
        recent.add(Second(number, {"create": _tally(10, *[2.0] * 9)}), None)
    create, get, everything = recent.figures()

    assert (create.name, create.wanted_per_s, create.got_per_s) == ("create", 10, 9)
    assert create.percentiles_ms == pytest.approx([2.0, 2.0, 2.0], rel=0.01)
    assert (get.got_per_s, list(get.percentiles_ms)) == (0, [None, None, None])
    assert (everything.name, everything.wanted_per_s) == ("all", 10)


def test_errors_and_drops_are_counted_since_the_start() -> None:
    recent = Recent(_scenario())
    for number in range(WINDOW + 2):
        recent.add(Second(number, {"create": _tally(3, 1.0, dropped=2, unavailable=1)}), None)
    create = recent.figures()[0]

    assert (create.errors, create.dropped) == (WINDOW + 2, 2 * (WINDOW + 2))
    assert recent.errors == {"create": {"unavailable": WINDOW + 2}}


def test_late_replies_of_an_earlier_second_are_added() -> None:
    recent = Recent(_scenario())
    recent.add(Second(4, {"create": _tally(5)}, in_flight=5), None)
    recent.add(Second(3, {"create": _tally(0, 900.0)}, in_flight=4), None)

    assert recent.number == 4
    assert recent.in_flight == 5  # what is late does not tell
    assert recent.figures()[0].got_per_s == pytest.approx(1 / WINDOW)


def test_the_newest_sample_of_the_server_side_stays() -> None:
    recent, sample = Recent(_scenario()), ServerSide(0, [], {}, {"users": 3})
    recent.add(Second(0, {}), sample)
    recent.add(Second(1, {}), None)

    assert recent.server is sample


@pytest.mark.parametrize(
    ("number", "phase", "left_s", "left_of_phase_s"),
    [(0, "warm-up", 9, 1), (1, "climb", 8, 8), (8, "climb", 1, 1), (9, None, 0, 0), (15, None, 0, 0)],
)
def test_the_place_of_a_run_is_its_phase_and_what_is_left(
    number: int, phase: str | None, left_s: float, left_of_phase_s: float
) -> None:
    recent = Recent(_scenario())
    recent.add(Second(number, {}), None)
    place = recent.place()

    assert (place.phase and place.phase.name, place.left_s, place.left_of_phase_s) == (
        phase,
        left_s,
        left_of_phase_s,
    )
