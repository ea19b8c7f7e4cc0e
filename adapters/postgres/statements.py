"""The SQL statements of the vault.

Promise: claims are locked in order of tag, so two batches never wait for each other; every deletion or
overwriting records its partition as residue in the same transaction.
"""

_UNCONFIRMED = """WITH locked AS (SELECT tag FROM {schema}.email_claims
    WHERE reservation_id = ANY(%b::uuid[]) AND NOT confirmed ORDER BY tag FOR UPDATE)"""
CONFIRM = (
    _UNCONFIRMED + "UPDATE {schema}.email_claims c SET confirmed = true FROM locked WHERE c.tag = locked.tag"
)
EXTEND = (
    _UNCONFIRMED
    + "UPDATE {schema}.email_claims c SET expires_at_us = %s FROM locked WHERE c.tag = locked.tag"
)
# A join reads each value from its own partition only; `= ANY` reads every partition.
FIND_CLAIMS = """
    SELECT tag, subject, command_id, reservation_id, confirmed
    FROM unnest(%b::bytea[]) AS wanted(tag) JOIN {schema}.email_claims USING (tag)"""
FIND_REGISTRATIONS = (
    "SELECT command_id, subject FROM {schema}.registrations WHERE command_id = ANY(%b::uuid[])"
)
FIND_KEYS = """
    SELECT subject, destroyed, wrapped
    FROM unnest(%b::bigint[]) AS wanted(subject) JOIN {schema}.data_keys USING (subject)"""
# A limit for each table: otherwise every page would read both to their ends.
SUBJECTS = """
    SELECT subject FROM (SELECT subject FROM {schema}.data_keys WHERE subject > %s ORDER BY subject LIMIT %s) AS keyed
    UNION
    SELECT subject FROM (SELECT DISTINCT subject FROM {schema}.email_claims WHERE subject > %s
        ORDER BY subject LIMIT %s) AS claiming
    ORDER BY subject LIMIT %s"""
CLAIM = """
    INSERT INTO {schema}.email_claims(expires_at_us, tag, subject, command_id, reservation_id, confirmed)
    SELECT %s, claim.*, false FROM unnest(%b::bytea[], %b::bigint[], %b::uuid[], %b::uuid[])
        AS claim(tag, subject, command_id, reservation_id)
    ORDER BY tag ON CONFLICT DO NOTHING"""
REGISTER = """
    INSERT INTO {schema}.registrations(command_id, subject)
    SELECT * FROM unnest(%b::uuid[], %b::bigint[]) AS registration(command_id, subject)
    ORDER BY command_id ON CONFLICT DO NOTHING"""
MINT = """
    INSERT INTO {schema}.data_keys(subject, destroyed, wrapped)
    SELECT subject, false, wrapped FROM unnest(%b::bigint[], %b::bytea[]) AS minted(subject, wrapped)
    ORDER BY subject ON CONFLICT DO NOTHING"""

_RESIDUE = """
    INSERT INTO {schema}.residue SELECT relname, pg_current_xact_id()
    FROM pg_class WHERE oid IN (SELECT tableoid FROM removed) ORDER BY relname
    ON CONFLICT (partition) DO UPDATE SET made_by = excluded.made_by"""
_RELEASE = """WITH locked AS (SELECT tag FROM {schema}.email_claims WHERE CONDITION ORDER BY tag FOR UPDATE),
    removed AS (DELETE FROM {schema}.email_claims c USING locked WHERE c.tag = locked.tag RETURNING c.tableoid)"""
RELEASE_RESERVATIONS = _RELEASE.replace("CONDITION", "reservation_id = ANY(%b::uuid[])") + _RESIDUE
RELEASE_RESERVATION_OF = _RELEASE.replace("CONDITION", "reservation_id = %s AND subject = %s") + _RESIDUE
RELEASE_CLAIMS_OF = _RELEASE.replace("CONDITION", "subject = %s") + _RESIDUE
DESTROY_KEY = (
    """WITH removed AS (
    INSERT INTO {schema}.data_keys(wrapped, subject, destroyed) VALUES(%s, %s, true)
    ON CONFLICT (subject) DO UPDATE SET destroyed = true, wrapped = excluded.wrapped
    WHERE NOT data_keys.destroyed RETURNING tableoid)"""
    + _RESIDUE
)
DESTROY_KNOWN_KEY = (
    """WITH removed AS (
    UPDATE {schema}.data_keys SET wrapped = %s, destroyed = true
    WHERE subject = %s AND NOT destroyed RETURNING tableoid)"""
    + _RESIDUE
)
# VACUUM FULL copies rows that a transaction older than the deletion may still see, so such a partition must
# wait. Transactions of standbys and replication slots count, those in other databases do not.
PURGEABLE = """
    SELECT partition, made_by::text FROM {schema}.residue WHERE NOT EXISTS (
        SELECT FROM (
            SELECT greatest(age(backend_xid), age(backend_xmin)) FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND (datname = current_database() OR datname IS NULL)
            UNION ALL SELECT age(xmin) FROM pg_replication_slots
            UNION ALL SELECT age(transaction) FROM pg_prepared_xacts WHERE database = current_database()
        ) AS others(age) WHERE age >= age(made_by::xid)
    ) ORDER BY partition"""
SAVE_CHECKPOINT = """
    INSERT INTO {schema}.checkpoints AS stored VALUES(%s, %s)
    ON CONFLICT (process) DO UPDATE SET position = greatest(stored.position, excluded.position)"""
