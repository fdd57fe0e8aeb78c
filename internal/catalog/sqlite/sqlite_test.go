package sqlite

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/catalogtest"
)

func TestConformance(t *testing.T) {
	catalogtest.Run(t, func(t *testing.T) *catalog.Catalog { return open(t, filepath.Join(t.TempDir(), "catalogue.db")) })
}

func open(t *testing.T, path string) *catalog.Catalog {
	t.Helper()
	c, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOnlyTheOwnerMayReadTheFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "odd name?#%20.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	defer func() { _ = c.Close() }()
	if err := c.Hosts.PutHost(t.Context(), backstay.Host{Name: "h1"}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v, error %v: want the catalogue and its WAL", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(f.Name(), "odd name?#%20.db") || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", f.Name(), info.Mode().Perm())
		}
	}
}

func TestWhatWasWrittenIsThereAfterAReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	c := open(t, path)
	if err := c.Hosts.PutHost(t.Context(), backstay.Host{Name: "h1"}); err != nil {
		t.Fatal(err)
	}
	// A second handle without a close of the first is what a start after a
	// kill -9 sees.
	again := open(t, path)
	if _, err := again.Hosts.Host(t.Context(), "h1"); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestCommitsAreSynced(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "catalogue.db"))
	defer func() { _ = c.Close() }()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err := c.Jobs.(*store).writer.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
}

func TestTheAuditLogIsAppendOnly(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "catalogue.db"))
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	if err := c.Audit.Append(ctx, backstay.AuditEntry{Action: "first"}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`UPDATE audit SET body = '{}'`,
		`DELETE FROM audit`,
		`INSERT OR REPLACE INTO audit (seq, at_us, body) VALUES (1, 0, '{}')`,
	} {
		_, err := c.Jobs.(*store).writer.ExecContext(ctx, statement)
		if err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: error %v", statement, err)
		}
	}
	list, err := c.Audit.ListAudit(ctx, 0, 0)
	if err != nil || len(list) != 1 || list[0].Action != "first" {
		t.Errorf("entries %v, error %v", list, err)
	}
}

func TestRecordsOfDrillsAreAppendOnly(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "catalogue.db"))
	defer func() { _ = c.Close() }()
	if _, err := c.Drills.AppendDrill(t.Context(), backstay.DrillRecord{ID: "01A"}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{`UPDATE drills SET body = '{}'`, `DELETE FROM drills`} {
		if _, err := c.Jobs.(*store).writer.ExecContext(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "only ever added") {
			t.Errorf("%s: error %v", statement, err)
		}
	}
}

func TestANewerCatalogueIsRefusedAndNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	c := open(t, path)
	if _, err := c.Jobs.(*store).writer.Exec(
		`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	before := dump(t, path)
	_, err := Open(t.Context(), path)
	if !backstay.IsCode(err, backstay.CodeCatalogNewer) || !strings.Contains(err.Error(), "9000") {
		t.Errorf("error %v", err)
	}
	if after := dump(t, path); after != before {
		t.Errorf("the catalogue changed from\n%s\nto\n%s", before, after)
	}
}

func dump(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var text string
	if err := db.QueryRow(`SELECT (SELECT GROUP_CONCAT(sql) FROM sqlite_schema) ||
		(SELECT GROUP_CONCAT(version_id) FROM goose_db_version)`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestASubmittedSecretHashIsAllThatIsKeptOfAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalogue.db")
	c := open(t, path)
	if err := c.Tokens.PutToken(t.Context(), backstay.Token{ID: "t"}, [32]byte{0xab, 0xcd}); err != nil {
		t.Fatal(err)
	}
	var hash string
	if err := c.Jobs.(*store).reader.QueryRow(`SELECT secret_hash FROM tokens`).Scan(&hash); err != nil || !strings.HasPrefix(hash, "abcd") || len(hash) != 64 {
		t.Errorf("kept %q, error %v", hash, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
