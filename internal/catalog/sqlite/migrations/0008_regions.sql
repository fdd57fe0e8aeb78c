-- Storage units of the region, paired regions, how far points are there, what is
-- held of other regions' vaults, plans of drills, and what drills found.

-- +goose Up
CREATE TABLE units (
    url  TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE regions (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

-- Of each point of this region how far it is in another one.
CREATE TABLE replicas (
    region TEXT NOT NULL,
    point  TEXT NOT NULL,
    vault  TEXT NOT NULL,
    body   TEXT NOT NULL,
    PRIMARY KEY (region, point)
);
CREATE INDEX replicas_of_vault ON replicas (vault);

-- Of each point of another region's vault what is held of it here; one that was
-- let go stays in the table, so that it is not taken in again.
CREATE TABLE held (
    vault TEXT NOT NULL,
    point TEXT NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (vault, point)
);

CREATE TABLE drill_plans (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

-- What drills found, each with the hash of the one before.
CREATE TABLE drills (
    seq  BIGINT NOT NULL PRIMARY KEY,
    id   TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
);
