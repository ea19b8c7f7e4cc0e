"""Read models in SQLite on a full disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.errors import PartUnavailable
from tests.support.full_disk import limited
from tests.support.read_models import THINGS, apply, moved, prepared, put, rebuilding, row


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


def test_a_full_disk_during_a_rebuild_leaves_the_current_generation_usable(path: Path) -> None:
    with closing(limited(SqliteReadModel(path))) as full:
        current = moved(full, prepared(full), put(1))
        building = rebuilding(full)

        with pytest.raises(PartUnavailable, match="the disk is full"):
            apply(full, building, *(put(key, "x" * 500) for key in range(1, 1000)))

        assert full.rows(THINGS) == [row(1)]
        assert apply(full, current, put(2)) is not None
