"""Bucket keys: a vault stores data keys and tags under them, so that a few bytes destroy what many files may hold.

A data key is wrapped under the key of its *block*: of at most 64 people who were registered one after another. A tag is
enciphered under the key of its *tag bucket*, one of 4,096. To remove what belongs to one person a vault gives its
block and its tag buckets new keys, enciphers again what lives in them, and destroys the old keys: see ADR 0014.

Promise: equal tags have equal ciphertexts under one key, so that they can be looked up. Refusal: a ciphertext tells nothing
about a tag without the key of its bucket.
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from adapters.crypto.sealing import NONCE_BYTES

TAG_BUCKETS = 4096
"""Tag buckets have the numbers 0 to 4,095, blocks of people the numbers after that."""
BLOCK_SIZE = 64
"""People in a block, at most."""
TAG_BYTES = 32


def bucket_of(tag: bytes) -> int:
    """The number of the tag bucket. A tag is a keyed hash, so its first bits are spread evenly."""
    return int.from_bytes(tag[:2], "big") * TAG_BUCKETS >> 16


class BucketKey:
    """One key of 256 bits, in memory only. Its ciphers are kept: setting one up costs more than to use it.

    A thread has keys of its own: a cipher serves one call at a time.
    """

    __slots__ = ("_cipher", "_decryptor", "_encryptor", "_wrapper", "secret")

    def __init__(self, secret: bytes) -> None:
        """`secret` wraps data keys. Tags are enciphered under another key that is derived from it."""
        self.secret = secret
        self._wrapper: AESGCM | None = None
        self._cipher: Cipher[ECB] | None = None
        self._encryptor: CipherContext | None = None
        self._decryptor: CipherContext | None = None

    def __repr__(self) -> str:
        return "BucketKey(…)"

    @classmethod
    def new(cls) -> BucketKey:
        return cls(os.urandom(32))

    def wrap(self, data_key: bytes, subject: int) -> bytes:
        """Encrypt a data key, bound to its subject. The result has 60 bytes."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._keys_cipher().encrypt(nonce, data_key, b"%d" % subject)

    def unwrap(self, wrapped: bytes, subject: int) -> bytes | None:
        """The data key; None if another key wrapped it, or it is damaged or of another subject."""
        try:
            return self._keys_cipher().decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], b"%d" % subject)
        except (InvalidTag, ValueError):
            return None

    def _keys_cipher(self) -> AESGCM:
        if self._wrapper is None:
            self._wrapper = AESGCM(self.secret)
        return self._wrapper

    def seal_tags(self, tags: bytes) -> bytes:
        """Encipher tags of 32 bytes each, one after another, or other text of whole blocks of 16 bytes."""
        if self._encryptor is None:
            self._encryptor = self._tags_cipher().encryptor()
        return self._encryptor.update(tags)

    def open_tags(self, sealed: bytes) -> bytes:
        if self._decryptor is None:
            self._decryptor = self._tags_cipher().decryptor()
        return self._decryptor.update(sealed)

    def _tags_cipher(self) -> Cipher[ECB]:
        if self._cipher is None:
            # A tag is two blocks of a keyed hash, and no two tags share a block: ECB is the permutation that is needed.
            self._cipher = Cipher(AES(hmac.digest(self.secret, b"tags", "sha256")), ECB())  # noqa: S305 - the reason is above
        return self._cipher
