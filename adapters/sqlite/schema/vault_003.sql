-- Tags and data keys under bucket keys: see docs/adr/0014-erasure-by-bucket-keys.md.
ALTER TABLE data_keys RENAME TO data_keys_2;
ALTER TABLE email_claims RENAME TO email_claims_2;
ALTER TABLE owed_tags RENAME TO owed_tags_2;
DROP INDEX claims_by_expiry;
-- Rows of one size, appended and never deleted: they never move, so an overwritten key is nowhere else in the file.
CREATE TABLE bucket_keys(
    bucket INTEGER PRIMARY KEY,
    wrapped BLOB NOT NULL CHECK(length(wrapped) = 60)
) STRICT;
-- How often bucket keys were replaced: a cached one is read again if the number has changed.
CREATE TABLE rotations(only_one INTEGER PRIMARY KEY CHECK(only_one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO rotations VALUES(1, 0);
-- Who has data in a block: subjects of 8 bytes each.
CREATE TABLE blocks(block INTEGER PRIMARY KEY, subjects BLOB NOT NULL) STRICT;
CREATE TABLE data_keys(
    subject INTEGER PRIMARY KEY,
    command_id BLOB UNIQUE,
    destroyed INTEGER NOT NULL,
    block INTEGER NOT NULL,
    wrapped BLOB NOT NULL CHECK(length(wrapped) = 60)
) STRICT;
-- A confirmed claim never expires. `bucket` is that of its tag, masked under the key of the block.
CREATE TABLE email_claims(
    subject INTEGER NOT NULL,
    reservation_id BLOB NOT NULL,
    command_id BLOB NOT NULL,
    expires_at_us INTEGER,
    block INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    PRIMARY KEY(subject, reservation_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_expiry ON email_claims(expires_at_us) WHERE expires_at_us IS NOT NULL;
-- `tag` and `claim`, which names the row of the claim, are enciphered under the key of the bucket.
CREATE TABLE claim_tags(
    bucket INTEGER NOT NULL,
    tag BLOB NOT NULL CHECK(length(tag) = 32),
    claim BLOB NOT NULL CHECK(length(claim) = 16),
    PRIMARY KEY(bucket, tag)
) STRICT, WITHOUT ROWID;
-- What is left of a deleted claim until its person's residue is removed: bytes of its tag may lie in the bucket's pages.
CREATE TABLE freed_tags(
    subject INTEGER NOT NULL,
    reservation_id BLOB NOT NULL,
    block INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    PRIMARY KEY(subject, reservation_id)
) STRICT, WITHOUT ROWID;
-- Enciphered under the key of the block.
CREATE TABLE owed_tags(
    subject INTEGER NOT NULL,
    tag BLOB NOT NULL CHECK(length(tag) = 32),
    words INTEGER NOT NULL,
    block INTEGER NOT NULL,
    PRIMARY KEY(subject, tag)
) STRICT, WITHOUT ROWID;
-- A row says that the bytes of earlier schema versions are still in the files: no bucket key protects them.
CREATE TABLE earlier_bytes(only_one INTEGER PRIMARY KEY CHECK(only_one = 1)) STRICT;
INSERT INTO earlier_bytes SELECT 1 WHERE EXISTS(SELECT 1 FROM secrets);
SELECT encipher();
DROP TABLE data_keys_2;
DROP TABLE email_claims_2;
DROP TABLE owed_tags_2;
