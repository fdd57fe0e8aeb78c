-- What drills found is append-only, as the audit log is: see 0002.

-- +goose Up
-- +goose StatementBegin
CREATE TRIGGER drills_are_kept BEFORE DELETE ON drills
BEGIN SELECT RAISE(ABORT, 'records of drills are only ever added'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER drills_do_not_change BEFORE UPDATE ON drills
BEGIN SELECT RAISE(ABORT, 'records of drills are only ever added'); END;
-- +goose StatementEnd
