"""The vault contract, e-mail claims: reserve, confirm, release, abandon, and who holds an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import pytest

from adapters.settings import Settings
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimState,
    DestroyedKey,
    HeldByOther,
    LivingKey,
    Reserved,
    Vault,
)
from tests.support.together import at_once, run_together
from tests.support.vaults import (
    ADA,
    GRACE,
    LATER_US,
    NOW_US,
    change,
    destroy,
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

# --- reserve ---------------------------------------------------------------------------------


def test_a_free_address_is_reserved(vault: Vault) -> None:
    request = registration(subject=7)

    assert reserve(vault, request) == Reserved(7, request.reservation_id, repeated=False)
    assert vault.holder(ADA) == 7


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

    assert open_vault().holder(ADA) == 1
    assert secret_of(open_vault(), 1) == secret


# --- a repeated command ----------------------------------------------------------------------


def test_a_repeated_registration_takes_its_reservation_over(vault: Vault) -> None:
    command = uuid4()
    first = registration(subject=1, command=command)
    reserve(vault, first)

    again = reserve(vault, registration(subject=2, command=command))

    assert again == Reserved(1, first.reservation_id, repeated=True)


def test_a_repeated_reservation_lives_from_the_repetition(vault: Vault) -> None:
    command = uuid4()
    reserve(vault, registration(subject=1, command=command), now_us=NOW_US)

    reserve(vault, registration(subject=2, command=command), now_us=NOW_US + 1000)

    assert vault.expired_claims(now_us=LATER_US, limit=10) == []
    assert len(vault.expired_claims(now_us=LATER_US + 1000, limit=10)) == 1


def test_a_repeated_change_takes_its_reservation_over(vault: Vault) -> None:
    registered(vault, 1, ADA)
    command = uuid4()
    first = change(GRACE, command=command)
    reserve(vault, first)

    assert reserve(vault, change(GRACE, command=command)) == Reserved(1, first.reservation_id, repeated=True)


def test_a_command_twice_in_a_batch_makes_one_reservation(vault: Vault) -> None:
    command = uuid4()
    first, second = registration(subject=1, command=command), registration(subject=2, command=command)

    answers = vault.reserve([first, second], now_us=NOW_US)

    assert answers == [
        Reserved(1, first.reservation_id, repeated=False),
        Reserved(1, first.reservation_id, repeated=True),
    ]


@pytest.mark.parametrize("email", [ADA, GRACE, NEW])
@pytest.mark.parametrize("since", ["confirmed", "released", "erased", "the address is another's"])
def test_a_registration_that_ran_before_always_yields_its_first_subject(
    vault: Vault, since: str, email: str
) -> None:
    command = uuid4()
    reservation = registered(vault, 1, ADA, command=command)
    registered(vault, 5, GRACE)
    if since in ("released", "the address is another's"):
        vault.release([reservation])
    if since == "the address is another's":
        registered(vault, 6, ADA)
    if since == "erased":
        destroy(vault, 1)

    answer = reserve(vault, registration(email, subject=2, command=command))

    assert answer == AlreadyHeld(1)
    assert vault.data_keys([2]) == {}
    assert vault.holder(NEW) is None, "nothing was reserved"


def test_a_reserved_registration_with_another_address_yields_its_first_subject(vault: Vault) -> None:
    command = uuid4()
    reserve(vault, registration(ADA, subject=1, command=command))

    assert reserve(vault, registration(GRACE, subject=2, command=command)) == AlreadyHeld(1)
    assert vault.holder(GRACE) is None


# --- an address that is held -----------------------------------------------------------------


def test_a_user_already_holds_their_own_confirmed_address(vault: Vault) -> None:
    registered(vault, 1, ADA)

    assert reserve(vault, change(ADA, subject=1)) == AlreadyHeld(1)
    assert states(vault, 1) == [ClaimState.CONFIRMED]


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_address_of_another_user_is_held_whether_confirmed_or_not(vault: Vault, confirmed: bool) -> None:
    reservation = reserved(vault, registration(ADA, subject=1))
    if confirmed:
        vault.confirm([reservation])

    assert reserve(vault, registration(ADA, subject=2)) == HeldByOther(1, confirmed)
    assert reserve(vault, change(ADA, subject=3)) == HeldByOther(1, confirmed)
    assert [vault.claims_of(subject, now_us=NOW_US) for subject in (2, 3)] == [[], []], "nothing was reserved"


def test_an_expired_reservation_holds_its_address_until_it_is_released(vault: Vault) -> None:
    # Time alone releases nothing: the stream must be fenced first.
    reservation = reserved(vault, registration(ADA, subject=1))

    late = reserve(vault, registration(ADA, subject=2), now_us=LATER_US * 2)

    assert late == HeldByOther(1, confirmed=False)
    vault.release([reservation])
    assert isinstance(reserve(vault, registration(ADA, subject=2)), Reserved)


# --- confirm, release, abandon ---------------------------------------------------------------


def test_a_confirmed_reservation_is_permanent(vault: Vault) -> None:
    vault.confirm([reserved(vault, registration())])

    assert states(vault, 1) == [ClaimState.CONFIRMED]
    assert vault.expired_claims(now_us=LATER_US * 2, limit=10) == []


def test_confirming_twice_or_an_unknown_reservation_changes_nothing(vault: Vault) -> None:
    reservation = reserved(vault, registration())

    vault.confirm([uuid4(), reservation, reservation])
    vault.confirm([reservation])
    vault.confirm([])

    assert states(vault, 1) == [ClaimState.CONFIRMED]


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_released_address_is_free(vault: Vault, confirmed: bool) -> None:
    reservation = reserved(vault, registration(ADA, subject=1))
    if confirmed:
        vault.confirm([reservation])

    vault.release([reservation])

    assert vault.holder(ADA) is None
    assert isinstance(reserve(vault, registration(ADA, subject=2)), Reserved)


def test_releasing_an_unknown_reservation_changes_nothing(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.release([uuid4()])
    vault.release([])

    assert vault.holder(ADA) == 1


def test_a_late_release_does_not_affect_the_next_holder(vault: Vault) -> None:
    lost = reserved(vault, registration(ADA, subject=1))
    vault.release([lost])
    registered(vault, 2, ADA)

    vault.release([lost])
    vault.confirm([lost])
    vault.abandon_registration(1, lost)

    assert vault.holder(ADA) == 2
    assert states(vault, 2) == [ClaimState.CONFIRMED]


def test_abandoning_a_registration_releases_the_address_and_destroys_the_key(vault: Vault) -> None:
    vault.abandon_registration(1, reserved(vault, registration(ADA, subject=1)))

    assert vault.holder(ADA) is None
    assert vault.data_keys([1]) == {1: DestroyedKey()}


def test_an_abandoned_registration_may_run_again_as_another_subject(vault: Vault) -> None:
    command = uuid4()
    vault.abandon_registration(1, reserved(vault, registration(ADA, subject=1, command=command)))
    second = registration(ADA, subject=2, command=command)

    assert reserve(vault, second) == Reserved(2, second.reservation_id, repeated=False)
    assert len(secret_of(vault, 2)) == 32
    assert vault.data_keys([1]) == {1: DestroyedKey()}


def test_abandoning_twice_changes_nothing(vault: Vault) -> None:
    command = uuid4()
    reservation = reserved(vault, registration(ADA, subject=1, command=command))
    vault.abandon_registration(1, reservation)
    registered(vault, 2, ADA, command=command)

    vault.abandon_registration(1, reservation)

    assert vault.holder(ADA) == 2
    assert isinstance(vault.data_keys([2])[2], LivingKey)
    assert reserve(vault, registration(ADA, subject=3, command=command)) == AlreadyHeld(2)


# --- queries ---------------------------------------------------------------------------------


def test_all_claims_of_a_subject_are_listed(vault: Vault) -> None:
    first, second = uuid4(), uuid4()
    kept = registered(vault, 1, ADA, command=first)
    wanted = reserved(vault, change(GRACE, subject=1, command=second))
    registered(vault, 2, "other@example.com")

    claims = vault.claims_of(1, now_us=NOW_US)

    assert {(c.reservation_id, c.subject, c.command_id, c.state) for c in claims} == {
        (kept, 1, first, ClaimState.CONFIRMED),
        (wanted, 1, second, ClaimState.RESERVED),
    }
    assert len(claims) == 2


@pytest.mark.parametrize(("now_us", "expired"), [(LATER_US - 1, False), (LATER_US, True)])
def test_a_reservation_expires_and_a_confirmed_claim_does_not(
    vault: Vault, now_us: int, expired: bool
) -> None:
    registered(vault, 1, ADA)
    wanted = reserved(vault, change(GRACE, subject=1))

    by_id = {claim.reservation_id: claim.expired for claim in vault.claims_of(1, now_us=now_us)}

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


def test_confirmed_and_released_claims_are_not_listed_as_expired(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.release([reserved(vault, registration(GRACE, subject=2))])

    assert vault.expired_claims(now_us=LATER_US * 2, limit=10) == []


def test_an_unclaimed_address_has_no_holder(vault: Vault) -> None:
    register(vault, 1)

    assert vault.holder(GRACE) is None
