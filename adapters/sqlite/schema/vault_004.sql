-- Claims on unique values of any aggregate: see docs/adr/0018-unique-in-any-aggregate.md. Both are NULL for an e-mail address,
-- which the stream of the user decides.
ALTER TABLE email_claims ADD COLUMN stream TEXT;
ALTER TABLE email_claims ADD COLUMN rule TEXT;
CREATE INDEX claims_by_stream ON email_claims(stream) WHERE stream IS NOT NULL;
