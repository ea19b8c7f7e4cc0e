-- Released: never change it, add another file. Data keys, tags and the tags of owed erasures are stored under
-- bucket keys, see docs/adr/0014-erasure-by-bucket-keys.md. Only bucket keys are partitioned: an erasure locks and
-- rewrites a small table of them. `adapters/postgres/rewrapping.py` then fills these tables from the old ones, and drops those.
-- No statistics on secrets: ANALYZE would copy samples of them into the catalogue. Storage is plain: a secret must
-- not move into a second table for long values.
ALTER TABLE {schema}.data_keys RENAME TO old_data_keys;
ALTER TABLE {schema}.email_claims RENAME TO old_email_claims;
ALTER TABLE {schema}.owed_tags RENAME TO old_owed_tags;
DELETE FROM {schema}.residue;
-- The present version of each bucket key: each write compares it with the one that it used. A table of its own, so that
-- no write waits for the rewriting of keys.
CREATE TABLE {schema}.buckets(
    id bigint PRIMARY KEY,
    version bigint NOT NULL
);
CREATE TABLE {schema}.bucket_keys(
    id bigint PRIMARY KEY,
    version bigint NOT NULL,
    label bytea NOT NULL CHECK (octet_length(label) = 8),
    wrapped bytea NOT NULL CHECK (octet_length(wrapped) = 60)
) PARTITION BY RANGE (id);
-- The 4,096 tag buckets and the block of people without a data key; then the blocks of all others.
CREATE TABLE {schema}.bucket_keys_of_tags PARTITION OF {schema}.bucket_keys FOR VALUES FROM (MINVALUE) TO (4097)
    PARTITION BY HASH (id);
CREATE TABLE {schema}.bucket_keys_of_people PARTITION OF {schema}.bucket_keys FOR VALUES FROM (4097) TO (MAXVALUE)
    PARTITION BY HASH (id);
DO $$
DECLARE child regclass;
BEGIN
    FOR n IN 0 .. 7 LOOP
        EXECUTE format('CREATE TABLE {schema}.bucket_keys_of_tags_%s PARTITION OF {schema}.bucket_keys_of_tags
            FOR VALUES WITH (MODULUS 8, REMAINDER %s)', n, n);
    END LOOP;
    FOR n IN 0 .. 31 LOOP
        EXECUTE format('CREATE TABLE {schema}.bucket_keys_of_people_%s PARTITION OF {schema}.bucket_keys_of_people
            FOR VALUES WITH (MODULUS 32, REMAINDER %s)', n, n);
    END LOOP;
    FOR child IN SELECT relid FROM pg_partition_tree('{schema}.bucket_keys') LOOP
        EXECUTE format('ALTER TABLE ONLY %s ALTER wrapped SET STORAGE PLAIN, ALTER wrapped SET STATISTICS 0,
            ALTER label SET STORAGE PLAIN, ALTER label SET STATISTICS 0', child);
    END LOOP;
END $$;
CREATE TABLE {schema}.data_keys(
    subject bigint PRIMARY KEY,
    destroyed boolean NOT NULL,
    block bigint NOT NULL,
    wrapped bytea NOT NULL CHECK (octet_length(wrapped) = 60)
);
CREATE INDEX ON {schema}.data_keys(block) WHERE NOT destroyed;
-- A tag is the label of its bucket key and the enciphered tag.
CREATE TABLE {schema}.email_claims(
    tag bytea PRIMARY KEY CHECK (octet_length(tag) = 40),
    subject bigint NOT NULL,
    command_id uuid NOT NULL,
    reservation_id uuid NOT NULL,
    confirmed boolean NOT NULL,
    expires_at_us bigint NOT NULL
);
CREATE INDEX ON {schema}.email_claims(reservation_id);
CREATE INDEX ON {schema}.email_claims(subject);
CREATE INDEX ON {schema}.email_claims(expires_at_us) WHERE NOT confirmed;
CREATE TABLE {schema}.owed_tags(
    subject bigint NOT NULL,
    block bigint NOT NULL,
    tag bytea NOT NULL CHECK (octet_length(tag) = 32),
    words integer NOT NULL,
    PRIMARY KEY (subject, tag)
);
CREATE INDEX ON {schema}.owed_tags(block);
-- The buckets of the tags that a person has freed, by the labels of the keys at that time.
CREATE TABLE {schema}.freed_tags(
    subject bigint NOT NULL,
    label bytea NOT NULL,
    PRIMARY KEY (subject, label)
);
ALTER TABLE {schema}.data_keys ALTER wrapped SET STORAGE PLAIN, ALTER wrapped SET STATISTICS 0;
ALTER TABLE {schema}.email_claims ALTER tag SET STORAGE PLAIN, ALTER tag SET STATISTICS 0;
ALTER TABLE {schema}.owed_tags ALTER tag SET STORAGE PLAIN, ALTER tag SET STATISTICS 0;
ALTER TABLE {schema}.freed_tags ALTER label SET STORAGE PLAIN, ALTER label SET STATISTICS 0;
CREATE INDEX ON {schema}.owed_erasures(state, subject);
