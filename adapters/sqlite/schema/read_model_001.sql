-- The tables of rows are created by the program, one for each projection and generation.
CREATE TABLE IF NOT EXISTS generations(
    projection TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    checkpoint INTEGER NOT NULL,
    events INTEGER NOT NULL,
    started_at_us INTEGER NOT NULL,
    finished_at_us INTEGER,
    PRIMARY KEY(projection, number)
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_of_a_state ON generations(projection, state) WHERE state <> 'retired';
CREATE TABLE IF NOT EXISTS parked(
    projection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    stream TEXT NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY(projection, generation, position)
) STRICT;
