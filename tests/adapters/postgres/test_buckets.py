"""Several workers that remember bucket keys never write under one that is gone, and never miss what another one has stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from adapters.crypto.bucket_keys import BLOCK_SIZE, bucket_of
from adapters.postgres import buckets
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import Damaged
from domain.kernel.ports.vault import DamagedKey, HeldByOther, LivingKey, Reserved
from tests.support.postgres import copied_tables, execute, is_waiting, locked
from tests.support.together import at_once
from tests.support.vaults import (
    ADA,
    KEK,
    NOW_US,
    destroy,
    holder,
    owe,
    register,
    registered,
    registration,
    reserve,
    secret_of,
)
from tests.support.waiting import eventually


@pytest.fixture
def other(postgres_url: str, vault: PostgresVault) -> Iterator[PostgresVault]:
    """The vault as another worker has it open."""
    with closing(PostgresVault(postgres_url, kek=KEK)) as opened:
        yield opened


def rotate(vault: PostgresVault, *ids: int) -> None:
    vault._rotation._replace(ids)


def bucket(vault: PostgresVault, email: str) -> int:
    return bucket_of(vault.tags([email])[0])


def block(vault: PostgresVault, subject: int) -> int:
    schema = vault._database.schema
    row = vault._one(f"SELECT block FROM {schema}.data_keys WHERE subject = %s", subject)
    return int(row)


def test_another_worker_finds_an_address_whose_bucket_has_a_new_key(
    vault: PostgresVault, other: PostgresVault
) -> None:
    registered(vault, 1, ADA)
    assert holder(other, ADA) == 1

    rotate(vault, bucket(vault, ADA))

    assert holder(other, ADA) == 1
    rotate(vault, bucket(vault, ADA))
    assert reserve(other, registration(ADA, subject=2)) == HeldByOther(1, confirmed=True)
    assert other.data_keys([2]) == {}


def test_another_worker_opens_a_key_whose_block_has_a_new_key(
    vault: PostgresVault, other: PostgresVault
) -> None:
    registered(vault, 1, ADA)
    secret = secret_of(other, 1)

    rotate(vault, block(vault, 1))

    assert secret_of(other, 1) == secret


def test_a_worker_goes_on_in_its_block_after_another_one_gave_it_a_new_key(
    vault: PostgresVault, other: PostgresVault
) -> None:
    register(other, 1)
    first = secret_of(other, 1)
    rotate(vault, block(vault, 1))

    register(other, 2)
    register(other, 3)

    assert {type(key) for key in vault.data_keys([1, 2, 3]).values()} == {LivingKey}
    assert secret_of(vault, 1) == first


def test_another_worker_keeps_and_shows_the_tags_of_an_owed_erasure_under_new_keys(
    vault: PostgresVault, other: PostgresVault
) -> None:
    registered(vault, 1, ADA)
    holder(other, ADA)
    owe(vault, 1)
    rotate(vault, bucket(vault, ADA), block(vault, 1))

    destroy(other, 1)

    assert [tag.tag for tag in other.owed_tags([1])[1]] == vault.tags([ADA])
    rotate(vault, block(vault, 1))
    assert [tag.tag for tag in other.owed_tags([1])[1]] == vault.tags([ADA])


def test_a_block_has_at_most_64_people(vault: PostgresVault) -> None:
    for first in (1, 51, 101):
        register(vault, *range(first, first + 50))

    schema = vault._database.schema
    rows = vault._all(f"SELECT count(*) FROM {schema}.data_keys GROUP BY block", ())
    assert sorted(count for (count,) in rows) == [150 - 2 * BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE]


def test_workers_that_register_and_look_up_during_rotations_lose_nothing(
    vault: PostgresVault, other: PostgresVault, postgres_url: str
) -> None:
    register(vault, *range(1, 65))
    ids = [*{bucket(vault, f"user{subject}@example.com") for subject in range(1, 129)}, block(vault, 1)]
    ended = threading.Event()

    def rotate_all() -> None:
        with closing(PostgresVault(postgres_url, kek=KEK)) as eraser:
            while not ended.is_set():
                for first in range(0, len(ids), 8):
                    rotate(eraser, *ids[first : first + 8])

    def run(worker: int) -> None:
        mine = vault if worker else other
        for turn in range(8):
            first = 1000 * worker + 65 + 8 * turn
            answers = register(mine, *range(first, first + 8))
            mine.settle_claims(confirmed=[a.id for a in answers if isinstance(a, Reserved)], now_us=NOW_US)
            assert all(isinstance(answer, Reserved) for answer in answers)
            assert holder(mine, "user5@example.com") == 5
            assert len(secret_of(mine, 5)) == 32

    rotating = threading.Thread(target=rotate_all)
    rotating.start()
    try:
        at_once(run, [0, 1])
    finally:
        ended.set()
        rotating.join()

    everyone = [*range(1, 129), *range(1065, 1129)]
    with closing(PostgresVault(postgres_url, kek=KEK)) as fresh:
        emails = {f"user{subject}@example.com": subject for subject in everyone}
        assert fresh.holders([*emails]) == emails
        assert {type(key) for key in fresh.data_keys(everyone).values()} == {LivingKey}


def test_a_writer_waits_for_a_rotation_and_then_uses_its_key(
    postgres_url: str, vault: PostgresVault, other: PostgresVault
) -> None:
    registered(vault, 1, ADA)
    schema = vault._database.schema
    lock = f"SELECT pg_advisory_xact_lock(hashtextextended('es bucket keys ' || '{schema}', 0))"
    answers: list[object] = []
    writing = threading.Thread(target=lambda: answers.extend(register(other, 2)))
    with locked(postgres_url, lock):
        writing.start()
        eventually(lambda: is_waiting(postgres_url), "the writer waits")
        assert vault.data_keys([2]) == {}
    writing.join()

    assert isinstance(answers[0], Reserved)
    assert isinstance(vault.data_keys([2])[2], LivingKey)


def test_a_worker_writes_under_the_keys_of_a_copy_that_was_put_back_beside_it(
    postgres_url: str, vault: PostgresVault
) -> None:
    register(vault, *range(1, 11))
    with copied_tables(postgres_url, "vault") as put_back:
        rotate(vault, block(vault, 1), bucket(vault, "user1@example.com"))
        register(vault, *range(11, 100))
        put_back()

        register(vault, *range(11, 80))

    with closing(PostgresVault(postgres_url, kek=KEK)) as fresh:
        assert {type(key) for key in fresh.data_keys(range(1, 80)).values()} == {LivingKey}
        emails = {f"user{subject}@example.com": subject for subject in range(1, 80)}
        assert fresh.holders([*emails]) == vault.holders([*emails]) == emails


def test_few_keys_of_blocks_are_remembered(vault: PostgresVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_KNOWN_BLOCKS", 2)
    register(vault, *range(1, 6 * BLOCK_SIZE))

    assert {type(key) for key in vault.data_keys(range(1, 6 * BLOCK_SIZE)).values()} == {LivingKey}
    assert len(vault._buckets._blocks) <= 2


def test_a_damaged_bucket_key_is_reported_and_taken_for_no_free_address(
    postgres_url: str, vault: PostgresVault
) -> None:
    registered(vault, 1, ADA)
    zeros = f"UPDATE {vault._database.schema}.bucket_keys SET wrapped = decode(repeat('00', 60), 'hex')"
    execute(postgres_url, zeros)

    with closing(PostgresVault(postgres_url, kek=KEK)) as fresh:
        assert fresh.data_keys([1]) == {1: DamagedKey()}
        with pytest.raises(Damaged, match="the key of bucket"):
            reserve(fresh, registration(ADA, subject=2))
