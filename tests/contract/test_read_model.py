"""The read model contract: a test for each sentence of `ReadModel` in domain/kernel/ports, over every adapter."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.settings import Settings
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.errors import EsError, PartUnavailable
from domain.kernel.events import Event, Position, Recorded
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, ReadModel
from domain.kernel.projection import Change, Operation, Projection, Put, Row, Value
from tests.support.builders import DEADLINE_S, eventually, start_python

NOW_US = 1_760_000_000_000_000
OpenReadModel = Callable[[], ReadModel]


class Things(Projection):
    """A small projection. What it does with events is no business of a read model."""

    name: ClassVar[str] = "things"
    prefixes: ClassVar[Sequence[str]] = ("thing-",)
    key: ClassVar[str] = "thing_id"
    columns: ClassVar[Mapping[str, str]] = {"colour": "TEXT", "size": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        raise AssertionError("a read model knows nothing of events")


class OtherThings(Things):
    name: ClassVar[str] = "other_things"


THINGS, OTHERS = Things(), OtherThings()


def put(key: int, colour: str | None = "red", size: int = 1) -> Put:
    return Put(key, {"colour": colour, "size": size})


def row(key: int, colour: str | None = "red", size: int = 1) -> dict[str, Value]:
    return {"thing_id": key, "colour": colour, "size": size}


def apply(
    model: ReadModel,
    generation: Generation,
    *operations: Operation,
    checkpoint: Position | None = None,
    parked: Sequence[Parked] = (),
) -> Generation | None:
    """Apply with the checkpoint moved by one for each operation, unless it is given."""
    reached = generation.checkpoint + len(operations) if checkpoint is None else checkpoint
    return model.apply(
        THINGS, generation, operations, checkpoint=reached, events=len(operations), parked=parked
    )


def applied(model: ReadModel, generation: Generation, *operations: Operation) -> Generation:
    moved = apply(model, generation, *operations)
    assert moved is not None
    return moved


def prepared(model: ReadModel) -> Generation:
    return model.prepare(THINGS, now_us=NOW_US)


def rebuilding(model: ReadModel) -> Generation:
    return model.begin_rebuild(THINGS, now_us=NOW_US)


# --- prepare and generations -----------------------------------------------------------------


def test_the_current_generation_is_made_empty_on_first_use(read_model: ReadModel) -> None:
    assert read_model.generations(THINGS) == []

    generation = prepared(read_model)

    assert generation == Generation("things", 1, GenerationState.CURRENT, 0, 0, NOW_US, None)
    assert read_model.rows(THINGS) == []
    assert read_model.generations(THINGS) == [generation]


def test_preparing_again_answers_the_generation_as_it_is(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    moved = applied(read_model, prepared(read_model), put(1))

    assert read_model.prepare(THINGS, now_us=NOW_US + 5) == moved
    assert open_read_model().prepare(THINGS, now_us=NOW_US + 5) == moved


def test_of_workers_that_prepare_at_once_one_makes_the_generation(open_read_model: OpenReadModel) -> None:
    model = open_read_model()
    starting = threading.Barrier(16)

    def prepare(_: int) -> Generation:
        starting.wait(DEADLINE_S)
        return prepared(model)

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(prepare, range(16)))

    assert {generation.number for generation in made} == {1}
    assert len(model.generations(THINGS)) == 1


def test_projections_do_not_see_each_other(read_model: ReadModel) -> None:
    applied(read_model, prepared(read_model), put(1))

    other = read_model.prepare(OTHERS, now_us=NOW_US)

    assert (other.number, other.checkpoint) == (1, 0)
    assert read_model.rows(OTHERS) == []
    assert read_model.rows(THINGS) == [row(1)]


# --- apply -----------------------------------------------------------------------------------


def test_rows_checkpoint_and_parked_are_there_after_an_apply(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    generation = prepared(read_model)
    parked = Parked(7, "thing-9", "unknown event type")

    moved = read_model.apply(THINGS, generation, [put(1), put(2)], checkpoint=7, events=3, parked=[parked])

    assert moved == Generation("things", 1, GenerationState.CURRENT, 7, 3, NOW_US, None)
    again = open_read_model()
    assert again.generations(THINGS) == [moved]
    assert again.rows(THINGS) == [row(1), row(2)]
    assert again.parked(THINGS, moved) == [parked]


def test_events_are_counted_over_all_applies(read_model: ReadModel) -> None:
    generation = applied(read_model, prepared(read_model), put(1), put(2))

    generation = applied(read_model, generation, put(3))

    assert generation.events == 3


def test_a_put_replaces_a_row_and_a_change_sets_some_columns(read_model: ReadModel) -> None:
    applied(
        read_model,
        prepared(read_model),
        put(1, "red", 1),
        put(2, "blue", 2),
        put(1, "green", 5),
        Change(2, {"size": 9}),
    )

    assert read_model.rows(THINGS) == [row(1, "green", 5), row(2, "blue", 9)]


def test_a_change_of_a_row_that_is_not_there_does_nothing(read_model: ReadModel) -> None:
    applied(read_model, prepared(read_model), Change(1, {"colour": "red"}), put(2))

    assert read_model.rows(THINGS) == [row(2)]


_operations = st.one_of(
    st.builds(put, st.integers(1, 4), st.sampled_from(["red", "blue", None]), st.integers(0, 9)),
    st.builds(
        Change,
        st.integers(1, 4),
        st.dictionaries(st.just("colour"), st.sampled_from(["red", "blue", None]), min_size=1)
        | st.dictionaries(st.just("size"), st.integers(0, 9), min_size=1),
    ),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(batches=st.lists(st.lists(_operations, max_size=8), max_size=4))
def test_operations_are_applied_in_order_however_they_are_batched(
    open_read_model: OpenReadModel, batches: list[list[Operation]]
) -> None:
    model = open_read_model()
    current = prepared(model)
    generation = apply(model, rebuilding(model), checkpoint=current.checkpoint)
    assert generation is not None
    expected: dict[int, dict[str, Value]] = {}
    for batch in batches:
        generation = applied(model, generation, *batch)
        for operation in batch:
            if isinstance(operation, Put):
                expected[operation.key] = {"thing_id": operation.key, **operation.row}
            elif operation.key in expected:
                expected[operation.key].update(operation.columns)
    assert model.promote(THINGS, generation, now_us=NOW_US)

    assert model.rows(THINGS) == [expected[key] for key in sorted(expected)]
    model.close()


def test_values_are_stored_as_they_are(read_model: ReadModel) -> None:
    values: list[tuple[str | None, int]] = [
        ("'; DROP TABLE generations; --", 0),
        ("☃ \x00 ü", -(1 << 63)),
        (None, (1 << 63) - 1),
        ("", 1),
    ]

    applied(read_model, prepared(read_model), *(put(i + 1, *value) for i, value in enumerate(values)))

    assert read_model.rows(THINGS) == [row(i + 1, *value) for i, value in enumerate(values)]


def test_a_key_may_be_the_largest_id(read_model: ReadModel) -> None:
    largest = (1 << 63) - 1

    applied(read_model, prepared(read_model), put(largest))

    assert read_model.rows(THINGS, keys=[largest]) == [row(largest)]


def test_a_checkpoint_moves_without_rows_while_only_other_streams_grow(read_model: ReadModel) -> None:
    moved = apply(read_model, prepared(read_model), checkpoint=100)

    assert moved is not None
    assert (moved.checkpoint, moved.events) == (100, 0)


def test_nothing_is_applied_when_another_was_faster(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    generation = prepared(read_model)
    faster = applied(open_read_model(), generation, put(1, "green"))

    late = apply(read_model, generation, put(1, "red"), put(2), parked=[Parked(1, "thing-1", "too late")])

    assert late is None
    assert read_model.rows(THINGS) == [row(1, "green")]
    assert read_model.parked(THINGS, generation) == []
    assert read_model.generations(THINGS) == [faster]


def test_nothing_is_applied_to_a_generation_that_was_replaced(read_model: ReadModel) -> None:
    old = applied(read_model, prepared(read_model), put(1))
    built = applied(read_model, rebuilding(read_model), put(1, "new"))
    assert read_model.promote(THINGS, built, now_us=NOW_US)

    assert apply(read_model, old, put(2)) is None
    assert apply(read_model, built, put(2)) is None, "it isn't building any more"
    assert read_model.rows(THINGS) == [row(1, "new")]


def test_nothing_is_applied_to_a_generation_that_was_removed(read_model: ReadModel) -> None:
    old = applied(read_model, prepared(read_model), put(1))
    assert read_model.promote(THINGS, applied(read_model, rebuilding(read_model), put(1)), now_us=NOW_US)
    rebuilding(read_model)

    assert apply(read_model, old, put(2)) is None


@pytest.mark.parametrize("bad", [Put(2, {"colour": "red", "size": "no number"}), Put(3, {"no_column": 1})])
def test_rows_and_checkpoint_are_applied_together_or_not_at_all(read_model: ReadModel, bad: Put) -> None:
    generation = prepared(read_model)
    parked = Parked(2, "thing-2", "behind a parked event")

    with pytest.raises(Exception) as raised:  # which one is the database's business
        apply(read_model, generation, put(1), bad, parked=[parked])

    assert not isinstance(raised.value, EsError), "a bug, which doesn't pass by waiting"
    assert read_model.rows(THINGS) == []
    assert read_model.parked(THINGS, generation) == []
    assert read_model.generations(THINGS) == [generation]
    assert apply(read_model, generation, put(1)) is not None, "and it goes on from where it was"


def test_two_projectors_over_one_read_model_apply_every_event_once(open_read_model: OpenReadModel) -> None:
    # Each event adds a row with the number of its event: applied twice or skipped, it would show.
    total, applied_by = 300, [0, 0]
    model = open_read_model()

    def project(which: int) -> None:
        luck = random.Random(which)
        generation = prepared(model)
        while generation.checkpoint < total:
            size = min(luck.randint(1, 5), total - generation.checkpoint)
            first = generation.checkpoint + 1
            moved = apply(model, generation, *(put(first + i, size=first + i) for i in range(size)))
            if moved is None:
                generation = prepared(model)
            else:
                applied_by[which] += size
                generation = moved

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(project, range(2)))

    assert sum(applied_by) == total
    assert prepared(model).events == total
    assert model.rows(THINGS) == [row(key, size=key) for key in range(1, total + 1)]


_KILLED_WHILE_APPLYING = """
import sys
from adapters import wiring
from adapters.settings import load_settings
from tests.contract.test_read_model import THINGS, prepared, put
home, url = sys.argv[1:]
model = wiring.open_read_model(load_settings(environment={"ES_HOME": home, "ES_DATABASE": url}))
generation = prepared(model)
print("ready", flush=True)
while True:
    first = generation.checkpoint + 1
    rows = [put(first + i) for i in range(20)]
    generation = model.apply(THINGS, generation, rows, checkpoint=first + 19, events=20)
"""


def test_a_killed_projector_leaves_rows_that_fit_the_checkpoint(
    read_model_settings: Settings, read_model: ReadModel
) -> None:
    prepared(read_model)
    process = start_python(
        _KILLED_WHILE_APPLYING, str(read_model_settings.home), read_model_settings.database
    )
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


# --- parked ----------------------------------------------------------------------------------


def test_parked_events_are_told_oldest_first_and_once(read_model: ReadModel) -> None:
    generation = prepared(read_model)
    first, second = Parked(3, "thing-1", "not readable"), Parked(11, "thing-1", "behind a parked event")

    moved = apply(read_model, generation, checkpoint=11, parked=[second, first, first])

    assert moved is not None
    assert read_model.parked(THINGS, moved) == [first, second]


def test_every_generation_has_its_own_parked_events(read_model: ReadModel) -> None:
    parked = Parked(1, "thing-1", "not readable")
    current = apply(read_model, prepared(read_model), checkpoint=1, parked=[parked])
    building = rebuilding(read_model)

    assert current is not None
    assert read_model.parked(THINGS, building) == []
    assert read_model.parked(THINGS, current) == [parked]
    assert read_model.parked(OTHERS, current) == []


# --- rebuild ---------------------------------------------------------------------------------


def test_a_rebuild_fills_a_new_generation_beside_the_live_one(read_model: ReadModel) -> None:
    current = applied(read_model, prepared(read_model), put(1, "live"))

    building = applied(read_model, read_model.begin_rebuild(THINGS, now_us=NOW_US + 1), put(1, "new"))

    assert building == Generation("things", 2, GenerationState.BUILDING, 1, 1, NOW_US + 1, None)
    assert read_model.generations(THINGS) == [current, building]
    assert read_model.rows(THINGS) == [row(1, "live")], "readers see the current one"
    current = applied(read_model, current, put(2, "live"))
    assert read_model.rows(THINGS) == [row(1, "live"), row(2, "live")], "which goes on"


def test_an_unfinished_rebuild_is_taken_up_where_it_was(
    read_model: ReadModel, open_read_model: OpenReadModel
) -> None:
    prepared(read_model)
    building = applied(read_model, rebuilding(read_model), put(1))

    assert open_read_model().begin_rebuild(THINGS, now_us=NOW_US + 9) == building
    assert len(read_model.generations(THINGS)) == 2


def test_of_workers_that_begin_at_once_all_get_the_same_generation(open_read_model: OpenReadModel) -> None:
    model = open_read_model()
    prepared(model)
    starting = threading.Barrier(8)

    def begin(_: int) -> Generation:
        starting.wait(DEADLINE_S)
        return rebuilding(model)

    with ThreadPoolExecutor(8) as pool:
        assert {generation.number for generation in pool.map(begin, range(8))} == {2}


def test_promoting_flips_the_pointer_and_retires_the_old_generation(read_model: ReadModel) -> None:
    applied(read_model, prepared(read_model), put(1, "old"))
    built = applied(read_model, rebuilding(read_model), put(1, "new"))

    assert read_model.promote(THINGS, built, now_us=NOW_US + 7) is True

    states = [(g.number, g.state, g.finished_at_us) for g in read_model.generations(THINGS)]
    assert states == [(1, GenerationState.RETIRED, None), (2, GenerationState.CURRENT, NOW_US + 7)]
    assert read_model.rows(THINGS) == [row(1, "new")]
    assert prepared(read_model).number == 2


def test_a_generation_that_is_behind_is_not_promoted(read_model: ReadModel) -> None:
    current = applied(read_model, prepared(read_model), put(1, "old"), put(2, "old"))
    behind = applied(read_model, rebuilding(read_model), put(1, "new"))

    assert read_model.promote(THINGS, behind, now_us=NOW_US) is False

    assert read_model.generations(THINGS) == [current, behind]
    assert read_model.rows(THINGS) == [row(1, "old"), row(2, "old")]
    level = applied(read_model, behind, put(2, "new"))
    assert read_model.promote(THINGS, level, now_us=NOW_US) is True


def test_what_the_caller_believes_of_the_checkpoint_does_not_matter_to_a_promotion(
    read_model: ReadModel,
) -> None:
    building = rebuilding_after(read_model, live=2, built=1)
    boast = Generation("things", building.number, GenerationState.BUILDING, 99, 99, NOW_US, None)

    assert read_model.promote(THINGS, boast, now_us=NOW_US) is False
    assert len(read_model.rows(THINGS)) == 2


def rebuilding_after(model: ReadModel, *, live: int, built: int) -> Generation:
    applied(model, prepared(model), *(put(key) for key in range(1, live + 1)))
    return applied(model, rebuilding(model), *(put(key) for key in range(1, built + 1)))


def test_a_generation_is_promoted_once(read_model: ReadModel) -> None:
    built = rebuilding_after(read_model, live=1, built=1)
    assert read_model.promote(THINGS, built, now_us=NOW_US)

    assert read_model.promote(THINGS, built, now_us=NOW_US + 1) is False
    assert [g.state for g in read_model.generations(THINGS)] == [
        GenerationState.RETIRED,
        GenerationState.CURRENT,
    ]


def test_a_retired_generation_is_removed_by_the_next_rebuild(read_model: ReadModel) -> None:
    parked = [Parked(1, "thing-1", "not readable")]
    old = apply(read_model, prepared(read_model), put(1), parked=parked)
    assert old is not None
    assert read_model.promote(THINGS, applied(read_model, rebuilding(read_model), put(1)), now_us=NOW_US)
    assert [g.number for g in read_model.generations(THINGS)] == [1, 2], "kept until then"

    rebuilding(read_model)

    assert [g.number for g in read_model.generations(THINGS)] == [2, 3]
    assert read_model.parked(THINGS, old) == []
    assert read_model.rows(THINGS) == [row(1)]


def test_a_rebuild_of_one_projection_leaves_the_others_alone(read_model: ReadModel) -> None:
    other = read_model.prepare(OTHERS, now_us=NOW_US)
    for _ in range(3):
        built = rebuilding(read_model) if read_model.generations(THINGS) else prepared(read_model)
        if built.state is GenerationState.BUILDING:
            assert read_model.promote(THINGS, built, now_us=NOW_US)

    assert read_model.generations(OTHERS) == [other]


def test_readers_never_see_less_while_generations_flip(open_read_model: OpenReadModel) -> None:
    model = open_read_model()
    count = 200
    applied(model, prepared(model), *(put(key, "g1") for key in range(1, count + 1)))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            rows = model.rows(THINGS)
            assert [found["thing_id"] for found in rows] == [*range(1, count + 1)]
            assert len({found["colour"] for found in rows}) == 1, "one whole generation"
            found = model.rows(THINGS, keys=[count])
            assert len(found) == 1
            seen.append(1)

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read) for _ in range(3)]
        try:
            for flip in range(2, 12):
                building = rebuilding(model)  # removes the retired one under the readers' hands
                built = applied(model, building, *(put(key, f"g{flip}") for key in range(1, count + 1)))
                assert model.promote(THINGS, built, now_us=NOW_US)
                so_far = len(seen)
                eventually(lambda: len(seen) > so_far + 3 or any(r.done() for r in reading), "reading")  # noqa: B023
        finally:
            done.set()
        for reader in reading:
            reader.result(DEADLINE_S)

    assert model.rows(THINGS, keys=[1]) == [row(1, "g11")]


# --- rows ------------------------------------------------------------------------------------


@pytest.fixture
def ten(read_model: ReadModel) -> ReadModel:
    colours = ["red", "blue", None, "red", "blue", "red", None, "red", "blue", "red"]
    keys = [50, 20, 90, 10, 100, 30, 70, 40, 80, 60]
    applied(
        read_model,
        prepared(read_model),
        *(put(key, colours[key // 10 - 1], key % 30) for key in keys),
    )
    return read_model


def keys_of(rows: Sequence[Mapping[str, Value]]) -> list[Value]:
    return [found["thing_id"] for found in rows]


def test_rows_come_in_order_of_key(ten: ReadModel) -> None:
    assert keys_of(ten.rows(THINGS)) == [*range(10, 101, 10)]


def test_rows_of_keys_come_in_order_of_key_and_only_those_that_exist(ten: ReadModel) -> None:
    assert keys_of(ten.rows(THINGS, keys=[70, 15, 20, 1000])) == [20, 70]
    assert ten.rows(THINGS, keys=[]) == []


def test_rows_are_paged_by_key_without_gaps_or_repetition(ten: ReadModel) -> None:
    pages, after = [], 0
    while page := ten.rows(THINGS, after=after, limit=3):
        pages.append(keys_of(page))
        after = int(page[-1]["thing_id"] or 0)

    assert pages == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100]]


def test_rows_are_chosen_by_their_columns(ten: ReadModel) -> None:
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
    lambda model: model.rows(THINGS),
]


@pytest.mark.parametrize("call", range(len(_EVERY_METHOD)))
def test_a_read_model_that_is_down_is_unavailable(read_model: ReadModel, call: int) -> None:
    prepared(read_model)
    read_model.close()

    with ThreadPoolExecutor(1) as pool, pytest.raises(PartUnavailable):
        pool.submit(_EVERY_METHOD[call], read_model).result(DEADLINE_S)


def test_closing_twice_is_safe(read_model: ReadModel) -> None:
    read_model.close()

    assert read_model.close() is None  # type: ignore[func-returns-value]


def test_on_a_full_disk_rows_and_checkpoint_stay_together(tmp_path: Path) -> None:
    with closing(SqliteReadModel(tmp_path / "read.db", page_limit=40)) as full:
        generation = prepared(full)

        def fill_for_ever() -> None:
            nonlocal generation
            while True:
                first = generation.checkpoint + 1
                generation = applied(full, generation, *(put(first + i, "x" * 500) for i in range(20)))

        with pytest.raises(PartUnavailable, match="the disk is full"):
            fill_for_ever()

        assert generation.checkpoint > 0
        assert prepared(full) == generation
        assert len(full.rows(THINGS)) == generation.checkpoint

    with closing(SqliteReadModel(tmp_path / "read.db")) as roomy:
        assert apply(roomy, generation, put(generation.checkpoint + 1)) is not None


def test_a_full_disk_during_a_rebuild_leaves_the_live_generation_serving(tmp_path: Path) -> None:
    with closing(SqliteReadModel(tmp_path / "read.db", page_limit=40)) as full:
        current = applied(full, prepared(full), put(1))
        building = rebuilding(full)

        with pytest.raises(PartUnavailable, match="the disk is full"):
            apply(full, building, *(put(key, "x" * 500) for key in range(1, 1000)))

        assert full.rows(THINGS) == [row(1)]
        assert apply(full, current, put(2)) is not None
