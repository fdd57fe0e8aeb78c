-- What the region knows of the lists of condemned packs in its vaults.

-- +goose Up
CREATE TABLE trash (
    vault TEXT NOT NULL,
    list  TEXT NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (vault, list)
);
