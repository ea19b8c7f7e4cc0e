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
# The lock orders this batch and a destruction: one of them waits, and then sees what the other one wrote.
FIND_CLOSED = """
    WITH wanted AS (SELECT unnest(%b::bigint[]) AS subject
        UNION SELECT subject FROM {schema}.registrations WHERE command_id = ANY(%b::uuid[])),
    locked AS (SELECT k.subject, k.destroyed FROM wanted JOIN {schema}.data_keys k USING (subject)
        ORDER BY k.subject FOR SHARE OF k)
    SELECT subject FROM locked WHERE destroyed
    UNION SELECT subject FROM wanted JOIN {schema}.owed_erasures USING (subject)"""
FIND_KEYS = """
    SELECT wanted.subject, k.wrapped, k.destroyed, t.reason, t.event_id, t.destroyed_at_us, o.subject, o.event_id
    FROM unnest(%b::bigint[]) AS wanted(subject)
    LEFT JOIN {schema}.data_keys k ON k.subject = wanted.subject
    LEFT JOIN {schema}.tombstones t ON t.subject = wanted.subject
    LEFT JOIN {schema}.owed_erasures o ON o.subject = wanted.subject"""
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
# A destruction locks keys in order of subject before claims in order of tag, as a reservation does.
DESTROY_KEYS = (
    """WITH removed AS (
    INSERT INTO {schema}.data_keys(subject, destroyed, wrapped)
    SELECT DISTINCT subject, true, %b::bytea FROM unnest(%b::bigint[]) AS destroyed(subject) ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET destroyed = true, wrapped = excluded.wrapped
    WHERE NOT data_keys.destroyed RETURNING tableoid)"""
    + _RESIDUE
)
LEAVE_TOMBSTONES = """
    INSERT INTO {schema}.tombstones(destroyed_at_us, subject, reason, event_id)
    SELECT %s, tombstone.* FROM unnest(%b::bigint[], %b::text[], %t::uuid[]) AS tombstone(subject, reason, event_id)
    ON CONFLICT DO NOTHING"""
KEEP_TAGS_OF_CLAIMS = """
    INSERT INTO {schema}.owed_tags(subject, tag, words)
    SELECT subject, tag, 0 FROM {schema}.email_claims JOIN {schema}.owed_erasures USING (subject)
    WHERE subject = ANY(%b::bigint[]) ON CONFLICT DO NOTHING"""
KEEP_TAGS = """
    INSERT INTO {schema}.owed_tags(subject, tag, words)
    SELECT subject, tag, words FROM unnest(%b::bigint[], %b::bytea[], %b::integer[]) AS kept(subject, tag, words)
    JOIN {schema}.owed_erasures USING (subject) ON CONFLICT DO NOTHING"""
KEY_DESTROYED = """
    UPDATE {schema}.owed_erasures SET state = 'key-destroyed', last_error = ''
    WHERE subject = ANY(%b::bigint[]) AND state = 'decided'"""
RELEASE_CLAIMS_OF = _RELEASE.replace("CONDITION", "subject = ANY(%b::bigint[])") + _RESIDUE
FORGET_REGISTRATIONS = "DELETE FROM {schema}.registrations WHERE subject = ANY(%b::bigint[])"
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

# --- owed erasures and checkpoints -----------------------------------------------------------

OWE = """
    INSERT INTO {schema}.owed_erasures(listed_at_us, state, subject, event_id, position)
    SELECT %s, 'decided', decided.* FROM unnest(%b::bigint[], %t::uuid[], %b::bigint[])
        AS decided(subject, event_id, position)
    ORDER BY subject ON CONFLICT DO NOTHING"""
QUARANTINE = """
    INSERT INTO {schema}.quarantine
    SELECT * FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::text[]) AS found(position, stream, type, error)
    ON CONFLICT DO NOTHING"""
FIND_OWED = """
    SELECT subject, event_id, position, state, listed_at_us, attempts, last_error, letters FROM {schema}.owed_erasures """
FAILED = """
    UPDATE {schema}.owed_erasures SET attempts = attempts + 1, last_error = %s WHERE subject = ANY(%b::bigint[])"""
FORGET_TAGS = (
    "WITH removed AS (DELETE FROM {schema}.owed_tags WHERE subject = ANY(%b::bigint[]) RETURNING tableoid)"
    + _RESIDUE
)
COUNT_LETTERS = """
    UPDATE {schema}.owed_erasures o SET letters = o.letters + removed.letters
    FROM unnest(%b::bigint[], %b::bigint[]) AS removed(subject, letters) WHERE o.subject = removed.subject"""
SETTLE = "DELETE FROM {schema}.owed_erasures WHERE subject = ANY(%b::bigint[]) AND state = 'key-destroyed'"
SAVE_CHECKPOINT = """
    INSERT INTO {schema}.checkpoints AS stored VALUES(%s, %s, %s) ON CONFLICT (process) DO UPDATE
    SET position = excluded.position, marks = excluded.marks WHERE excluded.position >= stored.position"""
# It reads and changes the row in one statement, and keeps the divergence only if the row changed.
REWIND_CHECKPOINT = """
    WITH seen AS (SELECT process, position FROM {schema}.checkpoints WHERE process = %s AND position > %s FOR UPDATE),
    moved AS (UPDATE {schema}.checkpoints c SET position = %s, marks = %s FROM seen WHERE c.process = seen.process
        RETURNING c.process, seen.position AS seen, c.position AS back_to)
    INSERT INTO {schema}.divergences SELECT process, seen, back_to, %s FROM moved
    ON CONFLICT (process) DO UPDATE
    SET seen = excluded.seen, back_to = excluded.back_to, at_us = excluded.at_us"""
