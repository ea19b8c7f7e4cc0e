"""What a destroyed key, and a freed or forgotten tag, leave in the files of PostgreSQL: nothing that a living key opens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapters.crypto.bucket_keys import BucketKey, bucket_of
from adapters.postgres import rotation, statements
from adapters.postgres.buckets import KEYLESS
from adapters.postgres.vault import PostgresVault
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.vault import Destruction, LivingKey, OwedTag, Reason, Reserved
from tests.support.postgres import Server, execute, locked, unavailable
from tests.support.vaults import (
    ADA,
    KEK,
    NOW_US,
    abandon,
    are_destroyed,
    change,
    destroy,
    freed_tags,
    owe,
    register,
    reserve,
    secret_of,
    shuffled,
)
from tests.support.waiting import eventually

USERS = 600


@dataclass
class Files:
    """The files of a database as one that holds the key-encryption key would read them."""

    server: Server
    url: str

    def content(self) -> bytes:
        execute(self.url, "CHECKPOINT")  # writes what is in memory only, and removes dropped files
        ((oid,),) = execute(self.url, "SELECT oid FROM pg_database WHERE datname = current_database()")
        folder = self.server.folder / "data" / "base" / str(oid)
        return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())

    def hold(self, needles: Sequence[bytes]) -> list[bytes]:
        content = self.content()
        return [needle for needle in needles if needle in content or needle[:20] in content]

    def opened(self, subjects: Sequence[int], tags: Sequence[bytes]) -> tuple[dict[int, bytes], set[bytes]]:
        """The data keys of subjects and the tags among `tags` that can be had, with every bucket key that is in a file."""
        content = self.content()
        wrapped, stored, sealed = (_values(content, size) for size in (60, 40, 32))
        keys = _bucket_keys_in(content)
        found_keys = {
            subject: secret
            for id_, key in keys
            if id_ >= KEYLESS
            for subject in subjects
            for secret in _opened(key, wrapped, str(subject))
        }
        forms = sealed | {value[8:] for value in stored}
        ciphers = [BucketKey(key) for _, key in keys]
        found = {tag for tag in tags if tag in forms or any(c.seal_tags(tag) in forms for c in ciphers)}
        return found_keys, found


def _bucket_keys_in(content: bytes) -> set[tuple[int, bytes]]:
    """The numbers and the keys of all rows of bucket keys, also of dead and overwritten ones, that the content has."""
    found = set()
    for match in re.finditer(b"(?s)" + _length(8) + b".{8}" + _length(60) + b"(.{60})", content):
        id_ = int.from_bytes(content[match.start() - 16 : match.start() - 8], "little")
        found |= {(id_, key) for key in _opened(KEK, [match.group(1)], f"bucket {id_}")}
    return found


def _length(size: int) -> bytes:
    """A pattern for what PostgreSQL writes before a value of this size: its length, in one byte or in four."""
    short, plain = bytes([(size + 1) << 1 | 1]), ((size + 4) << 2).to_bytes(4, "little")
    return b"(?:%b|%b)" % (re.escape(short), re.escape(plain))


def _values(content: bytes, size: int) -> set[bytes]:
    """What may be a value of this size."""
    found = re.finditer(b"(?s)" + _length(size) + b"(?=(.{%d}))" % size, content)
    return {value for match in found if len(set(value := match.group(1))) > size // 3}


def _opened(key: bytes, wrapped: Iterable[bytes], name: str) -> list[bytes]:
    """The secrets that a key opens under this name."""
    cipher, found = AESGCM(key), []
    for value in wrapped:
        with suppress(InvalidTag):
            found.append(cipher.decrypt(value[:12], value[12:], name.encode()))
    return found


def bucket_keys(url: str) -> list[bytes]:
    """The wrapped bucket keys as they are now."""
    rows = execute(url, "SELECT wrapped FROM es_vault.bucket_keys")
    return [value for (value,) in rows if isinstance(value, bytes)]


def purged(vault: PostgresVault, *subjects: int) -> bool:
    """Whether nothing, such as autovacuum, kept the vault from removing its residue now."""
    try:
        vault.remove_residue(subjects or range(1, 701))
    except PartUnavailable:
        return False
    return True


@pytest.fixture
def crowded(own_url: str) -> Iterator[PostgresVault]:
    """600 users, registered out of order, confirmed, and with statistics."""
    with closing(PostgresVault(own_url, kek=KEK)) as vault:
        for subjects in shuffled(USERS):
            answers = register(vault, *subjects)
            vault.settle_claims(confirmed=[a.id for a in answers if isinstance(a, Reserved)], now_us=NOW_US)
        execute(own_url, "VACUUM ANALYZE")
        yield vault


@pytest.fixture
def files(server: Server, own_url: str) -> Files:
    return Files(server, own_url)


def tags_of(vault: PostgresVault, *subjects: int) -> list[bytes]:
    return vault.tags([f"user{subject}@example.com" for subject in subjects])


# --- one person --------------------------------------------------------------------------------


def test_no_key_that_is_left_opens_the_key_or_tells_a_tag_of_an_erased_person(
    files: Files, own_url: str, crowded: PostgresVault
) -> None:
    reserve(crowded, change(ADA, subject=7))
    owe(crowded, 7)
    secret = crowded.data_keys([7], even_owed=True)[7]
    assert isinstance(secret, LivingKey)
    name, (ada,), (own,) = *crowded.tags(["a name"]), crowded.tags([ADA]), tags_of(crowded, 7)
    assert files.opened([7], [own, ada]) == ({7: secret.secret}, {own, ada}), "the search finds them"
    before = bucket_keys(own_url)

    crowded.destroy([Destruction(7, Reason.ERASURE, tags=[OwedTag(name, 2)])], now_us=NOW_US)
    assert files.opened([7], [own, ada, name]) == ({7: secret.secret}, {own, ada, name})
    crowded.forget_tags({7: 0})
    eventually(lambda: purged(crowded, 7), "nothing prevents it")

    assert files.opened([7], [own, ada, name]) == ({}, set())
    replaced = {*before} - {*bucket_keys(own_url)}
    assert len(replaced) == 3, "one block and two tag buckets"
    assert files.hold([*replaced]) == []


def test_others_in_the_same_buckets_keep_their_keys_claims_and_owed_tags(crowded: PostgresVault) -> None:
    keys = {subject: secret_of(crowded, subject) for subject in range(1, USERS + 1)}
    owe(crowded, 7, 8)
    crowded.destroy([Destruction(8, Reason.ERASURE, tags=[OwedTag(b"n" * 32, 2)])], now_us=NOW_US)
    kept = crowded.owed_tags([8])

    destroy(crowded, 7)
    crowded.forget_tags({7: 0})
    eventually(lambda: purged(crowded, 7), "nothing prevents it")

    others = [subject for subject in keys if subject not in (7, 8)]
    assert {s: key.secret for s, key in crowded.data_keys(others).items() if isinstance(key, LivingKey)} == {
        subject: keys[subject] for subject in others
    }
    emails = {f"user{subject}@example.com": subject for subject in others}
    assert crowded.holders([*emails]) == emails
    assert (crowded.owed_tags([7]), crowded.owed_tags([8])) == ({}, kept)


def test_an_erasure_rewrites_one_block_and_the_buckets_of_the_addresses_only(
    own_url: str, crowded: PostgresVault
) -> None:
    rows = "SELECT subject, wrapped FROM es_vault.data_keys WHERE NOT destroyed"
    before = {subject: wrapped for subject, wrapped in execute(own_url, rows)}  # noqa: C416
    tables = "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = 'es_vault'::regnamespace"
    places = set(execute(own_url, tables))

    destroy(crowded, 7)
    eventually(lambda: purged(crowded, 7), "nothing prevents it")

    changed = [subject for subject, wrapped in execute(own_url, rows) if before[subject] != wrapped]
    assert 0 < len(changed) < 64
    moved = {name for name, _ in places - set(execute(own_url, tables))}
    assert len(moved) == 2, moved
    assert all(str(name).startswith("bucket_keys_of_") for name in moved)


# --- many people, and every way to free a tag ----------------------------------------------------


def test_no_file_tells_any_freed_tag_once_the_residue_is_removed(
    files: Files, crowded: PostgresVault
) -> None:
    freed = freed_tags(crowded)
    assert files.opened([], freed)[1], "the search finds freed tags"

    eventually(lambda: purged(crowded), "nothing prevents it")

    assert files.opened([1, 2, 3, 700], freed)[1] == set()


def test_the_key_of_an_abandoned_registration_and_a_released_tag_are_removed(
    files: Files, crowded: PostgresVault
) -> None:
    (claim,) = crowded.claims_of([8], now_us=NOW_US)
    kept = secret_of(crowded, 8)
    abandon(crowded, 7)
    crowded.settle_claims(released=[claim.id], now_us=NOW_US)

    eventually(lambda: purged(crowded, 7, 8), "nothing prevents it")

    assert files.opened([7, 8], tags_of(crowded, 7, 8)) == ({8: kept}, set())
    assert secret_of(crowded, 8) == kept


def test_a_tag_that_was_freed_before_its_bucket_got_another_key_is_removed_with_it(
    files: Files, own_url: str, crowded: PostgresVault
) -> None:
    (tag,) = tags_of(crowded, 7)
    (claim,) = crowded.claims_of([7], now_us=NOW_US)
    crowded.settle_claims(released=[claim.id], now_us=NOW_US)
    crowded._rotation._replace(
        [bucket_of(tag)]
    )  # by the erasure of another person, whose removal has not ended
    assert files.opened([], [tag])[1] == {tag}

    eventually(lambda: purged(crowded, 7), "nothing prevents it")

    assert files.opened([], [tag])[1] == set()
    assert execute(own_url, "SELECT FROM es_vault.freed_tags") == []


# --- what prevents it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "look"),
    [
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1"),  # may still see the row
        ("SELECT 1", "SELECT count(*) FROM es_vault.bucket_keys"),  # holds a lock
    ],
)
def test_a_removal_that_a_reader_prevents_is_completed_by_the_next_one(
    files: Files,
    own_url: str,
    crowded: PostgresVault,
    begin: str,
    look: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rotation, "_PATIENCE_S", 0.2)
    before = bucket_keys(own_url)
    with locked(own_url, begin, look):
        destroy(crowded, 1)
        unavailable(lambda: crowded.remove_residue([1]), "a reader prevents")

        assert are_destroyed(crowded, 1), "the key is destroyed at once"
        replaced = {*before} - {*bucket_keys(own_url)}
        assert files.hold([*replaced]) != []

    eventually(lambda: purged(crowded, 1), "nothing prevents it any more")
    assert files.hold([*replaced]) == []


def test_a_snapshot_that_the_vault_may_not_look_at_prevents_a_removal(
    files: Files, own_url: str, crowded: PostgresVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "_PATIENCE_S", 0.2)
    # Nothing tells of other transactions, as for a role without the permission.
    seen = "SELECT partition, made_by::text, false FROM {schema}.residue"
    monkeypatch.setattr(statements, "RESIDUE", seen)
    before = bucket_keys(own_url)
    destroy(crowded, 1)
    with locked(own_url, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1"):
        unavailable(lambda: crowded.remove_residue([1]), "a reader prevents")

    eventually(lambda: purged(crowded, 1), "nothing prevents it any more")
    assert files.hold([*({*before} - {*bucket_keys(own_url)})]) == []


# --- crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_concerned", "_rotate", "_purge"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_worker_completes_a_removal_that_was_interrupted_at_any_step(
    files: Files, own_url: str, crowded: PostgresVault, step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, (tag,) = bucket_keys(own_url), tags_of(crowded, 1)
    kept = secret_of(crowded, 2)
    destroy(crowded, 1)
    with monkeypatch.context() as patch:
        patch.setattr(rotation.Rotation, step, _killed(getattr(rotation.Rotation, step), when))
        with pytest.raises(KeyboardInterrupt):
            crowded.remove_residue([1])

    with closing(PostgresVault(own_url, kek=KEK)) as successor:
        eventually(lambda: purged(successor, 1), "nothing prevents it")
        assert secret_of(successor, 2) == kept

    assert files.opened([1], [tag]) == ({}, set())
    assert files.hold([*({*before} - {*bucket_keys(own_url)})]) == []
    assert secret_of(crowded, 2) == kept


def _killed(step: Callable[..., object], when: str) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        if when == "after":
            step(*arguments)
        raise KeyboardInterrupt

    return run
