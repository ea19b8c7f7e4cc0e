"""A long reader of the vault holds up the cleaning alone: every key is destroyed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import apsw
import pytest

from adapters.postgres.vault import PostgresVault
from tests.support.accounts import ADA, GRACE, erase
from tests.support.erasures import Erasures
from tests.support.postgres import locked
from tests.support.vaults import KEK
from tests.support.waiting import eventually

Reading = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def over_postgres(erasures: Erasures, postgres_url: str) -> Erasures:
    erasures.vault.close()
    erasures.vault = PostgresVault(postgres_url, kek=KEK)  # `erasures` closes it
    return erasures


def test_a_long_reader_of_sqlite_delays_no_key(erasures: Erasures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.sqlite.database.BUSY_TIMEOUT_MS", 50)

    @contextmanager
    def reading() -> Iterator[None]:
        with closing(apsw.Connection(str(erasures.vault_path))) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM data_keys").get
            yield
            reader.execute("ROLLBACK")

    delays_no_key(erasures, reading)


def test_a_long_reader_of_postgres_delays_no_key(over_postgres: Erasures, postgres_url: str) -> None:
    schema = postgres_url.rpartition("schema=")[2]
    look = f"SELECT count(*) FROM {schema}_vault.bucket_keys"

    delays_no_key(over_postgres, lambda: locked(postgres_url, look))


def delays_no_key(erasures: Erasures, reading: Reading) -> None:
    """Check it: the key of each person is destroyed while the reader reads, and the cleaning is completed after it."""
    first, second = erasures.a_user(ADA), erasures.a_user(GRACE)
    with reading():
        for user_id in (first, second):
            erasures.done(erase(user_id))
            erasures.run()
            assert erasures.is_erased(user_id)
        assert erasures.owed() == {first: "key-destroyed", second: "key-destroyed"}
        assert "reader" in erasures.why_owed(second)
        assert erasures.completions(first) == 0

    def is_clean() -> bool:
        erasures.cleaning().clean()
        return erasures.owed() == {}

    eventually(is_clean, "the reader has ended")
    assert erasures.completions(first) == erasures.completions(second) == 1
