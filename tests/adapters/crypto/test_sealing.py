"""Sealing: the four outcomes of opening are never confused, and no value can be read without its key."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.crypto.sealing import NONCE_BYTES, PAD_BYTES, TAG_BYTES, Keyring, unwrap, wrap
from domain.kernel.errors import KeyDamaged, KeyMissing, KeyUnavailable, SealedByNewer, Tampered
from domain.kernel.personal import ERASED, Erased, Personal, Sealed
from domain.kernel.ports.vault import DamagedKey, DataKey, DestroyedKey, LivingKey
from tests.support.builders import a_key

SUBJECT, OTHER = 42, 43
EVENT, OTHER_EVENT = UUID(int=0xABCDEF), UUID(int=0xFEDCBA)
TEXT = "ada@example.com"
KEYS: Mapping[int, DataKey] = {SUBJECT: a_key(1), OTHER: a_key(2)}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def seal(text: str = TEXT, keys: Mapping[int, DataKey] = KEYS) -> str:
    return Keyring(keys).seal(Personal(text), subject=SUBJECT, field="email", event_id=EVENT).text


def open_(
    text: str,
    *,
    keys: Mapping[int, DataKey] = KEYS,
    subject: int = SUBJECT,
    field: str = "email",
    event: UUID | None = EVENT,
) -> Personal | Erased:
    return Keyring(keys).open(Sealed(text), subject=subject, field=field, event_id=event)


def box_of(sealed: str) -> bytes:
    return urlsafe_b64decode(sealed.split(":")[3])


# --- the value -------------------------------------------------------------------------------


@given(texts, st.integers(1, 2**63 - 1), st.sampled_from(["name", "email"]), st.uuids())
def test_a_sealed_value_opens_with_its_subject_field_and_event(
    text: str, subject: int, field: str, event: UUID
) -> None:
    keyring = Keyring({subject: a_key()})

    sealed = keyring.seal(Personal(text), subject=subject, field=field, event_id=event)

    assert keyring.open(sealed, subject=subject, field=field, event_id=event) == Personal(text)


@pytest.mark.parametrize(
    ("keys", "event"), [(KEYS, None), ({SUBJECT: a_key(1)}, EVENT)], ids=["a copy", "another keyring"]
)
def test_a_sealed_value_opens_outside_its_event_and_with_another_keyring(
    keys: Mapping[int, DataKey], event: UUID | None
) -> None:
    assert open_(seal(), keys=keys, event=event) == Personal(TEXT)


@given(texts.filter(lambda text: len(text) > 3))
def test_a_sealed_text_does_not_contain_the_value(text: str) -> None:
    sealed = seal(text)

    assert text.encode() not in box_of(sealed)
    assert text.encode().hex() not in sealed
    assert sealed.isascii()
    assert sealed.startswith(f"es1:{SUBJECT}:{EVENT.hex}:")


def test_the_same_value_is_sealed_differently_every_time() -> None:
    sealed = {seal() for _ in range(50)}
    nonces = {box_of(text)[:NONCE_BYTES] for text in sealed}

    assert len(sealed) == len(nonces) == 50


@given(texts)
def test_padding_hides_the_length_of_a_value(text: str) -> None:
    padded = len(box_of(seal(text))) - NONCE_BYTES - TAG_BYTES

    needed = 2 + len(text.encode())  # two bytes for the length
    assert padded % PAD_BYTES == 0
    assert 0 <= padded - needed < PAD_BYTES


def test_short_values_have_sealed_texts_of_one_length() -> None:
    assert PAD_BYTES == 32
    assert {len(seal("x" * length)) for length in range(31)} == {len(seal(""))}
    assert len(seal("x" * 31)) > len(seal("x" * 30))


def test_a_value_that_ends_with_the_padding_character_keeps_it() -> None:
    assert open_(seal("a\0\0")) == Personal("a\0\0")


# --- tampered --------------------------------------------------------------------------------

SEALED = seal()
_HEAD, _, _BOX = SEALED.rpartition(":")
ALTERED = {
    "upper case": SEALED.replace(EVENT.hex, EVENT.hex.upper()),
    "hyphens": SEALED.replace(EVENT.hex, str(EVENT)),
    "braces": SEALED.replace(EVENT.hex, "{" + EVENT.hex + "}"),
    "leading zero": SEALED.replace("es1:42:", "es1:042:"),
    "short event id": SEALED.replace(EVENT.hex, EVENT.hex[:30]),
    "no event id": SEALED.replace(EVENT.hex, ""),
    "plus sign": SEALED.replace("es1:42:", "es1:+42:"),
    "version": SEALED.replace("es1:", "ES1:"),
    **{
        f"{junk!a} {where}": f"{_HEAD}:{_BOX[:place]}{junk}{_BOX[place:]}"
        for junk in ("!", "*", " ", "\n", "A", "=", "é")
        for where, place in (("before", 0), ("inside", 8), ("after", len(_BOX)))
    },
}


@pytest.mark.parametrize("altered", ALTERED.values(), ids=list(ALTERED))
def test_an_altered_or_respelled_value_is_tampered(altered: str) -> None:
    assert altered != SEALED
    for key in (KEYS[SUBJECT], DestroyedKey()):
        for event in (EVENT, None):
            with pytest.raises(Tampered):
                open_(altered, keys={SUBJECT: key}, event=event)


@pytest.mark.parametrize(
    ("sealed", "subject", "field", "event"),
    [
        pytest.param(SEALED, OTHER, "email", EVENT, id="to another person"),
        pytest.param(SEALED, SUBJECT, "name", EVENT, id="to another field"),
        pytest.param(SEALED, SUBJECT, "email", OTHER_EVENT, id="to another event"),
        pytest.param(SEALED, OTHER, "email", None, id="to another person's row"),
        pytest.param(SEALED, SUBJECT, "name", None, id="to another column"),
        pytest.param(f"es1:{OTHER}:{EVENT.hex}:{_BOX}", OTHER, "email", EVENT, id="says another person"),
        pytest.param(
            f"es1:42:{OTHER_EVENT.hex}:{_BOX}", SUBJECT, "email", OTHER_EVENT, id="says another event"
        ),
    ],
)
def test_a_moved_value_is_tampered(sealed: str, subject: int, field: str, event: UUID | None) -> None:
    with pytest.raises(Tampered) as refused:
        open_(sealed, subject=subject, field=field, event=event)

    assert (refused.value.subject, refused.value.field) == (subject, field)


def flipped(sealed: str, place: int, bit: int) -> str:
    raw = bytearray(sealed.encode())
    raw[place] ^= 1 << bit
    return raw.decode()


@given(texts, st.data())
def test_a_flipped_bit_is_tampered(text: str, data: st.DataObject) -> None:
    sealed = seal(text)
    altered = flipped(sealed, data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 6)))

    for event in (EVENT, None):
        with pytest.raises((Tampered, SealedByNewer)):
            open_(altered, event=event)


def test_every_flipped_bit_of_one_sealed_text_is_tampered() -> None:
    sealed = seal()
    opened = []
    for place in range(len(sealed)):
        for bit in range(7):
            try:
                open_(flipped(sealed, place, bit), event=None)
            except Tampered:
                continue
            except SealedByNewer:
                assert place in (2, 3), "only another version number looks like a newer one"
                continue
            opened.append((place, bit))

    assert opened == []


@given(texts, st.integers(0, 400))
def test_a_truncated_value_is_tampered(text: str, length: int) -> None:
    sealed = seal(text)

    with pytest.raises(Tampered):
        open_(sealed[: min(length, len(sealed) - 1)])


@given(st.text() | st.from_regex(r"es1:42:[0-9a-f]{32}:[A-Za-z0-9_=-]*", fullmatch=True))
def test_a_text_that_was_never_sealed_is_tampered(text: str) -> None:
    with pytest.raises(Tampered):
        open_(text, event=None)


@pytest.mark.parametrize(
    "newer",
    [SEALED.replace("es1:", "es2:"), SEALED.replace("es1:", "es10:"), "es2:", "es2:of:another:form:at:all"],
)
@pytest.mark.parametrize("key", [a_key(), DestroyedKey(), DamagedKey(), None], ids=str)
def test_a_value_of_a_newer_version_is_neither_opened_nor_blanked_nor_tampered(
    newer: str, key: DataKey | None
) -> None:
    for event in (EVENT, None):
        with pytest.raises(SealedByNewer) as refused:
            open_(newer, event=event, keys={} if key is None else {SUBJECT: key})

        assert refused.value == SealedByNewer(SUBJECT, "email")
        assert "upgrade" in refused.value.hint


@pytest.mark.parametrize(
    "text", ["es0:42:x:y", "es02:42:x:y", "es:42:x:y", "es-2:42:x:y", "es2", " es2:42:x:y"]
)
def test_what_no_version_writes_is_tampered(text: str) -> None:
    with pytest.raises(Tampered):
        open_(text, event=None)


def test_a_value_under_another_key_is_tampered() -> None:
    with pytest.raises(Tampered):
        open_(seal(), keys={SUBJECT: a_key(9)})


def test_an_error_does_not_show_the_value() -> None:
    with pytest.raises(Tampered) as refused:
        open_(TEXT)

    assert TEXT not in f"{refused.value} {refused.value!r}"


# --- erased, and unavailable -----------------------------------------------------------------


@pytest.mark.parametrize("event", [EVENT, None])
def test_a_destroyed_key_means_erased(event: UUID | None) -> None:
    assert open_(seal(), keys={SUBJECT: DestroyedKey()}, event=event) is ERASED


@pytest.mark.parametrize(("subject", "event"), [(OTHER, EVENT), (SUBJECT, OTHER_EVENT)])
def test_a_moved_value_is_tampered_even_after_an_erasure(subject: int, event: UUID) -> None:
    with pytest.raises(Tampered):
        open_(SEALED, keys={SUBJECT: DestroyedKey(), OTHER: DestroyedKey()}, subject=subject, event=event)


@pytest.mark.parametrize(
    "keys",
    [{}, {OTHER: a_key(2)}, {OTHER: DestroyedKey()}],
    ids=["none", "another", "another destroyed"],
)
def test_a_missing_key_is_unavailable_and_never_erased(keys: Mapping[int, DataKey]) -> None:
    with pytest.raises(KeyMissing):
        open_(seal(), keys=keys)


@pytest.mark.parametrize(
    "key", [DamagedKey(), LivingKey(b"short")], ids=["not unwrapped", "of the wrong size"]
)
def test_a_damaged_key_opens_and_seals_nothing(key: DataKey) -> None:
    with pytest.raises(KeyDamaged):
        open_(seal(), keys={SUBJECT: key})
    with pytest.raises(KeyDamaged):
        seal(keys={SUBJECT: key})


@pytest.mark.parametrize("keys", [{}, {SUBJECT: DestroyedKey()}], ids=["missing", "destroyed"])
def test_sealing_needs_a_living_key(keys: Mapping[int, DataKey]) -> None:
    with pytest.raises(KeyUnavailable):
        seal(keys=keys)


# --- wrapping keys ---------------------------------------------------------------------------

KEK, OTHER_KEK = bytes(range(32)), bytes(range(1, 33))


@given(st.binary(min_size=32, max_size=32), texts)
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
    with pytest.raises(KeyUnavailable):
        unwrap(kek, wrap(KEK, bytes(32), "user-42"), name)


@given(st.integers(0, 59), st.integers(0, 7))
def test_a_flipped_bit_in_a_wrapped_key_is_unavailable(place: int, bit: int) -> None:
    wrapped = bytearray(wrap(KEK, bytes(32), "user-42"))
    wrapped[place] ^= 1 << bit

    with pytest.raises(KeyUnavailable):
        unwrap(KEK, bytes(wrapped), "user-42")


@given(st.binary(max_size=80))
def test_bytes_that_were_never_wrapped_are_unavailable(wrapped: bytes) -> None:
    with pytest.raises(KeyUnavailable):
        unwrap(KEK, wrapped, "user-42")


def test_no_secret_is_shown() -> None:
    key = LivingKey(uuid4().bytes * 2)
    keyring = Keyring({SUBJECT: key})
    keyring.seal(Personal(TEXT), subject=SUBJECT, field="email", event_id=EVENT)

    for shown in (repr(keyring), str(keyring), repr(key), repr({SUBJECT: key})):
        assert repr(key.secret) not in shown
        assert key.secret.hex() not in shown
        assert TEXT not in shown
