"""The other parts of a benchmark run to their ends with few commands."""

from __future__ import annotations

import pytest

from domain.features import registry
from scripts.bench import distributed, ids, projections, rabbitmq, rebuild_memory
from scripts.bench.growth import Sizes
from scripts.bench.report import Figures, Section
from tests.support.processes import all_processes


def titles(section: Section) -> list[str]:
    return [line.title for line in section.lines]


@pytest.mark.slow
def test_the_distributed_profile_is_measured_at_every_size() -> None:
    figures, notes = Figures(), list[str]()
    sizes = Sizes(users=(40, 80), rounds=1, bulk=64, singles=8, seconds=0.01, idle_s=0.05)
    distributed.measure(sizes, figures, notes)

    assert notes == []
    lines = distributed.section(figures, notes).lines
    assert [(line.title, line.sizes) for line in lines] == [
        (wanted.title, [40, 80]) for wanted in distributed.LINES
    ]


@pytest.mark.slow
def test_the_transport_over_rabbitmq_is_measured() -> None:
    figures = Figures()
    rabbitmq.measure(figures, seconds=0.2, rounds=1)

    assert titles(rabbitmq.section(figures, [])) == [wanted.title for wanted in rabbitmq.LINES]
    assert [pid for pid, arguments in all_processes() if "scripts.bench.rabbitmq" in arguments] == []


@pytest.mark.slow
def test_ids_are_measured_in_process_and_through_the_socket() -> None:
    figures, notes = Figures(), list[str]()
    ids.measure(figures, notes, turns=1, pauses=1)
    found = ids.section(figures, notes)

    assert found.lines[0].title == "uuid.uuid4(), ns per id"
    assert [line.title for line in found.lines if line.title.startswith("socket")] == [
        "socket, 1 per request: requests per second",
        "socket, 1,000,000 per request: requests per second",
    ]
    assert all(line.median(0) > 0 for line in found.lines)


def test_each_projection_is_measured_alone() -> None:
    figures = Figures()
    projections.measure(figures, events=200, rounds=1)

    lines = projections.section(figures, []).lines
    assert [line.title for line in lines] == [
        f"CPU µs per event: {each.name}" for each in registry().projections
    ]
    assert all(line.median(200) > 0 for line in lines)


@pytest.mark.slow
def test_the_memory_of_rebuilds_is_measured_at_every_size() -> None:
    figures = Figures()
    rebuild_memory.measure((200, 100), figures)

    lines = rebuild_memory.section(figures, []).lines
    assert [(line.title, line.sizes) for line in lines] == [
        (wanted.title, [100, 200]) for wanted in rebuild_memory.LINES
    ]
    assert all(line.median(size) > 0 for line in lines for size in line.sizes)
