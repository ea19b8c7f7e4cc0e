-- AUTOINCREMENT never reuses a position. BEGIN IMMEDIATE admits one writer at a time, so a position becomes
-- visible only after all smaller ones: a reader that saves it as its checkpoint skips no event.
CREATE TABLE IF NOT EXISTS events(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_id BLOB NOT NULL UNIQUE,
    type TEXT NOT NULL,
    recorded_at_us INTEGER NOT NULL,
    data BLOB NOT NULL,
    metadata BLOB NOT NULL,
    UNIQUE(stream, version)
) STRICT;
CREATE TRIGGER IF NOT EXISTS events_are_not_updated BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'events are never updated'); END;
CREATE TRIGGER IF NOT EXISTS events_are_not_deleted BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'events are never deleted'); END;
-- INSERT OR REPLACE deletes the rows that it replaces without firing the trigger above.
CREATE TRIGGER IF NOT EXISTS events_are_not_replaced BEFORE INSERT ON events
WHEN EXISTS(SELECT 1 FROM events WHERE position = NEW.position)
  OR EXISTS(SELECT 1 FROM events WHERE event_id = NEW.event_id)
  OR EXISTS(SELECT 1 FROM events WHERE stream = NEW.stream AND version = NEW.version)
BEGIN SELECT raise(ABORT, 'events are never replaced'); END;
