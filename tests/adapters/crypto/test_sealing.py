"""Sealing: the four outcomes of opening are never confused, and nothing readable gets through."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.crypto.sealing import NONCE_BYTES, PAD_BYTES, TAG_BYTES, Keyring, unwrap, wrap
from domain.kernel.errors import KeyUnavailable, Tampered
from domain.kernel.personal import ERASED, Personal, Sealed
from domain.kernel.ports.vault import DestroyedKey, LivingKey
from tests.support.builders import a_key

SUBJECT, OTHER = 42, 43
EVENT, OTHER_EVENT = UUID(int=0xABCDEF), UUID(int=0xFEDCBA)
TEXT = "ada@example.com"

_keyring = Keyring({SUBJECT: a_key(1), OTHER: a_key(2)})
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def _sealed(text: str = TEXT) -> Sealed:
    return _keyring.seal(Personal(text), subject=SUBJECT, field="email", event_id=EVENT)


def _box(sealed: Sealed) -> bytes:
    return urlsafe_b64decode(sealed.text.split(":")[3])


# --- the value -------------------------------------------------------------------------------


@given(
    text=_texts, subject=st.integers(1, 2**63 - 1), field=st.sampled_from(["name", "email"]), event=st.uuids()
)
def test_a_sealed_value_is_opened_where_it_was_sealed(
    text: str, subject: int, field: str, event: UUID
) -> None:
    keyring = Keyring({subject: a_key()})

    sealed = keyring.seal(Personal(text), subject=subject, field=field, event_id=event)

    assert keyring.open(sealed, subject=subject, field=field, event_id=event) == Personal(text)


def test_a_copy_outside_its_event_is_opened_without_naming_the_event() -> None:
    assert _keyring.open(_sealed(), subject=SUBJECT, field="email", event_id=None) == Personal(TEXT)


def test_another_keyring_with_the_same_key_opens_it() -> None:
    later = Keyring({SUBJECT: a_key(1)})

    assert later.open(_sealed(), subject=SUBJECT, field="email", event_id=EVENT) == Personal(TEXT)


@given(text=_texts.filter(lambda text: len(text) > 3))
def test_a_sealed_text_tells_nothing_of_the_value(text: str) -> None:
    sealed = _sealed(text)

    assert text.encode() not in _box(sealed)
    assert text.encode().hex() not in sealed.text
    assert sealed.text.isascii()
    assert sealed.text.startswith(f"es1:{SUBJECT}:{EVENT.hex}:")


def test_the_same_value_is_sealed_differently_every_time() -> None:
    sealed = {_sealed().text for _ in range(50)}
    nonces = {_box(Sealed(text))[:NONCE_BYTES] for text in sealed}

    assert len(sealed) == len(nonces) == 50


@given(text=_texts)
def test_the_length_of_a_value_is_hidden_in_steps(text: str) -> None:
    padded = len(_box(_sealed(text))) - NONCE_BYTES - TAG_BYTES

    needed = 2 + len(text.encode())  # two bytes for the length
    assert padded % PAD_BYTES == 0
    assert 0 <= padded - needed < PAD_BYTES


def test_short_values_are_all_of_one_length() -> None:
    assert PAD_BYTES == 32
    assert {len(_sealed("x" * length).text) for length in range(31)} == {len(_sealed("").text)}
    assert len(_sealed("x" * 31).text) > len(_sealed("x" * 30).text)


def test_a_value_that_ends_with_the_padding_character_keeps_it() -> None:
    value = Personal("a\0\0")

    sealed = _keyring.seal(value, subject=SUBJECT, field="email", event_id=EVENT)

    assert _keyring.open(sealed, subject=SUBJECT, field="email", event_id=EVENT) == value


# --- tampered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "field", "event"),
    [
        pytest.param(OTHER, "email", EVENT, id="another person"),
        pytest.param(SUBJECT, "name", EVENT, id="another field"),
        pytest.param(SUBJECT, "email", OTHER_EVENT, id="another event"),
        pytest.param(OTHER, "email", None, id="another person's row"),
        pytest.param(SUBJECT, "name", None, id="another column"),
    ],
)
def test_a_moved_value_is_tampered(subject: int, field: str, event: UUID | None) -> None:
    with pytest.raises(Tampered) as refused:
        _keyring.open(_sealed(), subject=subject, field=field, event_id=event)

    assert (refused.value.subject, refused.value.field) == (subject, field)


@pytest.mark.parametrize(
    ("part", "forged"),
    [(1, str(OTHER)), (2, OTHER_EVENT.hex)],
    ids=["says another person", "says another event"],
)
def test_a_moved_value_with_a_forged_head_is_tampered(part: int, forged: str) -> None:
    parts = _sealed().text.split(":")
    parts[part] = forged
    subject = OTHER if part == 1 else SUBJECT
    event = OTHER_EVENT if part == 2 else EVENT

    with pytest.raises(Tampered):
        _keyring.open(Sealed(":".join(parts)), subject=subject, field="email", event_id=event)


@given(text=_texts, data=st.data())
def test_a_flipped_bit_anywhere_in_the_sealed_bytes_is_tampered(text: str, data: st.DataObject) -> None:
    sealed = _sealed(text).text.encode()
    place = data.draw(st.integers(0, len(sealed) - 1))
    bit = data.draw(st.integers(0, 6))
    flipped = bytes([*sealed[:place], sealed[place] ^ 1 << bit, *sealed[place + 1 :]]).decode()

    for event in (EVENT, None):
        with pytest.raises(Tampered):
            _keyring.open(Sealed(flipped), subject=SUBJECT, field="email", event_id=event)


def test_every_single_flipped_bit_of_one_sealed_text_is_tampered() -> None:
    sealed = _sealed().text.encode()
    opened = []
    for place in range(len(sealed)):
        for bit in range(7):
            flipped = bytes([*sealed[:place], sealed[place] ^ 1 << bit, *sealed[place + 1 :]]).decode()
            try:
                _keyring.open(Sealed(flipped), subject=SUBJECT, field="email", event_id=None)
            except Tampered:
                continue
            opened.append((place, flipped[place]))

    assert opened == []


@given(text=_texts, length=st.integers(0, 400))
def test_a_cut_value_is_tampered(text: str, length: int) -> None:
    sealed = _sealed(text).text

    with pytest.raises(Tampered):
        _keyring.open(
            Sealed(sealed[: min(length, len(sealed) - 1)]), subject=SUBJECT, field="email", event_id=EVENT
        )


@pytest.mark.parametrize("junk", ["!", "*", " ", "\n", "A", "=", "é"], ids=ascii)
@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_added_characters_are_tampered(junk: str, where: str) -> None:
    head, _, encoded = _sealed().text.rpartition(":")
    altered = {"before": junk + encoded, "inside": encoded[:8] + junk + encoded[8:], "after": encoded + junk}[
        where
    ]

    with pytest.raises(Tampered):
        _keyring.open(Sealed(f"{head}:{altered}"), subject=SUBJECT, field="email", event_id=EVENT)


@pytest.mark.parametrize(
    "spelling",
    [
        lambda text: text.replace(EVENT.hex, EVENT.hex.upper()),
        lambda text: text.replace(EVENT.hex, str(EVENT)),
        lambda text: text.replace(EVENT.hex, "{" + EVENT.hex + "}"),
        lambda text: text.replace("es1:42:", "es1:042:"),
        lambda text: text.replace("es1:42:", "es1:+42:"),
        lambda text: text.replace("es1:", "ES1:"),
    ],
    ids=["upper case", "hyphens", "braces", "leading zero", "plus sign", "version"],
)
def test_another_spelling_of_the_same_thing_is_tampered(spelling: object) -> None:
    sealed = _sealed().text
    altered = spelling(sealed)  # type: ignore[operator]
    assert altered != sealed

    with pytest.raises(Tampered):
        _keyring.open(Sealed(altered), subject=SUBJECT, field="email", event_id=EVENT)


@given(text=st.text() | st.from_regex(r"es1:42:[0-9a-f]{32}:[A-Za-z0-9_=-]*", fullmatch=True))
def test_what_was_never_sealed_is_tampered(text: str) -> None:
    with pytest.raises(Tampered):
        _keyring.open(Sealed(text), subject=SUBJECT, field="email", event_id=None)


def test_the_value_of_another_key_is_tampered() -> None:
    reminted = Keyring({SUBJECT: a_key(9)})

    with pytest.raises(Tampered):
        reminted.open(_sealed(), subject=SUBJECT, field="email", event_id=EVENT)


def test_a_refusal_does_not_tell_the_value() -> None:
    with pytest.raises(Tampered) as refused:
        _keyring.open(Sealed(TEXT), subject=SUBJECT, field="email", event_id=EVENT)

    assert TEXT not in f"{refused.value} {refused.value!r}"


# --- erased, and unavailable -----------------------------------------------------------------


def test_a_destroyed_key_means_erased() -> None:
    after = Keyring({SUBJECT: DestroyedKey()})

    assert after.open(_sealed(), subject=SUBJECT, field="email", event_id=EVENT) is ERASED
    assert after.open(_sealed(), subject=SUBJECT, field="email", event_id=None) is ERASED


def test_a_moved_value_is_tampered_even_after_an_erasure() -> None:
    after = Keyring({SUBJECT: DestroyedKey(), OTHER: DestroyedKey()})

    with pytest.raises(Tampered):
        after.open(_sealed(), subject=OTHER, field="email", event_id=EVENT)
    with pytest.raises(Tampered):
        after.open(_sealed(), subject=SUBJECT, field="email", event_id=OTHER_EVENT)


@pytest.mark.parametrize(
    "keys", [{}, {OTHER: a_key(2)}, {OTHER: DestroyedKey()}], ids=["none", "other", "gone"]
)
def test_a_missing_key_is_unavailable_and_never_erased(keys: dict[int, LivingKey | DestroyedKey]) -> None:
    with pytest.raises(KeyUnavailable):
        Keyring(keys).open(_sealed(), subject=SUBJECT, field="email", event_id=EVENT)


@pytest.mark.parametrize("keys", [{}, {SUBJECT: DestroyedKey()}], ids=["missing", "destroyed"])
def test_nothing_is_sealed_without_a_living_key(keys: dict[int, LivingKey | DestroyedKey]) -> None:
    with pytest.raises(KeyUnavailable):
        Keyring(keys).seal(Personal(TEXT), subject=SUBJECT, field="email", event_id=EVENT)


def test_a_key_of_the_wrong_size_is_unavailable_and_not_blamed_on_the_value() -> None:
    with pytest.raises(KeyUnavailable):
        Keyring({SUBJECT: LivingKey(b"short")}).open(
            _sealed(), subject=SUBJECT, field="email", event_id=EVENT
        )


# --- wrapping keys ---------------------------------------------------------------------------

KEK, OTHER_KEK = bytes(range(32)), bytes(range(1, 33))


@given(secret=st.binary(min_size=32, max_size=32), name=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_wrapped_secret_is_unwrapped_by_its_key_and_name(secret: bytes, name: str) -> None:
    wrapped = wrap(KEK, secret, name)

    assert unwrap(KEK, wrapped, name) == secret
    assert len(wrapped) == 60
    assert secret not in wrapped


def test_a_secret_is_wrapped_differently_every_time() -> None:
    assert len({wrap(KEK, bytes(32), "user-42") for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("kek", "name"),
    [
        pytest.param(OTHER_KEK, "user-42", id="another key-encryption key"),
        pytest.param(KEK, "user-43", id="another name"),
        pytest.param(b"short", "user-42", id="a key of the wrong size"),
        pytest.param(b"", "user-42", id="an empty key"),
    ],
)
def test_a_key_that_does_not_fit_is_unavailable(kek: bytes, name: str) -> None:
    wrapped = wrap(KEK, bytes(32), "user-42")

    with pytest.raises(KeyUnavailable):
        unwrap(kek, wrapped, name)


@given(place=st.integers(0, 59), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_wrapped_key_is_unavailable(place: int, bit: int) -> None:
    wrapped = bytearray(wrap(KEK, bytes(32), "user-42"))
    wrapped[place] ^= 1 << bit

    with pytest.raises(KeyUnavailable):
        unwrap(KEK, bytes(wrapped), "user-42")


@given(wrapped=st.binary(max_size=80))
def test_what_was_never_wrapped_is_unavailable(wrapped: bytes) -> None:
    with pytest.raises(KeyUnavailable):
        unwrap(KEK, wrapped, "user-42")


def test_no_secret_is_shown() -> None:
    secret = uuid4().bytes * 2
    keyring = Keyring({SUBJECT: LivingKey(secret)})
    keyring.seal(Personal(TEXT), subject=SUBJECT, field="email", event_id=EVENT)

    for shown in (repr(keyring), str(keyring), repr(LivingKey(secret)), repr({SUBJECT: LivingKey(secret)})):
        assert repr(secret) not in shown
        assert secret.hex() not in shown
        assert TEXT not in shown
