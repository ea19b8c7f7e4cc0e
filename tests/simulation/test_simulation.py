"""Some seeds of the simulation; `python -m tests.simulation --seeds 1-1000` runs more."""

from __future__ import annotations

from typing import Any

import pytest

from domain.lanes import fences
from domain.lanes.layout import LaneRange
from tests.simulation.__main__ import main, parse_seeds
from tests.simulation.ledger import Ledger
from tests.simulation.random_world import RandomWorld
from tests.simulation.sabotage import let_grants_overlap

IDS_PER_SEED = 2_000_000


@pytest.mark.parametrize("seed", range(1, 9))
def test_ids_stay_unique_ordered_and_near_their_time_under_any_faults(seed: int) -> None:
    world = RandomWorld(seed)
    world.run(IDS_PER_SEED)
    assert not world.verify(), f"seed {seed}: run `python -m tests.simulation --seeds {seed}`"
    assert world.ledger.ids >= IDS_PER_SEED


def test_ids_stay_unique_if_many_workers_compete_for_two_lanes() -> None:
    world = RandomWorld(7, lanes=LaneRange(5, 6), only_small_requests=True)
    world.run(3_000, max_steps=4_000)
    assert not world.verify()
    assert world.counts["no-free-lane"], "the workers never competed for a lane"


def test_the_same_seed_is_the_same_history() -> None:
    first, second = RandomWorld(42), RandomWorld(42)
    for world in (first, second):
        world.run(200_000)
    assert first.counts == second.counts
    assert first.ledger.ranges == second.ledger.ranges


def test_every_kind_of_fault_happens() -> None:
    often = dict.fromkeys(["clock step", "crash", "stop", "stall", "fork"], 0.02)
    world = RandomWorld(3, chances={**often, "outage": 0.01, "restore": 0.005})
    world.run(10**9, max_steps=1_500)
    assert not world.verify()
    happened = {name for name, count in world.counts.items() if count}
    assert happened >= {
        "answer_lost", "late", "refused", "twice", "interleavings", "pauses", "crashes", "stops", "forks",
        "stalls", "clock steps", "outages", "restores", "clock-rejected", "lease-exhausted", "store-went-back",
    }  # fmt: skip


def test_the_command_prints_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1,2", "--ids", "20000"]) == 0
    printed = capsys.readouterr().out
    assert "seed 1: " in printed
    assert "seed 2: " in printed
    assert "no problem found" in printed
    assert parse_seeds("1,5,9-11") == [1, 5, 9, 10, 11]


# --- the ledger and the simulation find what they look for -----------------------------------


ADJACENT = [("issued", first * 1024 + lane, 4) for first in (8, 0, 4, 12) for lane in (0, 1)]


@pytest.mark.parametrize(
    ("notes", "problems"),
    [
        ([("issued", 0, 4), ("issued", 0, 1)], 1),
        ([("issued", 0, 4), ("issued", 3 * 1024, 1)], 1),
        ([("issued", 0, 4), ("issued", 2 * 1024, 10)], 1),
        ([("issued", 0, 4), ("issued", 0, 100)], 1),
        (ADJACENT, 0),
        ([*ADJACENT, ("issued", 7 * 1024, 1)], 1),
        ([("ordered", "a", 10 * 1024, 5), ("ordered", "a", 14 * 1024, 1)], 1),
        ([("near", 10 * 1024, 5, 11, 20), ("near", 10 * 1024, 5, 1, 13)], 2),
        ([("under", "a", 10 * 1024, 1), ("under", "b", 12 * 1024, 1)], 0),
        ([("under", "a", 10 * 1024, 1), ("under", "b", 12 * 1024, 1), ("under", "a", 14 * 1024, 1)], 1),
    ],
)
def test_the_ledger_finds(notes: list[tuple[Any, ...]], problems: int) -> None:
    ledger = Ledger()
    for method, *arguments in notes:
        getattr(ledger, method)(*arguments)
    assert len(ledger.problems) == problems


def test_the_simulation_finds_a_fence_that_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "decide_fence", lambda lane, floor, now: [])
    assert any(_finds_something(seed) for seed in range(1, 9))


def test_the_simulation_finds_grants_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    let_grants_overlap(monkeypatch)
    assert any(_finds_something(seed) for seed in range(1, 9))


def _finds_something(seed: int) -> bool:
    world = RandomWorld(seed, chances={"restore": 0.01, "crash": 0.03}, only_small_requests=True)
    world.run(10**9, max_steps=1_500)
    return bool(world.verify())
