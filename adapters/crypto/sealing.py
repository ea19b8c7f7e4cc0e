"""Seal and open personal values: AES-256-GCM under the subject's data key.

    es1:<subject>:<event id, 32 hex>:<box, base64url(nonce 12 | ciphertext | tag 16)>

An event stores it without what the event says itself (`texts.py`). The plaintext is the length of the text in UTF-8
(2 bytes), the text, and zeros up to a multiple of 32 bytes: the length of a name stays hidden. Associated data are
subject, field and event id. The same cipher wraps data keys.
A random 96-bit nonce is safe for 2^32 messages per key (NIST SP 800-38D §8.3); a person has a few.

Promise: a sealed value opens only with the subject, field and event that it was sealed for. Refusal: a missing
key is never taken for an erased one.
"""

from __future__ import annotations

import hmac
import os
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapters.crypto.texts import head
from domain.kernel.errors import (
    EsError,
    KeyDamaged,
    KeyMissing,
    KeyUnavailable,
    PersonErased,
    PersonNotFound,
    SealedByNewer,
    Tampered,
)
from domain.kernel.personal import ERASED, Erased, Personal, Sealed
from domain.kernel.ports.vault import DamagedKey, DataKey, DestroyedKey, LivingKey, Reason

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_ID_BYTES = 16
PAD_BYTES = 32
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_SEALED = re.compile(r"es[1-9][0-9]{0,9}:([1-9][0-9]{0,18}):[0-9a-f]{32}:")
_NEWER = re.compile(r"es([2-9]|[1-9][0-9]{1,8}):")


_SUBJECTS = range(1, 1 << 63)
"""What can be a user id. An event of another program may name any number."""


class Keyring:
    """Opener and sealer with the data keys of some subjects, which a batch reads once."""

    def __init__(
        self,
        keys: Mapping[int, DataKey],
        fetch: Callable[[Sequence[int]], Mapping[int, DataKey]] | None = None,
    ) -> None:
        """`fetch` returns the keys of further subjects, without those that are unknown."""
        self._keys = dict(keys)
        self._fetch = fetch
        self._fetched = set(keys)
        self._outage: EsError | None = None
        self._ciphers: dict[int, AESGCM] = {}

    def load(self, subjects: Collection[int]) -> None:
        if self._fetch is None:
            return
        new = [subject for subject in dict.fromkeys(subjects) if subject not in self._fetched]
        if wanted := [subject for subject in new if subject in _SUBJECTS]:
            if self._outage is not None:
                raise self._outage  # detecting it takes seconds, and a batch has many subjects
            try:
                self._keys.update(self._fetch(wanted))
            except EsError as error:
                self._outage = error
                raise
        self._fetched.update(new)

    def subject_in(self, text: object) -> int | None:
        found = _SEALED.match(text) if isinstance(text, str) else None
        return int(found[1]) if found else None

    def need(self, subject: int) -> None:
        match self._key(subject):
            case DamagedKey():
                raise KeyDamaged(subject)
            case None | DestroyedKey(reason=Reason.ABANDONED):  # a registration that made no user
                raise PersonNotFound(subject)
            case DestroyedKey():
                raise PersonErased(subject)

    def _key(self, subject: int) -> DataKey | None:
        key = self._keys.get(subject)
        if key is None:
            self.load((subject,))
            key = self._keys.get(subject)
        return key

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        key = self._key(subject)
        if isinstance(key, DamagedKey):
            raise KeyDamaged(subject)
        if not isinstance(key, LivingKey):
            raise KeyUnavailable(f"user {subject} has no living data key")
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers.get(subject) or self._cipher(subject, key)
        box = nonce + cipher.encrypt(nonce, _pad(value.value), _bound(subject, field, event_id.bytes))
        return Sealed(_text_of(subject, event_id.bytes, box))

    def open(self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None) -> Personal | Erased:
        text = sealed.text
        if _NEWER.match(text):
            raise SealedByNewer(subject, field)  # before the key: a tombstone says nothing about a newer form
        begins, _, encoded = text.rpartition(":")
        try:
            sealed_in = bytes.fromhex(begins[-2 * _ID_BYTES :]) if event_id is None else event_id.bytes
            box = a2b_base64(encoded.encode().translate(_STANDARD))
        except ValueError as error:
            raise Tampered(subject, field) from error
        if text != _text_of(subject, sealed_in, box):
            raise Tampered(subject, field)  # moved, or written in another form than that of `seal`
        match self._key(subject):
            case DestroyedKey():
                return ERASED
            case LivingKey() as key:
                try:
                    clear = self._cipher(subject, key).decrypt(
                        box[:NONCE_BYTES], box[NONCE_BYTES:], _bound(subject, field, sealed_in)
                    )
                except (InvalidTag, ValueError) as error:
                    raise Tampered(subject, field) from error
                return Personal(_unpad(clear))
            case DamagedKey():
                raise KeyDamaged(subject)
        # A missing key without a tombstone means an outage or a wrong vault, never an erasure.
        raise KeyMissing(f"the vault has no key of user {subject}")

    def keyed(self, content: bytes, *, subject: int) -> bytes:
        key = self._key(subject)
        if not isinstance(key, LivingKey):
            return b""
        # Named, so that no other use of the key has the same input.
        return hmac.digest(key.secret, b"digest|%d|" % subject + content, "sha256")

    def _cipher(self, subject: int, key: LivingKey) -> AESGCM:
        cipher = self._ciphers.get(subject)
        if cipher is None:
            if len(key.secret) != KEY_BYTES:
                raise KeyDamaged(subject)
            cipher = self._ciphers[subject] = AESGCM(key.secret)
        return cipher


def _text_of(subject: int, event_id: bytes, box: bytes) -> str:
    return head(subject, event_id) + b2a_base64(box, newline=False).translate(_URL_SAFE).decode()


class AllErased:
    """Opener for a subject whose erasure is stored: every value is `ERASED`, and sealing is refused."""

    def load(self, subjects: Collection[int]) -> None:
        """There is nothing to fetch."""

    def subject_in(self, text: object) -> int | None:
        return Keyring({}).subject_in(text)

    def need(self, subject: int) -> None:
        raise PersonErased(subject)

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        raise KeyUnavailable(f"user {subject} is erased")

    def open(self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None) -> Erased:
        return ERASED

    def keyed(self, content: bytes, *, subject: int) -> bytes:
        return b""


def wrap(kek: bytes, secret: bytes, name: str) -> bytes:
    """Encrypt a 32-byte secret under the key-encryption key, bound to its name. The result has 60 bytes."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(kek).encrypt(nonce, secret, name.encode())


def unwrap(kek: bytes, wrapped: bytes, name: str) -> bytes:
    """The secret. Raises KeyUnavailable if another key-encryption key or another name wrapped it."""
    try:
        return AESGCM(kek).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], name.encode())
    except (InvalidTag, ValueError) as error:
        raise KeyUnavailable("the key-encryption key does not fit this vault") from error


def _bound(subject: int, field: str, event_id: bytes) -> bytes:
    return b"%d|%s|%s" % (subject, field.encode(), event_id)


def _pad(text: str) -> bytes:
    raw = text.encode()
    return (len(raw).to_bytes(2, "big") + raw).ljust(-(-(len(raw) + 2) // PAD_BYTES) * PAD_BYTES, b"\0")


def _unpad(clear: bytes) -> str:
    return clear[2 : 2 + int.from_bytes(clear[:2], "big")].decode()
