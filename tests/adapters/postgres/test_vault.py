"""The vault in PostgreSQL beyond its contract: crashes, locks and contention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from uuid import UUID, uuid4

import pytest

from adapters.postgres import database as postgres
from adapters.postgres.vault import PostgresVault
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    ClaimState,
    HeldByOther,
    LivingKey,
    OwedState,
    Reserved,
)
from tests.support.postgres import Server, locked, unavailable
from tests.support.together import at_once
from tests.support.vaults import (
    KEK,
    NOW_US,
    are_destroyed,
    destroy,
    history,
    holder,
    owe,
    register,
    registration,
    reserve,
)

_ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("write", "survived"),
    [
        (lambda v: register(v, 2), lambda v: 2 in v.data_keys([2])),
        (
            lambda v: v.settle_claims(confirmed=[ClaimId(1, _ONE)], now_us=NOW_US),
            lambda v: v.claims_of([1], now_us=0)[0].state is ClaimState.CONFIRMED,
        ),
        (
            lambda v: v.settle_claims(released=[ClaimId(1, _ONE)], now_us=NOW_US),
            lambda v: v.claims_of([1], now_us=0) == [],
        ),
        (lambda v: destroy(v, 1), lambda v: are_destroyed(v, 1)),
        (lambda v: owe(v, 1), lambda v: v.owed_of(1) is not None),
        (lambda v: v.erasure_failed([3], "error"), lambda v: v.owed_of(3).last_error == "error"),
        (lambda v: v.forget_tags({3: 2}), lambda v: v.owed_of(3).letters == 2),
        (lambda v: v.settle_erasures([3]), lambda v: v.owed_of(3) is None),
        (lambda v: v.save_checkpoint("x", history(9)), lambda v: v.checkpoint("x") == history(9)),
        (
            lambda v: v.rewind_checkpoint("x", history(3), now_us=1),
            lambda v: (v.checkpoint("x"), len(v.divergences())) == (history(3), 1),
        ),
        (lambda v: v.claim_system(_ONE), lambda v: v.system_id() == _ONE),
    ],
    ids=[
        "reserve",
        "confirm",
        "release",
        "destroy",
        "owe",
        "fail",
        "forget",
        "settle",
        "save",
        "rewind",
        "claim",
    ],
)
def test_every_write_survives_a_crash_under_any_setting_of_its_session(
    server: Server,
    own_url: str,
    write: Callable[[PostgresVault], object],
    survived: Callable[[PostgresVault], bool],
) -> None:
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        vault.reserve([ClaimRequest("ada@example.com", 1, _ONE, _ONE, registers=True)], now_us=NOW_US)
        vault.save_checkpoint("x", history(3, 5))
        owe(vault, 3)
        destroy(vault, 3)
        # A pooler passes on the session of another client, with its settings.
        vault._database.read(lambda c: c.execute("SET synchronous_commit = off"))

        with server.crashing():
            write(vault)

        assert survived(vault)


@pytest.mark.parametrize("table", ["email_claims", "data_keys", "tombstones", "owed_tags", "owed_erasures"])
def test_keys_claims_and_owed_erasures_are_destroyed_together_or_not_at_all(
    postgres_url: str, vault: PostgresVault, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(vault, 1, 2)
    owe(vault, 1, 2)
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 100)

    with locked(postgres_url, f"LOCK TABLE {vault._database.schema}.{table} IN EXCLUSIVE MODE"):
        unavailable(lambda: destroy(vault, 1, 2), "stayed locked")

    keys = vault.data_keys([1, 2], even_owed=True)
    assert [type(key) for key in keys.values()] == [LivingKey, LivingKey]
    assert holder(vault, "user1@example.com") == 1
    assert (vault.owed_count(), vault.owed_tags([1])) == ({OwedState.DECIDED: 2}, {})


# --- contention ------------------------------------------------------------------------------


def test_batches_with_the_same_addresses_in_any_order_never_deadlock(server: Server, own_url: str) -> None:
    log = server.folder / "log"
    of_earlier_tests = len(log.read_text())
    with closing(PostgresVault(own_url, kek=KEK)) as vault:

        def contend(turn: int, worker: int) -> list[ClaimAnswer]:
            order = range(40) if worker % 2 else range(39, -1, -1)
            first = 1 + (worker * 10 + turn) * 40
            requests = [
                registration(f"{turn}.shared{address}@example.com", subject=first + number)
                for number, address in enumerate(order)
            ]
            return vault.reserve(requests, now_us=NOW_US)

        answers: list[ClaimAnswer] = []
        for turn in range(10):
            for of_worker in at_once(lambda worker: contend(turn, worker), range(4)):  # noqa: B023
                answers += of_worker

        winners = {answer.subject for answer in answers if isinstance(answer, Reserved)}
        assert len(winners) == 10 * 40
        assert {answer.subject for answer in answers} == winners
        assert sum(isinstance(answer, HeldByOther) for answer in answers) == 3 * len(winners)
        assert set(vault.data_keys(range(1, 1601))) == winners, "no key for the others"
    assert "deadlock detected" not in log.read_text()[of_earlier_tests:]


def test_one_registration_with_two_addresses_at_once_gets_one_subject(vault: PostgresVault) -> None:
    for turn in range(0, 40, 2):
        command, subjects = uuid4(), (turn + 1, turn + 2)

        answers = at_once(
            lambda subject: reserve(
                vault,
                registration(f"address{subject}@example.com", subject=subject, command=command),  # noqa: B023
            ),
            subjects,
        )

        (winner,) = {answer.subject for answer in answers}
        assert {type(answer) for answer in answers} == {Reserved, AlreadyHeld}
        assert set(vault.data_keys(subjects)) == {winner}
