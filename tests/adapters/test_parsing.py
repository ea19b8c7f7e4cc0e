"""The fast parser of stored events reads what the plain one reads, and refuses what that refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters import codec
from adapters.codec import JsonCodec, parsed, parsed_plainly
from domain.kernel.errors import Damaged
from domain.kernel.events import Event, Recorded
from domain.kernel.personal import Sealed
from domain.users.account import EVENTS, UserRegistered

_TEXTS = st.text(st.characters(), max_size=8)
_NUMBERS = st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats()
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_EVENTS = st.dictionaries(st.sampled_from(["email", "name", "basis"]) | _TEXTS, _VALUES, max_size=4)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The JSON of an event with bytes that were removed, replaced or inserted."""
    raw = bytearray(
        json.dumps(draw(_EVENTS), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    )
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(raw)))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"]", b",", b"1e999", b".", b"-0"])
        )
        raw[start : start + draw(st.integers(0, 2))] = piece
    return bytes(raw)


def _outcome(parse: Callable[[bytes], Any], raw: bytes) -> str:
    """The value with the types of its numbers, in order; or that there is none."""
    try:
        return repr(parse(raw))
    except (ValueError, RecursionError):
        return "damaged"


@given(damaged() | st.binary(max_size=20))
@example(b'{"a":18446744073709551616,"b":-9223372036854775809}')
@example(b'{"a":1.0,"b":1E5,"c":-0,"d":-0.0,"e":1e400,"f":NaN}')
@example(b'{"a":1,"b":2,"a":3}')
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":"\x01"}')
@example(b"\xef\xbb\xbf{}")
@example(b' {"a" : [ ] } \n')
@example(b'{"a":' + b"[" * 99 + b"]" * 99 + b"}")
@example(b'{"a":' + b"[" * 101 + b"]" * 101 + b"}")
@example(b'{"a":' + b"[" * 100_000)
def test_both_parsers_read_the_same_values_and_refuse_the_same_bytes(raw: bytes) -> None:
    assert _outcome(parsed, raw) == _outcome(parsed_plainly, raw)


@given(damaged(), st.sampled_from([*EVENTS]))
def test_a_codec_decodes_the_same_events_with_both_parsers(raw: bytes, event_class: Any) -> None:
    recorded = Recorded("user-1", 0, 1, 0, bytes(16), event_class.type, raw, b"{}")

    def decoded() -> str:
        try:
            return repr(JsonCodec(EVENTS).decode(recorded))
        except Damaged as error:
            return str(error)

    fast = decoded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "parsed", parsed_plainly)
        patch.setattr(codec, "_maker", lambda _: None)
        assert fast == decoded()


@pytest.mark.parametrize("raw", [b'{"email":"a","name":"b"}', b'{"number":7,"open":true,"none":null}'])
def test_flat_events_are_read_by_the_fast_parser(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(codec, "parsed_plainly", None)
    assert parsed(raw) == json.loads(raw)


def test_a_number_beyond_a_float_is_infinite() -> None:
    assert parsed(b'{"a":1e400}') == {"a": math.inf}


def test_a_sound_event_is_made_without_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonCodec, "_decode", None)
    recorded = Recorded("user-1", 0, 1, 0, bytes(16), UserRegistered.type, b'{"name":"b","email":"a"}', b"{}")

    assert JsonCodec(EVENTS).decode(recorded) == UserRegistered(Sealed("a"), Sealed("b"))


@dataclass(frozen=True, slots=True)
class Counted(Event):
    """With a default, for bytes of before the field, and a check."""

    number: int
    step: int = 1
    type: ClassVar[str] = "counted.v1"


@dataclass(frozen=True, slots=True)
class Checked(Counted):
    type: ClassVar[str] = "checked.v1"

    def __post_init__(self) -> None:
        if self.number < 0:
            raise TypeError


@pytest.mark.parametrize("event_class", [Counted, Checked])
def test_defaults_and_checks_of_a_class_are_kept(event_class: type[Counted]) -> None:
    def decoded(raw: bytes) -> Event:
        recorded = Recorded("count-1", 0, 1, 0, bytes(16), event_class.type, raw, b"{}")
        return JsonCodec([event_class]).decode(recorded)

    assert decoded(b'{"number":7}') == event_class(7, 1)
    assert decoded(b'{"step":2,"number":7}') == event_class(7, 2)
    if event_class is Checked:
        with pytest.raises(Damaged):
            decoded(b'{"step":2,"number":-7}')
