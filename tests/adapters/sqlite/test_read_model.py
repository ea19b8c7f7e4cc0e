"""Read models in SQLite: on a full disk, and the plans of their statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.sqlite.read_model import _VARIABLES, SqliteReadModel
from domain.kernel.errors import PartUnavailable
from domain.kernel.projection import Add, Change, Delete
from tests.support.full_disk import limited
from tests.support.read_models import (
    NAMED,
    NOW_US,
    SELECTIONS,
    THINGS,
    Things,
    apply,
    moved,
    prepared,
    put,
    rebuilding,
    row,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read.db"


def test_on_a_full_disk_rows_and_checkpoint_stay_together(path: Path) -> None:
    with closing(limited(SqliteReadModel(path))) as full:
        generation = prepared(full)

        def fill_for_ever() -> None:
            nonlocal generation
            while True:
                first = generation.checkpoint + 1
                generation = moved(full, generation, *(put(first + i, "x" * 500) for i in range(20)))

        with pytest.raises(PartUnavailable, match="the disk is full"):
            fill_for_ever()

        assert generation.checkpoint > 0
        assert prepared(full) == generation
        assert len(full.rows(THINGS)) == generation.checkpoint

    with closing(SqliteReadModel(path)) as roomy:
        assert apply(roomy, generation, put(generation.checkpoint + 1)) is not None


def indexes_of(read_model: SqliteReadModel) -> list[str]:
    select = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name GLOB 'things_g*'"
    return [name for (name,) in read_model._database.connection.execute(select)]


def test_rows_of_an_earlier_version_get_the_index_of_unusual_values(path: Path) -> None:
    with closing(SqliteReadModel(path)) as read_model:
        moved(read_model, prepared(read_model), put(1, "blue"), put(2))
        read_model._database.connection.execute("DROP INDEX things_g1_by_colour")

        prepared(read_model)

        assert indexes_of(read_model) == ["things_g1_by_colour"]
        assert read_model.rows(THINGS, where={"colour": "blue"}) == [row(1, "blue")]


def test_each_generation_has_its_index(path: Path) -> None:
    with closing(SqliteReadModel(path)) as read_model:
        prepared(read_model)
        rebuilding(read_model)

        assert indexes_of(read_model) == ["things_g1_by_colour", "things_g2_by_colour"]


def test_a_full_disk_during_a_rebuild_leaves_the_current_generation_usable(path: Path) -> None:
    with closing(limited(SqliteReadModel(path))) as full:
        current = moved(full, prepared(full), put(1))
        building = rebuilding(full)

        with pytest.raises(PartUnavailable, match="the disk is full"):
            apply(full, building, *(put(key, "x" * 500) for key in range(1, 1000)))

        assert full.rows(THINGS) == [row(1)]
        assert apply(full, current, put(2)) is not None


class Plans:
    """The query plans of the statements about rows that a model ran; not of those that ask for its columns."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._statements: list[tuple[str, Any]] = []

    def note(self, _: object, sql: str, arguments: Any) -> bool:
        self._statements.append((sql, arguments))
        return True

    def of(self, projection: Things) -> list[str]:
        return [
            " ".join(row[3] for row in self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", arguments))
            for sql, arguments in self._statements
            if projection.name in sql and not sql.startswith("PRAGMA")
        ]


@contextmanager
def traced(model: SqliteReadModel) -> Iterator[Plans]:
    with model._database.reading() as connection:
        plans = Plans(connection)
        connection.exec_trace = plans.note
        try:
            yield plans
        finally:
            connection.exec_trace = None


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_page_of_text_keys_and_a_count_search_the_key(path: Path, selection: dict[str, Any]) -> None:
    with closing(SqliteReadModel(path)) as model:
        moved(model, prepared(model, NAMED), put("a"), projection=NAMED)
        with traced(model) as traces:
            model.rows(NAMED, **selection, limit=2)
            model.count(NAMED, prefix=selection["prefix"], limit=2)
        plans = traces.of(NAMED)
    assert len(plans) == 2
    for plan in plans:
        assert re.search(r"SEARCH named_things_g1 USING (INDEX \S+|PRIMARY KEY) \(thing_id", plan), plan
        assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("projection", [THINGS, NAMED], ids=["number", "text"])
@pytest.mark.parametrize("number", [1, 2, 300])
def test_each_operation_and_each_row_asked_for_searches_its_key(
    path: Path, projection: Things, number: int
) -> None:
    keys: list[Any] = [key if projection is THINGS else f"{key}" for key in range(1, number + 1)]
    with closing(SqliteReadModel(path)) as model:
        generation = moved(model, prepared(model, projection), *map(put, keys), projection=projection)
        with traced(model) as traces:
            changes = [Change(key, {"colour": "blue"}) for key in keys]
            generation = moved(model, generation, *changes, projection=projection)
            generation = moved(
                model, generation, *(Add(key, {"size": 1}) for key in keys), projection=projection
            )
            assert model.rows(projection, keys=keys) == [row(key, "blue", 2) for key in sorted(keys)]
            moved(model, generation, *map(Delete, keys), projection=projection)
        plans = traces.of(projection)
    assert len(plans) == 4
    for plan in plans:
        assert re.search(
            r"SEARCH \w*things_g1 USING (INTEGER PRIMARY KEY \(rowid|PRIMARY KEY \(thing_id)", plan
        ), plan
        assert "SCAN things" not in plan
        assert "SCAN named_things" not in plan


def test_a_batch_may_have_more_rows_than_a_statement(path: Path) -> None:
    keys = range(1, 2 * _VARIABLES)
    with closing(SqliteReadModel(path)) as model:
        generation = moved(model, prepared(model), *map(put, keys))
        generation = moved(model, generation, *(Change(key, {"colour": "blue"}) for key in keys))
        generation = moved(model, generation, *(Add(key, {"size": key}) for key in keys))
        assert model.rows(THINGS, keys=[*keys]) == [row(key, "blue", 1 + key) for key in keys]

        moved(model, generation, *map(Delete, keys[1:]))

        assert model.rows(THINGS) == [row(1, "blue", 2)]


def test_to_remove_a_generation_writes_no_more_if_it_has_more_rows(path: Path) -> None:
    with closing(SqliteReadModel(path)) as read_model:
        generation = prepared(read_model)
        moved(read_model, generation, *(put(number, "x" * 500) for number in range(5000)))
        built = apply(read_model, rebuilding(read_model), checkpoint=5000)
        assert built is not None
        assert read_model.promote(THINGS, built, now_us=NOW_US)
        log = Path(f"{path}-wal")
        read_model._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        assert read_model.prune(THINGS) == [1]

        assert log.stat().st_size < 100_000  # freed space is zeroed: the table has 2.5 MB
        assert read_model.clear(limit=1000)
        assert log.stat().st_size < 1_500_000
