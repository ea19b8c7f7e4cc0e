-- Why a generation was begun, the behaviour of its code, and when it was retired: see `domain/kernel/ports/read_model.py`.
ALTER TABLE {schema}.generations ADD COLUMN why text NOT NULL DEFAULT '';
ALTER TABLE {schema}.generations ADD COLUMN code text NOT NULL DEFAULT '';
ALTER TABLE {schema}.generations ADD COLUMN retired_at_us bigint;
-- `to_us` is null while it lasts. Until then `events` is the generation's number of events when it began.
CREATE TABLE {schema}.generation_phases(
    projection text NOT NULL,
    entry integer NOT NULL,
    generation integer NOT NULL,
    state text NOT NULL,
    why text NOT NULL,
    code text NOT NULL,
    from_us bigint NOT NULL,
    to_us bigint,
    row_count bigint,
    events bigint NOT NULL,
    PRIMARY KEY (projection, entry)
);
INSERT INTO {schema}.generation_phases
SELECT projection, number, number, state, '', '', coalesce(finished_at_us, started_at_us), NULL, NULL,
    CASE state WHEN 'current' THEN events ELSE 0 END
FROM {schema}.generations WHERE state IN ('current', 'building');
CREATE TABLE {schema}.generation_reports(
    projection text NOT NULL,
    first integer NOT NULL,
    second integer NOT NULL,
    at_us bigint NOT NULL,
    report text NOT NULL,
    PRIMARY KEY (projection, first, second)
);
UPDATE {schema}.generations SET retired_at_us = started_at_us WHERE state = 'retired';
