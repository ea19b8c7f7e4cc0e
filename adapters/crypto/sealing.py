"""Seal and open personal values: AES-256-GCM under the subject's data key.

    es1:<subject>:<event id, 32 hex>:<base64url(nonce 12 | ciphertext | tag 16)>

The plaintext is the length of the text in UTF-8 (2 bytes), the text, and zeros up to a multiple of 32 bytes: the
length of a name stays hidden. Associated data are subject, field and event id. The same cipher wraps data keys.
A random 96-bit nonce is safe for 2^32 messages per key (NIST SP 800-38D §8.3); a person has a few.

Promise: a sealed value opens only with the subject, field and event that it was sealed for. Refusal: a missing
key is never taken for an erased one.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.kernel.errors import KeyDamaged, KeyMissing, KeyUnavailable, SealedByNewer, Tampered
from domain.kernel.personal import ERASED, Erased, Personal, Sealed
from domain.kernel.ports.vault import DamagedKey, DataKey, DestroyedKey, LivingKey

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
PAD_BYTES = 32
_VERSION = "es1"
_NEWER = re.compile(r"es([2-9]|[1-9][0-9]{1,8}):")


class Keyring:
    """Opener and sealer with the data keys of some subjects, which a batch reads once."""

    def __init__(self, keys: Mapping[int, DataKey]) -> None:
        self._keys = keys
        self._ciphers: dict[int, AESGCM] = {}

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        key = self._keys.get(subject)
        if isinstance(key, DamagedKey):
            raise KeyDamaged(subject)
        if not isinstance(key, LivingKey):
            raise KeyUnavailable(f"user {subject} has no living data key")
        nonce = os.urandom(NONCE_BYTES)
        box = nonce + self._cipher(subject, key).encrypt(
            nonce, _pad(value.value), _bound(subject, field, event_id)
        )
        return Sealed(_text_of(subject, event_id, box))

    def open(self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None) -> Personal | Erased:
        if _NEWER.match(sealed.text):
            raise SealedByNewer(subject, field)  # before the key: a tombstone says nothing about a newer form
        try:
            _version, _key_id, event_hex, encoded = sealed.text.split(":")
            sealed_in = UUID(event_hex)
            box = urlsafe_b64decode(encoded)
        except (ValueError, AttributeError) as error:
            raise Tampered(subject, field) from error
        if event_id not in (None, sealed_in) or sealed.text != _text_of(subject, sealed_in, box):
            raise Tampered(subject, field)  # moved, or written in another form than that of `seal`
        match self._keys.get(subject):
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

    def _cipher(self, subject: int, key: LivingKey) -> AESGCM:
        cipher = self._ciphers.get(subject)
        if cipher is None:
            if len(key.secret) != KEY_BYTES:
                raise KeyDamaged(subject)
            cipher = self._ciphers[subject] = AESGCM(key.secret)
        return cipher


def _text_of(subject: int, event_id: UUID, box: bytes) -> str:
    return f"{_VERSION}:{subject}:{event_id.hex}:{urlsafe_b64encode(box).decode()}"


class AllErased:
    """Opener for a subject whose erasure is stored: every value is `ERASED`, and sealing is refused."""

    def seal(self, value: Personal, *, subject: int, field: str, event_id: UUID) -> Sealed:
        raise KeyUnavailable(f"user {subject} is erased")

    def open(self, sealed: Sealed, *, subject: int, field: str, event_id: UUID | None) -> Erased:
        return ERASED


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


def _bound(subject: int, field: str, event_id: UUID) -> bytes:
    return b"%d|%s|%s" % (subject, field.encode(), event_id.bytes)


def _pad(text: str) -> bytes:
    raw = text.encode()
    return (len(raw).to_bytes(2, "big") + raw).ljust(-(-(len(raw) + 2) // PAD_BYTES) * PAD_BYTES, b"\0")


def _unpad(clear: bytes) -> str:
    return clear[2 : 2 + int.from_bytes(clear[:2], "big")].decode()
