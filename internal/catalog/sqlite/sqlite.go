// Package sqlite keeps the catalogue in one SQLite file: the adapter for a
// region with one server. A write that returned is on disk (WAL with
// synchronous=FULL, so every commit is synced).
//
// The schema and the statements are SQL that PostgreSQL takes too, numbered
// parameters included; what differs is said in the one migration that does. It
// holds no rule of its own: what a claim does is in the port (JobRecord.Claim).
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite": the only way this driver is offered

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

//go:embed migrations/*.sql
var migrations embed.FS

// store is the catalogue in one file. SQLite has one writer at a time, so
// writers queue for one connection in the order in which they came, rather than
// poll for the file's lock; readers see the last commit and wait for nobody.
type store struct {
	writer *sql.DB
	reader *sql.DB
}

// Open opens the catalogue in the file at path, makes it (mode 0600) if there
// is none, and brings its schema up to date. A catalogue that a newer release
// wrote is refused with CodeCatalogNewer and not touched. The caller sees to it
// that no other process has the same file open.
func Open(ctx context.Context, path string) (*catalog.Catalog, error) {
	if err := createFile(path); err != nil {
		return nil, err
	}
	s, err := connect(path)
	if err != nil {
		return nil, fmt.Errorf("open catalogue %s: %w", path, err)
	}
	if err := migrate(ctx, s.writer); err != nil {
		return nil, errors.Join(fmt.Errorf("open catalogue %s: %w", path, err), s.close())
	}
	return &catalog.Catalog{
		Hosts: s, VMs: s, Vaults: s, Policies: s, Items: s, Groups: s,
		Points: s, Jobs: s, Audit: s, Tokens: s, Trash: s, Health: s, Units: s, Regions: s, Close: s.close,
		Replicas: s, Held: s, Drills: s, DrillPlans: s,
	}, nil
}

// createFile makes the file before SQLite would with the umask's mode, and
// syncs its folder, which SQLite does for its journals only. The WAL and its
// index take the mode of the file.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open catalogue: %w", err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return fmt.Errorf("open catalogue %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync the catalogue's folder: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the catalogue's folder: %w", err)
	}
	return nil
}

func connect(path string) (*store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	params := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}
	dsn := (&url.URL{Scheme: "file", Path: abs, RawQuery: params.Encode()}).String()
	writer, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	writer.SetMaxOpenConns(1)
	reader, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	reader.SetMaxOpenConns(4)
	return &store{writer: writer, reader: reader}, nil
}

func (s *store) close() error { return errors.Join(s.reader.Close(), s.writer.Close()) }

// migrate brings the schema up to date, or refuses a newer one.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	present, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if present > known {
		return backstay.Errorf(backstay.CodeCatalogNewer,
			"the catalogue was written by a newer release of backstay").
			Becausef("its schema has version %d, and this release knows up to %d", present, known)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate the schema: %w", err)
	}
	return nil
}

// write runs fn in a transaction that holds the writer's lock from its start.
func (s *store) write(ctx context.Context, fn func(*sql.Tx) error) error {
	return within(ctx, s.writer, nil, fn)
}

// read runs fn in a transaction that sees one instant.
func (s *store) read(ctx context.Context, fn func(*sql.Tx) error) error {
	return within(ctx, s.reader, &sql.TxOptions{ReadOnly: true}, fn)
}

func within(ctx context.Context, db *sql.DB, opts *sql.TxOptions, fn func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // no effect after the commit; also when fn panics
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// querier is a transaction or the reader.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// one reads the body that the query selects, or ErrNotFound.
func one[T any](ctx context.Context, q querier, query string, args ...any) (T, error) {
	var v T
	var body string
	err := q.QueryRowContext(ctx, query, args...).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return v, catalog.ErrNotFound
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return v, fmt.Errorf("decode: %w", err)
	}
	return v, nil
}

// all reads the bodies that the query selects; never nil without an error.
func all[T any](ctx context.Context, q querier, query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	list := []T{}
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		var v T
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			return nil, fmt.Errorf("decode: %w", err)
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// encode makes a body. The nouns hold nothing that JSON cannot say.
func encode(v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return string(data), nil
}

// put runs one statement whose last parameter is v's body and returns none if
// it changed no row.
func (s *store) put(ctx context.Context, none error, v any, query string, args ...any) error {
	body, err := encode(v)
	if err != nil {
		return err
	}
	return s.exec(ctx, none, query, append(args, body)...)
}

// exec runs one statement and returns none if it changed no row.
func (s *store) exec(ctx context.Context, none error, query string, args ...any) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err == nil && n == 0 {
			return none
		}
		return err
	})
}

// during says what was done to what when err came; nil stays nil.
func during(verb, noun string, id any, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s %v: %w", verb, noun, id, err)
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
