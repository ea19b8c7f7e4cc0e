-- Data keys have one size: overwriting a key in place leaves none of its bytes in the row.
CREATE TABLE IF NOT EXISTS data_keys(
    subject INTEGER PRIMARY KEY,
    command_id BLOB UNIQUE,
    destroyed INTEGER NOT NULL,
    wrapped BLOB NOT NULL CHECK(length(wrapped) = 60)
) STRICT;
CREATE TABLE IF NOT EXISTS email_claims(
    tag BLOB PRIMARY KEY CHECK(length(tag) = 32),
    subject INTEGER NOT NULL,
    command_id BLOB NOT NULL,
    reservation_id BLOB NOT NULL UNIQUE,
    confirmed INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS claims_by_subject ON email_claims(subject);
CREATE INDEX IF NOT EXISTS claims_by_expiry ON email_claims(expires_at_us) WHERE confirmed = 0;
CREATE TABLE IF NOT EXISTS secrets(name TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints(process TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT;
