"""Read models in PostgreSQL beyond their contract: crashes, concurrent promotions, names, text, long readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import pytest

from adapters.postgres import database as postgres
from adapters.postgres import generations as postgres_generations
from adapters.postgres.read_model import PostgresReadModel
from domain.kernel.history import History
from domain.kernel.ports.read_model import Generation, GenerationState, Parked
from domain.kernel.projection import Put
from tests.support.postgres import Server, is_waiting, locked, unavailable
from tests.support.read_models import (
    NAMED,
    NOW_US,
    SELECTIONS,
    THINGS,
    Things,
    moved,
    prepared,
    promoted,
    put,
    rebuilding,
    row,
)
from tests.support.waiting import DEADLINE_S, eventually


def test_a_crash_may_lose_rows_with_their_checkpoint_but_no_generation(server: Server, own_url: str) -> None:
    with closing(PostgresReadModel(own_url)) as read_model:
        with server.crashing():
            generation = prepared(read_model)
        with server.crashing():
            moved(read_model, generation, put(1, "lost"))

        assert read_model.generations(THINGS) == [generation]
        assert read_model.rows(THINGS) == []

        with server.crashing():
            building = rebuilding(read_model)
        with server.crashing():
            assert read_model.promote(THINGS, building, now_us=NOW_US)

        states = [generation.state for generation in read_model.generations(THINGS)]
        assert states == [GenerationState.RETIRED, GenerationState.CURRENT]


def test_results_are_sorted_and_not_in_order_by_luck(read_model: PostgresReadModel) -> None:
    for way in ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"):
        # Without these, rows come in the order of their places in the table.
        read_model._database.read(lambda c, way=way: c.execute(f"SET {way} = off"))  # type: ignore[misc]
    first, second = prepared(read_model), rebuilding(read_model)
    backwards = [3, 2, 1]

    after = read_model.apply(
        THINGS,
        first,
        [put(key) for key in backwards],
        reached=History(3),
        events=3,
        parked=[Parked(position, "thing-1", "not readable") for position in backwards],
    )

    assert after is not None
    unsorted = read_model._sql("SELECT {key} FROM {table}", THINGS, first.number)
    assert [key for (key,) in read_model._all(unsorted, ())] == backwards
    assert read_model.rows(THINGS) == read_model.rows(THINGS, keys=backwards) == [row(1), row(2), row(3)]
    assert read_model.rows(THINGS, limit=2) == [row(1), row(2)]
    assert [each.position for each in read_model.parked(THINGS, after)] == [1, 2, 3]
    assert read_model.generations(THINGS) == [after, second]


def test_a_generation_is_not_promoted_over_one_that_advances_at_that_moment(
    postgres_url: str, read_model: PostgresReadModel
) -> None:
    current, built = prepared(read_model), rebuilding(read_model)
    # A projector has applied an event to the current one, but not committed yet.
    advance = (
        f"UPDATE {read_model._database.schema}.generations SET checkpoint = 1 WHERE number = {current.number}"
    )
    with ThreadPoolExecutor(1) as pool:
        with locked(postgres_url, advance, commit=True):
            promoting = pool.submit(read_model.promote, THINGS, built, now_us=NOW_US)
            eventually(lambda: is_waiting(postgres_url), "the promotion waits")

        assert promoting.result(DEADLINE_S) is False

    assert prepared(read_model).number == current.number


def test_the_number_of_a_generation_is_never_reused(read_model: PostgresReadModel) -> None:
    numbers = [prepared(read_model).number, *(promoted(read_model).number for _ in range(3))]

    assert numbers == [1, 2, 3, 4]


# --- names and text --------------------------------------------------------------------------


class Oddities(Things):
    """A projection whose every name is a word of SQL or needs quoting."""

    name: ClassVar[str] = 'select "x"'
    key: ClassVar[str] = "order"
    columns: ClassVar[Mapping[str, str]] = {"from": "TEXT", "Size; --": "INTEGER"}


class Long(Things):
    name: ClassVar[str] = "x" * 61


def test_names_of_a_projection_may_be_words_of_sql(read_model: PostgresReadModel) -> None:
    generation = prepared(read_model, Oddities())
    rows = [Put(1, {"from": "a", "Size; --": 1}), Put(2, {"from": "b", "Size; --": 2})]

    moved(read_model, generation, *rows, projection=Oddities())

    found = read_model.rows(Oddities(), where={"Size; --": 2})
    assert found == [{"order": 2, "from": "b", "Size; --": 2}]


def test_a_name_that_postgresql_would_cut_is_refused(read_model: PostgresReadModel) -> None:
    with pytest.raises(ValueError, match="too long"):
        prepared(read_model, Long())


@pytest.mark.parametrize("text", ["\0", "\\", "\\0", "\\\\0", "a\\\0b\\\\", "\\\0\\0\0"])
def test_text_that_postgresql_cannot_store_is_read_back_unchanged(
    read_model: PostgresReadModel, text: str
) -> None:
    moved(read_model, prepared(read_model), put(1, text))

    assert read_model.rows(THINGS, where={"colour": text}) == [row(1, text)]


# --- readers during a rebuild ----------------------------------------------------------------


def test_a_reader_whose_generation_was_removed_reads_its_successor(
    read_model: PostgresReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = [prepared(read_model)]
    promoted(read_model, put(1, "new"))
    rebuilding(read_model)  # removes the generation that the reader has looked up
    find = PostgresReadModel._find

    def late(*arguments: Any) -> Generation | None:
        return looked_up.pop() if looked_up else find(read_model, *arguments)

    monkeypatch.setattr(read_model, "_find", late)

    assert read_model.rows(THINGS) == [row(1, "new")]
    assert not looked_up


@pytest.fixture
def rebuilt(read_model: PostgresReadModel) -> list[Generation]:
    """A retired generation, which the next rebuild removes, and the current one; each with one row."""
    moved(read_model, prepared(read_model), put(1, "old"))
    promoted(read_model, put(1, "new"))
    return read_model.generations(THINGS)


@contextmanager
def waiting_rebuild(url: str, read_model: PostgresReadModel) -> Iterator[Future[Generation]]:
    """A rebuild that waits while another session, perhaps a backup, reads the generation it would remove."""
    with ThreadPoolExecutor(1) as pool, locked(url, read_model._sql("TABLE {table}", THINGS, 1)):
        begun = pool.submit(rebuilding, read_model)
        eventually(lambda: is_waiting(url), "the rebuild waits")
        yield begun


def test_queries_and_projectors_work_while_a_rebuild_waits_for_a_reader(
    postgres_url: str,
    read_model: PostgresReadModel,
    rebuilt: list[Generation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_generations, "_DROP_WAIT_MS", int(DEADLINE_S) * 1000)
    with waiting_rebuild(postgres_url, read_model) as begun:
        assert read_model.rows(THINGS) == [row(1, "new")]
        assert prepared(read_model) == rebuilt[1]
        assert read_model.generations(THINGS) == rebuilt
        moved(read_model, rebuilt[1], put(2, "newer"))
        assert read_model.rows(THINGS) == [row(1, "new"), row(2, "newer")]
        assert not begun.done()

    assert begun.result(DEADLINE_S).number == 3


def test_a_query_behind_a_waiting_rebuild_succeeds_when_the_rebuild_gives_up(
    postgres_url: str,
    read_model: PostgresReadModel,
    rebuilt: list[Generation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", int(DEADLINE_S) * 1000)  # of later transactions
    with waiting_rebuild(postgres_url, read_model) as begun:
        # The query looked its generation up just before another one took its place.
        monkeypatch.setattr(read_model, "_find", lambda *_: rebuilt[0])

        assert read_model.rows(THINGS) == [row(1, "old")]

        unavailable(lambda: begun.result(DEADLINE_S), "stayed locked")
    assert read_model.generations(THINGS) == rebuilt


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_page_of_text_keys_and_a_count_search_the_key(
    read_model: PostgresReadModel, monkeypatch: pytest.MonkeyPatch, selection: dict[str, Any]
) -> None:
    rows = [put(f"{first}{number}") for first in "abc" for number in range(1000)]
    moved(read_model, prepared(read_model, NAMED), *rows, projection=NAMED)
    read_model._database.read(lambda c: c.execute("SET enable_seqscan = off"))  # the table is small
    plans: list[str] = []

    def explained(template: str, *arguments: Any, **more: Any) -> list[tuple[Any, ...]]:
        plan = select(f"EXPLAIN {template}", *arguments, **more)
        plans.append(" ".join(line for (line,) in plan))
        return select(template, *arguments, **more)

    select = read_model._select
    monkeypatch.setattr(read_model, "_select", explained)
    read_model.rows(NAMED, **selection, limit=2)
    read_model.count(NAMED, prefix=selection["prefix"], limit=2)

    assert len(plans) == 2
    lower = f"thing_id > '{selection['after']}'" if selection.get("after", "") > "b" else "thing_id >= 'b'"
    for plan, bound in zip(plans, (lower, "thing_id >= 'b'"), strict=True):
        assert f"Index Cond: (({bound}::text) AND (thing_id < 'c'::text))" in plan, plan
        assert "Sort" not in plan


def test_rows_of_an_earlier_version_get_the_index_of_unusual_values(own_url: str) -> None:
    with closing(PostgresReadModel(own_url)) as earlier:
        moved(earlier, prepared(earlier), put(1, "blue"), put(2))
        name = earlier._database.sql("{schema}.things_g1_usual_0")
        earlier._database.write(lambda c: c.execute(f"DROP INDEX {name}"))

    with closing(PostgresReadModel(own_url)) as read_model:
        prepared(read_model)

        select = f"SELECT to_regclass('{name}') IS NOT NULL"
        assert read_model._database.read(lambda c: c.execute(select).fetchone()) == (True,)
        assert read_model.rows(THINGS, where={"colour": "blue"}) == [row(1, "blue")]
