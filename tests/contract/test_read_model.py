"""The read model contract: rows and checkpoint in one transaction, parked events, queries, outages.

See also test_generations.py and test_row_operations.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters.settings import Settings
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.history import History
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, ReadModel
from domain.kernel.projection import Put, Value
from tests.support.processes import start_python
from tests.support.read_models import (
    NOW_US,
    OTHERS,
    THINGS,
    apply,
    moved,
    prepared,
    promoted,
    put,
    rebuilding,
    row,
)
from tests.support.waiting import DEADLINE_S, eventually

OpenReadModel = Callable[[], ReadModel]


def test_projections_do_not_see_each_others_rows(read_model: ReadModel) -> None:
    moved(read_model, prepared(read_model), put(1))

    other = prepared(read_model, OTHERS)

    assert (other.number, other.checkpoint) == (1, 0)
    assert read_model.rows(OTHERS) == []
    assert read_model.rows(THINGS) == [row(1)]


# --- apply -----------------------------------------------------------------------------------


def test_rows_checkpoint_and_parked_events_are_stored_together(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    generation = prepared(read_model)
    parked = Parked(7, "thing-9", "unknown event type")

    after = read_model.apply(
        THINGS, generation, [put(1), put(2)], reached=History(7), events=3, parked=[parked]
    )

    assert after == Generation("things", 1, GenerationState.CURRENT, 7, 3, NOW_US, None)
    reopened = open_read_model()
    assert reopened.generations(THINGS) == [after]
    assert reopened.rows(THINGS) == [row(1), row(2)]
    assert reopened.parked(THINGS, after) == [parked]


def test_the_number_of_events_is_the_sum_over_all_applies(read_model: ReadModel) -> None:
    generation = moved(read_model, prepared(read_model), put(1), put(2))

    assert moved(read_model, generation, put(3)).events == 3


def test_values_are_stored_unchanged(read_model: ReadModel) -> None:
    values: list[tuple[str | None, int]] = [
        ("'; DROP TABLE generations; --", 0),
        ("☃ \x00 ü", -(1 << 63)),
        (None, (1 << 63) - 1),
        ("", 1),
    ]

    moved(read_model, prepared(read_model), *(put(i + 1, *value) for i, value in enumerate(values)))

    assert read_model.rows(THINGS) == [row(i + 1, *value) for i, value in enumerate(values)]


def test_a_key_may_be_the_largest_id(read_model: ReadModel) -> None:
    largest = (1 << 63) - 1

    moved(read_model, prepared(read_model), put(largest))

    assert read_model.rows(THINGS, keys=[largest]) == [row(largest)]


def test_a_checkpoint_may_move_without_operations(read_model: ReadModel) -> None:
    after = apply(read_model, prepared(read_model), checkpoint=100)

    assert after is not None
    assert (after.checkpoint, after.events) == (100, 0)


def test_nothing_is_applied_after_another_projector_moved_the_checkpoint(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    generation = prepared(read_model)
    faster = moved(open_read_model(), generation, put(1, "green"))

    late = apply(read_model, generation, put(1, "red"), put(2), parked=[Parked(1, "thing-1", "too late")])

    assert late is None
    assert read_model.rows(THINGS) == [row(1, "green")]
    assert read_model.parked(THINGS, generation) == []
    assert read_model.generations(THINGS) == [faster]


@pytest.mark.parametrize("removed", [False, True], ids=["replaced", "removed"])
def test_nothing_is_applied_to_a_replaced_or_removed_generation(read_model: ReadModel, removed: bool) -> None:
    old = moved(read_model, prepared(read_model), put(1))
    built = promoted(read_model, put(1, "new"))
    if removed:
        rebuilding(read_model)

    assert apply(read_model, old, put(2)) is None
    assert apply(read_model, built, put(2)) is None, "its state is no longer building"
    assert read_model.rows(THINGS) == [row(1, "new")]


@pytest.mark.parametrize("bad", [Put(2, {"colour": "red", "size": "no number"}), Put(3, {"no_column": 1})])
def test_rows_and_checkpoint_are_applied_together_or_not_at_all(read_model: ReadModel, bad: Put) -> None:
    generation = prepared(read_model)
    parked = Parked(2, "thing-2", "behind a parked event")

    with pytest.raises(Exception) as raised:  # its type depends on the database
        apply(read_model, generation, put(1), bad, parked=[parked])

    assert not isinstance(raised.value, EsError), "a bug, and not an outage"
    assert read_model.rows(THINGS) == []
    assert read_model.parked(THINGS, generation) == []
    assert read_model.generations(THINGS) == [generation]
    assert apply(read_model, generation, put(1)) is not None, "a later apply continues from the checkpoint"


def test_two_projectors_of_one_read_model_apply_every_event_once(open_read_model: OpenReadModel) -> None:
    # Each event adds a row with its number: applied twice or skipped, it would show.
    total, applied_by = 300, [0, 0]
    model = open_read_model()

    def project(which: int) -> None:
        luck = random.Random(which)
        generation = prepared(model)
        while generation.checkpoint < total:
            size = min(luck.randint(1, 5), total - generation.checkpoint)
            first = generation.checkpoint + 1
            after = apply(model, generation, *(put(first + i, size=first + i) for i in range(size)))
            if after is None:
                generation = prepared(model)
            else:
                applied_by[which] += size
                generation = after

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(project, range(2)))

    assert sum(applied_by) == total
    assert prepared(model).events == total
    assert model.rows(THINGS) == [row(key, size=key) for key in range(1, total + 1)]


_APPLY_FOR_EVER = """
import sys
from adapters import wiring
from adapters.settings import load_settings
from domain.kernel.history import History
from tests.support.read_models import THINGS, prepared, put
home, url = sys.argv[1:]
model = wiring.open_read_model(load_settings(environment={"ES_HOME": home, "ES_DATABASE": url}))
generation = prepared(model)
print("ready", flush=True)
while True:
    first = generation.checkpoint + 1
    rows = [put(first + i) for i in range(20)]
    generation = model.apply(THINGS, generation, rows, reached=History(first + 19), events=20)
"""


def test_a_killed_projector_leaves_the_rows_of_its_checkpoint(
    read_model_settings: Settings, read_model: ReadModel
) -> None:
    prepared(read_model)
    process = start_python(_APPLY_FOR_EVER, str(read_model_settings.home), read_model_settings.database)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        eventually(lambda: prepared(read_model).checkpoint > 200, "the projector works")
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)

    generation = prepared(read_model)
    assert generation.events == generation.checkpoint
    assert [found["thing_id"] for found in read_model.rows(THINGS)] == [*range(1, generation.checkpoint + 1)]


# --- parked events ---------------------------------------------------------------------------


def test_parked_events_are_listed_oldest_first_and_once(read_model: ReadModel) -> None:
    generation = prepared(read_model)
    first, second = Parked(3, "thing-1", "not readable"), Parked(11, "thing-1", "behind a parked event")

    after = apply(read_model, generation, checkpoint=11, parked=[second, first, first])

    assert after is not None
    assert read_model.parked(THINGS, after) == [first, second]


def test_every_generation_has_its_own_parked_events(read_model: ReadModel) -> None:
    parked = Parked(1, "thing-1", "not readable")
    current = apply(read_model, prepared(read_model), checkpoint=1, parked=[parked])
    building = rebuilding(read_model)

    assert current is not None
    assert read_model.parked(THINGS, building) == []
    assert read_model.parked(THINGS, current) == [parked]
    assert read_model.parked(OTHERS, current) == []


# --- rows ------------------------------------------------------------------------------------


@pytest.fixture
def ten(read_model: ReadModel) -> ReadModel:
    colours = ["red", "blue", None, "red", "blue", "red", None, "red", "blue", "red"]
    keys = [50, 20, 90, 10, 100, 30, 70, 40, 80, 60]
    moved(read_model, prepared(read_model), *(put(key, colours[key // 10 - 1], key % 30) for key in keys))
    return read_model


def keys_of(rows: Sequence[Mapping[str, Value]]) -> list[Value]:
    return [found["thing_id"] for found in rows]


def test_rows_come_in_order_of_key(ten: ReadModel) -> None:
    assert keys_of(ten.rows(THINGS)) == [*range(10, 101, 10)]


def test_rows_of_keys_come_in_order_of_key_without_missing_ones(ten: ReadModel) -> None:
    assert keys_of(ten.rows(THINGS, keys=[70, 15, 20, 1000])) == [20, 70]
    assert ten.rows(THINGS, keys=[]) == []


def test_rows_are_paged_by_key_without_gaps_or_repetition(ten: ReadModel) -> None:
    pages, after = [], 0
    while page := ten.rows(THINGS, after=after, limit=3):
        pages.append(keys_of(page))
        after = int(page[-1]["thing_id"] or 0)

    assert pages == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100]]


def test_rows_are_chosen_by_their_columns(ten: ReadModel) -> None:
    assert keys_of(ten.rows(THINGS, where={"colour": "red"})) == [10, 40, 60, 80, 100], "the usual one"
    assert keys_of(ten.rows(THINGS, where={"colour": "blue"})) == [20, 50, 90]
    assert keys_of(ten.rows(THINGS, where={"colour": "blue", "size": 20})) == [20, 50]
    assert keys_of(ten.rows(THINGS, where={"colour": "blue"}, after=20, limit=1)) == [50]
    assert ten.rows(THINGS, where={"colour": "x' OR '1'='1"}) == []


def test_a_projection_that_was_never_filled_is_unavailable(read_model: ReadModel) -> None:
    with pytest.raises(PartUnavailable, match="never filled"):
        read_model.rows(THINGS)


# --- outages ---------------------------------------------------------------------------------

_GENERATION = Generation("things", 1, GenerationState.CURRENT, 0, 0, 0, None)
_EVERY_METHOD: list[Callable[[ReadModel], object]] = [
    prepared,
    lambda model: model.generations(THINGS),
    lambda model: apply(model, _GENERATION, put(1)),
    rebuilding,
    lambda model: model.promote(THINGS, _GENERATION, now_us=NOW_US),
    lambda model: model.parked(THINGS, _GENERATION),
    lambda model: model.change_parked(THINGS, _GENERATION, [put(1)], removed=[1]),
    lambda model: model.rows(THINGS),
]


@pytest.mark.parametrize("call", range(len(_EVERY_METHOD)))
def test_a_closed_read_model_is_unavailable(read_model: ReadModel, call: int) -> None:
    prepared(read_model)
    read_model.close()

    with ThreadPoolExecutor(1) as pool, pytest.raises(PartUnavailable):
        pool.submit(_EVERY_METHOD[call], read_model).result(DEADLINE_S)


def test_a_second_close_does_nothing(read_model: ReadModel) -> None:
    read_model.close()

    assert read_model.close() is None  # type: ignore[func-returns-value]
