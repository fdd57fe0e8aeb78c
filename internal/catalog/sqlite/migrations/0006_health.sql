-- What verifying and repairing found out of the vaults.

-- +goose Up
CREATE TABLE health (
    vault TEXT NOT NULL PRIMARY KEY,
    body  TEXT NOT NULL
);
