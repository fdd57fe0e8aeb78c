-- The catalogue of one region. SQLite and PostgreSQL both take this file as it
-- is: TEXT and BIGINT only, instants as BIGINT microseconds since 1970 UTC, a
-- noun's JSON as TEXT in body. A column beside body is what is looked up,
-- ordered or locked by, and never says anything else than body does, except in
-- jobs, where the column is the truth.

-- +goose Up
CREATE TABLE hosts (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

-- Two hosts may define the same UUID, after a migration for instance.
CREATE TABLE vms (
    id      TEXT   NOT NULL,
    host    TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    running BIGINT NOT NULL,
    body    TEXT   NOT NULL,
    PRIMARY KEY (id, host)
);
CREATE INDEX vms_of_host ON vms (host);

CREATE TABLE vaults (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE policies (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE items (
    vm     TEXT NOT NULL PRIMARY KEY,
    policy TEXT NOT NULL REFERENCES policies (name),
    vault  TEXT NOT NULL REFERENCES vaults (name),
    body   TEXT NOT NULL
);
CREATE INDEX items_of_policy ON items (policy);

-- No reference to vaults: an index that is rebuilt from the files beside the
-- disks may name a vault that the region does not know yet.
CREATE TABLE points (
    id       TEXT   NOT NULL PRIMARY KEY,
    vm       TEXT   NOT NULL,
    taken_us BIGINT NOT NULL,
    body     TEXT   NOT NULL
);
CREATE INDEX points_of_vm ON points (vm, taken_us);

-- fence grows with each claim; locked_by and lock_until_us are the lock.
CREATE TABLE jobs (
    id            TEXT   NOT NULL PRIMARY KEY,
    kind          TEXT   NOT NULL,
    state         TEXT   NOT NULL,
    created_us    BIGINT NOT NULL,
    host          TEXT   NOT NULL,
    vault         TEXT   NOT NULL,
    vms           TEXT   NOT NULL,
    fence         BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    locked_by     TEXT   NOT NULL,
    lock_until_us BIGINT NOT NULL,
    params        TEXT   NOT NULL,
    runner_state  TEXT   NOT NULL,
    body          TEXT   NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_time ON jobs (created_us, id);

CREATE TABLE tasks (
    job        TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq        BIGINT NOT NULL,
    name       TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    percent    DOUBLE PRECISION NOT NULL,
    started_us BIGINT,
    ended_us   BIGINT,
    detail     TEXT   NOT NULL,
    PRIMARY KEY (job, seq)
);

-- One job at a time may change one VM: the primary key says so, whatever a
-- server's own idea of the queue is.
CREATE TABLE vm_locks (
    vm  TEXT NOT NULL PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE INDEX vm_locks_of_job ON vm_locks (job);

CREATE TABLE audit (
    seq   BIGINT NOT NULL PRIMARY KEY,
    at_us BIGINT NOT NULL,
    body  TEXT   NOT NULL
);

-- Only the SHA-256 of a token's secret is kept, in hexadecimal.
CREATE TABLE tokens (
    id          TEXT NOT NULL PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    body        TEXT NOT NULL
);
