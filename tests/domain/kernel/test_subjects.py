"""Personal data of persons in streams that are not theirs: sealed for the person whom the event names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.codec import JsonCodec
from adapters.crypto.sealing import Keyring
from adapters.memory.event_store import MemoryStore
from domain.features import registry
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.commands import Command, Input
from domain.kernel.errors import (
    AnsweredError,
    CommandIdReused,
    KeyMissing,
    KeyUnavailable,
    PartUnavailable,
    PersonErased,
    PersonNotFound,
    Tampered,
)
from domain.kernel.events import Event, Metadata
from domain.kernel.kept_states import KeptStates
from domain.kernel.orders import NO_PERSON, Done, Order, Outcome, content_of, people_in
from domain.kernel.personal import ERASED, Of, Personal, PersonalText
from domain.kernel.ports.vault import DataKey, DestroyedKey, Reason
from domain.kernel.subjects import subject_problems
from domain.kernel.system import CommandRemembered
from domain.users.account import USER
from tests.support.builders import a_key, recorded
from tests.support.leases import (
    LEASE,
    HandOverLease,
    Lease,
    LeaseHandedOver,
    LeaseSigned,
    PayRent,
    SignLease,
    parse_name,
)

ADA, BOB, LARGEST = 1024, 2048, 2**63 - 1
STREAM = LEASE.stream_of(7)
CODEC = JsonCodec([*LEASE.events, CommandRemembered])


class Office:
    """A handler of leases, and a record of the fetched keys."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.keys: dict[int, DataKey] = {
            person: a_key(number) for number, person in enumerate((ADA, BOB, LARGEST))
        }
        self.fetched: list[list[int]] = []
        self.kept: KeptStates[Lease, Any] = KeptStates(LEASE, long=3)

    def keyring(self, subjects: Sequence[int]) -> Keyring:
        keyring = Keyring({}, self._fetch)
        keyring.load(subjects)
        return keyring

    def _fetch(self, subjects: Sequence[int]) -> Mapping[int, DataKey]:
        self.fetched.append(sorted(subjects))
        return {subject: self.keys[subject] for subject in subjects if subject in self.keys}

    def handle(
        self,
        *orders: Order[Any],
        aggregate: Aggregate[Lease, Any] = LEASE,
        keyring: Callable[[Sequence[int]], Keyring] | None = None,
    ) -> list[Outcome]:
        handler = CommandHandler(
            aggregate,
            store=self.store,
            codec=CODEC,
            keyring=keyring or self.keyring,
            pause=lambda _: None,
            kept=self.kept,
        )
        return handler.handle(orders)

    def events(self, stream: str = STREAM) -> list[Event]:
        opener = self.keyring([])
        return [CODEC.decode(stored, opener=opener) for stored in self.store.read_stream(stream)]

    def erase(self, person: int) -> None:
        self.keys[person] = DestroyedKey(Reason.ERASURE)


@pytest.fixture
def office() -> Office:
    return Office()


def order(command: Any, stream: str = STREAM, id_: UUID | None = None, **changed: Any) -> Order[Any]:
    id_ = id_ or uuid4()
    return Order(
        command,
        stream,
        NO_PERSON,
        Metadata(id_, command.wire, id_, id_, "uid:1000"),
        content=content_of(command),
        is_personal=isinstance(command, SignLease | HandOverLease),
        people=people_in(command, is_own=False) or (),
        **changed,
    )


def sign(person: int = ADA, name: str = "Ada", stream: str = STREAM, **changed: Any) -> Order[Any]:
    return order(SignLease(7, person, Personal(name), "attic"), stream, **changed)


def hand_over(person: int = BOB, name: str = "Bob", **changed: Any) -> Order[Any]:
    return order(HandOverLease(7, person, Personal(name)), **changed)


def pay(amount: int = 1) -> Order[Any]:
    return order(PayRent(7, amount))


def errors(outcomes: Sequence[Outcome]) -> list[type[Outcome]]:
    return [type(outcome) for outcome in outcomes]


# --- sealing ---------------------------------------------------------------------------------


def test_a_field_is_sealed_for_the_person_that_its_event_names(office: Office) -> None:
    office.handle(sign(LARGEST, "Canary"))

    (stored,) = office.store.read_stream(STREAM)
    assert CODEC.stored(stored)[1]["tenant"].startswith(f"es1:{LARGEST}:")
    assert b"Canary" not in stored.data
    assert [*CODEC.subjects(stored)] == [LARGEST], "all 64 bits survive"
    assert office.events() == [LeaseSigned(LARGEST, Personal("Canary"), "attic")]


def test_one_event_holds_the_data_of_two_persons_and_loses_that_of_the_erased_one(office: Office) -> None:
    office.handle(sign(), hand_over())
    assert office.events()[1] == LeaseHandedOver(ADA, Personal("Ada"), BOB, Personal("Bob"))

    office.erase(ADA)

    assert office.events() == [
        LeaseSigned(ADA, ERASED, "attic"),
        LeaseHandedOver(ADA, ERASED, BOB, Personal("Bob")),
    ]


def test_a_value_that_is_moved_to_another_person_is_tampered(office: Office) -> None:
    office.handle(sign())
    (stored,) = office.store.read_stream(STREAM)
    moved = stored._replace(data=stored.data.replace(b'"tenant_id":%d' % ADA, b'"tenant_id":%d' % BOB))

    with pytest.raises(Tampered):
        CODEC.decode(moved, opener=office.keyring([]))


def test_an_event_that_cannot_be_read_names_no_person() -> None:
    stored = CODEC.encode(
        LeaseSigned(ADA, Personal("Ada"), "attic"),
        event_id=uuid4(),
        subject=None,
        metadata=sign().metadata,
        sealer=Keyring({ADA: a_key()}),
    )

    assert [*CODEC.subjects(recorded(stored))] == [ADA]
    assert not CODEC.subjects(recorded(stored)._replace(data=b"{"))
    assert not CODEC.subjects(recorded(stored)._replace(data=b'{"tenant_id":"1024"}'))
    assert not CODEC.subjects(recorded(stored)._replace(type="unknown.v1"))


# --- keys ------------------------------------------------------------------------------------


def test_a_batch_fetches_the_keys_of_loaded_streams_and_of_its_input_at_once(office: Office) -> None:
    office.handle(sign(), sign(BOB, "Bob", "lease-8"))
    office.fetched.clear()

    office.handle(pay(), hand_over(LARGEST, "Eve"), order(PayRent(8, 1), "lease-8"))

    assert office.fetched == [[ADA, BOB, LARGEST]]


def test_the_key_of_a_person_that_only_the_decision_names_is_fetched_once(office: Office) -> None:
    unnamed = [
        Order(o.command, o.stream, NO_PERSON, o.metadata) for o in (sign(), hand_over(), hand_over(LARGEST))
    ]

    office.handle(*unnamed)

    assert office.fetched == [[ADA], [BOB], [LARGEST]]


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_a_number_that_is_no_id_is_not_asked_for(office: Office, number: int) -> None:
    assert errors(office.handle(sign(number))) == [PersonNotFound]
    assert office.fetched == []


# --- erased and unknown persons --------------------------------------------------------------


def test_nothing_more_is_sealed_for_an_erased_or_unknown_person(office: Office) -> None:
    office.keys[4096] = DestroyedKey(Reason.ABANDONED)
    office.erase(BOB)

    outcomes = office.handle(sign(BOB), sign(555), sign(4096), sign(), hand_over(BOB), hand_over(555))

    assert outcomes[:3] == [PersonErased(BOB), PersonNotFound(555), PersonNotFound(4096)]
    assert isinstance(outcomes[3], Done)
    assert outcomes[4:] == [PersonErased(BOB), PersonNotFound(555)]
    assert [event.type for event in office.events()] == [LeaseSigned.type]


def test_an_erased_value_is_decided_on_and_never_copied(office: Office) -> None:
    office.handle(sign())
    office.erase(ADA)

    copied = office.handle(hand_over(), pay())

    assert [getattr(each, "code", None) for each in copied] == ["tenant-erased", None]


def test_an_erased_value_that_a_decision_copies_refuses_the_command(office: Office) -> None:
    def careless(lease: Lease, command: Any) -> Sequence[Event]:
        return [LeaseHandedOver(lease.tenant_id, lease.tenant, command.to_id, command.to_name)]

    office.handle(sign())
    office.erase(ADA)

    assert office.handle(hand_over(), aggregate=replace(LEASE, decide=careless)) == [PersonErased(ADA)]


def test_a_remembered_refusal_stays_when_the_person_is_known_later(office: Office) -> None:
    asked = sign(555, remembers=True)
    assert office.handle(asked) == [PersonNotFound(555)]
    office.keys[555] = a_key(5)

    (again,) = office.handle(asked)

    assert isinstance(again, AnsweredError)
    assert again.code == "person-not-found"


def test_a_missing_key_of_a_stored_value_stays_an_outage(office: Office) -> None:
    office.handle(sign())
    del office.keys[ADA]

    assert errors(office.handle(pay())) == [KeyMissing]
    assert issubclass(KeyMissing, KeyUnavailable)


def test_an_outage_of_the_vault_is_found_once_and_makes_no_person_unknown(office: Office) -> None:
    outage = PartUnavailable("vault", "it is stopped")

    def fails(subjects: Sequence[int]) -> Mapping[int, DataKey]:
        office.fetched.append([*subjects])
        raise outage

    office.handle(sign())
    office.fetched.clear()
    unnamed = [Order(hand_over().command, STREAM, NO_PERSON, hand_over().metadata) for _ in range(3)]
    known = Keyring(dict(office.keys), fails)
    del known._keys[BOB]
    known._fetched.discard(BOB)

    assert office.handle(*unnamed, keyring=lambda _: known) == [outage] * 3
    assert office.fetched == [[BOB]]


# --- digests ---------------------------------------------------------------------------------


def test_a_repeat_with_other_personal_input_is_refused_until_the_person_is_erased(office: Office) -> None:
    first = sign()
    office.handle(first)
    other = sign(name="Other", id_=first.metadata.command_id)
    assert errors(office.handle(first, other)) == [Done, CommandIdReused]

    office.erase(ADA)

    assert errors(office.handle(other)) == [Done], "no key tells the difference"


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
def test_input_whose_person_only_the_event_names_is_compared_as_well(
    office: Office, *, together: bool
) -> None:
    first = replace(sign(), people=None, plain_content=b"flat")
    other = replace(sign(name="Other", id_=first.metadata.command_id), people=None, plain_content=b"flat")
    orders = [first, first, other]

    outcomes = office.handle(*orders) if together else [office.handle(each)[0] for each in orders]

    assert errors(outcomes) == [Done, Done, CommandIdReused]
    office.erase(ADA)
    assert errors(office.handle(other)) == [Done], "no key tells the difference"


def test_of_input_without_any_person_the_plain_part_is_compared(office: Office) -> None:
    unnamed = replace(sign(), verdict=PersonNotFound(5), remembers=True, people=None, plain_content=b"flat")
    other = replace(unnamed, plain_content=b"other flat", content=b"other")

    assert errors(office.handle(unnamed, unnamed, other))[2] is CommandIdReused


def test_a_digest_depends_on_the_key_of_every_person_in_the_input(office: Office) -> None:
    from domain.kernel.orders import digest_of

    both = Order(
        hand_over().command,
        STREAM,
        NO_PERSON,
        hand_over().metadata,
        content=b"x",
        is_personal=True,
        people=(ADA, BOB),
    )
    with_both = digest_of(both, office.keyring([]))
    assert with_both
    office.erase(BOB)

    assert digest_of(both, office.keyring([])) == ""


# --- kept states -----------------------------------------------------------------------------


def test_the_state_of_a_long_stream_is_kept_sealed_for_its_one_person(office: Office) -> None:
    office.handle(sign(name="Canary"), *[pay() for _ in range(5)])
    kept = office.kept.opened(STREAM, office.keyring([ADA]))
    assert kept is not None
    assert kept.state == Lease(ADA, Personal("Canary"), 5)
    assert "Canary" not in repr(vars(office.kept))

    office.erase(ADA)

    assert office.kept.opened(STREAM, office.keyring([ADA])) is None


def test_a_state_with_the_data_of_two_persons_is_not_kept(office: Office) -> None:
    office.handle(sign(), hand_over(), *[pay() for _ in range(5)])
    assert office.kept.opened(STREAM, office.keyring([ADA, BOB])) is None

    office.handle(pay())

    assert office.kept.opened(STREAM, office.keyring([ADA, BOB])) is None


def test_a_kept_state_is_dropped_when_a_second_person_comes(office: Office) -> None:
    office.handle(sign(), *[pay() for _ in range(5)])

    office.handle(hand_over())

    assert office.kept.opened(STREAM, office.keyring([ADA, BOB])) is None


# --- what a feature may declare --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unowned(Event):
    name: PersonalText
    type: ClassVar[str] = "unowned.v1"


@dataclass(frozen=True, slots=True)
class Misnamed(Event):
    owner_id: int
    name: Annotated[PersonalText, Of("owner")]
    type: ClassVar[str] = "misnamed.v1"


@dataclass(frozen=True, slots=True)
class OfText(Event):
    owner: str
    name: Annotated[PersonalText, Of("owner")]
    type: ClassVar[str] = "of-text.v1"


@dataclass(frozen=True, slots=True)
class Impersonal(Event):
    owner_id: int
    name: Annotated[str, Of("owner_id")]
    type: ClassVar[str] = "impersonal.v1"


@dataclass(frozen=True, slots=True)
class NameThing(Command):
    thing_id: int
    name: Annotated[Personal, Input(parse_name, "The name.", "NAME"), Of("owner_id")]
    wire: ClassVar[str] = "name-thing"


def thing(*events: type[Event], **more: Any) -> Aggregate[None, Any]:
    return Aggregate(
        name="thing", initial=None, evolve=lambda s, e: s, decide=lambda s, c: [], events=events, **more
    )


@pytest.mark.parametrize(
    ("aggregate", "said"),
    [
        (thing(Unowned), "Unowned.name is personal without a person"),
        (thing(Misnamed), "Misnamed.name is of 'owner', which is no field of the type int"),
        (thing(OfText), "OfText.name is of 'owner', which is no field of the type int"),
        (thing(Impersonal), "Impersonal.name has an Of and is not personal"),
        (thing(commands=(NameThing,)), "NameThing.name is of 'owner_id', which is no field of the type int"),
    ],
    ids=["no person", "unknown field", "text", "not personal", "command"],
)
def test_a_field_without_a_person_is_a_problem_with_its_place(
    aggregate: Aggregate[None, Any], said: str
) -> None:
    ((problem, hint),) = subject_problems(aggregate)

    assert problem == f"{__name__}.{said}"
    assert hint.endswith(".")


def test_fields_of_persons_and_of_named_persons_have_no_problem() -> None:
    built_in = registry().aggregates
    assert USER in built_in
    assert [problem for each in (*built_in, LEASE) for problem in subject_problems(each)] == []
    assert [*subject_problems(thing(Unowned, is_person=True))] == []


# --- properties ------------------------------------------------------------------------------

_ids = st.integers(1, 2**63 - 1)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(_ids, _ids, _texts, _texts)
def test_every_event_of_two_persons_is_read_as_it_was_decided_until_one_is_erased(
    one: int, two: int, name: str, other: str
) -> None:
    keys: dict[int, DataKey] = {one: a_key(1), two: a_key(2)}
    event = LeaseHandedOver(one, Personal(name), two, Personal(other))
    data = CODEC.encode(event, event_id=uuid4(), subject=None, metadata=sign().metadata, sealer=Keyring(keys))
    stored = recorded(data)

    assert CODEC.decode(stored, opener=Keyring(keys)) == event
    assert {*CODEC.subjects(stored)} == {one, two}
    keyring = Keyring(keys)
    sealed = CODEC.decode(stored)
    assert isinstance(sealed, LeaseHandedOver)
    assert [keyring.subject_in(getattr(each, "text", "")) for each in (sealed.from_name, sealed.to_name)] == [
        one,
        two,
    ]
    keys[one] = DestroyedKey(Reason.ERASURE)
    left = CODEC.decode(stored, opener=Keyring(keys))
    assert left == replace(event, from_name=ERASED, to_name=ERASED if one == two else Personal(other))


@given(st.one_of(_texts, st.integers(), st.none(), st.just("es1:0:"), _texts.map("es1:5:{}".format)))
def test_no_other_value_is_taken_for_a_sealed_one(value: object) -> None:
    assert Keyring({}).subject_in(value) is None


def test_a_sealed_text_of_a_newer_form_has_its_subject() -> None:
    assert Keyring({}).subject_in(f"es2:{LARGEST}:{'0' * 32}:any") == LARGEST
