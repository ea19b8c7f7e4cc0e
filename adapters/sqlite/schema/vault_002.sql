CREATE TABLE system(only_one INTEGER PRIMARY KEY CHECK(only_one = 1), id BLOB NOT NULL) STRICT;
-- Marks of events that were read, see `domain/kernel/history.py`.
ALTER TABLE checkpoints ADD COLUMN marks BLOB NOT NULL DEFAULT x'';
CREATE TABLE divergences(
    process TEXT PRIMARY KEY,
    seen INTEGER NOT NULL,
    back_to INTEGER NOT NULL,
    at_us INTEGER NOT NULL
) STRICT;
-- Beside data_keys, whose rows keep their size.
CREATE TABLE tombstones(
    subject INTEGER PRIMARY KEY,
    reason TEXT NOT NULL,
    event_id BLOB,
    destroyed_at_us INTEGER NOT NULL
) STRICT;
CREATE TABLE owed_erasures(
    subject INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    event_id BLOB,
    position INTEGER NOT NULL,
    listed_at_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    letters INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE owed_tags(
    subject INTEGER NOT NULL,
    tag BLOB NOT NULL CHECK(length(tag) = 32),
    words INTEGER NOT NULL,
    PRIMARY KEY(subject, tag)
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine(
    position INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    type TEXT NOT NULL,
    error TEXT NOT NULL
) STRICT;
