CREATE TABLE {schema}.system(only_one boolean PRIMARY KEY CHECK (only_one), id uuid NOT NULL);
-- Marks of events that were read, see `domain/kernel/history.py`.
ALTER TABLE {schema}.checkpoints ADD COLUMN marks bytea NOT NULL DEFAULT '';
CREATE TABLE {schema}.divergences(
    process text PRIMARY KEY,
    seen bigint NOT NULL,
    back_to bigint NOT NULL,
    at_us bigint NOT NULL
);
CREATE TABLE {schema}.tombstones(
    subject bigint PRIMARY KEY,
    reason text NOT NULL,
    event_id uuid,
    destroyed_at_us bigint NOT NULL
);
CREATE TABLE {schema}.owed_erasures(
    subject bigint PRIMARY KEY,
    state text NOT NULL,
    event_id uuid,
    position bigint NOT NULL,
    listed_at_us bigint NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    letters bigint NOT NULL DEFAULT 0
);
-- One partition: it is rewritten whole when tags were deleted. No statistics on secrets, as for claims.
CREATE TABLE {schema}.owed_tags(
    subject bigint NOT NULL,
    tag bytea NOT NULL CHECK (octet_length(tag) = 32),
    words integer NOT NULL,
    PRIMARY KEY (subject, tag)
);
ALTER TABLE {schema}.owed_tags ALTER tag SET STORAGE PLAIN, ALTER tag SET STATISTICS 0;
CREATE TABLE {schema}.quarantine(
    position bigint PRIMARY KEY,
    stream text NOT NULL,
    type text NOT NULL,
    error text NOT NULL
);
