"""A lost key row is no destroyed key: it is said, and a newer copy of the vault still opens the person, until it erases too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from adapters.sqlite.vault import SqliteVault
from domain.kernel.messages import Request
from domain.kernel.ports.vault import LivingKey
from tests.support.accounts import ADA, GRACE, erase
from tests.support.erasures import Erasures


def test_a_newer_vault_opens_a_person_whose_key_row_was_lost_until_it_erases_too(
    erasures: Erasures, tmp_path: Path, log_text: Callable[[], str]
) -> None:
    user_id, other = erasures.a_user(ADA), erasures.a_user(GRACE)
    erasures.vault.close()
    shutil.copy(erasures.vault_path, tmp_path / "newer.db")
    erasures.vault = erasures.open_vault()
    erasures.change_vault("DELETE FROM data_keys WHERE subject = ?", user_id)

    assert erasures.done(erase(user_id))["key"] == "missing", "the caller is told"
    erasures.run()

    assert '"key-was-missing"' in log_text()
    assert erasures.is_erased(user_id), "a tombstone is left: no key comes again"
    with closing(SqliteVault(tmp_path / "newer.db", kek=bytes(range(32)))) as newer:
        assert isinstance(newer.data_keys([user_id])[user_id], LivingKey)
        status = Request("erasures.status", {"user_id": str(user_id)})
        (before,) = erasures.queries(vault=newer).handle([status])
        assert isinstance(before, dict)
        assert before["erasure"] == "decided", "measured in the vault that is in use"
        erasures.run(vault=newer)

        keys = newer.data_keys([user_id, other])
        assert not isinstance(keys[user_id], LivingKey)
        assert isinstance(keys[other], LivingKey)
