package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const jobColumns = `id, kind, state, created_us, host, vault, vms, fence, attempt,
	locked_by, lock_until_us, params, runner_state, body, vms_free`

// InsertJob implements catalog.Jobs.
func (s *store) InsertJob(ctx context.Context, j catalog.JobRecord) error {
	return during("insert", "job", j.ID, s.write(ctx, func(tx *sql.Tx) error {
		row, err := jobRow(j)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, `INSERT INTO jobs (`+jobColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
			ON CONFLICT (id) DO NOTHING`, row...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return orElse(err, catalog.ErrExists)
		}
		return writeTasks(ctx, tx, j.ID, nil, j.Tasks)
	}))
}

// Job implements catalog.Jobs.
func (s *store) Job(ctx context.Context, id backstay.JobID) (catalog.JobRecord, error) {
	var rec catalog.JobRecord
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		rec, err = readJob(ctx, tx, id)
		return err
	})
	return rec, during("read", "job", id, err)
}

// ListJobs implements catalog.Jobs.
func (s *store) ListJobs(ctx context.Context, limit int, states ...backstay.JobState) ([]catalog.JobRecord, error) {
	where, args := "", []any{atMost(limit)}
	if len(states) > 0 {
		marks := make([]string, len(states))
		for i, state := range states {
			args = append(args, string(state))
			marks[i] = fmt.Sprintf("$%d", i+2)
		}
		where = "WHERE state IN (" + strings.Join(marks, ", ") + ")"
	}
	pick := "FROM jobs " + where + " ORDER BY created_us DESC, id DESC LIMIT $1"
	var list []catalog.JobRecord
	err := s.read(ctx, func(tx *sql.Tx) error {
		var err error
		if list, err = readJobs(ctx, tx, `SELECT `+jobColumns+` `+pick, args...); err != nil {
			return err
		}
		tasks, err := readTasks(ctx, tx, `IN (SELECT id `+pick+`)`, args...)
		for i := range list {
			list[i].Tasks = append(list[i].Tasks, tasks[list[i].ID]...)
		}
		return err
	})
	return list, during("list", "jobs", "", err)
}

// ClaimJob implements catalog.Jobs.
func (s *store) ClaimJob(ctx context.Context, id backstay.JobID, owner string, now, until time.Time) (catalog.JobRecord, error) {
	var rec catalog.JobRecord
	err := s.write(ctx, func(tx *sql.Tx) error {
		before, err := readJob(ctx, tx, id)
		if err != nil {
			return err
		}
		rec = before
		if err := rec.Claim(owner, now, until); err != nil {
			return err
		}
		vms := rec.VMs
		if rec.VMsFree {
			vms = nil
		}
		for _, vm := range vms {
			if err := lockVM(ctx, tx, vm, id); err != nil {
				return err
			}
		}
		return updateJob(ctx, tx, rec, before.Tasks)
	})
	return rec, during("claim", "job", id, err)
}

// lockVM gives the VM to the job, or returns ErrBusy. The primary key decides,
// also between servers whose transactions do not see each other yet.
func lockVM(ctx context.Context, tx *sql.Tx, vm backstay.VMID, job backstay.JobID) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO vm_locks (vm, job) VALUES ($1, $2) ON CONFLICT (vm) DO NOTHING`,
		string(vm), string(job)); err != nil {
		return err
	}
	var holder string
	if err := tx.QueryRowContext(ctx, `SELECT job FROM vm_locks WHERE vm = $1`, string(vm)).Scan(&holder); err != nil {
		return err
	}
	if holder != string(job) {
		return catalog.ErrBusy
	}
	return nil
}

// ExtendJob implements catalog.Jobs.
func (s *store) ExtendJob(ctx context.Context, id backstay.JobID, fence int64, until time.Time) (backstay.JobState, error) {
	var state string
	err := s.write(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE jobs SET lock_until_us = $3
			WHERE id = $1 AND fence = $2 AND locked_by <> '' RETURNING state`,
			string(id), fence, micros(until)).Scan(&state)
		if errors.Is(err, sql.ErrNoRows) {
			if _, err := readJob(ctx, tx, id); err != nil {
				return err
			}
			return catalog.ErrFenced
		}
		return err
	})
	return backstay.JobState(state), during("extend", "job", id, err)
}

// UpdateJob implements catalog.Jobs.
func (s *store) UpdateJob(ctx context.Context, id backstay.JobID, fence int64, change func(*catalog.JobRecord) error) (catalog.JobRecord, error) {
	var rec catalog.JobRecord
	err := s.write(ctx, func(tx *sql.Tx) error {
		before, err := readJob(ctx, tx, id)
		if err != nil {
			return err
		}
		if fence != 0 && fence != before.Fence {
			return catalog.ErrFenced
		}
		rec = before
		rec.Tasks = slices.Clone(before.Tasks) // the change may write into it
		if err := change(&rec); err != nil {
			return err
		}
		rec.ID, rec.Fence = before.ID, before.Fence
		if rec.Job.State.Ended() {
			rec.Release()
		}
		if rec.Job.State.Ended() || rec.VMsFree {
			if _, err := tx.ExecContext(ctx, `DELETE FROM vm_locks WHERE job = $1`, string(id)); err != nil {
				return err
			}
		}
		return updateJob(ctx, tx, rec, before.Tasks)
	})
	return rec, during("update", "job", id, err)
}

// jobRow returns the values of jobColumns. The tasks have a table of their own.
func jobRow(j catalog.JobRecord) ([]any, error) {
	vms, err := encode(j.VMs)
	if err != nil {
		return nil, err
	}
	job := j.Job
	job.Tasks = nil
	body, err := encode(job)
	if err != nil {
		return nil, err
	}
	return []any{string(j.ID), string(j.Kind), string(j.Job.State), micros(j.Created), string(j.Host), string(j.Vault),
		vms, j.Fence, j.Attempt, j.LockedBy, micros(j.LockUntil), string(j.Params), string(j.State), body, number(j.VMsFree)}, nil
}

func updateJob(ctx context.Context, tx *sql.Tx, j catalog.JobRecord, before []backstay.Task) error {
	row, err := jobRow(j)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE jobs SET kind = $2, state = $3, created_us = $4, host = $5, vault = $6,
		vms = $7, fence = $8, attempt = $9, locked_by = $10, lock_until_us = $11, params = $12, runner_state = $13,
		body = $14, vms_free = $15 WHERE id = $1`, row...); err != nil {
		return err
	}
	return writeTasks(ctx, tx, j.ID, before, j.Tasks)
}

// writeTasks writes the tasks that changed.
func writeTasks(ctx context.Context, tx *sql.Tx, job backstay.JobID, before, after []backstay.Task) error {
	if len(after) < len(before) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tasks WHERE job = $1 AND seq >= $2`, string(job), len(after)); err != nil {
			return err
		}
	}
	for seq, t := range after {
		if seq < len(before) && reflect.DeepEqual(before[seq], t) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO tasks (job, seq, name, state, percent, started_us, ended_us, detail)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (job, seq) DO UPDATE SET name = excluded.name, state = excluded.state, percent = excluded.percent,
				started_us = excluded.started_us, ended_us = excluded.ended_us, detail = excluded.detail`,
			string(job), seq, t.Name, string(t.State), t.Percent, optional(t.Started), optional(t.Ended), t.Detail); err != nil {
			return err
		}
	}
	return nil
}

func optional(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UnixMicro()
}

func readJob(ctx context.Context, q querier, id backstay.JobID) (catalog.JobRecord, error) {
	list, err := readJobs(ctx, q, `SELECT `+jobColumns+` FROM jobs WHERE id = $1`, string(id))
	if err != nil {
		return catalog.JobRecord{}, err
	}
	if len(list) == 0 {
		return catalog.JobRecord{}, catalog.ErrNotFound
	}
	tasks, err := readTasks(ctx, q, `= $1`, string(id))
	list[0].Tasks = append(list[0].Tasks, tasks[id]...)
	return list[0], err
}

// readJobs reads rows of jobColumns, with no tasks.
func readJobs(ctx context.Context, q querier, query string, args ...any) ([]catalog.JobRecord, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	list := []catalog.JobRecord{}
	for rows.Next() {
		rec, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, rec)
	}
	return list, rows.Err()
}

func scanJob(rows *sql.Rows) (catalog.JobRecord, error) {
	var rec catalog.JobRecord
	var id, kind, state, host, vault, vms, params, saved, body string
	var created, until, free int64
	if err := rows.Scan(&id, &kind, &state, &created, &host, &vault, &vms, &rec.Fence, &rec.Attempt,
		&rec.LockedBy, &until, &params, &saved, &body, &free); err != nil {
		return rec, err
	}
	if err := errors.Join(json.Unmarshal([]byte(body), &rec.Job), json.Unmarshal([]byte(vms), &rec.VMs)); err != nil {
		return rec, fmt.Errorf("decode job %s: %w", id, err)
	}
	rec.Job.State, rec.Job.Tasks = backstay.JobState(state), []backstay.Task{}
	rec.Host, rec.Vault, rec.LockUntil = backstay.HostName(host), backstay.VaultName(vault), instant(until)
	rec.Params, rec.State, rec.VMsFree = raw(params), raw(saved), free != 0
	return rec, nil
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func raw(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// readTasks reads the tasks of the jobs for which the condition holds.
func readTasks(ctx context.Context, q querier, job string, args ...any) (map[backstay.JobID][]backstay.Task, error) {
	rows, err := q.QueryContext(ctx, `SELECT job, name, state, percent, started_us, ended_us, detail
		FROM tasks WHERE job `+job+` ORDER BY job, seq`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	tasks := map[backstay.JobID][]backstay.Task{}
	for rows.Next() {
		var id, state string
		var started, ended sql.NullInt64
		var t backstay.Task
		if err := rows.Scan(&id, &t.Name, &state, &t.Percent, &started, &ended, &t.Detail); err != nil {
			return nil, err
		}
		t.State, t.Started, t.Ended = backstay.TaskState(state), whenSet(started), whenSet(ended)
		tasks[backstay.JobID(id)] = append(tasks[backstay.JobID(id)], t)
	}
	return tasks, rows.Err()
}

func whenSet(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := time.UnixMicro(us.Int64).UTC()
	return &t
}
