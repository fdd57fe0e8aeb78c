package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// folders returns n folders that are not there yet, and a request with them.
func folders(t *testing.T, n int) ([]string, []api.NewUnit) {
	var dirs []string
	var wanted []api.NewUnit
	for range n {
		dirs = append(dirs, filepath.Join(t.TempDir(), "unit"))
		wanted = append(wanted, api.NewUnit{URL: dirs[len(dirs)-1]})
	}
	return dirs, wanted
}

// files returns what a folder holds.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func same(a, b map[string]string) bool {
	for path, data := range a {
		if b[path] != data {
			return false
		}
	}
	return len(a) == len(b)
}

// One of the storage units is another vault's: a mistake that would cost that
// vault a copy, because a repair would make it one of this vault.
func TestAVaultWithAUnitOfAnotherVaultIsNotTakenInAndNotWritten(t *testing.T) {
	ctx := t.Context()
	lost, here := newWitnessed(t), newWitnessed(t)
	dirs, wanted := folders(t, 3)
	_, key, err := lost.CreateVault(ctx, api.CreateVaultRequest{Name: "lost", Units: wanted})
	lost.must(err)
	other := lost.units[2]
	before := files(t, other)

	request := api.ImportVaultRequest{Name: "lost", Key: key, Units: []api.NewUnit{wanted[0], wanted[1], {URL: other}}}
	if _, err := here.ImportVault(ctx, request); !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), other) {
		t.Errorf("import: %v", err)
	}
	request.Units[2] = api.NewUnit{URL: dirs[0] + "/."}
	if _, err := here.ImportVault(ctx, request); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("import of one unit twice: %v", err)
	}
	request.Units[2] = wanted[2]
	_, err = here.ImportVault(ctx, request)
	here.must(err)

	// The same mistake later: a disk is mounted in the place of another.
	here.must(os.Rename(dirs[2], dirs[2]+".away"))
	here.must(os.Symlink(other, dirs[2]))
	here.forget("lost")
	if _, err := here.writing(ctx, "lost"); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("backup: %v", err)
	}
	v, err := here.CheckVault(ctx, "lost")
	here.must(err)
	if v.Copies != 2 || v.Units[2].State != otherVault || !strings.Contains(v.Note, "holds another vault") {
		t.Errorf("the check says %d copies, %q, %q", v.Copies, v.Units[2].State, v.Note)
	}
	if !same(files(t, other), before) {
		t.Error("the other vault was changed")
	}
}

func TestAVaultIsTakenInWithAPassphrase(t *testing.T) {
	ctx := t.Context()
	lost, here := newWitnessed(t), newWitnessed(t)
	_, wanted := folders(t, 3)
	const passphrase = "correct horse battery staple"
	_, _, err := lost.CreateVault(ctx, api.CreateVaultRequest{Name: "lost", Units: wanted, NoRecoveryKey: true,
		Recipients: []api.AddRecipientRequest{{Passphrase: passphrase, Purpose: backstay.ForRecovery}}})
	lost.must(err)
	for wrong, r := range map[string]api.ImportVaultRequest{
		"another": {Passphrase: "another passphrase"}, "as a key": {Key: passphrase},
	} {
		r.Name, r.Units = "lost", wanted
		if _, err := here.ImportVault(ctx, r); !backstay.IsCode(err, backstay.CodeVaultKey) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	_, err = here.ImportVault(ctx, api.ImportVaultRequest{Name: "lost", Units: wanted, Passphrase: passphrase})
	here.must(err)
	_, err = here.VaultUsage(ctx, "lost")
	here.must(err)
}

// An empty storage unit is no copy, whatever the configuration says (I13).
func TestAnEmptyUnitIsNoCopy(t *testing.T) {
	w := newWitnessed(t)
	w.must(w.backup(firstPoint))
	w.must(os.RemoveAll(w.units[1]))
	w.must(makeUnits(t.Context(), []backstay.StorageUnit{{URL: w.units[1]}}))
	v, err := w.CheckVault(t.Context(), "main")
	w.must(err)
	if v.Copies != 2 || v.Units[1].State != noCopy || !strings.Contains(v.Note, "holds no copy") {
		t.Errorf("the check says %d copies, %q, %q", v.Copies, v.Units[1].State, v.Note)
	}
}
