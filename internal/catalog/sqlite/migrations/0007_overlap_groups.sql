-- A job may let go of its VMs before it ends; groups of VMs.

-- +goose Up
ALTER TABLE jobs ADD COLUMN vms_free BIGINT NOT NULL DEFAULT 0;

CREATE TABLE vm_groups (
    name TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);

-- A VM is in one group at most: the primary key says so.
CREATE TABLE group_members (
    vm         TEXT NOT NULL PRIMARY KEY,
    group_name TEXT NOT NULL REFERENCES vm_groups (name) ON DELETE CASCADE
);
CREATE INDEX members_of_group ON group_members (group_name);
