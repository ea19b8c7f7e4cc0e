-- The worklist of process managers, see `domain/kernel/ports/worklist.py`. `due_us` is null while nothing is to be done.
CREATE TABLE {schema}.open_instances(
    process text COLLATE "C" NOT NULL,
    instance bigint NOT NULL,
    revision bigint NOT NULL,
    opened_at_us bigint NOT NULL,
    due_us bigint,
    attempts integer NOT NULL,
    waits_for text NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (process, instance)
);
CREATE INDEX instances_by_due ON {schema}.open_instances(process, due_us) WHERE due_us IS NOT NULL;
CREATE INDEX instances_in_quarantine ON {schema}.open_instances(process, instance) WHERE error <> '';
CREATE TABLE {schema}.held_events(
    process text NOT NULL,
    instance bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (process, instance, position)
);
CREATE TABLE {schema}.process_checkpoints(process text PRIMARY KEY, position bigint NOT NULL, marks bytea NOT NULL);
CREATE TABLE {schema}.process_leases(process text PRIMARY KEY, owner text NOT NULL, until_us bigint NOT NULL);
