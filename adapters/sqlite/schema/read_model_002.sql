CREATE TABLE system(only_one INTEGER PRIMARY KEY CHECK(only_one = 1), id BLOB NOT NULL) STRICT;
-- Marks of events that were read, see `domain/kernel/history.py`.
ALTER TABLE generations ADD COLUMN marks BLOB NOT NULL DEFAULT x'';
