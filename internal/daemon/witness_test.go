package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// witnessed is a region's vaults on folders, with one vault.
type witnessed struct {
	*vaults
	t     *testing.T
	units []string
	name  backstay.VaultName
}

func newWitnessed(t *testing.T) *witnessed {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &witnessed{t: t, name: "main", vaults: &vaults{catalog: c, keys: keyfile.New(filepath.Join(t.TempDir(), "keys")), now: time.Now,
		opened: map[backstay.VaultName]mover.VaultAccess{}}}
	request := api.CreateVaultRequest{Name: "main"}
	for range 3 {
		dir := filepath.Join(t.TempDir(), "unit")
		w.units = append(w.units, dir)
		request.Units = append(request.Units, api.NewUnit{URL: dir})
	}
	_, _, err = w.CreateVault(t.Context(), request)
	w.must(err)
	return w
}

func (w *witnessed) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// backup commits an empty point, as a mover on the given access does.
func (w *witnessed) backup(id backstay.PointID) error {
	ctx := w.t.Context()
	access, err := w.writing(ctx, w.name)
	if err != nil {
		return err
	}
	v, err := w.openVault(ctx, access)
	w.must(err)
	tr, err := v.Begin(ctx, vault.WriteOptions{Point: id, Now: time.Now})
	w.must(err)
	defer tr.Abort()
	done, err := tr.Commit(ctx, backstay.RecoveryPoint{ID: id, VM: backstay.VMRef{UUID: "u"}}, tier.Definition{})
	w.must(err)
	return w.saw(ctx, w.name, done.Head)
}

func (w *witnessed) copyUnits(from, to []string) {
	w.t.Helper()
	for i := range from {
		w.must(os.RemoveAll(to[i]))
		w.must(os.CopyFS(to[i], os.DirFS(from[i])))
		w.must(filepath.WalkDir(to[i], func(path string, d fs.DirEntry, err error) error {
			return errors.Join(err, os.Chmod(path, 0o700))
		}))
	}
}

const (
	firstPoint  = backstay.PointID("01KAMZ0000000000000000000A")
	secondPoint = backstay.PointID("01KAMZ0000000000000000000B")
)

func TestOlderStateOfAVaultStopsBackupsAndWarnsRestores(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	old := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	w.copyUnits(w.units, old)
	w.must(w.backup(secondPoint))
	entry, err := w.CheckVault(ctx, "main")
	w.must(err)
	if entry.Head == nil || entry.Head.Seq != 3 || len(entry.Head.Hash) != 64 {
		t.Fatalf("head: %+v", entry.Head)
	}
	if problem, warning := w.problem(ctx, "main", firstPoint); problem != "" || warning != "" {
		t.Errorf("before: %q, %q", problem, warning)
	}

	w.copyUnits(old, w.units)
	if err := w.backup("01KAMZ0000000000000000000C"); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("backup: %v", err)
	}
	if _, err := w.openToWrite(ctx, "main"); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("drop: %v", err)
	}
	if problem, warning := w.problem(ctx, "main", firstPoint); problem != "" || warning == "" {
		t.Errorf("restore: %q, %q", problem, warning)
	}
	after, err := w.CheckVault(ctx, "main")
	w.must(err)
	if after.Head == nil || *after.Head != *entry.Head || after.Note == entry.Note {
		t.Errorf("the check says %q, head %+v", after.Note, after.Head)
	}

	// A rebuild of the catalogue takes the vault as it is.
	if warning, err := w.accept(ctx, "main"); err != nil || warning == "" {
		t.Errorf("accept: %q, %v", warning, err)
	}
	if warning, err := w.accept(ctx, "main"); err != nil || warning != "" {
		t.Errorf("accept again: %q, %v", warning, err)
	}
	w.must(w.backup("01KAMZ0000000000000000000C"))
}

func TestDropMovesTheWitness(t *testing.T) {
	w := newWitnessed(t)
	ctx := t.Context()
	w.must(w.backup(firstPoint))
	v, err := w.openToWrite(ctx, "main")
	w.must(err)
	w.must(dropping{Vault: v, vaults: w.vaults, name: "main"}.DropPoint(ctx, firstPoint, time.Now()))
	entry, err := w.entry(ctx, "main")
	w.must(err)
	if entry.Head.Seq != 3 {
		t.Errorf("head %+v", entry.Head)
	}
	w.must(w.saw(ctx, "main", backstay.VaultHead{Seq: 2, Hash: "older"}))
	if entry, err = w.entry(ctx, "main"); err != nil || entry.Head.Seq != 3 {
		t.Errorf("an older head took the place of a newer one: %+v, %v", entry.Head, err)
	}
}
