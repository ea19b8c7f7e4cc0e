"""Every method of a port, called on a part that holds some thousand rows. Nothing here checks anything.

Each function yields between groups of calls, so that the plans of their statements can be asked for while the tables
that they use still exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

from domain.kernel.events import NO_STREAM
from domain.kernel.history import History, Mark
from domain.kernel.ports.event_store import Append, CaughtUp, EventStore
from domain.kernel.ports.read_model import GenerationState, Parked, ReadModel, Report, Why
from domain.kernel.ports.vault import (
    ClaimId,
    Decided,
    Destruction,
    OwedState,
    OwedTag,
    Quarantined,
    Reason,
    Vault,
)
from domain.kernel.ports.worklist import Look, Opening, Worklist
from domain.kernel.projection import Add, Change, Delete, Operation, Projection
from tests.support.builders import some_events
from tests.support.read_models import (
    NAMED,
    SELECTIONS,
    THINGS,
    apply,
    moved,
    prepared,
    put,
    rebuilding,
)
from tests.support.vaults import (
    LATER_US,
    NOW_US,
    PROCESS,
    change,
    history,
    register,
    registered,
    registration,
    reserve,
    reserved,
    wanted,
)

ROWS = 3000
_BATCH = 500
_SYSTEM = UUID(int=1)


def _batches(count: int) -> Iterator[range]:
    return (range(first, first + _BATCH) for first in range(1, count, _BATCH))


# --- event store -----------------------------------------------------------------------------


def fill_event_store(store: EventStore, rows: int = ROWS, *, kind: str = "user") -> None:
    """One event for each of many streams, and a few of another kind."""
    store.claim_system(_SYSTEM)
    store.append([Append("rare-1", NO_STREAM, some_events(3))])
    for batch in _batches(rows):
        store.append([Append(f"{kind}-{number:09}", NO_STREAM, some_events(1)) for number in batch])


def call_event_store(store: EventStore) -> Iterator[None]:
    first, again = some_events(2), some_events(1)
    store.append([Append("user-a", NO_STREAM, first), Append("user-a", NO_STREAM, again)])
    store.append([Append("user-a", NO_STREAM, first), Append("user-b", NO_STREAM, first)])
    head = store.head()
    for backwards in (False, True):
        [*store.read_stream("user-a", backwards=backwards, limit=1)]
    store.read_streams(["user-a", "missing"])
    for prefixes in (None, ["user-"], ["rare-"], ["none-"], ["rare-", "user-"], []):
        for limit in (1, 2000):
            [*store.read_all(0, limit, prefixes=prefixes)]
        for types in (None, ["thing-"], ["rare"]):
            for item in store.follow(head - 3, stopped=lambda: False, prefixes=prefixes, types=types):
                if isinstance(item, CaughtUp):
                    break
    for position in (1, head + 9):
        store.fit(Mark(position, uuid4()))
    store.system_id()
    store.claim_system(_SYSTEM, instead_of=_SYSTEM)
    yield


# --- vault -----------------------------------------------------------------------------------


def fill_vault(vault: Vault, rows: int = ROWS) -> None:
    vault.claim_system(_SYSTEM)
    for batch in _batches(rows):
        register(vault, *batch)
        held = vault.claims_of(batch, now_us=NOW_US)
        vault.settle_claims(confirmed=[claim.id for claim in held], now_us=NOW_US)


def call_vault(vault: Vault) -> Iterator[None]:
    known = uuid4()
    registered(vault, 900_001, "a@example.com", command=known)
    reserve(vault, registration("b@example.com", subject=900_002, command=known))
    left = reserved(vault, registration("d@example.com", subject=900_004))
    for confirmed in ([], [left]):  # the second time it extends the reservation
        vault.reserve([_CHANGE], confirmed=confirmed, now_us=NOW_US)
    reserve(vault, registration("lost@example.com", subject=900_003))
    (freed,) = vault.claims_of([4], now_us=NOW_US)
    vault.settle_claims(
        confirmed=[ClaimId(5, uuid4())], released=[freed.id], abandoned=[900_003], now_us=NOW_US
    )
    for subject in (4, -5):  # a person, and an instance without one
        unique = reserved(vault, wanted(f"wallet {subject}", subject=subject, stream=f"wallet-{subject}"))
        vault.settle_claims(confirmed=[unique], now_us=NOW_US)
    vault.settle_claims(released=[unique], now_us=NOW_US)
    vault.claims_on(["wallet-4", "wallet-5"], now_us=NOW_US)
    vault.claims_of([1, 2, 900_001], now_us=NOW_US)
    vault.expired_claims(now_us=LATER_US, limit=100)
    vault.holders(["a@example.com", "user3@example.com"])
    vault.registered_by([known, uuid4()])
    vault.data_keys([1, 3, 900_003, 123_456_789])
    vault.subjects(after=5, limit=10)
    _call_owed(vault)
    crowd = range(100, 150)  # the buckets of some hold tags of others
    vault.settle_claims(released=[claim.id for claim in vault.claims_of(crowd, now_us=NOW_US)], now_us=NOW_US)
    vault.remove_residue([1, 4, *crowd])
    vault.system_id()
    vault.claim_system(_SYSTEM, instead_of=_SYSTEM)
    yield


def call_another_vault(vault: Vault) -> Iterator[None]:
    """What reads keys that another worker made."""
    theirs = vault.claims_of(range(200, 210), now_us=NOW_US)
    vault.settle_claims(released=[claim.id for claim in theirs], now_us=NOW_US)
    vault.remove_residue(range(200, 210))
    yield


_CHANGE = change("c@example.com", subject=900_001)


def _call_owed(vault: Vault) -> None:
    strange = Quarantined(7, "other-1", "user-erased.v1", "no person")
    decided = [Decided(subject, uuid4(), 5) for subject in (1, 2, 4)]
    reached = history(1, 5)
    vault.owe(decided, now_us=NOW_US, process=PROCESS, reached=reached, quarantined=[strange])
    vault.owed(limit=100)
    vault.owed(limit=100, after=1, state=OwedState.DECIDED)
    vault.owed_of(1)
    vault.owed_count()
    vault.erasure_failed([1, 2], "no reason")
    kept = [OwedTag(tag, 2) for tag in vault.tags(["a", "b"])]
    vault.destroy([Destruction(1, Reason.ERASURE, decided[0].event_id, kept)], now_us=NOW_US)
    vault.owed_tags([1, 2])
    vault.remove_residue([1])
    vault.forget_tags({1: 2})
    vault.settle_erasures([1])
    vault.quarantined(limit=100)
    vault.checkpoint(PROCESS)
    vault.save_checkpoint(PROCESS, history(1, 9), since=5)
    vault.rewind_checkpoint(PROCESS, history(1), now_us=NOW_US)
    vault.divergences()
    vault.forget_findings()


# --- read models -----------------------------------------------------------------------------

PROJECTIONS: Sequence[tuple[Projection, str]] = ((THINGS, ""), (NAMED, "b"))
"""Projections with a key of each type, and what a key begins with."""


def fill_read_model(model: ReadModel, rows: int = ROWS) -> None:
    model.claim_system(_SYSTEM)
    for projection, prefix in PROJECTIONS:
        generation = prepared(model, projection)
        for batch in _batches(rows):
            keys = [f"{prefix}{number:09}" if prefix else number for number in batch]
            generation = moved(model, generation, *map(put, keys), projection=projection)


def call_read_model(model: ReadModel) -> Iterator[None]:
    for projection, prefix in PROJECTIONS:
        keys = [f"{prefix}{number:09}" if prefix else number for number in (7, 8, 9)]
        generation = prepared(model, projection)
        operations: list[Operation] = [
            put(keys[0]),
            Change(keys[1], {"colour": "blue"}),
            Add(keys[1], {"size": 2}),
            Delete(keys[2]),
            *(put(f"{prefix}{number:09}" if prefix else number) for number in range(9_000_000, 9_001_000)),
        ]
        parked = [Parked(3, "thing-3", "no reason")]
        after = apply(model, generation, *operations, projection=projection, parked=parked)
        assert after
        assert model.change_parked(projection, after, [put(keys[1])], removed=[3], parked=parked)
        model.generations(projection)
        model.parked(projection, generation)
        model.rows(projection, keys=keys)
        model.rows(projection, after=keys[0], limit=50)
        model.rows(projection, limit=50, generation=generation)
        model.rows(projection, where={"colour": "blue"}, limit=50)
        model.rows(projection, where={"colour": "red"}, limit=50)
        model.count(projection, limit=1000)
        with model.snapshot(projection, generation) as snapshot:
            snapshot.rows(None, 1)
            snapshot.rows(keys[0], 50)
    for selection in SELECTIONS:
        model.rows(NAMED, **selection, limit=50)
        model.count(NAMED, prefix=selection["prefix"], limit=1000)
    model.system_id()
    model.claim_system(_SYSTEM, instead_of=_SYSTEM)
    yield
    built = moved(model, rebuilding(model), put(1))
    assert model.promote(THINGS, built, now_us=NOW_US, other_history=True)
    begun = rebuilding(model)  # it removes the generation before
    model.begin_rebuild(THINGS, now_us=NOW_US, instead_of=begun)
    yield
    yield from _call_generations(model)


def _call_generations(model: ReadModel) -> Iterator[None]:
    model.cancel(THINGS, now_us=NOW_US)
    current = next(each for each in model.generations(THINGS) if each.state is GenerationState.CURRENT)
    assert model.columns(THINGS, current)
    assert model.adopt(THINGS, current, code="other", now_us=NOW_US)
    for _ in range(2):
        check = model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK)
        assert model.end_check(THINGS, check, now_us=NOW_US, rows=1)
    check = model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK)
    model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.OTHER_HISTORY)
    assert not model.end_check(THINGS, check, now_us=NOW_US)
    model.cancel(THINGS, now_us=NOW_US)
    check = model.begin_rebuild(THINGS, now_us=NOW_US, why=Why.CHECK)
    assert model.end_check(THINGS, check, now_us=NOW_US)
    model.save_report(THINGS, Report(1, check.number, NOW_US, "{}"))
    model.reports(THINGS)
    model.phases(THINGS, limit=50)
    model.count(THINGS, limit=1000, generation=check)
    assert model.resume(THINGS, check.number, now_us=NOW_US, why=Why.SWITCH)
    model.cancel(THINGS, now_us=NOW_US)
    yield
    assert model.prune(THINGS)
    model.clear(limit=ROWS // 3)
    yield
    while model.clear(limit=ROWS // 3):
        pass
    yield


# --- worklist --------------------------------------------------------------------------------

_MANAGED = "transfer"


def fill_worklist(worklist: Worklist, rows: int = ROWS) -> None:
    """Many open instances of two processes, due at different times; a third of them in quarantine with a held event."""
    for process in (_MANAGED, "another"):
        for batch in _batches(rows):
            openings = [Opening(each, each, "broken" if each % 3 == 0 else "") for each in batch]
            since = worklist.checkpoint(process).position
            worklist.open_instances(
                process, openings, reached=History(batch[-1]), since=since, now_us=NOW_US + batch[0]
            )


def call_worklist(worklist: Worklist) -> Iterator[None]:
    at = worklist.checkpoint(_MANAGED).position
    openings = [Opening(1, at + 1), Opening(900_001, at + 2), Opening(3, at + 3, "broken")]
    worklist.open_instances(_MANAGED, openings, reached=History(at + 3), since=at, now_us=NOW_US)
    worklist.quarantined(_MANAGED, range(1, 256))
    listed = worklist.due(_MANAGED, now_us=LATER_US, limit=256)
    worklist.next_due_us(_MANAGED)
    looks = [Look(each.instance, each.revision, due_us=LATER_US) for each in listed]
    ended = Look(listed[0].instance, listed[0].revision, ended=True)
    worklist.looked(_MANAGED, [ended, *looks[1:], Look(3, 0, error="broken", released=[3])])
    for quarantined in (False, True):
        worklist.instances(after=(_MANAGED, 5), quarantined=quarantined, limit=100)
    worklist.instance(_MANAGED, 3)
    worklist.held(_MANAGED, 3, limit=100)
    worklist.retry(_MANAGED, 3, now_us=NOW_US)
    worklist.backlog(_MANAGED, limit=100)
    worklist.take_lease(_MANAGED, "me", now_us=NOW_US, lease_us=1)
    worklist.release_lease(_MANAGED, "me")
    worklist.save_checkpoint(_MANAGED, history(at + 4), since=at + 3)
    worklist.rewind_checkpoint(_MANAGED, history(at), now_us=NOW_US)
    yield
