"""The codec: every event is decoded as it was encoded, personal fields are sealed, unknown events refused."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from itertools import count, islice
from typing import Any, ClassVar, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.codec import JsonCodec
from adapters.crypto.sealing import Keyring
from adapters.wiring import open_codec
from domain.kernel.errors import Damaged, KeyUnavailable, Tampered, UnknownEventType
from domain.kernel.events import Event, EventData, Metadata, Recorded, event_id, personal_fields, shown_fields
from domain.kernel.personal import ERASED, Personal, PersonalText, Sealed, Unreadable, readable
from domain.kernel.ports.codec import Codec
from domain.kernel.ports.vault import DestroyedKey
from domain.kernel.uuid7 import Uuid7s
from domain.users.account import UserDeleted, UserErased, UserRegistered, UserRenamed
from tests.support.builders import a_key, a_sample, event_classes, metadata, recorded
from tests.support.shelves import ShelfClosed

SUBJECT = 42
EVENT_ID = UUID(int=0xC0DEC)
CODEC = open_codec()
KEYRING = Keyring({SUBJECT: a_key()})

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
_FIELD_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    PersonalText: _texts.map(Personal),
    str: _texts,
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
}
_each_class = pytest.mark.parametrize(
    "event_class", event_classes(), ids=lambda event_class: event_class.type
)


def _any_event(event_class: type[Event]) -> st.SearchStrategy[Event]:
    hints = get_type_hints(event_class)
    return st.builds(event_class, **{f.name: _FIELD_VALUES[hints[f.name]] for f in fields(event_class)})


def encoded(event: Event, codec: Codec = CODEC, **changed: Any) -> EventData:
    """The event, encoded for SUBJECT, with changed fields of its envelope."""
    data = codec.encode(event, event_id=EVENT_ID, subject=SUBJECT, metadata=metadata(), sealer=KEYRING)
    return replace(data, **changed)


def stored_in(data: EventData, stream: str = f"user-{SUBJECT}") -> Recorded:
    return recorded(data, stream=stream)


def decoded(data: EventData, codec: Codec = CODEC, opener: Keyring | None = KEYRING) -> Event:
    return codec.decode(stored_in(data), subject=SUBJECT, opener=opener)


def stored_metadata(of: Metadata) -> bytes:
    return CODEC.encode(UserDeleted(), event_id=EVENT_ID, subject=None, metadata=of, sealer=None).metadata


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- every event -----------------------------------------------------------------------------


@given(st.one_of([_any_event(event_class) for event_class in event_classes()]))
def test_an_event_is_decoded_as_it_was_encoded(event: Event) -> None:
    assert decoded(encoded(event)) == event


@_each_class
def test_an_event_is_stored_under_its_wire_name_as_compact_json(event_class: type[Event]) -> None:
    stored = encoded(a_sample(event_class))

    assert (stored.type, stored.event_id) == (event_class.type, EVENT_ID)
    assert set(json.loads(stored.data)) == {field.name for field in fields(event_class)}
    assert b": " not in stored.data
    assert b", " not in stored.data


def test_text_is_stored_as_readable_utf8() -> None:
    assert encoded(UserErased("Löschung ☃")).data == '{"basis":"Löschung ☃"}'.encode()


@given(st.uuids(), st.uuids(), st.uuids(), _texts, _texts)
def test_metadata_is_decoded_as_it_was_encoded(
    command_id: UUID, correlation_id: UUID, causation_id: UUID, command: str, actor: str
) -> None:
    written = Metadata(command_id, command, correlation_id, causation_id, actor)

    stored = CODEC.encode(UserDeleted(), event_id=EVENT_ID, subject=None, metadata=written, sealer=None)

    assert CODEC.metadata(recorded(stored)) == written


def test_metadata_is_stored_as_compact_json_also_with_odd_text() -> None:
    one, two, three = (UUID(int=number) for number in (1, 2, 3))
    odd = Metadata(one, 'a "quoted" \\ command', two, three, "ünicode\n")

    assert stored_metadata(odd) == compact(
        {
            "command_id": str(one),
            "command": odd.command,
            "correlation_id": str(two),
            "causation_id": str(three),
            "actor": odd.actor,
        }
    )


@pytest.mark.parametrize(
    "left_out", [{"correlation_id"}, {"causation_id"}, {"correlation_id", "causation_id"}]
)
def test_metadata_leave_out_what_is_the_command_itself(left_out: set[str]) -> None:
    own, other = UUID(int=1), UUID(int=2)
    again = UUID(int=1)  # equal, not the same object
    correlation_id, causation_id = (
        again if name in left_out else other for name in ("correlation_id", "causation_id")
    )
    written = Metadata(own, "some-command", correlation_id, causation_id, "uid:1000")

    stored = json.loads(stored_metadata(written))

    every = {"command_id", "command", "correlation_id", "causation_id", "actor"}
    assert stored.keys() == every - left_out


def test_metadata_of_an_earlier_version_repeat_the_command_id() -> None:
    one = UUID(int=1)
    names = ("command_id", "correlation_id", "causation_id")
    earlier = compact({name: str(one) for name in names} | {"command": "some-command", "actor": "uid:1000"})

    found = CODEC.metadata(recorded(encoded(UserDeleted(), metadata=earlier)))

    assert found == Metadata(one, "some-command", one, one, "uid:1000")


def test_an_event_without_personal_fields_needs_neither_subject_nor_sealer() -> None:
    stored = CODEC.encode(UserErased("b"), event_id=EVENT_ID, subject=None, metadata=metadata(), sealer=None)

    assert CODEC.decode(recorded(stored)) == UserErased("b")


@pytest.mark.parametrize(
    ("command_id", "first"),
    [
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6af613b6-569c-5c22-9c37-2ed93f31d3af"),
        ("017f22e2-79b0-7800-bfff-ffffffffffff", "017f22e2-79b0-7800-a5a3-52f3ca8d95c6"),
    ],
)
def test_the_id_of_an_event_is_the_same_on_every_retry(command_id: str, first: str) -> None:
    ids = [event_id(UUID(command_id), index) for index in range(100)]

    assert ids == [event_id(UUID(command_id), index) for index in range(100)]
    assert len({*ids}) == 100
    # The value itself is frozen: stores hold ids that were made with it.
    assert ids[0] == UUID(first)


def test_events_of_time_ordered_commands_are_in_their_order() -> None:
    times = count(1_760_000_000_000_000, 5)
    commands = list(islice(iter(Uuid7s(lambda: next(times), os.urandom), None), 1000))

    ids = [event_id(command_id, 0) for command_id in commands]

    assert ids == sorted(ids)
    assert {id_.version for id_ in ids} == {7}


def test_events_of_commands_that_share_their_time_have_different_ids() -> None:
    time = 0x017F22E279B07800 << 64 | 0b10 << 62
    commands = [UUID(int=time | number) for number in range(10_000)]

    assert len({event_id(command_id, index) for command_id in commands for index in (0, 1)}) == 20_000


# --- personal data ---------------------------------------------------------------------------


@_each_class
def test_no_personal_value_is_ever_written_readable(event_class: type[Event]) -> None:
    stored = encoded(a_sample(event_class))

    spellings = [
        b"Lovelace",
        b"ada@",
        b"QWRhIExvdmVsYWNl",
        b"YWRhQGV4YW1wbGU",
        b"416461204c6f76",
        b"616461406578",
    ]
    for spelling in spellings:
        assert spelling.lower() not in stored.data.lower() + stored.metadata.lower()
    written = json.loads(stored.data)
    assert all(written[name].startswith("es2:") for name in personal_fields(event_class))


@pytest.mark.parametrize("value", [Sealed("es1:x"), ERASED, "plain text", None], ids=repr)
def test_only_a_readable_personal_value_is_encoded(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sealed"):
        encoded(UserRenamed(value))


@pytest.mark.parametrize(
    ("subject", "sealer"),
    [(None, KEYRING), (SUBJECT, None), (None, None)],
    ids=["no subject", "no sealer", "neither"],
)
def test_personal_fields_are_not_encoded_without_subject_and_sealer(
    subject: int | None, sealer: Keyring | None
) -> None:
    event = a_sample(UserRegistered)

    with pytest.raises(TypeError, match="cannot be sealed"):
        CODEC.encode(event, event_id=EVENT_ID, subject=subject, metadata=metadata(), sealer=sealer)


def test_the_error_about_a_value_does_not_contain_it() -> None:
    name: Any = "canary"

    with pytest.raises(TypeError) as refused:
        encoded(UserRenamed(name))

    assert "canary" not in str(refused.value)


def test_a_personal_value_in_a_plain_field_is_not_encoded() -> None:
    @dataclass(frozen=True)
    class Careless(Event):
        name: Any
        type: ClassVar[str] = "careless.v1"

    with pytest.raises(TypeError):
        encoded(Careless(Personal("canary")), JsonCodec([Careless]))


def test_personal_fields_stay_sealed_without_an_opener() -> None:
    stored = encoded(UserRenamed(Personal("Ada")))

    sealed = decoded(stored, opener=None)

    assert isinstance(sealed, UserRenamed)
    assert isinstance(sealed.name, Sealed)
    copied = KEYRING.open(sealed.name, subject=SUBJECT, field="name", event_id=None)
    assert copied == Personal("Ada"), "it says itself what it was sealed for"


def whole_data(event: Event) -> bytes:
    """The data of an event as earlier versions stored it: each sealed field says what it was sealed for."""
    sealed = {
        name: KEYRING.seal(getattr(event, name), subject=SUBJECT, field=name, event_id=EVENT_ID).text
        for name in personal_fields(type(event))
    }
    return compact(sealed)


@pytest.mark.parametrize("opener", [KEYRING, None], ids=["opened", "sealed"])
def test_an_event_with_whole_sealed_texts_is_decoded(opener: Keyring | None) -> None:
    event = a_sample(UserRegistered)
    data = whole_data(event)

    found = decoded(encoded(event, data=data), opener=opener)

    assert found == (event if opener else UserRegistered(*map(Sealed, json.loads(data).values())))


def test_what_is_stored_is_shown_with_whole_sealed_texts() -> None:
    type_, data = CODEC.stored(stored_in(encoded(a_sample(UserRegistered))))

    assert type_ == UserRegistered.type
    assert [*data] == ["email", "name"]
    assert all(text.startswith(f"es1:{SUBJECT}:{EVENT_ID.hex}:") for text in data.values())


@pytest.mark.parametrize("stream", ["user-seven", "user-²", "user", "user-"])
def test_a_short_sealed_text_in_the_stream_of_no_person_is_damaged(stream: str) -> None:
    event = stored_in(encoded(a_sample(UserRegistered)), stream)

    for opener in (KEYRING, None):
        with pytest.raises(Damaged):
            CODEC.decode(event, subject=SUBJECT, opener=opener)


def test_a_short_sealed_text_in_an_event_with_a_damaged_id_is_damaged() -> None:
    event = stored_in(encoded(a_sample(UserRegistered)))._replace(id_bytes=b"short")

    for opener in (KEYRING, None):
        with pytest.raises(Damaged):
            CODEC.decode(event, subject=SUBJECT, opener=opener)


def test_a_sealed_value_in_the_stream_of_another_person_is_tampered() -> None:
    other = SUBJECT + 1
    keyring = Keyring({SUBJECT: a_key(), other: a_key(2)})

    with pytest.raises(Tampered):
        CODEC.decode(
            stored_in(encoded(UserRenamed(Personal("Ada"))), f"user-{other}"), subject=other, opener=keyring
        )


def test_a_plain_text_that_looks_like_a_sealed_one_stays_as_it_is() -> None:
    event = UserErased("es2:AAAA")

    assert decoded(encoded(event)) == decoded(encoded(event), opener=None) == event
    assert CODEC.stored(stored_in(encoded(event)))[1] == {"basis": "es2:AAAA"}


def test_a_sealed_value_in_another_field_is_tampered() -> None:
    data = json.loads(encoded(UserRegistered(Personal("same"), Personal("same"))).data)
    swapped = json.dumps({"email": data["name"], "name": data["email"]}).encode()

    with pytest.raises(Tampered):
        decoded(encoded(a_sample(UserRegistered), data=swapped))


def test_a_sealed_value_in_another_event_is_tampered() -> None:
    with pytest.raises(Tampered):
        decoded(encoded(UserRenamed(Personal("Ada")), event_id=UUID(int=1)))


def test_after_an_erasure_personal_fields_are_erased_and_others_readable() -> None:
    after = Keyring({SUBJECT: DestroyedKey()})

    assert decoded(encoded(a_sample(UserRegistered)), opener=after) == UserRegistered(ERASED, ERASED)


def test_an_event_without_its_key_is_unavailable_and_not_erased() -> None:
    with pytest.raises(KeyUnavailable):
        decoded(encoded(UserRenamed(Personal("Ada"))), opener=Keyring({}))


def test_fields_are_shown_readable_or_as_none_if_erased_but_never_sealed() -> None:
    assert shown_fields(UserRegistered(Personal("a@b.c"), ERASED)) == {"email": "a@b.c", "name": None}
    assert shown_fields(UserErased("Art. 17")) == {"basis": "Art. 17"}
    assert (readable(Personal("x")), readable(ERASED)) == ("x", None)
    with pytest.raises(TypeError):
        readable(Sealed("x"))
    with pytest.raises(TypeError):
        shown_fields(UserRenamed(Sealed("x")))


# --- unknown and damaged events --------------------------------------------------------------


@pytest.mark.parametrize("type_", ["user-promoted.v1", "user-deleted.v2", "user-deleted", "UserDeleted", ""])
def test_an_unknown_type_is_refused(type_: str) -> None:
    with pytest.raises(UnknownEventType) as refused:
        decoded(encoded(UserDeleted(), type=type_))

    assert refused.value.event_type == type_


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b'{"basis":"b"} trailing',
        b"\xff\xfe\x00",
        b'{"basis":"\xff"}',
        b"{}",
        b'{"base":"b"}',
        b'{"basis":"b","extra":1}',
        b"[" * 100_000,
        b'{"basis":' * 100_000,
    ],
    ids=lambda data: ascii(data[:24]),
)
def test_data_of_another_form_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match=f"event 0 of user-{SUBJECT}"):
        decoded(encoded(UserErased("b"), data=data))


def test_data_that_is_too_deep_for_a_reply_is_damaged() -> None:
    def nested(levels: int) -> Recorded:
        return recorded(encoded(UserErased("b"), data=b'{"a":' + b"[" * levels + b"]" * levels + b"}"))

    assert CODEC.stored(nested(99))
    with pytest.raises(Damaged):
        CODEC.stored(nested(100))  # json could parse it, but not encode it in a reply


def test_an_outline_needs_the_type_alone() -> None:
    for older in ("user-registered.v1", "user-registered.v7"):
        outline = CODEC.outline(recorded(encoded(UserErased("b"), data=b"?"))._replace(type=older))
        assert outline == UserRegistered(Unreadable("damaged"), Unreadable("damaged"))
    assert CODEC.outline(recorded(encoded(UserErased("b")))._replace(type="user-promoted.v9")) is None


@pytest.mark.parametrize(
    "data", [b"{}", b'{"email":"x"}', b'{"email":"x","name":null}', b'{"email":"x","name":5}']
)
def test_a_personal_field_that_is_missing_or_no_text_is_damaged_unopened(data: bytes) -> None:
    with pytest.raises(Damaged):
        decoded(encoded(a_sample(UserRegistered), data=data), opener=None)


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"basis": text}).encode()[:-3])
)
def test_any_bytes_decode_or_are_damaged(data: bytes) -> None:
    try:
        event = decoded(encoded(UserErased("b"), data=data))
    except Damaged:
        return
    assert isinstance(event, UserErased)


@pytest.mark.parametrize(
    "metadata_bytes",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"command_id":"no-uuid"}',
        b'{"command_id":7}',
        b"\xff",
        *(
            compact({"command_id": str(EVENT_ID), "command": "c", "actor": "a", name: odd})
            for name in ("correlation_id", "causation_id")
            for odd in ("no-uuid", 7, None)
        ),
    ],
    ids=ascii,
)
def test_metadata_of_another_form_is_damaged(metadata_bytes: bytes) -> None:
    with pytest.raises(Damaged):
        CODEC.metadata(recorded(encoded(UserDeleted(), metadata=metadata_bytes)))


@pytest.mark.parametrize("missing", ["command_id", "command", "actor"])
def test_metadata_without_one_of_its_fields_is_damaged(missing: str) -> None:
    stored = encoded(UserDeleted())
    rest = {name: value for name, value in json.loads(stored.metadata).items() if name != missing}

    with pytest.raises(Damaged):
        CODEC.metadata(recorded(replace(stored, metadata=json.dumps(rest).encode())))


def test_an_unknown_field_of_metadata_is_ignored() -> None:
    stored = encoded(UserDeleted())
    more = json.dumps(json.loads(stored.metadata) | {"tenant": "t1"}).encode()

    newer = CODEC.metadata(recorded(replace(stored, metadata=more)))

    assert newer == CODEC.metadata(recorded(stored))


# --- upcasters -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moved(Event):
    """The third version of an event. The first had a place in one text, the second had no country."""

    street: PersonalText
    city: str
    country: str
    type: ClassVar[str] = "moved.v3"


def _v1_to_v2(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    city = data.pop("where")
    return "moved.v2", data | {"city": city}


def _v2_to_v3(data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "moved.v3", data | {"country": "unknown"}


_UPCAST = JsonCodec([Moved], {"moved.v1": _v1_to_v2, "moved.v2": _v2_to_v3})


def old(type_: str, data: dict[str, Any]) -> EventData:
    return encoded(UserDeleted(), type=type_, data=json.dumps(data).encode())


@pytest.mark.parametrize(
    ("type_", "rest", "country"),
    [
        ("moved.v1", {"where": "London"}, "unknown"),
        ("moved.v2", {"city": "London"}, "unknown"),
        ("moved.v3", {"city": "London", "country": "UK"}, "UK"),
    ],
)
def test_every_older_version_is_decoded_as_the_newest(type_: str, rest: dict[str, str], country: str) -> None:
    street = Personal("12 St James's Square")
    sealed = KEYRING.seal(street, subject=SUBJECT, field="street", event_id=EVENT_ID)
    stored = old(type_, {"street": sealed.text, **rest})

    assert decoded(stored, _UPCAST) == Moved(street, "London", country)
    assert decoded(stored, _UPCAST, opener=None) == Moved(sealed, "London", country), (
        "upcasting opens nothing"
    )


def test_the_registry_gives_the_codec_the_upcasters_of_its_features() -> None:
    first = old("shelf-closed.v1", {"name": "maps"})

    assert decoded(first, open_codec(("tests.support.shelves",))) == ShelfClosed("maps")
    with pytest.raises(UnknownEventType):
        decoded(first)


def test_an_upcaster_to_an_unknown_version_is_an_unknown_type() -> None:
    codec = JsonCodec([Moved], {"moved.v1": _v1_to_v2})

    with pytest.raises(UnknownEventType) as refused:
        decoded(old("moved.v1", {"where": "London"}), codec)

    assert refused.value.event_type == "moved.v2"


def test_data_that_an_upcaster_cannot_read_is_damaged() -> None:
    with pytest.raises(Damaged):
        decoded(old("moved.v1", {}), _UPCAST)
