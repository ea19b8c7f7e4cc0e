CREATE TABLE {schema}.system(only_one boolean PRIMARY KEY CHECK (only_one), id uuid NOT NULL);
-- Marks of events that were read, see `domain/kernel/history.py`.
ALTER TABLE {schema}.generations ADD COLUMN marks bytea NOT NULL DEFAULT '';
