-- Claims on unique values of any aggregate: see docs/adr/0018-unique-in-any-aggregate.md. Both are NULL for an e-mail address,
-- which the stream of the user decides.
ALTER TABLE {schema}.email_claims ADD COLUMN stream text;
ALTER TABLE {schema}.email_claims ADD COLUMN rule text;
CREATE INDEX ON {schema}.email_claims(stream) WHERE stream IS NOT NULL;
