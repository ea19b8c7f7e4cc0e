-- Why a generation was begun, the behaviour of its code, and when it was retired: see `domain/kernel/ports/read_model.py`.
ALTER TABLE generations ADD COLUMN why TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN code TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN retired_at_us INTEGER;
-- `to_us` is null while it lasts. Until then `events` is the generation's number of events when it began.
CREATE TABLE generation_phases(
    projection TEXT NOT NULL,
    entry INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    code TEXT NOT NULL,
    from_us INTEGER NOT NULL,
    to_us INTEGER,
    row_count INTEGER,
    events INTEGER NOT NULL,
    PRIMARY KEY(projection, entry)
) STRICT, WITHOUT ROWID;
INSERT INTO generation_phases
SELECT projection, number, number, state, '', '', coalesce(finished_at_us, started_at_us), NULL, NULL,
    CASE state WHEN 'current' THEN events ELSE 0 END
FROM generations WHERE state IN ('current', 'building');
CREATE TABLE generation_reports(
    projection TEXT NOT NULL,
    first INTEGER NOT NULL,
    second INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY(projection, first, second)
) STRICT, WITHOUT ROWID;
UPDATE generations SET retired_at_us = started_at_us WHERE state = 'retired';
