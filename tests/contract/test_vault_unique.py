"""The vault contract, claims of any aggregate: a stream decides them, and an erasure of their person removes them."""

from __future__ import annotations

from uuid import uuid4

import pytest

from domain.kernel.ports.vault import (
    AlreadyHeld,
    Claim,
    ClaimAnswer,
    ClaimRequest,
    ClaimState,
    DestroyedKey,
    HeldByOther,
    HolderErased,
    LivingKey,
    Reason,
    Reserved,
    Vault,
)
from tests.support.vaults import (
    ADA,
    LATER_US,
    NOW_US,
    abandon,
    change,
    destroy,
    owe,
    registered,
    reserve,
    reserved,
    wanted,
)

LABEL, OTHER = 'wallet\0label\0["main"]', 'wallet\0label\0["other"]'
COMMAND = uuid4()
MINE = wanted(LABEL, command=COMMAND)
AGAIN = wanted(LABEL, command=COMMAND)

whose = pytest.mark.parametrize("subject", [1, -5], ids=["of a person", "without a person"])


@pytest.mark.parametrize(
    ("held", "confirmed", "request_", "answer"),
    [
        pytest.param(
            MINE, False, AGAIN, Reserved(1, MINE.reservation_id, repeated=True), id="the command again"
        ),
        pytest.param(MINE, True, AGAIN, AlreadyHeld(1), id="the command again, confirmed"),
        pytest.param(MINE, True, wanted(LABEL), AlreadyHeld(1), id="the stream's own"),
        pytest.param(
            MINE, False, wanted(LABEL), HeldByOther(1, False, "wallet-5"), id="unfinished in the same stream"
        ),
        *(
            pytest.param(
                MINE, confirmed, request, HeldByOther(1, confirmed, "wallet-5"), id="of another stream"
            )
            for confirmed in (False, True)
            for request in (wanted(LABEL, stream="wallet-6"), wanted(LABEL, stream="wallet-6", subject=-6))
        ),
        pytest.param(
            MINE,
            True,
            wanted(LABEL, stream="wallet-6", command=COMMAND),
            HeldByOther(1, True, "wallet-5"),
            id="the same command id for another stream",
        ),
    ],
)
def test_the_answer_depends_on_the_stream_that_holds_the_value(
    vault: Vault, held: ClaimRequest, confirmed: bool, request_: ClaimRequest, answer: ClaimAnswer
) -> None:
    claim = reserved(vault, held)
    if confirmed:
        vault.settle_claims(confirmed=[claim], now_us=NOW_US)
    before = vault.claims_of([1, -6], now_us=NOW_US)

    assert reserve(vault, request_) == answer

    assert vault.claims_of([1, -6], now_us=NOW_US) == before
    assert vault.data_keys([1, -5, -6]) == {}, "no key is created"


def test_a_person_holds_an_address_and_values_of_many_streams(vault: Vault) -> None:
    address = registered(vault, 1, ADA)
    first, second = wanted(LABEL), wanted(OTHER, stream="wallet-6")
    reserved(vault, first)
    vault.settle_claims(confirmed=[reserved(vault, second)], now_us=NOW_US)

    assert vault.claims_on(["wallet-5", "wallet-7"], now_us=NOW_US) == [
        Claim(1, first.command_id, first.reservation_id, ClaimState.RESERVED, False, "wallet-5", "label")
    ]
    found = {(claim.id, claim.stream, claim.rule) for claim in vault.claims_of([1], now_us=NOW_US)}
    assert found == {
        (address, "", ""),
        ((1, first.reservation_id), "wallet-5", "label"),
        ((1, second.reservation_id), "wallet-6", "label"),
    }
    assert vault.claims_on(["user-1", ""], now_us=NOW_US) == [], "an address is found by its person"


@whose
def test_an_expired_reservation_tells_its_stream(vault: Vault, subject: int) -> None:
    request = wanted(LABEL, subject=subject)
    reserve(vault, request)

    (found,) = vault.expired_claims(now_us=LATER_US, limit=9)

    assert (found.subject, found.stream, found.rule, found.expired) == (subject, "wallet-5", "label", True)


@whose
def test_a_released_value_can_be_reserved_by_another_stream(vault: Vault, subject: int) -> None:
    claim = reserved(vault, wanted(LABEL, subject=subject))
    vault.settle_claims(confirmed=[claim], now_us=NOW_US)

    vault.settle_claims(released=[claim], now_us=NOW_US)

    assert vault.claims_on(["wallet-5"], now_us=NOW_US) == []
    assert isinstance(reserve(vault, wanted(LABEL, stream="wallet-6", subject=-6)), Reserved)


@pytest.mark.parametrize("is_owed", [True, False])
def test_an_erased_person_gets_no_claim(vault: Vault, is_owed: bool) -> None:
    registered(vault, 1, ADA)
    if is_owed:
        owe(vault, 1)
    else:
        destroy(vault, 1)

    assert reserve(vault, wanted(LABEL)) == HolderErased(1)
    assert isinstance(reserve(vault, wanted(LABEL, subject=-5)), Reserved), "nothing was stored"


def test_destroying_a_key_removes_the_claims_of_the_person_and_no_other(vault: Vault) -> None:
    registered(vault, 1, ADA)
    registered(vault, 2, "other@example.com")
    for request in (
        wanted(LABEL),
        wanted(OTHER, stream="wallet-6", subject=2),
        wanted("third", stream="wallet-7", subject=-7),
    ):
        vault.settle_claims(confirmed=[reserved(vault, request)], now_us=NOW_US)

    destroy(vault, 1)

    left = vault.claims_on(["wallet-5", "wallet-6", "wallet-7"], now_us=NOW_US)
    assert {(claim.stream, claim.subject) for claim in left} == {("wallet-6", 2), ("wallet-7", -7)}
    assert isinstance(reserve(vault, wanted(LABEL, stream="wallet-8", subject=-8)), Reserved)


def test_a_late_confirmation_after_an_erasure_brings_no_claim_back(vault: Vault) -> None:
    registered(vault, 1, ADA)
    claim = reserved(vault, wanted(LABEL))
    destroy(vault, 1)

    vault.settle_claims(confirmed=[claim], now_us=NOW_US)

    assert vault.claims_of([1], now_us=NOW_US) == []


def test_claims_without_a_person_survive_the_removal_of_residue_in_their_block(vault: Vault) -> None:
    """They have places in the blocks of people: what lies there is enciphered again with each erasure."""
    registered(vault, 1, ADA)
    freed = reserved(vault, wanted("freed", stream="wallet-5", subject=-5))
    vault.settle_claims(released=[freed], now_us=NOW_US)
    claims = [
        reserved(vault, wanted(f"value {number}", stream="wallet-5", subject=-5)) for number in range(3)
    ]
    vault.settle_claims(confirmed=claims, released=claims[:1], now_us=NOW_US)
    again = reserved(vault, wanted("value 9", stream="wallet-5", subject=-5))
    vault.settle_claims(confirmed=[again], now_us=NOW_US)

    for subject in (1, 2, 3):
        destroy(vault, subject)
        vault.remove_residue([subject])
        registered(vault, subject + 10, f"next{subject}@example.com")

    left = [*claims[1:], again]
    assert {claim.id for claim in vault.claims_on(["wallet-5"], now_us=NOW_US)} == {*left}
    for text, claim in (("value 1", left[0]), ("value 2", left[1]), ("value 9", left[2])):
        answer = reserve(vault, wanted(text, stream="wallet-6", subject=-6))
        assert answer == HeldByOther(-5, True, "wallet-5"), text
        vault.settle_claims(released=[claim], now_us=NOW_US)
        assert isinstance(reserve(vault, wanted(text, stream="wallet-6", subject=-6)), Reserved), text


def test_subjects_without_a_person_are_listed_before_people(vault: Vault) -> None:
    registered(vault, 1, ADA)
    reserve(vault, wanted(LABEL, subject=-5))

    assert vault.subjects(after=-10, limit=9) == [-5, 1]
    assert vault.subjects(after=0, limit=9) == [1]


def test_a_change_of_an_address_and_an_abandoned_registration_leave_other_claims(vault: Vault) -> None:
    registered(vault, 1, ADA)
    kept = reserved(vault, wanted(LABEL, subject=-5))
    vault.settle_claims(confirmed=[kept], now_us=NOW_US)
    reserve(vault, change("new@example.com", subject=1))

    abandon(vault, 9)

    assert vault.data_keys([9])[9] == DestroyedKey(Reason.ABANDONED, None, NOW_US)
    assert isinstance(vault.data_keys([1])[1], LivingKey)
    assert [claim.id for claim in vault.claims_on(["wallet-5"], now_us=NOW_US)] == [kept]
