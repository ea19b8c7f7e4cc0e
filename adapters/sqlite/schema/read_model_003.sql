-- The worklist of process managers, see `domain/kernel/ports/worklist.py`. `due_us` is null while nothing is to be done.
CREATE TABLE open_instances(
    process TEXT NOT NULL,
    instance INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    opened_at_us INTEGER NOT NULL,
    due_us INTEGER,
    attempts INTEGER NOT NULL,
    waits_for TEXT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY(process, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX instances_by_due ON open_instances(process, due_us) WHERE due_us IS NOT NULL;
CREATE INDEX instances_in_quarantine ON open_instances(process, instance) WHERE error <> '';
CREATE TABLE held_events(
    process TEXT NOT NULL,
    instance INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY(process, instance, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE process_checkpoints(process TEXT PRIMARY KEY, position INTEGER NOT NULL, marks BLOB NOT NULL) STRICT;
CREATE TABLE process_leases(process TEXT PRIMARY KEY, owner TEXT NOT NULL, until_us INTEGER NOT NULL) STRICT;
