"""Bucket keys: wrapping of data keys, and tags that can be looked up."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise

import pytest

from adapters.crypto.bucket_keys import TAG_BUCKETS, TAG_BYTES, BucketKey, bucket_of

SECRET = bytes(range(32))


def test_equal_tags_have_equal_ciphertexts_under_one_key_alone() -> None:
    tag = os.urandom(TAG_BYTES)

    assert BucketKey(SECRET).seal_tags(tag) == BucketKey(SECRET).seal_tags(tag)
    assert BucketKey.new().seal_tags(tag) != BucketKey.new().seal_tags(tag)


def test_tags_are_opened_by_their_key_alone_one_after_another() -> None:
    key, tags = BucketKey.new(), [os.urandom(TAG_BYTES) for _ in range(5)]
    sealed = key.seal_tags(b"".join(tags))

    assert sealed == b"".join(key.seal_tags(tag) for tag in tags)
    assert key.open_tags(sealed) == b"".join(tags)
    assert tags[0] not in BucketKey.new().open_tags(sealed)


def test_a_data_key_is_unwrapped_by_its_key_for_its_subject_alone() -> None:
    key, secret = BucketKey.new(), os.urandom(32)
    wrapped = key.wrap(secret, 7)

    assert len(wrapped) == 60
    assert key.unwrap(wrapped, 7) == secret
    assert key.wrap(secret, 7) != wrapped, "each time under another nonce"
    assert key.unwrap(wrapped, 8) is None
    assert BucketKey.new().unwrap(wrapped, 7) is None


@pytest.mark.parametrize("damaged", [b"", bytes(60), b"short"])
def test_what_is_no_wrapped_key_opens_to_nothing(damaged: bytes) -> None:
    assert BucketKey(SECRET).unwrap(damaged, 7) is None


def test_tags_and_data_keys_are_under_different_keys() -> None:
    """One cipher in two modes under one key would tie their security together."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    plain = Cipher(AES(SECRET), ECB()).encryptor()

    assert BucketKey(SECRET).seal_tags(bytes(16)) != plain.update(bytes(16))


def test_a_key_hides_its_secret_when_printed() -> None:
    assert "\\x" not in repr(BucketKey(SECRET))
    assert SECRET.hex() not in f"{BucketKey(SECRET)}"


def test_tag_buckets_are_the_first_bits_of_a_tag_and_evenly_filled() -> None:
    assert (bucket_of(bytes(32)), bucket_of(b"\xff" * 32)) == (0, TAG_BUCKETS - 1)
    ordered = sorted(os.urandom(TAG_BYTES) for _ in range(1000))
    assert all(bucket_of(low) <= bucket_of(high) for low, high in pairwise(ordered))
    counts = Counter(bucket_of(number.to_bytes(2, "big") + bytes(30)) for number in range(1 << 16))
    assert set(counts.values()) == {16}
