"""The vault contract, e-mail claims: reserve, confirm, release, abandon, and who holds an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import pytest

from adapters.settings import Settings
from domain.kernel.ports.vault import (
    AlreadyHeld,
    Claim,
    ClaimAnswer,
    ClaimId,
    ClaimRequest,
    ClaimState,
    DestroyedKey,
    HeldByOther,
    Reserved,
    Vault,
)
from tests.support.together import at_once, run_together
from tests.support.vaults import (
    ADA,
    GRACE,
    LATER_US,
    NOW_US,
    abandon,
    change,
    destroy,
    holder,
    register,
    registered,
    registration,
    reserve,
    reserved,
    secret_of,
    states,
)

OpenVault = Callable[[], Vault]
NEW = "new@example.com"
SUBJECTS = range(1, 10)


def claims(vault: Vault) -> list[list[Claim]]:
    return [vault.claims_of([subject], now_us=NOW_US) for subject in SUBJECTS]


# --- the answer to a request -----------------------------------------------------------------

A = uuid4()
FIRST, CHANGE = registration(ADA, subject=1, command=A), change(GRACE, subject=1, command=A)
AGAIN = {email: registration(email, subject=2, command=A) for email in (ADA, GRACE, NEW)}
OTHERS = [registration(ADA, subject=2), change(ADA, subject=3)]
REGISTERED = (replace(FIRST, command_id=uuid4()), "confirm")
GRACE_TAKEN, ADA_TAKEN = (
    (registration(GRACE, subject=5), "confirm"),
    (registration(ADA, subject=6), "confirm"),
)

History = Sequence[tuple[ClaimRequest, str]]
"""Earlier requests, each with the method that was called for its reservation."""


def new(request: ClaimRequest) -> Reserved:
    return Reserved(request.subject, request.reservation_id, repeated=False)


def taken_over(request: ClaimRequest) -> Reserved:
    return Reserved(request.subject, request.reservation_id, repeated=True)


@pytest.mark.parametrize(
    ("history", "request_", "answer"),
    [
        pytest.param([], FIRST, new(FIRST), id="free"),
        pytest.param([REGISTERED], CHANGE, new(CHANGE), id="free, change"),
        pytest.param([(FIRST, "")], AGAIN[ADA], taken_over(FIRST), id="repeated"),
        pytest.param(
            [REGISTERED, (CHANGE, "")],
            replace(CHANGE, reservation_id=uuid4()),
            taken_over(CHANGE),
            id="repeated change",
        ),
        pytest.param([(FIRST, "")], AGAIN[GRACE], AlreadyHeld(1), id="repeated with another address"),
        pytest.param([(FIRST, "confirm")], change(ADA, subject=1), AlreadyHeld(1), id="the user's own"),
        pytest.param([(FIRST, "abandon")], AGAIN[ADA], new(AGAIN[ADA]), id="abandoned before"),
        *(
            pytest.param([(FIRST, method)], OTHERS[0], new(OTHERS[0]), id=f"{method}d by another")
            for method in ("release", "confirm and release")
        ),
        *(
            pytest.param([(FIRST, method)], request, HeldByOther(1, confirmed=bool(method)), id="of another")
            for method in ("", "confirm")
            for request in OTHERS
        ),
        *(
            pytest.param(
                [(FIRST, method), GRACE_TAKEN, *later], AGAIN[email], AlreadyHeld(1), id="ran before"
            )
            for method, later in (
                ("confirm", []),
                ("confirm and release", []),
                ("confirm and release", [ADA_TAKEN]),
                ("destroy", []),
            )
            for email in (ADA, GRACE, NEW)
        ),
    ],
)
def test_the_answer_depends_on_the_claims_and_on_earlier_commands(
    vault: Vault, history: History, request_: ClaimRequest, answer: ClaimAnswer
) -> None:
    for earlier, method in history:
        reservation = reserved(vault, earlier)
        if "confirm" in method:
            vault.settle_claims(confirmed=[reservation], now_us=NOW_US)
        if "release" in method:
            vault.settle_claims(released=[reservation], now_us=NOW_US)
        if method == "abandon":
            abandon(vault, earlier.subject)
        if method == "destroy":
            destroy(vault, earlier.subject)
    keys_before, claims_before = vault.data_keys(SUBJECTS), claims(vault)

    assert reserve(vault, request_) == answer

    keys = vault.data_keys(SUBJECTS)
    if answer == new(request_):
        assert holder(vault, request_.text) == request_.subject
        assert len(secret_of(vault, request_.subject)) == 32
        assert keys == {request_.subject: keys[request_.subject], **keys_before}, "no other key is created"
    else:
        assert (keys, claims(vault)) == (keys_before, claims_before), "nothing was reserved or created"


# --- batches and contention ------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 20])
def test_a_batch_returns_one_answer_for_each_request_in_order(vault: Vault, count: int) -> None:
    requests = [registration(f"user{number}@example.com", subject=number) for number in range(1, count + 1)]

    answers = vault.reserve(requests, now_us=NOW_US)

    assert answers == [Reserved(r.subject, r.reservation_id, repeated=False) for r in requests]


def test_of_several_requests_for_one_address_the_first_is_reserved(vault: Vault) -> None:
    requests = [registration(subject=number) for number in range(1, 6)]

    first, *others = vault.reserve(requests, now_us=NOW_US)

    assert first == Reserved(1, requests[0].reservation_id, repeated=False)
    assert others == [HeldByOther(1, confirmed=False)] * 4


def test_of_fifty_threads_that_request_one_address_one_reserves_it(vault: Vault) -> None:
    answers = at_once(lambda subject: reserve(vault, registration(subject=subject)), range(1, 51))

    (winner,) = [answer for answer in answers if isinstance(answer, Reserved)]
    assert Counter(type(answer) for answer in answers) == {Reserved: 1, HeldByOther: 49}
    assert {answer.subject for answer in answers} == {winner.subject}
    assert set(vault.data_keys(range(1, 51))) == {winner.subject}, "no key for the others"


_RESERVE_IN_A_PROCESS = """
import sys
from contextlib import closing
from adapters import wiring
from adapters.settings import load_settings
from tests.support.vaults import registration, reserve
home, url, first = sys.argv[1:]
with closing(wiring.open_vault(load_settings(environment={"ES_HOME": home, "ES_VAULT": url}))) as vault:
    print("ready", flush=True)
    input()
    for subject in range(int(first), int(first) + 10):
        answer = reserve(vault, registration(subject=subject), now_us=1)
        print(type(answer).__name__, answer.subject)
"""


def test_of_five_processes_that_request_one_address_one_reserves_it_once(
    vault_settings: Settings, open_vault: OpenVault
) -> None:
    arguments = (str(vault_settings.home), vault_settings.vault)

    # The home is empty: the processes create the vault and its secrets at the same time, too.
    outs = run_together(_RESERVE_IN_A_PROCESS, [(*arguments, str(n * 10 + 1)) for n in range(5)])

    answers = [line.split() for out in outs for line in out.splitlines()]
    assert Counter(kind for kind, _ in answers) == {"Reserved": 1, "HeldByOther": 49}
    (winner,) = {subject for _, subject in answers}
    assert set(open_vault().data_keys(range(1, 51))) == {int(winner)}


def test_a_reservation_survives_closing_and_reopening(open_vault: OpenVault) -> None:
    with closing(open_vault()) as first:
        reserved(first, registration(subject=1))
        secret = secret_of(first, 1)

    assert holder(open_vault(), ADA) == 1
    assert secret_of(open_vault(), 1) == secret


# --- a repeated command ----------------------------------------------------------------------


def test_a_repeated_reservation_lives_from_the_repetition(vault: Vault) -> None:
    command = uuid4()
    reserve(vault, registration(subject=1, command=command), now_us=NOW_US)

    reserve(vault, registration(subject=2, command=command), now_us=NOW_US + 1000)

    assert vault.expired_claims(now_us=LATER_US, limit=10) == []
    assert len(vault.expired_claims(now_us=LATER_US + 1000, limit=10)) == 1


def test_a_command_twice_in_a_batch_makes_one_reservation(vault: Vault) -> None:
    command = uuid4()
    first, second = registration(subject=1, command=command), registration(subject=2, command=command)

    answers = vault.reserve([first, second], now_us=NOW_US)

    assert answers == [
        Reserved(1, first.reservation_id, repeated=False),
        Reserved(1, first.reservation_id, repeated=True),
    ]


def test_an_expired_reservation_holds_its_address_until_it_is_released(vault: Vault) -> None:
    # Time alone releases nothing: the stream must be fenced first.
    reservation = reserved(vault, registration(ADA, subject=1))

    late = reserve(vault, registration(ADA, subject=2), now_us=LATER_US * 2)

    assert late == HeldByOther(1, confirmed=False)
    vault.settle_claims(released=[reservation], now_us=NOW_US)
    assert isinstance(reserve(vault, registration(ADA, subject=2)), Reserved)


# --- confirm, release, abandon ---------------------------------------------------------------


LATE_CALLS: list[Callable[[Vault, ClaimId, ClaimId], None]] = [
    lambda vault, old, kept: vault.settle_claims(confirmed=[ClaimId(2, uuid4()), kept, kept], now_us=NOW_US),
    lambda vault, old, kept: vault.settle_claims(confirmed=[], now_us=NOW_US),
    lambda vault, old, kept: vault.settle_claims(confirmed=[old], now_us=NOW_US),
    lambda vault, old, kept: vault.settle_claims(released=[ClaimId(2, uuid4())], now_us=NOW_US),
    lambda vault, old, kept: vault.settle_claims(released=[], now_us=NOW_US),
    lambda vault, old, kept: vault.settle_claims(released=[old], now_us=NOW_US),
    lambda vault, old, kept: abandon(vault, 1),
]


@pytest.mark.parametrize("call", LATE_CALLS)
def test_a_late_repeated_or_unknown_call_does_not_affect_the_next_holder(
    vault: Vault, call: Callable[[Vault, ClaimId, ClaimId], None]
) -> None:
    command = uuid4()
    old = reserved(vault, registration(ADA, subject=1, command=command))
    abandon(vault, 1)
    kept = registered(vault, 2, ADA, command=command)
    before = vault.data_keys(SUBJECTS), claims(vault)

    call(vault, old, kept)

    assert (vault.data_keys(SUBJECTS), claims(vault)) == before
    assert holder(vault, ADA) == 2
    assert states(vault, 2) == [ClaimState.CONFIRMED]
    assert reserve(vault, registration(ADA, subject=3, command=command)) == AlreadyHeld(2)


def test_abandoning_a_registration_releases_the_address_and_destroys_the_key(vault: Vault) -> None:
    reserved(vault, registration(ADA, subject=1))

    abandon(vault, 1)

    assert holder(vault, ADA) is None
    assert isinstance(vault.data_keys([1])[1], DestroyedKey)


def test_many_claims_are_settled_in_one_call(vault: Vault) -> None:
    first, former = reserved(vault, registration("first@example.com", subject=1)), registered(vault, 2, ADA)
    later = reserved(vault, change(GRACE, subject=2))
    late = registration("late@example.com", subject=3)
    reserved(vault, late)

    vault.settle_claims(confirmed=[first, later], released=[former], abandoned=[3], now_us=NOW_US)

    emails = ["first@example.com", ADA, GRACE, "late@example.com"]
    assert vault.holders(emails) == {"first@example.com": 1, GRACE: 2}
    assert [states(vault, subject) for subject in (1, 2)] == [[ClaimState.CONFIRMED]] * 2
    assert isinstance(vault.data_keys([3])[3], DestroyedKey)
    assert vault.registered_by([late.command_id]) == {}


def test_claims_are_confirmed_before_the_next_ones_are_reserved(vault: Vault) -> None:
    first, repeated = registration(ADA, subject=1), registration(GRACE, subject=2)
    claims_before = [reserved(vault, each) for each in (first, repeated)]

    answers = vault.reserve(
        [
            registration(ADA, subject=3),
            repeated,
            registration("new@example.com", subject=4),
        ],
        confirmed=[*claims_before, ClaimId(9, uuid4())],
        now_us=NOW_US,
    )

    assert answers[:2] == [HeldByOther(1, confirmed=True), AlreadyHeld(2)]
    assert isinstance(answers[2], Reserved)
    confirmed, pending = [ClaimState.CONFIRMED], [ClaimState.RESERVED]
    assert [states(vault, subject) for subject in (1, 2, 3, 4)] == [confirmed, confirmed, [], pending]


def test_claims_are_confirmed_also_if_nothing_is_reserved_after_them(vault: Vault) -> None:
    first = reserved(vault, registration(ADA, subject=1))

    answers = vault.reserve([registration(ADA, subject=2)], confirmed=[first], now_us=NOW_US)

    assert answers == [HeldByOther(1, confirmed=True)]
    assert states(vault, 1) == [ClaimState.CONFIRMED]


def test_a_claim_is_confirmed_while_another_reservation_is_extended(vault: Vault) -> None:
    first, other = reserved(vault, registration(ADA, subject=1)), registration(GRACE, subject=2)
    reserved(vault, other)

    (answer,) = vault.reserve([other], confirmed=[first], now_us=NOW_US)

    assert answer == Reserved(2, other.reservation_id, repeated=True)
    assert [states(vault, subject) for subject in (1, 2)] == [[ClaimState.CONFIRMED], [ClaimState.RESERVED]]


def test_claims_are_settled_at_the_same_time_in_any_order(vault: Vault) -> None:
    subjects = range(1, 41)
    answers = register(vault, *subjects)
    ids = [answer.id for answer in answers if isinstance(answer, Reserved)]

    def settle(turn: int) -> None:
        mine = ids if turn % 2 else ids[::-1]
        vault.settle_claims(confirmed=mine[:20], released=mine[20:30], abandoned=(), now_us=NOW_US)

    at_once(settle, range(8))

    left = vault.claims_of(subjects, now_us=NOW_US)
    assert {claim.state for claim in left} == {ClaimState.CONFIRMED}
    assert len(left) == 20


# --- queries ---------------------------------------------------------------------------------


def test_all_claims_of_a_subject_are_listed(vault: Vault) -> None:
    first, second = uuid4(), uuid4()
    kept = registered(vault, 1, ADA, command=first)
    wanted = reserved(vault, change(GRACE, subject=1, command=second))
    registered(vault, 2, "other@example.com")

    claims = vault.claims_of([1, 7], now_us=NOW_US)

    assert {(c.id, c.command_id, c.state) for c in claims} == {
        (kept, first, ClaimState.CONFIRMED),
        (wanted, second, ClaimState.RESERVED),
    }
    assert len(claims) == 2


@pytest.mark.parametrize(("now_us", "expired"), [(LATER_US - 1, False), (LATER_US, True)])
def test_a_reservation_expires_and_a_confirmed_claim_does_not(
    vault: Vault, now_us: int, expired: bool
) -> None:
    registered(vault, 1, ADA)
    wanted = reserved(vault, change(GRACE, subject=1))

    by_id = {claim.id: claim.expired for claim in vault.claims_of([1], now_us=now_us)}

    assert by_id.pop(wanted) is expired
    assert list(by_id.values()) == [False]


def test_expired_reservations_are_listed_oldest_first_up_to_the_limit(vault: Vault) -> None:
    order = [3, 1, 5, 2, 4]
    for age, subject in enumerate(order):
        reserve(vault, registration(f"user{subject}@example.com", subject=subject), now_us=NOW_US + age)

    found = vault.expired_claims(now_us=LATER_US + 3, limit=3)

    assert [claim.subject for claim in found] == order[:3]
    assert [claim.subject for claim in vault.expired_claims(now_us=LATER_US + 3, limit=10)] == order[:4]
    assert all(claim.expired and claim.state is ClaimState.RESERVED for claim in found)


def test_confirmed_and_released_claims_never_expire(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.settle_claims(released=[reserved(vault, registration(GRACE, subject=2))], now_us=NOW_US)

    assert vault.expired_claims(now_us=LATER_US * 2, limit=10) == []
    assert states(vault, 1) == [ClaimState.CONFIRMED]
    assert holder(vault, GRACE) is None
