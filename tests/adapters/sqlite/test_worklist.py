"""The worklist shares the file of the read models, and nothing else."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from adapters.sqlite.read_model import SqliteReadModel
from adapters.sqlite.worklist import SqliteWorklist
from domain.kernel.history import History
from domain.kernel.ports.worklist import Opening
from tests.support.read_models import prepared

_FULL, _NORMAL = 2, 1


def test_the_worklist_is_durable_and_the_rows_beside_it_are_derived(tmp_path: Path) -> None:
    path = tmp_path / "read.db"
    with closing(SqliteReadModel(path)) as model, closing(SqliteWorklist(path)) as worklist:
        assert worklist._database.connection.pragma("synchronous") == _FULL
        assert model._database.connection.pragma("synchronous") == _NORMAL

        prepared(model)
        worklist.open_instances("transfer", [Opening(7, 1)], reached=History(1), now_us=1)

        assert [each.instance for each in worklist.instances(limit=9)] == [7]
