-- Released: never change it, add read_model_002.sql. The tables of rows are created by the program, one for each
-- projection and generation. `last_generation` only grows: no table name is ever used twice.
CREATE TABLE {schema}.projections(
    name text PRIMARY KEY,
    last_generation integer NOT NULL
);
CREATE TABLE {schema}.generations(
    projection text NOT NULL REFERENCES {schema}.projections,
    number integer NOT NULL,
    state text NOT NULL,
    checkpoint bigint NOT NULL,
    events bigint NOT NULL,
    started_at_us bigint NOT NULL,
    finished_at_us bigint,
    PRIMARY KEY (projection, number)
);
CREATE UNIQUE INDEX one_of_a_state ON {schema}.generations(projection, state) WHERE state <> 'retired';
CREATE TABLE {schema}.parked(
    projection text NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stream text NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (projection, generation, position),
    FOREIGN KEY (projection, generation) REFERENCES {schema}.generations ON DELETE CASCADE
);
