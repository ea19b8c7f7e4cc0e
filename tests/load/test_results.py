"""What a run is in JSON, how it is read back, and how its parts are added."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.kernel.errors import Damaged, InvalidInput
from load.histograms import Histogram
from load.results import (
    FORMAT,
    Ledger,
    NewerRun,
    Run,
    Second,
    ServerSide,
    Tally,
    Verdict,
    add_seconds,
    add_tallies,
    read_run,
)
from tests.support.effort import EXAMPLES
from tests.support.load_runs import Made, tally

RUN = Made(duration_s=12, per_s=30).run()

counts = st.integers(0, 10**6)
names = st.text(min_size=1, max_size=8)
latencies_us = st.lists(st.integers(1, 3_600_000_000), max_size=20)


def _encoded(values: list[int]) -> str:
    latencies = Histogram()
    for value in values:
        latencies.record(value)
    return latencies.encoded()


tallies = st.builds(
    Tally, counts, counts, counts, st.dictionaries(names, counts, max_size=3), latencies_us.map(_encoded)
)
seconds = st.builds(
    Second, st.integers(0, 5), st.dictionaries(names, tallies, max_size=3), counts, st.booleans()
)
finite = st.floats(allow_nan=False, allow_infinity=False)
runs = st.builds(
    Run,
    scenario=st.just(RUN.scenario),
    started_at=st.just(RUN.started_at),
    duration_s=finite,
    ended=names,
    machine=st.dictionaries(names, names),
    versions=st.dictionaries(names, names),
    profile=st.dictionaries(names, names),
    seconds=st.lists(seconds, max_size=4),
    totals=st.dictionaries(names, tallies, max_size=3),
    server=st.lists(
        st.builds(
            ServerSide,
            counts,
            st.lists(st.dictionaries(names, finite), max_size=2),
            st.dictionaries(names, counts),
            st.dictionaries(names, counts),
            st.none() | finite,
        ),
        max_size=3,
    ),
    tool=st.dictionaries(names, finite),
    verdicts=st.lists(
        st.builds(Verdict, names, names, finite, st.none() | finite, st.booleans()), max_size=3
    ),
    ledger=st.none() | st.builds(Ledger, counts, counts, findings=st.lists(st.dictionaries(names, names))),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(runs)
def test_a_run_read_back_is_equal(run: Run) -> None:
    assert Run.from_json(run.to_json(), "a.json") == run


def test_a_run_is_one_line_of_json() -> None:
    assert "\n" not in RUN.to_json()
    assert json.loads(RUN.to_json())["format"] == FORMAT


def test_a_newer_format_is_refused_by_name_with_a_hint() -> None:
    text = json.dumps(asdict(RUN) | {"format": FORMAT + 1, "seconds": "of another kind"})

    with pytest.raises(NewerRun) as caught:
        Run.from_json(text, "a.json")

    assert str(caught.value).startswith("a.json was written by a newer version of es: it has format 2")
    assert "es --version" in caught.value.hint


def test_names_of_a_newer_version_within_the_format_are_ignored() -> None:
    assert Run.from_json(json.dumps(asdict(RUN) | {"weather": "fine"}), "a.json") == RUN


def test_a_cut_file_is_damaged_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(RUN.to_json()[:-100])

    with pytest.raises(Damaged, match=r"a\.json is damaged: it is no JSON, or only a part"):
        read_run(path)


def test_bytes_that_are_no_text_are_damaged_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(Damaged, match=r"a\.json is damaged: it is no text"):
        read_run(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"b\.json cannot be read: No such file"):
        read_run(tmp_path / "b.json")


@pytest.mark.parametrize("text", ["[]", "7", '{"email": "ada@example.com"}', '{"format": "one"}'])
def test_json_that_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a\.json holds no load run"):
        Run.from_json(text, "a.json")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"duration_s": "60"}, "duration_s is no float"),
        ({"seconds": [{"number": 1}]}, r"seconds\[0\].operations is missing"),
        ({"totals": {"get": {"wanted": True}}}, "totals.get.wanted is no int"),
        ({"totals": {"get": {"latency": "HISTFAAA"}}}, "a histogram in it is incomplete or altered"),
        ({"totals": {"get": {"latency": "not base64"}}}, "a histogram in it is incomplete or altered"),
        ({"verdicts": {}}, "verdicts is no list"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(Damaged, match=f"a.json is damaged: {reason}"):
        Run.from_json(json.dumps(asdict(RUN) | changed), "a.json")


def test_an_altered_histogram_is_damaged() -> None:
    text = RUN.totals["get"].latency
    middle = len(text) // 2
    altered = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
    run = replace(RUN, totals={"get": Tally(latency=altered)})

    with pytest.raises(Damaged, match="a histogram in it"):
        Run.from_json(run.to_json(), "a.json")


def test_the_percentile_of_a_sum_is_that_of_the_added_histograms() -> None:
    # Two fast seconds and a slow one of few requests: an average of their p50 would be 340 ms.
    parts = [tally([10.0] * 99), tally([10.0] * 99), tally([1000.0] * 2)]

    total = Histogram(add_tallies(parts).latency)

    assert total.count == 200
    assert total.at_ms(50) == pytest.approx(10, rel=0.001)
    assert total.at_ms(99.5) == pytest.approx(1000, rel=0.001)
    assert total.at_ms(100) == pytest.approx(1000, rel=0.001)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(tallies, max_size=4), st.randoms())
def test_tallies_add_up_in_any_order(parts: list[Tally], chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = parts[:]
    chance.shuffle(shuffled)

    total = add_tallies(parts)

    assert add_tallies(shuffled) == total
    assert add_tallies([add_tallies(parts[:2]), add_tallies(parts[2:])]) == total
    assert Histogram(total.latency).count == sum(Histogram(part.latency).count for part in parts)


@settings(max_examples=EXAMPLES, deadline=None)
@given(latencies_us.filter(bool), st.floats(0.1, 100))
def test_percentiles_are_those_of_the_library(values: list[int], percentile: float) -> None:
    from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

    expected = HdrHistogram(1, 3_600_000_000, 3)
    for value in values:
        expected.record_value(value)

    found = Histogram(_encoded(values)).at_ms(percentile)

    assert found == expected.get_value_at_percentile(percentile) / 1000


def test_latencies_outside_the_range_are_kept_at_its_ends() -> None:
    latencies = Histogram(_encoded([-5, 0, 10**12]))

    assert latencies.count == 3
    assert latencies.at_ms(1) == 0.001
    assert latencies.at_ms(100) == pytest.approx(3_600_000, rel=0.001)


def test_an_empty_histogram_has_no_percentiles_and_no_text() -> None:
    assert Histogram().percentiles_ms([50, 100]) == [None, None]
    assert Histogram().encoded() == ""
    assert list(Histogram().buckets()) == []


def test_the_seconds_of_processes_are_added_by_number() -> None:
    one = [Second(0, {"get": tally([1])}, 3, warm_up=True), Second(1, {"get": tally([1], dropped=2)}, 1)]
    other = [Second(1, {"get": tally([3]), "ids": tally([2])}, 4)]

    first, second = add_seconds([*other, *one])

    assert (first.number, first.in_flight, first.warm_up) == (0, 3, True)
    assert (second.number, second.in_flight, second.warm_up) == (1, 5, False)
    assert (second.operations["get"].wanted, second.operations["get"].dropped) == (4, 2)
    assert second.operations["ids"].wanted == 1


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith(("hdrh", "load.histograms"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)

    with pytest.raises(Exception, match="needs the extra load; it is not installed") as caught:
        __import__("load.histograms")

    assert "-m pip install 'es[load]'" in caught.value.hint  # type: ignore[attr-defined]
    assert caught.value.code == "missing-extra"  # type: ignore[attr-defined]
