"""The SQL statements of the vault.

Promise: claims are locked in order of tag, so two batches never wait for each other; every bucket key that is overwritten
records its partition as residue in the same transaction. A statement that depends on rows which the program read before divides
by zero if they have changed: that ends the transaction before its commit, without a wait for its result.

Rows are found value by value, with `LATERAL (… OFFSET 0)`, where a plain join or a column that is not unique would let the
planner read a whole table. It never sees how many values are given: see `Database.sql`.
"""

_IF_ALL = " RETURNING 1) SELECT 1 / (count(*) = %s)::int FROM written"
"""Ends the transaction unless so many rows were written."""

# --- bucket keys -----------------------------------------------------------------------------

_LOCK = "hashtextextended('es bucket keys ' || %s, 0)"
# An advisory lock: neither a backup nor autovacuum ever holds it. It ends with the transaction.
EXCLUDE_ROTATIONS = f"SELECT pg_advisory_xact_lock_shared({_LOCK})"
ROTATE = f"SELECT pg_advisory_xact_lock({_LOCK})"
_VERSION = "(SELECT version FROM {schema}.buckets WHERE id = used.id OFFSET 0) AS present"
CHANGED = (
    "SELECT used.id FROM unnest(%b::bigint[], %b::bigint[]) AS used(id, version) LEFT JOIN LATERAL "
    + _VERSION
    + " ON true WHERE COALESCE(present.version, 0) <> used.version"
)
NEED_PRESENT = (
    "SELECT 1 / (count(*) = %s)::int FROM unnest(%b::bigint[], %b::bigint[]) AS used(id, version) JOIN LATERAL "
    + _VERSION
    + " ON present.version = used.version"
)
TAG_VERSIONS = "SELECT id, version FROM {schema}.buckets WHERE id BETWEEN 0 AND 4095"
_KEY = "SELECT id, version, label, wrapped FROM {schema}.bucket_keys"
LOAD_TAG_KEYS = _KEY + " WHERE id BETWEEN 0 AND 4096"
# The planner sees these ids, and leaves out partitions.
LOAD_FEW_KEYS = _KEY + " WHERE id = ANY(CAST(%b AS bigint[]))"
LOAD_KEYS = (
    "SELECT found.* FROM unnest(%b::bigint[]) AS wanted(id) CROSS JOIN LATERAL ("
    + _KEY
    + " WHERE id = wanted.id OFFSET 0) AS found"
)
CREATE_BUCKETS = (
    """WITH written AS (
    INSERT INTO {schema}.buckets(id, version) SELECT * FROM unnest(%b::bigint[], %b::bigint[]) AS fresh(id, version)
    ORDER BY id ON CONFLICT DO NOTHING"""
    + _IF_ALL
)
CREATE_KEYS = """
    INSERT INTO {schema}.bucket_keys(id, version, label, wrapped)
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[])"""

# --- rotation --------------------------------------------------------------------------------

BLOCKS_OF = """
    SELECT DISTINCT block FROM {schema}.data_keys WHERE subject = ANY(%b::bigint[])"""
FREED_BY = """
    SELECT wanted.subject, found.label FROM unnest(%b::bigint[]) AS wanted(subject) CROSS JOIN LATERAL (
        SELECT label FROM {schema}.freed_tags f WHERE f.subject = wanted.subject OFFSET 0) AS found"""
MEMBERS = """
    SELECT found.* FROM unnest(%b::bigint[]) AS wanted(block) CROSS JOIN LATERAL (
        SELECT block, subject, wrapped FROM {schema}.data_keys k
        WHERE k.block = wanted.block AND NOT destroyed OFFSET 0) AS found"""
OWED_IN = """
    SELECT found.* FROM unnest(%b::bigint[]) AS wanted(block) CROSS JOIN LATERAL (
        SELECT block, subject, tag FROM {schema}.owed_tags o WHERE o.block = wanted.block OFFSET 0) AS found"""
CLAIMS_IN = "SELECT tag FROM {schema}.email_claims WHERE tag >= %b AND tag < %b"
REWRAP = """
    UPDATE {schema}.data_keys k SET wrapped = fresh.wrapped
    FROM unnest(%b::bigint[], %b::bytea[]) AS fresh(subject, wrapped) WHERE k.subject = fresh.subject"""
SEAL_OWED_AGAIN = """
    UPDATE {schema}.owed_tags o SET tag = fresh.sealed
    FROM unnest(%b::bigint[], %b::bytea[], %b::bytea[]) AS fresh(subject, tag, sealed)
    WHERE o.subject = fresh.subject AND o.tag = fresh.tag"""
SEAL_CLAIMS_AGAIN = """
    UPDATE {schema}.email_claims c SET tag = fresh.sealed
    FROM unnest(%b::bytea[], %b::bytea[]) AS fresh(tag, sealed) WHERE c.tag = fresh.tag"""
NEW_VERSIONS = """
    UPDATE {schema}.buckets b SET version = fresh.version
    FROM unnest(%b::bigint[], %b::bigint[]) AS fresh(id, version) WHERE b.id = fresh.id"""
# One statement for each key: the planner then looks at one partition only.
NEW_KEY = """
    WITH removed AS (UPDATE {schema}.bucket_keys SET version = %s, label = %b, wrapped = %b WHERE id = %s
        RETURNING tableoid)
    INSERT INTO {schema}.residue SELECT relname, pg_current_xact_id()
    FROM pg_class WHERE oid IN (SELECT tableoid FROM removed)
    ON CONFLICT (partition) DO UPDATE SET made_by = excluded.made_by"""
FORGET_FREED = """
    DELETE FROM {schema}.freed_tags f USING unnest(%b::bigint[], %b::bytea[]) AS gone(subject, label)
    WHERE f.subject = gone.subject AND f.label = gone.label"""
# VACUUM FULL copies rows that a transaction older than the overwriting may still see, so such a partition must
# wait. Transactions of standbys and replication slots count, those in other databases do not.
RESIDUE = """
    SELECT partition, made_by::text, EXISTS(
        SELECT FROM (
            SELECT greatest(age(backend_xid), age(backend_xmin)) FROM pg_stat_activity
            WHERE pid <> pg_backend_pid() AND (datname = current_database() OR datname IS NULL)
            UNION ALL SELECT age(xmin) FROM pg_replication_slots
            UNION ALL SELECT age(transaction) FROM pg_prepared_xacts WHERE database = current_database()
        ) AS others(age) WHERE age >= age(made_by::xid)
    ) FROM {schema}.residue ORDER BY partition"""
# Overwritings since then have recorded a later number: their partition stays on the list.
PURGED = """
    DELETE FROM {schema}.residue r USING unnest(%b::text[], %b::text[]) AS done(partition, made_by)
    WHERE r.partition = done.partition AND r.made_by = done.made_by::xid8"""

# --- claims ----------------------------------------------------------------------------------

_OF_RESERVATIONS = """SELECT found.tag FROM unnest(%b::uuid[]) AS wanted(id) CROSS JOIN LATERAL (
        SELECT tag FROM {schema}.email_claims c WHERE c.reservation_id = wanted.id OFFSET 0) AS found"""
_OF_SUBJECTS = """SELECT found.tag FROM unnest(%b::bigint[]) AS wanted(subject) CROSS JOIN LATERAL (
        SELECT tag FROM {schema}.email_claims c WHERE c.subject = wanted.subject OFFSET 0) AS found"""


def _locked(tags: str, condition: str = "") -> str:
    """Claims, locked in order of tag."""
    return (
        "WITH locked AS (SELECT tag FROM {schema}.email_claims WHERE tag = ANY(ARRAY("
        + f"{tags})){condition} ORDER BY tag FOR UPDATE)"
    )


_UNCONFIRMED = _locked(_OF_RESERVATIONS, " AND NOT confirmed")
_THEM = " WHERE tag = ANY(ARRAY(SELECT tag FROM locked))"
CONFIRM = _UNCONFIRMED + " UPDATE {schema}.email_claims SET confirmed = true" + _THEM
EXTEND = _UNCONFIRMED + ", written AS (UPDATE {schema}.email_claims SET expires_at_us = %s" + _THEM + _IF_ALL
FIND_CLAIMS = """
    SELECT wanted.tag, found.* FROM unnest(%b::bytea[]) AS wanted(tag) CROSS JOIN LATERAL (
        SELECT subject, command_id, reservation_id, confirmed, COALESCE(stream, ''), COALESCE(rule, '')
        FROM {schema}.email_claims c
        WHERE c.tag = wanted.tag OFFSET 0) AS found"""
_CLAIM = """subject, command_id, reservation_id, confirmed, expires_at_us, COALESCE(stream, ''), COALESCE(rule, '')
    FROM {schema}.email_claims c WHERE """
CLAIMS_OF = (
    "SELECT found.* FROM unnest(%b::bigint[]) AS wanted(subject) CROSS JOIN LATERAL (SELECT "
    + _CLAIM
    + "c.subject = wanted.subject OFFSET 0) AS found ORDER BY reservation_id"
)
CLAIMS_ON = (
    "SELECT found.* FROM unnest(%b::text[]) AS wanted(stream) CROSS JOIN LATERAL (SELECT "
    + _CLAIM
    + "c.stream = wanted.stream OFFSET 0) AS found ORDER BY reservation_id"
)
EXPIRED_CLAIMS = "SELECT " + _CLAIM + "NOT confirmed AND expires_at_us <= %s ORDER BY expires_at_us LIMIT %s"
FIND_REGISTRATIONS = (
    "SELECT command_id, subject FROM {schema}.registrations WHERE command_id = ANY(%b::uuid[])"
)
# Whether a subject is closed; a subject without a key that is not closed has no row.
FIND_SUBJECTS = """
    WITH wanted AS (SELECT unnest(%b::bigint[]) AS subject
        UNION SELECT subject FROM {schema}.registrations WHERE command_id = ANY(%b::uuid[]))
    SELECT wanted.subject, COALESCE(k.destroyed, false) OR COALESCE(o.owed, false) FROM wanted
    LEFT JOIN LATERAL (SELECT destroyed FROM {schema}.data_keys WHERE subject = wanted.subject OFFSET 0) k ON true
    LEFT JOIN LATERAL (SELECT true FROM {schema}.owed_erasures WHERE subject = wanted.subject OFFSET 0) o(owed) ON true
    WHERE k.destroyed IS NOT NULL OR o.owed"""
# The lock orders this batch and a destruction: one of them waits, and then sees what the other one wrote.
STILL_OPEN = """
    WITH locked AS (SELECT destroyed FROM {schema}.data_keys WHERE subject = ANY(%b::bigint[])
        ORDER BY subject FOR SHARE)
    SELECT 1 / (count(*) FILTER (WHERE destroyed) = 0
        AND NOT EXISTS(SELECT FROM {schema}.owed_erasures WHERE subject = ANY(%b::bigint[])))::int FROM locked"""
CLAIM = (
    """WITH written AS (
    INSERT INTO {schema}.email_claims(expires_at_us, tag, subject, command_id, reservation_id, stream, rule, confirmed)
    SELECT %s, tag, subject, command_id, reservation_id, NULLIF(stream, ''), NULLIF(rule, ''), false
    FROM unnest(%b::bytea[], %b::bigint[], %b::uuid[], %b::uuid[], %b::text[], %b::text[])
        AS claim(tag, subject, command_id, reservation_id, stream, rule)
    ORDER BY tag ON CONFLICT DO NOTHING"""
    + _IF_ALL
)
REGISTER = (
    """WITH written AS (
    INSERT INTO {schema}.registrations(command_id, subject)
    SELECT * FROM unnest(%b::uuid[], %b::bigint[]) AS registration(command_id, subject)
    ORDER BY command_id ON CONFLICT DO NOTHING"""
    + _IF_ALL
)
# Before the statements of one transaction that lock some of them each.
LOCK_CLAIMS = _locked(f"{_OF_RESERVATIONS} UNION {_OF_SUBJECTS}") + " SELECT FROM locked"
# No residue is ever removed of what belongs to no person.
_RELEASE = """, removed AS (DELETE FROM {schema}.email_claims WHERE tag = ANY(ARRAY(SELECT tag FROM locked))
        RETURNING subject, tag),
    freed AS (INSERT INTO {schema}.freed_tags(subject, label) SELECT DISTINCT subject, substring(tag FOR 8) FROM removed
        WHERE subject > 0 ORDER BY 1, 2 ON CONFLICT DO NOTHING)
    SELECT subject, tag FROM removed"""
RELEASE_RESERVATIONS = _locked(_OF_RESERVATIONS) + _RELEASE
RELEASE_CLAIMS_OF = _locked(_OF_SUBJECTS) + _RELEASE
FORGET_REGISTRATIONS = """
    DELETE FROM {schema}.registrations WHERE command_id = ANY(ARRAY(
        SELECT found.command_id FROM unnest(%b::bigint[]) AS wanted(subject) CROSS JOIN LATERAL (
            SELECT command_id FROM {schema}.registrations r WHERE r.subject = wanted.subject OFFSET 0) AS found))"""

# --- data keys -------------------------------------------------------------------------------

FIND_KEYS = """
    SELECT wanted.subject, k.wrapped, k.destroyed, k.block, b.version, t.reason, t.event_id, t.destroyed_at_us,
        o.subject, o.event_id
    FROM unnest(%b::bigint[]) AS wanted(subject)
    LEFT JOIN LATERAL (SELECT * FROM {schema}.data_keys WHERE subject = wanted.subject OFFSET 0) k ON true
    LEFT JOIN LATERAL (SELECT version FROM {schema}.buckets WHERE id = k.block OFFSET 0) b ON true
    LEFT JOIN LATERAL (SELECT * FROM {schema}.tombstones WHERE subject = wanted.subject OFFSET 0) t ON true
    LEFT JOIN LATERAL (SELECT * FROM {schema}.owed_erasures WHERE subject = wanted.subject OFFSET 0) o ON true"""
# A limit for each table: otherwise every page would read both to their ends. Claims count once each: a page ends where
# theirs were cut, because the next claim may be that of the next subject.
SUBJECTS = """
    WITH keyed AS (SELECT subject FROM {schema}.data_keys WHERE subject > %(after)s ORDER BY subject LIMIT %(limit)s),
    claiming AS (SELECT subject FROM {schema}.email_claims WHERE subject > %(after)s ORDER BY subject LIMIT %(limit)s),
    cut AS (SELECT max(subject) AS last FROM claiming HAVING count(*) = %(limit)s)
    SELECT subject FROM (SELECT subject FROM keyed UNION SELECT subject FROM claiming) AS found
    WHERE subject <= (SELECT last FROM cut) OR NOT EXISTS(SELECT FROM cut)
    ORDER BY subject LIMIT %(limit)s"""
MINT = (
    """WITH written AS (
    INSERT INTO {schema}.data_keys(subject, destroyed, block, wrapped)
    SELECT subject, false, block, wrapped
    FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[]) AS minted(subject, block, wrapped)
    ORDER BY subject ON CONFLICT DO NOTHING"""
    + _IF_ALL
)
# A destruction locks keys in order of subject before claims in order of tag, as a reservation does. A tombstone of
# a subject that never had a key lies in the block of people without one.
DESTROY_KEYS = """
    INSERT INTO {schema}.data_keys(subject, destroyed, block, wrapped)
    SELECT DISTINCT subject, true, 4096, %b::bytea FROM unnest(%b::bigint[]) AS destroyed(subject) ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET destroyed = true, wrapped = excluded.wrapped
    WHERE NOT data_keys.destroyed"""
LEAVE_TOMBSTONES = """
    INSERT INTO {schema}.tombstones(destroyed_at_us, subject, reason, event_id)
    SELECT %s, tombstone.* FROM unnest(%b::bigint[], %b::text[], %t::uuid[]) AS tombstone(subject, reason, event_id)
    ON CONFLICT DO NOTHING"""

# --- what the vault keeps for itself ---------------------------------------------------------

FIND_OWN = "SELECT wrapped FROM {schema}.secrets WHERE name = %s"
KEEP_OWN = "INSERT INTO {schema}.secrets VALUES(%s, %s) ON CONFLICT DO NOTHING"

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
_OWED = """
    SELECT subject, event_id, position, state, listed_at_us, attempts, last_error, letters FROM {schema}.owed_erasures
    WHERE """
FIND_OWED = _OWED + "subject > %s ORDER BY subject LIMIT %s"
# The limit before the condition on the state: without statistics the planner takes few rows for those, and would sort all.
FIND_OWED_IN_STATE = (
    "SELECT * FROM ("
    + _OWED
    + "(state, subject) > (%(state)s, %(after)s) ORDER BY state, subject LIMIT %(limit)s) AS following"
    + " WHERE state = %(state)s ORDER BY subject"
)
FIND_OWED_OF = _OWED + "subject = %s"
# The list is what is still to be done, and short: this reads it whole.
COUNT_OWED = "SELECT state, count(*) FROM {schema}.owed_erasures GROUP BY state"
# The blocks in which the tags of owed erasures are kept, with the versions of their keys.
BLOCKS_OF_OWED = """
    SELECT o.subject, k.block, b.version FROM unnest(%b::bigint[]) AS wanted(subject)
    CROSS JOIN LATERAL (SELECT subject FROM {schema}.owed_erasures WHERE subject = wanted.subject OFFSET 0) o
    CROSS JOIN LATERAL (SELECT block FROM {schema}.data_keys WHERE subject = wanted.subject OFFSET 0) k
    CROSS JOIN LATERAL (SELECT version FROM {schema}.buckets WHERE id = k.block OFFSET 0) b"""
KEEP_TAGS = """
    INSERT INTO {schema}.owed_tags(subject, block, tag, words)
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bytea[], %b::integer[]) ON CONFLICT DO NOTHING"""
FIND_OWED_TAGS = """
    SELECT o.subject, o.tag, o.words, o.block, b.version FROM unnest(%b::bigint[]) AS wanted(subject)
    CROSS JOIN LATERAL (SELECT * FROM {schema}.owed_tags WHERE subject = wanted.subject OFFSET 0) o
    CROSS JOIN LATERAL (SELECT version FROM {schema}.buckets WHERE id = o.block OFFSET 0) b"""
KEY_DESTROYED = """
    UPDATE {schema}.owed_erasures SET state = 'key-destroyed', last_error = ''
    WHERE subject = ANY(%b::bigint[]) AND state = 'decided'"""
FAILED = """
    UPDATE {schema}.owed_erasures SET attempts = attempts + 1, last_error = %s WHERE subject = ANY(%b::bigint[])"""
# By their places: a subject has several. No rotation moves a row meanwhile, and no other statement changes one.
FORGET_TAGS = """
    DELETE FROM {schema}.owed_tags WHERE ctid = ANY(ARRAY(
        SELECT found.ctid FROM unnest(%b::bigint[]) AS wanted(subject) CROSS JOIN LATERAL (
            SELECT ctid FROM {schema}.owed_tags o WHERE o.subject = wanted.subject OFFSET 0) AS found))"""
COUNT_LETTERS = """
    UPDATE {schema}.owed_erasures o SET letters = o.letters + removed.letters
    FROM unnest(%b::bigint[], %b::bigint[]) AS removed(subject, letters) WHERE o.subject = removed.subject"""
SETTLE = "DELETE FROM {schema}.owed_erasures WHERE subject = ANY(%b::bigint[]) AND state = 'key-destroyed'"
# It returns the position before, and changes nothing if that lies before `since`.
SAVE_CHECKPOINT = """
    WITH found AS (SELECT position FROM {schema}.checkpoints WHERE process = %(process)s FOR UPDATE),
    before AS (SELECT COALESCE((SELECT position FROM found), 0) AS position),
    moved AS (INSERT INTO {schema}.checkpoints AS stored
        SELECT %(process)s, %(position)s, %(marks)s FROM before WHERE before.position >= %(since)s
        ON CONFLICT (process) DO UPDATE
        SET position = excluded.position, marks = excluded.marks WHERE excluded.position >= stored.position)
    SELECT position FROM before"""
# It reads and changes the row in one statement, and keeps the divergence only if the row changed.
REWIND_CHECKPOINT = """
    WITH seen AS (SELECT process, position FROM {schema}.checkpoints WHERE process = %s AND position > %s FOR UPDATE),
    moved AS (UPDATE {schema}.checkpoints c SET position = %s, marks = %s FROM seen WHERE c.process = seen.process
        RETURNING c.process, seen.position AS seen, c.position AS back_to)
    INSERT INTO {schema}.divergences SELECT process, seen, back_to, %s FROM moved
    ON CONFLICT (process) DO UPDATE
    SET seen = excluded.seen, back_to = excluded.back_to, at_us = excluded.at_us"""
FIND_QUARANTINED = "SELECT position, stream, type, error FROM {schema}.quarantine ORDER BY position LIMIT %s"
FIND_CHECKPOINT = "SELECT position, marks FROM {schema}.checkpoints WHERE process = %s"
FIND_DIVERGENCES = "SELECT process, seen, back_to, at_us FROM {schema}.divergences ORDER BY at_us, process"
