-- Released: never change it, add vault_002.sql. Keys and claims are partitioned, so that an erasure locks and
-- rewrites a sixteenth of them. No statistics on secrets: ANALYZE would copy samples of them into the
-- catalogue. Storage is plain: a secret must not move into a second table for long values.
CREATE TABLE {schema}.registrations(
    command_id uuid PRIMARY KEY,
    subject bigint NOT NULL
);
CREATE INDEX ON {schema}.registrations(subject);
CREATE TABLE {schema}.data_keys(
    subject bigint PRIMARY KEY,
    destroyed boolean NOT NULL,
    wrapped bytea NOT NULL CHECK (octet_length(wrapped) = 60)
) PARTITION BY HASH (subject);
CREATE TABLE {schema}.email_claims(
    tag bytea PRIMARY KEY CHECK (octet_length(tag) = 32),
    subject bigint NOT NULL,
    command_id uuid NOT NULL,
    reservation_id uuid NOT NULL,
    confirmed boolean NOT NULL,
    expires_at_us bigint NOT NULL
) PARTITION BY HASH (tag);
CREATE INDEX ON {schema}.email_claims(reservation_id);
CREATE INDEX ON {schema}.email_claims(subject);
CREATE INDEX ON {schema}.email_claims(expires_at_us) WHERE NOT confirmed;
ALTER TABLE {schema}.data_keys ALTER wrapped SET STORAGE PLAIN, ALTER wrapped SET STATISTICS 0;
ALTER TABLE {schema}.email_claims ALTER tag SET STORAGE PLAIN, ALTER tag SET STATISTICS 0;
DO $$
BEGIN
    FOR n IN 0 .. 15 LOOP
        EXECUTE format('CREATE TABLE {schema}.data_keys_%s PARTITION OF {schema}.data_keys
            FOR VALUES WITH (MODULUS 16, REMAINDER %s)', n, n);
        EXECUTE format('ALTER TABLE {schema}.data_keys_%s ALTER wrapped SET STATISTICS 0', n);
        EXECUTE format('CREATE TABLE {schema}.email_claims_%s PARTITION OF {schema}.email_claims
            FOR VALUES WITH (MODULUS 16, REMAINDER %s)', n, n);
        EXECUTE format('ALTER TABLE {schema}.email_claims_%s ALTER tag SET STATISTICS 0', n);
    END LOOP;
END $$;
CREATE TABLE {schema}.residue(partition name PRIMARY KEY, made_by xid8 NOT NULL);
CREATE TABLE {schema}.secrets(name text PRIMARY KEY, wrapped bytea NOT NULL);
CREATE TABLE {schema}.checkpoints(process text PRIMARY KEY, position bigint NOT NULL);
