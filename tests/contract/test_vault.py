"""The vault contract: a test for each sentence of `Vault` in domain/kernel/ports, over every adapter.

The second half is about what one adapter alone can promise: files on disk, and the key-encryption key
that lies in a file of its own.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import apsw
import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek
from adapters.settings import Settings, load_settings
from adapters.sqlite.vault import SqliteVault
from domain.kernel.errors import EsError, KeyUnavailable, PartUnavailable
from domain.kernel.ports.vault import (
    AlreadyHeld,
    ClaimAnswer,
    ClaimRequest,
    ClaimState,
    DestroyedKey,
    HeldByOther,
    LivingKey,
    Reserved,
    Vault,
)
from domain.users.reservations import RESERVATION_LIFE_US
from tests.support.builders import DEADLINE_S, an_event, append, start_python
from tests.support.postgres import execute

NOW_US = 1_760_000_000_000_000
LATER_US = NOW_US + RESERVATION_LIFE_US
PROCESS = "erasures"
ADA, GRACE = "ada@example.com", "grace@example.com"

OpenVault = Callable[[], Vault]


def registration(email: str = ADA, *, subject: int = 1, command: UUID | None = None) -> ClaimRequest:
    return ClaimRequest(email, subject, command or uuid4(), uuid4(), registers=True)


def change(email: str, *, subject: int = 1, command: UUID | None = None) -> ClaimRequest:
    return ClaimRequest(email, subject, command or uuid4(), uuid4(), registers=False)


def reserve(vault: Vault, request: ClaimRequest, *, now_us: int = NOW_US) -> ClaimAnswer:
    (answer,) = vault.reserve([request], now_us=now_us)
    return answer


def reserved(vault: Vault, request: ClaimRequest, *, now_us: int = NOW_US) -> UUID:
    """Reserve; the reservation id."""
    answer = reserve(vault, request, now_us=now_us)
    assert isinstance(answer, Reserved)
    return answer.reservation_id


def registered(vault: Vault, subject: int, email: str, *, command: UUID | None = None) -> UUID:
    """A person with a key and a confirmed claim; the reservation id."""
    reservation = reserved(vault, registration(email, subject=subject, command=command))
    vault.confirm([reservation])
    return reservation


def secret_of(vault: Vault, subject: int) -> bytes:
    key = vault.data_keys([subject])[subject]
    assert isinstance(key, LivingKey)
    return key.secret


def states(vault: Vault, subject: int) -> list[ClaimState]:
    return [claim.state for claim in vault.claims_of(subject, now_us=NOW_US)]


# --- reserve ---------------------------------------------------------------------------------


def test_a_free_address_is_reserved_for_the_command_that_asks(vault: Vault) -> None:
    request = registration(subject=7)

    answer = reserve(vault, request)

    assert answer == Reserved(7, request.reservation_id, repeated=False)
    assert vault.holder(ADA) == 7


def test_a_batch_is_answered_item_by_item_in_order(vault: Vault) -> None:
    requests = [registration(f"user{number}@example.com", subject=number) for number in range(1, 21)]

    answers = vault.reserve(requests, now_us=NOW_US)

    assert answers == [Reserved(r.subject, r.reservation_id, repeated=False) for r in requests]


def test_an_empty_batch_is_answered_by_nothing(vault: Vault) -> None:
    assert vault.reserve([], now_us=NOW_US) == []


def test_of_several_requests_for_one_address_the_first_of_a_batch_is_reserved(vault: Vault) -> None:
    requests = [registration(subject=number) for number in range(1, 6)]

    answers = vault.reserve(requests, now_us=NOW_US)

    assert (
        answers
        == [Reserved(1, requests[0].reservation_id, repeated=False)] + [HeldByOther(1, confirmed=False)] * 4
    )


def test_of_fifty_threads_that_want_one_address_one_gets_it(open_vault: OpenVault, vault: Vault) -> None:
    with ThreadPoolExecutor(50) as pool:
        starting = threading.Barrier(50)

        def ask(subject: int) -> ClaimAnswer:
            starting.wait(DEADLINE_S)
            return reserve(vault, registration(subject=subject))

        answers = list(pool.map(ask, range(1, 51)))

    (winner,) = [answer for answer in answers if isinstance(answer, Reserved)]
    assert Counter(type(answer) for answer in answers) == {Reserved: 1, HeldByOther: 49}
    assert {answer.subject for answer in answers} == {winner.subject}
    assert set(vault.data_keys(range(1, 51))) == {winner.subject}, "the losers got no key"


_RESERVE_IN_A_PROCESS = """
import sys
from contextlib import closing
from uuid import uuid4
from adapters import wiring
from adapters.settings import load_settings
from domain.kernel.ports.vault import ClaimRequest
home, url, first = sys.argv[1:]
with closing(wiring.open_vault(load_settings(environment={"ES_HOME": home, "ES_VAULT": url}))) as vault:
    print("ready", flush=True)
    input()
    for subject in range(int(first), int(first) + 10):
        (answer,) = vault.reserve([ClaimRequest("ada@example.com", subject, uuid4(), uuid4(), True)], now_us=1)
        print(type(answer).__name__, answer.subject)
"""


def test_of_five_processes_that_want_one_address_fifty_times_one_gets_it_once(
    vault_settings: Settings, open_vault: OpenVault
) -> None:
    arguments = [str(vault_settings.home), vault_settings.vault]
    # Started together on a home that holds nothing: they also race for the vault and its secrets.
    processes = [start_python(_RESERVE_IN_A_PROCESS, *arguments, str(n * 10 + 1)) for n in range(5)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        said = [process.communicate("\n", timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()

    assert [err for _, err in said] == [""] * 5
    answers = [line.split() for out, _ in said for line in out.splitlines()]
    assert Counter(kind for kind, _ in answers) == {"Reserved": 1, "HeldByOther": 49}
    (winner,) = {subject for _, subject in answers}
    assert set(open_vault().data_keys(range(1, 51))) == {int(winner)}


def test_a_key_is_minted_with_the_reservation_of_a_registration(vault: Vault) -> None:
    reserve(vault, registration(subject=1))

    assert len(secret_of(vault, 1)) == 32


def test_every_person_has_a_key_of_their_own(vault: Vault) -> None:
    for subject in range(1, 11):
        registered(vault, subject, f"user{subject}@example.com")

    assert len({secret_of(vault, subject) for subject in range(1, 11)}) == 10


def test_no_key_is_minted_for_a_change_of_address(vault: Vault) -> None:
    reserve(vault, change(GRACE, subject=1))

    assert vault.data_keys([1]) == {}


def test_no_key_is_minted_for_an_address_that_somebody_else_has(vault: Vault) -> None:
    registered(vault, 1, ADA)

    assert reserve(vault, registration(ADA, subject=2)) == HeldByOther(1, confirmed=True)
    assert vault.data_keys([2]) == {}


def test_a_person_keeps_their_key_when_their_registration_is_repeated(vault: Vault) -> None:
    command = uuid4()
    reserve(vault, registration(subject=1, command=command))
    secret = secret_of(vault, 1)

    reserve(vault, registration(subject=2, command=command))

    assert secret_of(vault, 1) == secret
    assert vault.data_keys([2]) == {}


@pytest.mark.parametrize("what", ["alive", "destroyed", "abandoned"])
def test_a_subject_is_never_given_a_second_key(vault: Vault, what: str) -> None:
    reservation = registered(vault, 1, ADA)
    if what == "destroyed":
        vault.destroy_key(1, process=PROCESS, position=1)
    elif what == "abandoned":
        vault.abandon_registration(1, reservation)
    before = vault.data_keys([1])

    # Ids are never used twice; should one be, the answer may be any error, but never a key.
    with pytest.raises(EsError):
        reserve(vault, registration(GRACE, subject=1))

    assert vault.data_keys([1]) == before
    assert vault.holder(GRACE) is None, "nothing of the transaction is left"


def test_a_reservation_survives_its_vault(open_vault: OpenVault) -> None:
    with closing(open_vault()) as first:
        reserved(first, registration(subject=1))
        secret = secret_of(first, 1)

    assert open_vault().holder(ADA) == 1
    assert secret_of(open_vault(), 1) == secret


# --- reserve: the same command again ---------------------------------------------------------


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


def test_the_same_command_twice_in_a_batch_is_one_reservation(vault: Vault) -> None:
    command = uuid4()
    first, second = registration(subject=1, command=command), registration(subject=2, command=command)

    answers = vault.reserve([first, second], now_us=NOW_US)

    assert answers == [
        Reserved(1, first.reservation_id, repeated=False),
        Reserved(1, first.reservation_id, repeated=True),
    ]


@pytest.mark.parametrize("email", [ADA, GRACE, "new@example.com"])
@pytest.mark.parametrize("what", ["confirmed", "released", "erased", "the address is another's now"])
def test_a_registration_that_ran_before_yields_the_first_subject_for_ever(
    vault: Vault, what: str, email: str
) -> None:
    command = uuid4()
    reservation = registered(vault, 1, ADA, command=command)
    registered(vault, 5, GRACE)
    if what in ("released", "the address is another's now"):
        vault.release([reservation])
    if what == "the address is another's now":
        registered(vault, 6, ADA)
    if what == "erased":
        vault.destroy_key(1, process=PROCESS, position=1)

    answer = reserve(vault, registration(email, subject=2, command=command))

    assert answer == AlreadyHeld(1)
    assert vault.data_keys([2]) == {}
    assert vault.holder("new@example.com") is None, "nothing was reserved"


def test_a_reserved_registration_with_another_address_yields_the_first_subject(vault: Vault) -> None:
    command = uuid4()
    reserve(vault, registration(ADA, subject=1, command=command))

    assert reserve(vault, registration(GRACE, subject=2, command=command)) == AlreadyHeld(1)
    assert vault.holder(GRACE) is None


def test_a_person_holds_their_own_confirmed_address_already(vault: Vault) -> None:
    registered(vault, 1, ADA)

    assert reserve(vault, change(ADA, subject=1)) == AlreadyHeld(1)
    assert states(vault, 1) == [ClaimState.CONFIRMED]


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_address_of_another_is_held_reserved_or_confirmed(vault: Vault, confirmed: bool) -> None:
    reservation = reserved(vault, registration(ADA, subject=1))
    if confirmed:
        vault.confirm([reservation])

    assert reserve(vault, registration(ADA, subject=2)) == HeldByOther(1, confirmed)
    assert reserve(vault, change(ADA, subject=3)) == HeldByOther(1, confirmed)
    assert [vault.claims_of(subject, now_us=NOW_US) for subject in (2, 3)] == [[], []], "nothing was reserved"


def test_an_expired_reservation_still_holds_until_it_is_released(vault: Vault) -> None:
    # Only whoever has fenced the stream may free it: time alone doesn't.
    reservation = reserved(vault, registration(ADA, subject=1))

    assert reserve(vault, registration(ADA, subject=2), now_us=LATER_US * 2) == HeldByOther(
        1, confirmed=False
    )
    vault.release([reservation])
    assert isinstance(reserve(vault, registration(ADA, subject=2)), Reserved)


# --- confirm, release, abandon ---------------------------------------------------------------


def test_a_confirmed_reservation_is_held_for_good(vault: Vault) -> None:
    reservation = reserved(vault, registration())

    vault.confirm([reservation])

    assert states(vault, 1) == [ClaimState.CONFIRMED]
    assert vault.expired_claims(now_us=LATER_US * 2, limit=10) == []


def test_confirming_twice_or_something_unknown_changes_nothing(vault: Vault) -> None:
    reservation = reserved(vault, registration())

    vault.confirm([uuid4(), reservation, reservation])
    vault.confirm([reservation])
    vault.confirm([])

    assert states(vault, 1) == [ClaimState.CONFIRMED]


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_released_address_is_free_for_anybody(vault: Vault, confirmed: bool) -> None:
    reservation = reserved(vault, registration(ADA, subject=1))
    if confirmed:
        vault.confirm([reservation])

    vault.release([reservation])

    assert vault.holder(ADA) is None
    assert isinstance(reserve(vault, registration(ADA, subject=2)), Reserved)


def test_releasing_something_unknown_leaves_the_others_alone(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.release([uuid4()])
    vault.release([])

    assert vault.holder(ADA) == 1


def test_a_release_that_comes_late_does_not_touch_the_next_owner(vault: Vault) -> None:
    lost = reserved(vault, registration(ADA, subject=1))
    vault.release([lost])
    registered(vault, 2, ADA)

    vault.release([lost])
    vault.confirm([lost])
    vault.abandon_registration(1, lost)

    assert vault.holder(ADA) == 2
    assert states(vault, 2) == [ClaimState.CONFIRMED]


def test_an_abandoned_registration_frees_its_address_and_destroys_its_key(vault: Vault) -> None:
    reservation = reserved(vault, registration(ADA, subject=1))

    vault.abandon_registration(1, reservation)

    assert vault.holder(ADA) is None
    assert vault.data_keys([1]) == {1: DestroyedKey()}


def test_an_abandoned_registration_may_run_anew_as_another_subject(vault: Vault) -> None:
    command = uuid4()
    reservation = reserved(vault, registration(ADA, subject=1, command=command))
    vault.abandon_registration(1, reservation)
    anew = registration(ADA, subject=2, command=command)

    assert reserve(vault, anew) == Reserved(2, anew.reservation_id, repeated=False)
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


# --- looking ---------------------------------------------------------------------------------


def test_all_claims_of_a_person_are_told(vault: Vault) -> None:
    first, second = uuid4(), uuid4()
    kept = registered(vault, 1, ADA, command=first)
    wanted = reserved(vault, change(GRACE, subject=1, command=second))
    registered(vault, 2, "other@example.com")

    claims = {claim.reservation_id: claim for claim in vault.claims_of(1, now_us=NOW_US)}

    assert set(claims) == {kept, wanted}
    assert (claims[kept].subject, claims[kept].command_id, claims[kept].state) == (
        1,
        first,
        ClaimState.CONFIRMED,
    )
    assert (claims[wanted].command_id, claims[wanted].state) == (second, ClaimState.RESERVED)


@pytest.mark.parametrize(("now_us", "expired"), [(LATER_US - 1, False), (LATER_US, True)])
def test_a_reservation_expires_a_confirmed_claim_never(vault: Vault, now_us: int, expired: bool) -> None:
    registered(vault, 1, ADA)
    wanted = reserved(vault, change(GRACE, subject=1))

    by_id = {claim.reservation_id: claim.expired for claim in vault.claims_of(1, now_us=now_us)}

    assert by_id.pop(wanted) is expired
    assert list(by_id.values()) == [False]


def test_expired_reservations_are_found_oldest_first_and_only_so_many(vault: Vault) -> None:
    order = [3, 1, 5, 2, 4]
    for age, subject in enumerate(order):
        reserve(vault, registration(f"user{subject}@example.com", subject=subject), now_us=NOW_US + age)

    found = vault.expired_claims(now_us=LATER_US + 3, limit=3)

    assert [claim.subject for claim in found] == order[:3]
    assert [claim.subject for claim in vault.expired_claims(now_us=LATER_US + 3, limit=10)] == order[:4]
    assert all(claim.expired and claim.state is ClaimState.RESERVED for claim in found)


def test_what_was_confirmed_or_released_is_not_found_as_expired(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.release([reserved(vault, registration(GRACE, subject=2))])

    assert vault.expired_claims(now_us=LATER_US * 2, limit=10) == []


def test_nobody_holds_an_address_that_was_never_claimed(vault: Vault) -> None:
    registered(vault, 1, ADA)

    assert vault.holder(GRACE) is None


def test_a_subject_that_the_vault_never_knew_is_missing_from_the_keys(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.destroy_key(2, process=PROCESS, position=1)

    keys = vault.data_keys([3, 2, 1])

    assert set(keys) == {1, 2}
    assert isinstance(keys[1], LivingKey)
    assert keys[2] == DestroyedKey()
    assert vault.data_keys([]) == {}


def test_a_key_does_not_show_itself(vault: Vault) -> None:
    registered(vault, 1, ADA)
    key = vault.data_keys([1])[1]
    secret = secret_of(vault, 1)

    assert repr(secret) not in repr(key)
    assert secret.hex() not in f"{key}"


# --- destroying ------------------------------------------------------------------------------


def test_destroying_leaves_a_tombstone_and_takes_every_claim(vault: Vault) -> None:
    registered(vault, 1, ADA)
    reserve(vault, change(GRACE, subject=1))
    registered(vault, 2, "other@example.com")

    vault.destroy_key(1, process=PROCESS, position=9)

    assert vault.data_keys([1]) == {1: DestroyedKey()}
    assert vault.claims_of(1, now_us=NOW_US) == []
    assert (vault.holder(ADA), vault.holder(GRACE), vault.holder("other@example.com")) == (None, None, 2)
    assert isinstance(vault.data_keys([2])[2], LivingKey)


def test_destroying_moves_the_checkpoint_of_its_process_alone(vault: Vault) -> None:
    registered(vault, 1, ADA)

    vault.destroy_key(1, process=PROCESS, position=9)

    assert (vault.checkpoint(PROCESS), vault.checkpoint("another")) == (9, 0)


def test_destroying_twice_changes_nothing(vault: Vault) -> None:
    registered(vault, 1, ADA)
    vault.destroy_key(1, process=PROCESS, position=9)
    registered(vault, 2, ADA)

    vault.destroy_key(1, process=PROCESS, position=9)

    assert vault.data_keys([1]) == {1: DestroyedKey()}
    assert vault.holder(ADA) == 2
    assert vault.checkpoint(PROCESS) == 9


def test_destroying_an_unknown_key_leaves_a_tombstone(vault: Vault) -> None:
    vault.destroy_key(1, process=PROCESS, position=9)

    assert vault.data_keys([1]) == {1: DestroyedKey()}


def test_a_destroyed_key_stays_destroyed_when_the_vault_is_opened_again(open_vault: OpenVault) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
        vault.destroy_key(1, process=PROCESS, position=9)

    assert open_vault().data_keys([1]) == {1: DestroyedKey()}


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_starts_at_zero_and_is_kept(open_vault: OpenVault, vault: Vault) -> None:
    assert vault.checkpoint(PROCESS) == 0

    vault.save_checkpoint(PROCESS, 41)
    vault.save_checkpoint(PROCESS, 42)

    assert open_vault().checkpoint(PROCESS) == 42


@pytest.mark.parametrize("by", ["saving", "destroying"])
def test_a_checkpoint_never_moves_backwards(vault: Vault, by: str) -> None:
    vault.save_checkpoint(PROCESS, 42)

    if by == "saving":
        vault.save_checkpoint(PROCESS, 41)
    else:
        vault.destroy_key(1, process=PROCESS, position=41)

    assert vault.checkpoint(PROCESS) == 42


def test_a_checkpoint_is_rewound_but_never_forwards(open_vault: OpenVault, vault: Vault) -> None:
    vault.save_checkpoint(PROCESS, 42)
    vault.rewind_checkpoint(PROCESS, 50)
    assert vault.checkpoint(PROCESS) == 42

    vault.rewind_checkpoint(PROCESS, 7)
    assert open_vault().checkpoint(PROCESS) == 7


# --- outages ---------------------------------------------------------------------------------

_EVERY_METHOD: list[Callable[[Vault], object]] = [
    lambda vault: reserve(vault, registration()),
    lambda vault: vault.confirm([uuid4()]),
    lambda vault: vault.release([uuid4()]),
    lambda vault: vault.abandon_registration(1, uuid4()),
    lambda vault: vault.claims_of(1, now_us=NOW_US),
    lambda vault: vault.expired_claims(now_us=NOW_US, limit=1),
    lambda vault: vault.holder(ADA),
    lambda vault: vault.data_keys([1]),
    lambda vault: vault.destroy_key(1, process=PROCESS, position=1),
    lambda vault: vault.checkpoint(PROCESS),
    lambda vault: vault.save_checkpoint(PROCESS, 1),
    lambda vault: vault.rewind_checkpoint(PROCESS, 1),
]


@pytest.mark.parametrize("call", range(len(_EVERY_METHOD)))
def test_a_vault_that_cannot_be_used_is_unavailable(vault: Vault, call: int) -> None:
    vault.close()

    with pytest.raises(PartUnavailable):
        # In a thread of its own, as a worker has them: it has no connection yet.
        _in_a_thread(lambda: _EVERY_METHOD[call](vault))


def _in_a_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(DEADLINE_S)


def test_closing_twice_is_safe(vault: Vault) -> None:
    vault.close()

    assert vault.close() is None  # type: ignore[func-returns-value]


# --- a vault that is gone --------------------------------------------------------------------


def test_a_vault_that_is_gone_is_never_begun_anew_beside_a_store_that_knows_people(
    vault_settings: Settings, open_vault: OpenVault
) -> None:
    # An empty one would hold no claim, and give everybody's address away.
    with closing(wiring.open_store(vault_settings.store)) as store:
        append(store, "user-1", -1, [an_event()])

    for _ in range(2):  # the first refusal must not have made what the second finds
        with pytest.raises(KeyUnavailable, match="the event store knows people"):
            open_vault()


def _without_its_rows(settings: Settings) -> None:
    if settings.vault.startswith("postgres"):
        prefix = settings.vault.partition("schema=")[2]
        execute(settings.vault, f"TRUNCATE {', '.join(f'{prefix}_vault.{table}' for table in _TABLES)}")
    else:
        with closing(apsw.Connection(settings.vault.removeprefix("sqlite:"))) as by_hand:
            for table in set(_TABLES) - {"registrations"}:
                by_hand.execute(f"DELETE FROM {table}")


def _without_anything(settings: Settings) -> None:
    if settings.vault.startswith("postgres"):
        execute(settings.vault, f"DROP SCHEMA {settings.vault.partition('schema=')[2]}_vault CASCADE")
    else:
        Path(settings.vault.removeprefix("sqlite:")).write_bytes(b"")


_TABLES = ("registrations", "data_keys", "email_claims", "secrets", "checkpoints")


@pytest.mark.parametrize("emptied", [_without_its_rows, _without_anything])
def test_a_vault_that_was_emptied_is_never_begun_anew_beside_a_store_that_knows_people(
    vault_settings: Settings, open_vault: OpenVault, emptied: Callable[[Settings], None]
) -> None:
    with closing(open_vault()) as vault:
        registered(vault, 1, ADA)
    with closing(wiring.open_store(vault_settings.store)) as store:
        append(store, "user-1", -1, [an_event()])
    emptied(vault_settings)

    for _ in range(2):
        with pytest.raises(KeyUnavailable, match="the event store knows people"):
            open_vault()


@pytest.mark.parametrize("emptied", [_without_its_rows, _without_anything])
def test_an_empty_vault_is_begun_beside_a_store_that_knows_nobody(
    vault_settings: Settings, open_vault: OpenVault, emptied: Callable[[Settings], None]
) -> None:
    open_vault().close()  # as a first start does that is cut off later
    emptied(vault_settings)
    begun = open_vault()
    registered(begun, 1, ADA)

    assert begun.holder(ADA) == 1


# --- the key-encryption key ------------------------------------------------------------------


def _with_another_kek(settings: Settings, path: Path) -> Settings:
    make_kek(path)
    environment = {"ES_HOME": str(settings.home), "ES_VAULT": settings.vault, "ES_KEK_FILE": str(path)}
    return load_settings(environment=environment)


def test_a_wrong_key_encryption_key_opens_nothing(
    vault_settings: Settings, vault: Vault, tmp_path: Path
) -> None:
    registered(vault, 1, ADA)

    with pytest.raises(KeyUnavailable, match="does not fit"):
        wiring.open_vault(_with_another_kek(vault_settings, tmp_path / "another-kek"))

    assert len(secret_of(vault, 1)) == 32, "and nothing was changed"


def test_a_missing_key_encryption_key_is_an_error_and_none_is_made(
    vault_settings: Settings, vault: Vault
) -> None:
    registered(vault, 1, ADA)
    vault.close()
    vault_settings.kek_file.rename(vault_settings.kek_file.with_name("kept"))

    with pytest.raises(KeyUnavailable, match="is not there"):
        wiring.open_vault(vault_settings)

    assert [file.name for file in vault_settings.kek_file.parent.iterdir()] == ["kept"], "no silent new key"
    vault_settings.kek_file.with_name("kept").rename(vault_settings.kek_file)
    with closing(wiring.open_vault(vault_settings)) as mended:
        assert len(secret_of(mended, 1)) == 32


def test_a_key_encryption_key_that_was_named_is_never_made(home: Path, tmp_path: Path) -> None:
    named = load_settings(
        environment={"ES_HOME": str(home), "ES_KEK_FILE": str(tmp_path / "mounted" / "kek")}
    )

    with pytest.raises(KeyUnavailable):
        wiring.open_vault(named)

    assert not (tmp_path / "mounted").exists()
    assert list(home.iterdir()) == [], "and no vault was begun without it"


def test_the_key_encryption_key_is_made_with_a_new_vault_for_its_owner_alone(
    vault_settings: Settings, vault: Vault
) -> None:
    kek = vault_settings.kek_file

    assert stat.S_IMODE(kek.stat().st_mode) == 0o600
    assert stat.S_IMODE(kek.parent.stat().st_mode) == 0o700
    assert [file.name for file in kek.parent.iterdir()] == ["kek"], "no draft is left behind"


# --- SQLite: what lies on disk ---------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "vault"
    made.mkdir()
    return made


@pytest.fixture
def kek() -> bytes:
    return os.urandom(32)


@pytest.fixture
def on_disk(folder: Path, kek: bytes) -> Iterator[SqliteVault]:
    with closing(SqliteVault(folder / "vault.db", kek=kek)) as opened:
        yield opened


def _column(folder: Path, column: str, subjects: Sequence[int]) -> list[bytes]:
    table = "data_keys" if column == "wrapped" else "email_claims"
    with closing(apsw.Connection(str(folder / "vault.db"), flags=apsw.SQLITE_OPEN_READONLY)) as by_hand:
        found = dict(by_hand.execute(f"SELECT subject, {column} FROM {table}"))
    return [found[subject] for subject in subjects]


def _everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _found(needles: Sequence[bytes], folder: Path) -> list[str]:
    """Files that hold one of these, raw or in a common encoding."""
    forms = [
        form
        for raw in needles
        for form in (raw, raw.hex().encode(), b64encode(raw), urlsafe_b64encode(raw), raw[:20], raw[-20:])
    ]
    return [name for name, content in _everything(folder).items() if any(form in content for form in forms)]


def _many_people(vault: SqliteVault, count: int = 600) -> None:
    # Not in order of their ids, so that pages are split and rows move.
    for start in range(0, count, 50):
        subjects = [(number * 7919) % count + 1 for number in range(start, start + 50)]
        vault.reserve([registration(f"user{s}@example.com", subject=s) for s in subjects], now_us=NOW_US)


def test_a_destroyed_key_row_is_blank(on_disk: SqliteVault, folder: Path) -> None:
    registered(on_disk, 1, ADA)

    on_disk.destroy_key(1, process=PROCESS, position=1)

    assert _column(folder, "wrapped", [1]) == [bytes(60)]


def test_a_wrapped_key_and_a_tag_are_in_no_file_after_the_key_was_destroyed(
    on_disk: SqliteVault, folder: Path
) -> None:
    _many_people(on_disk)
    victims = [*range(1, 30), 300, 301, 599, 600]
    gone = [*_column(folder, "wrapped", victims), *_column(folder, "tag", victims)]
    assert all(_found([needle], folder) for needle in gone), "the search finds what is there"

    for victim in victims:
        on_disk.destroy_key(victim, process=PROCESS, position=victim)

    assert (folder / "vault.db-wal").exists(), "searched while the vault is open, its log beside it"
    assert _found(gone, folder) == []


def test_a_wrapped_key_is_in_no_file_after_a_reader_that_prevented_it_is_gone(
    folder: Path, kek: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sqlite.database.BUSY_TIMEOUT_MS", 50)
    with closing(SqliteVault(folder / "vault.db", kek=kek)) as vault:
        registered(vault, 1, ADA)
        registered(vault, 2, GRACE)
        gone = _column(folder, "wrapped", [1])
        with closing(apsw.Connection(str(folder / "vault.db"))) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM data_keys").get == 2
            with pytest.raises(PartUnavailable):  # destroyed, and not said to be without a trace
                vault.destroy_key(1, process=PROCESS, position=1)
            assert vault.data_keys([1]) == {1: DestroyedKey()}
            reader.execute("ROLLBACK")

        vault.destroy_key(1, process=PROCESS, position=1)

        assert _found(gone, folder) == []


@pytest.mark.parametrize("how", ["released", "abandoned"])
def test_a_freed_address_leaves_no_tag_once_the_vault_is_closed(
    on_disk: SqliteVault, folder: Path, how: str
) -> None:
    _many_people(on_disk)
    reservation = reserved(on_disk, registration(ADA, subject=1000))
    gone = _column(folder, "tag", [1000])
    if how == "released":
        on_disk.release([reservation])
    else:
        gone += _column(folder, "wrapped", [1000])
        on_disk.abandon_registration(1000, reservation)

    on_disk.close()

    assert _found(gone, folder) == []


def test_no_address_and_no_clear_key_is_ever_in_a_file(
    on_disk: SqliteVault, folder: Path, kek: bytes
) -> None:
    canary = "canary-5f1d@example.com"
    registered(on_disk, 1, canary)
    reserve(on_disk, change("canary-77aa@example.com", subject=1))
    secrets = [secret_of(on_disk, 1), kek]

    for closed in (False, True):
        if closed:
            on_disk.close()
        text = b"".join(_everything(folder).values())
        assert b"canary" not in text
        assert "canary".encode("utf-16-le") not in text
        assert _found(secrets, folder) == []


def test_no_address_is_in_an_error_of_the_vault(on_disk: SqliteVault) -> None:
    canary = "canary-5f1d@example.com"
    registered(on_disk, 1, canary)

    with pytest.raises(EsError) as refused:
        reserve(on_disk, registration("canary-77aa@example.com", subject=1))

    shown = [str(refused.value), repr(refused.value), json.dumps(refused.value.to_wire())]
    assert not [text for text in shown if "canary" in text]


def test_two_vaults_tag_one_address_differently(on_disk: SqliteVault, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with closing(SqliteVault(other / "vault.db", kek=os.urandom(32))) as another:
        registered(another, 1, ADA)
        registered(on_disk, 1, ADA)

        assert _column(folder, "tag", [1]) != _column(other, "tag", [1])


def test_a_vault_file_is_for_its_owner_alone(on_disk: SqliteVault, folder: Path) -> None:
    registered(on_disk, 1, ADA)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}

    assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}


def test_a_wrapped_key_that_was_moved_to_another_person_opens_nothing(
    on_disk: SqliteVault, folder: Path
) -> None:
    registered(on_disk, 1, ADA)
    registered(on_disk, 2, GRACE)
    with closing(apsw.Connection(str(folder / "vault.db"))) as by_hand:
        by_hand.execute(
            "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE subject = 1) WHERE subject = 2"
        )

    assert list(on_disk.data_keys([1, 2])) == [1], "missing is unavailable, and never erased"


def test_an_old_vault_brings_back_the_old_checkpoint_with_the_old_key(
    on_disk: SqliteVault, folder: Path, kek: bytes, tmp_path: Path
) -> None:
    registered(on_disk, 1, ADA)
    on_disk.save_checkpoint(PROCESS, 4)
    on_disk.close()
    backup = (folder / "vault.db").read_bytes()
    with closing(SqliteVault(folder / "vault.db", kek=kek)) as vault:
        vault.destroy_key(1, process=PROCESS, position=9)
    (folder / "vault.db").write_bytes(backup)

    with closing(SqliteVault(folder / "vault.db", kek=kek)) as restored:
        assert restored.checkpoint(PROCESS) == 4, "so the process passes the erasure again"
        assert isinstance(restored.data_keys([1])[1], LivingKey)


def _fill(vault: SqliteVault, *, batch_size: int) -> list[int]:
    """Register people until the disk is full; those that fitted."""
    kept: list[int] = []

    def register_for_ever() -> None:
        while True:
            subjects = range(len(kept) + 1, len(kept) + 1 + batch_size)
            vault.reserve([registration(f"u{s}@example.com", subject=s) for s in subjects], now_us=NOW_US)
            kept.extend(subjects)

    with pytest.raises(PartUnavailable, match="the disk is full"):
        register_for_ever()
    return kept


def test_on_a_full_disk_a_batch_is_reserved_whole_or_not_at_all(folder: Path, kek: bytes) -> None:
    with closing(SqliteVault(folder / "vault.db", kek=kek, page_limit=40)) as full:
        kept = _fill(full, batch_size=50)

        assert kept
        assert set(full.data_keys(range(1, 5000))) == set(kept)
        assert full.holder(f"u{kept[-1] + 1}@example.com") is None
        assert full.holder("u1@example.com") == 1, "looking still works"

    with closing(SqliteVault(folder / "vault.db", kek=kek)) as roomy:
        answer = reserve(roomy, registration(f"u{kept[-1] + 1}@example.com", subject=kept[-1] + 1))
        assert isinstance(answer, Reserved)


def test_a_key_is_destroyed_on_a_full_disk(folder: Path, kek: bytes) -> None:
    with closing(SqliteVault(folder / "vault.db", kek=kek, page_limit=40)) as full:
        _fill(full, batch_size=1)
        gone = _column(folder, "wrapped", [1])

        full.destroy_key(1, process=PROCESS, position=1)

        assert full.data_keys([1]) == {1: DestroyedKey()}
        assert _found(gone, folder) == []


def test_a_damaged_key_row_keeps_only_its_own_person_from_being_read(
    on_disk: SqliteVault, folder: Path
) -> None:
    registered(on_disk, 1, ADA)
    registered(on_disk, 2, GRACE)
    with closing(apsw.Connection(str(folder / "vault.db"))) as by_hand:
        by_hand.execute("UPDATE data_keys SET wrapped = zeroblob(60) WHERE subject = 1")

    keys = on_disk.data_keys([1, 2])

    assert list(keys) == [2], "missing is unavailable, and never erased"
