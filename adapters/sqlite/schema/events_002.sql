-- The id of the system, and the place where its store was made or adopted: see `adapters/wiring.py`.
CREATE TABLE system(only_one INTEGER PRIMARY KEY CHECK(only_one = 1), id BLOB NOT NULL, place TEXT NOT NULL DEFAULT '') STRICT;
