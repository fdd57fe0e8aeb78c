package recover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/vault"
)

// The formats in which disks are written.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// roomToSpare is what must be left besides the disks' data, in bytes.
const roomToSpare = 16 << 20

// RestoreOptions describe a restore of disks into a folder.
type RestoreOptions struct {
	Dir string // made if need be
	// Disks are those that are wanted; none means all.
	Disks  []backstay.DiskTarget
	Format string // Raw or Qcow2; "" is Raw
	Verify bool
	// Plain writes disks in the clear that were encrypted on their host.
	Plain bool
	// Progress is called with the bytes done of one phase, from one goroutine at
	// a time.
	Progress func(Progress)
}

// Progress says how far a phase is, in bytes.
type Progress struct {
	Phase       string
	Done, Total int64
}

// RestoredDisk is a disk that was written.
type RestoredDisk struct {
	Target   backstay.DiskTarget `json:"target"`
	Path     string              `json:"path"`
	Format   string              `json:"format"`
	Size     int64               `json:"size"`
	Bytes    int64               `json:"bytes"`   // of data that was written now
	Resumed  bool                `json:"resumed"` // an interrupted restore had written it already
	Verified bool                `json:"verified"`
}

// Restored says what a restore made.
type Restored struct {
	Point Point          `json:"point"`
	Dir   string         `json:"dir"`
	Disks []RestoredDisk `json:"disks"`
	// Files are the others: definition, firmware variables, TPM state, README.
	Files    []string `json:"files"`
	Warnings []string `json:"warnings"`
}

// Restore writes disks of a point into a folder, with the VM's definition and a
// text that says how to use them. All files are of mode 0600 and replace nothing.
// A restore that was interrupted is gone on with by the same call: disks that were
// complete are kept. CodePreflight, CodeNoSpace and CodeExists before anything was written.
func (v *Vault) Restore(ctx context.Context, point Point, o RestoreOptions) (Restored, error) {
	r := &restore{v: v, o: o, out: Restored{Point: point, Files: []string{}, Warnings: []string{}}}
	if err := r.prepare(ctx, point.ID); err != nil {
		return Restored{}, err
	}
	defer r.close()
	unlock, err := r.claim()
	if err != nil {
		return Restored{}, err
	}
	defer unlock()
	for _, d := range r.disks {
		if err := r.write(ctx, d); err != nil {
			return Restored{}, err
		}
	}
	if err := r.describe(); err != nil {
		return Restored{}, err
	}
	if err := os.Remove(filepath.Join(r.dir, claimFile)); err != nil {
		return Restored{}, fmt.Errorf("end the restore: %w", err)
	}
	return r.out, durable.Sync(r.dir)
}

// restore is one run of Restore.
type restore struct {
	v     *Vault
	o     RestoreOptions
	dir   string
	point *vault.Point
	disks []*plannedDisk
	total int64 // bytes of data of all disks
	out   Restored

	mu   sync.Mutex
	done map[string]int64 // by phase; guarded by mu
}

type plannedDisk struct {
	target backstay.DiskTarget
	path   string
	image  tier.Image
	data   int64
	kept   bool // a complete one is there
}

func (r *restore) close() {
	for _, d := range r.disks {
		_ = d.image.Close()
	}
}

// prepare opens everything that is to be restored, before anything is written.
func (r *restore) prepare(ctx context.Context, id backstay.PointID) (err error) {
	r.done = map[string]int64{}
	switch r.o.Format {
	case "":
		r.o.Format = Raw
	case Raw:
	case Qcow2:
		if _, err := findConverter(); err != nil {
			return err
		}
	default:
		return backstay.Errorf(backstay.CodeUsage, "disks cannot be written as %q", r.o.Format).Becausef("there are raw and qcow2")
	}
	if r.dir, err = filepath.Abs(r.o.Dir); err != nil || r.o.Dir == "" {
		return backstay.Errorf(backstay.CodeUsage, "no folder is named").Do("say --to DIR")
	}
	r.out.Dir = r.dir
	if r.point, err = r.v.open(ctx, id); err != nil {
		return err
	}
	wanted := r.o.Disks
	if len(wanted) == 0 {
		wanted = targets(r.point)
	}
	for i, target := range wanted {
		if !slices.Contains(targets(r.point), target) {
			return noDisk(r.point, target)
		}
		if slices.Contains(wanted[:i], target) {
			continue
		}
		if err := r.mayBePlain(target); err != nil {
			return err
		}
		if err := namesFile(target); err != nil {
			return err
		}
		d := &plannedDisk{target: target, path: filepath.Join(r.dir, string(target)+"."+r.o.Format)}
		if d.image, err = r.point.Disk(ctx, target); err != nil {
			return err
		}
		r.disks = append(r.disks, d)
		if d.data, err = content.DataBytes(ctx, d.image); err != nil {
			return fmt.Errorf("read the table of disk %s: %w", target, err)
		}
		r.total += d.data
	}
	return nil
}

// mayBePlain refuses to write a disk in the clear that was encrypted on its host,
// unless that is what is asked for.
func (r *restore) mayBePlain(target backstay.DiskTarget) error {
	facts := r.point.Facts()
	if secret := facts.Shape.SecretOf(target); secret != "" && !r.o.Plain {
		return backstay.Errorf(backstay.CodeEncrypted, "disk %s was encrypted on its host, and would lie in %s in the clear", target, r.dir).
			Becausef("it was LUKS, with the secret %s; here it is written as %s", secret, r.o.Format).
			Do("write to a place that is encrypted itself, and say --plain; or restore with `backstay restore`, which makes LUKS anew")
	}
	return nil
}

// namesFile refuses a disk whose name would lead out of the folder: whoever could
// write points chose it.
func namesFile(target backstay.DiskTarget) error {
	if name := string(target); name == "." || name != filepath.Base(name) || !filepath.IsLocal(name) {
		return backstay.Errorf(backstay.CodeDamaged, "the point has a disk whose name cannot be that of a file").Becausef("it is %q", name)
	}
	return nil
}

// claimFile says, while a restore is under way, which one it is.
const claimFile = ".backstay-recover.json"

// claimed is its content.
type claimed struct {
	Vault  string           `json:"vault"`
	Point  backstay.PointID `json:"point"`
	Format string           `json:"format"`
}

// claim takes the folder for this restore, or takes up an interrupted one. Where
// there is no room nothing is claimed: another point, or fewer disks, may fit.
func (r *restore) claim() (unlock func(), err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, backstay.Errorf(backstay.CodeRestoreFailed, "the folder %s cannot be made", r.dir).Because(err)
	}
	mine := claimed{Vault: r.v.id, Point: r.point.Header().Point, Format: r.o.Format}
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", r.dir, err)
	}
	path := filepath.Join(r.dir, claimFile)
	there, err := os.ReadFile(path)
	resumed := err == nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := errors.Join(r.namesFree(), r.room()); err != nil {
			return nil, err
		}
		if err := writeFile(path, text); err != nil {
			return nil, fmt.Errorf("claim %s: %w", r.dir, err)
		}
	case err != nil:
		return nil, backstay.Errorf(backstay.CodeRestoreFailed, "the folder %s cannot be used", r.dir).Because(err)
	case string(there) != string(text):
		return nil, otherRestore(r.dir, there)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", r.dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, backstay.Errorf(backstay.CodeConflict, "another restore writes into %s", r.dir).Because(err).
			Do("wait until it has ended, or choose another folder")
	}
	unlock = func() { _ = f.Close() }
	if !resumed {
		return unlock, nil
	}
	if err = r.keep(); err == nil {
		err = r.room()
	}
	if err != nil {
		unlock()
	}
	return unlock, err
}

func otherRestore(dir string, text []byte) error {
	var other claimed
	_ = json.Unmarshal(text, &other)
	return backstay.Errorf(backstay.CodeExists, "the folder %s holds another restore that did not end", dir).
		Becausef("it is of the point %s as %s", other.Point, other.Format).
		Do("end that one with the same command again, or choose another folder")
}

// namesFree makes sure that nothing is in the way.
func (r *restore) namesFree() error {
	var names []string
	for _, d := range r.disks {
		names = append(names, d.path)
	}
	for _, name := range definitionNames {
		names = append(names, filepath.Join(r.dir, name))
	}
	for _, name := range names {
		if err := free(name); err != nil {
			return err
		}
	}
	return nil
}

// keep finds the disks that an interrupted restore completed: under its name a
// disk is whole.
func (r *restore) keep() error {
	for _, d := range r.disks {
		info, err := os.Lstat(d.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("look at %s: %w", d.path, err)
		case !info.Mode().IsRegular() || r.o.Format == Raw && info.Size() != d.image.Size():
			return taken(d.path)
		}
		d.kept = true
		if err := os.Remove(d.path + partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier restore left: %w", err)
		}
		r.total -= d.data
	}
	return nil
}

// room makes sure that the disks fit before the first byte is written.
func (r *restore) room() error {
	left, err := freeBytes(r.dir)
	if err != nil {
		return fmt.Errorf("look for room in %s: %w", r.dir, err)
	}
	if need := r.total + r.total/500 + roomToSpare; need > left {
		return backstay.Errorf(backstay.CodeNoSpace, "%s has no room for the disks", r.dir).
			Becausef("they hold %d MiB of data, and %d MiB are free there", r.total>>20, left>>20).
			Do("free space there, choose another folder, or restore fewer disks with --disk")
	}
	return nil
}

// freeBytes returns what this process may still write into a folder; a variable
// for the tests, which have no full disk.
var freeBytes = func(dir string) (int64, error) {
	var s unix.Statfs_t
	err := unix.Statfs(dir, &s)
	return int64(s.Bavail) * int64(s.Bsize), err
}

// write writes one disk, unless it is there.
func (r *restore) write(ctx context.Context, d *plannedDisk) error {
	done := RestoredDisk{Target: d.target, Path: d.path, Format: r.o.Format, Size: d.image.Size(), Resumed: d.kept}
	if !d.kept {
		write := RestoreDisk
		if r.o.Format == Qcow2 {
			write = restoreQcow2
		}
		result, err := write(ctx, d.image, d.path, DiskOptions{Verify: r.o.Verify, Progress: r.progress})
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.target, err)
		}
		done.Bytes, done.Verified = result.Bytes, result.Verified
	}
	r.out.Disks = append(r.out.Disks, done)
	return nil
}

func (r *restore) progress(phase string, n int64) {
	if r.o.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[phase] = min(r.done[phase]+n, r.total)
	r.o.Progress(Progress{Phase: phase, Done: r.done[phase], Total: r.total})
}
