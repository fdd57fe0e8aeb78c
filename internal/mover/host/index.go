package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/fileindex"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/vault"
)

// listLife is when a session that lists a point ends at the latest.
const listLife = 24 * time.Hour

// lister lists and hashes files of an open session.
type lister interface {
	Walk(ctx context.Context, q wire.WalkRequest) (io.ReadCloser, error)
	Inodes(ctx context.Context, q wire.InodesRequest) (io.ReadCloser, error)
	Hash(ctx context.Context, q wire.HashRequest) (wire.Hashes, error)
}

// IndexPoint lists the files of a point into the list of its VM's files.
func (h *Host) IndexPoint(ctx context.Context, r mover.IndexRequest, progress mover.Progress) (mover.Indexed, error) {
	v, err := h.openVault(ctx, r.Vault)
	if err != nil {
		return mover.Indexed{}, err
	}
	defer func() { _ = v.Close() }()
	kept, head, err := openFileList(ctx, v, r.VM)
	x := &indexing{request: r, progress: oneAtATime(progress), kept: kept}
	if err != nil && !anewable(err) {
		return mover.Indexed{}, err
	}
	if err != nil {
		x.anew(err)
	}
	if p, ok := head.Point(r.Point); ok {
		return mover.Indexed{Files: p.Files}, nil
	}
	if newest := head.Newest(); newest > r.Point {
		return mover.Indexed{}, backstay.Errorf(backstay.CodeConflict, "point %s is not put into the list of files", r.Point).
			Becausef("point %s, which is newer, is in it already", newest).Do("nothing is to be done: `backstay files ls` looks into the point itself")
	}
	opened := mover.OpenFilesRequest{Point: r.Point, Tier: r.Tier, Services: r.Services}
	if r.Tier == backstay.VaultTier {
		opened.Vault = &r.Vault
	}
	err = h.listing(ctx, opened, x.progress, func(ctx context.Context, from lister, volumes []backstay.Volume) error {
		x.from, x.volumes = from, volumes
		err := x.run(ctx, head)
		if errors.Is(err, fileindex.ErrDoubt) {
			h.log.Info("a volume is walked", "point", r.Point, "because", err)
			x.walk = true
			err = x.run(ctx, head)
		}
		if err != nil && anewable(err) && len(head.Layers) > 0 {
			x.anew(err)
			err = x.run(ctx, fileindex.Head{})
		}
		return err
	})
	if err != nil {
		return mover.Indexed{}, err
	}
	return x.done, nil
}

// anewable tells whether an error says that the list is damaged, so that it is made anew.
func anewable(err error) bool {
	return errors.Is(err, fileindex.ErrBad) || backstay.IsCode(err, backstay.CodeDamaged)
}

// listing calls fn with a point opened in a small machine of its own, and its volumes.
func (h *Host) listing(ctx context.Context, r mover.OpenFilesRequest, progress mover.Progress, fn func(context.Context, lister, []backstay.Volume) error) error {
	r.Session = backstay.FileSessionID(ulid.Make().String())
	r.User, r.Expires = "the list of files", h.now().Add(listLife)
	return h.onPoint(ctx, r, progress, func(ctx context.Context, s *fileSession) error {
		return s.inMachine(ctx, func(ctx context.Context, m Machine) error { return fn(ctx, m, s.facts().Volumes) })
	})
}

// keptSegments are the segments of a VM's list in the vault.
type keptSegments struct{ *vault.FileList }

// openFileList opens the list of a VM's files. A damaged one is empty, and the error
// says so.
func openFileList(ctx context.Context, v *vault.Vault, vm backstay.VMID) (keptSegments, fileindex.Head, error) {
	l, err := v.FileList(ctx, vm)
	if err != nil {
		return keptSegments{}, fileindex.Head{}, err
	}
	if l.Head() == nil {
		return keptSegments{l}, fileindex.Head{}, l.Damage()
	}
	head, err := fileindex.DecodeHead(l.Head())
	return keptSegments{l}, head, err
}

// indexing is one IndexPoint.
type indexing struct {
	request  mover.IndexRequest
	progress mover.Progress
	kept     keptSegments
	from     lister
	volumes  []backstay.Volume
	walk     bool // nothing is listed by inodes
	done     mover.Indexed
}

// anew notes that a list was damaged.
func (x *indexing) anew(err error) {
	x.done.Notes = append(x.done.Notes, fmt.Sprintf("the list of files was damaged and is made anew, without the points before: %v", err))
}

// run lists the point's files and adds it to the list.
func (x *indexing) run(ctx context.Context, head fileindex.Head) error {
	notes := x.done.Notes
	x.done = mover.Indexed{Notes: notes}
	point := &fileindex.Point{ID: x.request.Point}
	exists := slices.Sorted(slices.Values(x.request.Exists))
	next, err := head.Add(ctx, x.kept, point, exists, x.events(ctx, head, point))
	if err != nil {
		return fmt.Errorf("list the files of point %s: %w", x.request.Point, err)
	}
	x.progress(mover.Report{Phase: "keep"})
	data, err := next.Encode()
	if err != nil {
		return err
	}
	return x.kept.Commit(ctx, data, next.Segments())
}

// events are what the point adds to the list, volume after volume.
func (x *indexing) events(ctx context.Context, head fileindex.Head, point *fileindex.Point) iter.Seq2[fileindex.Event, error] {
	return func(yield func(fileindex.Event, error) bool) {
		volumes := slices.SortedFunc(slices.Values(x.volumes), func(a, b backstay.Volume) int { return strings.Compare(string(a.ID), string(b.ID)) })
		for _, v := range volumes {
			if v.Kind != backstay.VolumeFiles {
				if v.Kind == backstay.VolumeLocked || v.Kind == backstay.VolumeUnread {
					x.left(v.ID, v.Reason)
				}
				continue
			}
			rows, err := x.rows(ctx, head, v)
			if backstay.IsCode(err, backstay.CodeVolumeUnread) || backstay.IsCode(err, backstay.CodeUnknownVolume) || backstay.IsCode(err, backstay.CodeVolumeLocked) {
				x.left(v.ID, backstay.AsError(err).Cause)
				continue
			}
			if err == nil {
				err = x.volume(ctx, head, point, v, rows, yield)
			}
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(fileindex.Event{}, err)
				return
			}
		}
		point.Files = x.done.Files
	}
}

// left notes a volume that was not listed.
func (x *indexing) left(v backstay.VolumeID, why string) {
	x.done.Notes = append(x.done.Notes, fmt.Sprintf("volume %s was not listed: %s", v, why))
}

// errStopped ends an iteration that nobody goes on with.
var errStopped = errors.New("stopped")

// volume yields what one volume of the point adds.
func (x *indexing) volume(ctx context.Context, head fileindex.Head, point *fileindex.Point, v backstay.Volume, rows volumeRows,
	yield func(fileindex.Event, error) bool,
) error {
	defer rows.close()
	mount, err := backstay.ParseFilePath(v.MountPoint)
	if err != nil {
		mount = ""
	}
	listed := fileindex.Volume{ID: v.ID, Mount: mount}
	unread := 0
	c := fileindex.Compared{Volume: v.ID, Point: point.ID, Until: until(head, v.ID), HashUpTo: x.request.HashUpTo, Saw: func(r wire.Row) {
		listed.Newest = max(listed.Newest, r.Changed)
		if r.Unread {
			unread++
		}
		if x.done.Files++; x.done.Files%1000 == 0 {
			x.report()
		}
	}}
	b := &hashBatch{indexing: x, volume: v.ID}
	for change, err := range c.Changes(fileindex.State(head.Events(ctx, x.kept), v.ID), rows.Seq2) {
		if err != nil {
			return err
		}
		if b.add(change); !b.full() {
			continue
		}
		if err := b.flush(ctx, yield); err != nil {
			return err
		}
	}
	if err := b.flush(ctx, yield); err != nil {
		return err
	}
	if unread == 0 {
		listed.System = rows.system
	} else {
		x.left(v.ID, fmt.Sprintf("%d of its folders or entries could not be read", unread))
	}
	point.Volumes = append(point.Volumes, listed)
	return nil
}

func (x *indexing) report() {
	x.progress(mover.Report{Phase: "list", Done: x.done.Hashed, Note: fmt.Sprintf("%d files and folders", x.done.Files)})
}

// until is the time up to which the times of a volume's inodes prove that a file did
// not change since the newest point of the list: what had changed last when that
// was taken, or its own time, whichever was first.
func until(head fileindex.Head, volume backstay.VolumeID) int64 {
	v, point, ok := head.Volume(volume)
	id, err := ulid.ParseStrict(string(point))
	if !ok || err != nil {
		return 0
	}
	return min(v.Newest, ulid.Time(id.Time()).UnixNano()) - fileindex.Racy
}

// hashBatch holds changes back until the contents of some have been hashed at once.
type hashBatch struct {
	*indexing
	volume  backstay.VolumeID
	changes []fileindex.Change
	paths   []backstay.FilePath
	bytes   int
}

// The bounds of one batch.
const (
	batchChanges = 10_000
	batchPaths   = 1 << 20 // bytes
)

func (b *hashBatch) add(c fileindex.Change) {
	b.changes = append(b.changes, c)
	if c.Hash {
		b.paths = append(b.paths, c.Path)
		b.bytes += len(c.Path)
	}
}

func (b *hashBatch) full() bool {
	return len(b.changes) >= batchChanges || len(b.paths) >= wire.MaxHashes || b.bytes >= batchPaths
}

// flush yields what is held back. What turns out to be what it was is left out.
func (b *hashBatch) flush(ctx context.Context, yield func(fileindex.Event, error) bool) error {
	var hashes wire.Hashes
	if len(b.paths) > 0 {
		var err error
		if hashes, err = b.from.Hash(ctx, wire.HashRequest{Volume: b.volume, Paths: b.paths}); err != nil {
			return err
		}
		if len(hashes.SHA256) != len(b.paths) {
			return fmt.Errorf("%d hashes of %d files: %w", len(hashes.SHA256), len(b.paths), wire.ErrBadRows)
		}
		b.done.Hashed += max(hashes.Read, 0)
	}
	for _, c := range b.changes {
		if c.Hash {
			if sum := hashes.SHA256[0]; len(sum) == len(c.SHA256) {
				copy(c.SHA256[:], sum)
			}
			hashes.SHA256 = hashes.SHA256[1:]
		}
		if c.Version == c.Before {
			continue
		}
		b.done.Changed++
		if !yield(c.Event, nil) {
			return errStopped
		}
	}
	b.changes, b.paths, b.bytes = b.changes[:0], nil, 0
	b.report()
	return nil
}

// FindFiles searches the list of a VM's files.
func (h *Host) FindFiles(ctx context.Context, r mover.FindRequest) (mover.FoundFiles, error) {
	pattern, err := fileindex.ParsePattern(r.Pattern, r.Fold)
	if err != nil {
		return mover.FoundFiles{}, err
	}
	ctx = blob.AllowCached(ctx)
	v, err := h.openVault(ctx, r.Vault)
	if err != nil {
		return mover.FoundFiles{}, err
	}
	defer func() { _ = v.Close() }()
	found := mover.FoundFiles{Files: []backstay.FoundFile{}}
	err = withFileList(ctx, v, r.VM, func(head fileindex.Head, kept keptSegments) error {
		found.Without = head.Without(r.Points)
		files, more, err := fileindex.Search{Pattern: pattern, Exists: r.Points, Limit: r.Limit}.Find(head, head.Events(ctx, kept))
		if err == nil && files != nil {
			found.Files, found.More = files, more
		}
		return err
	})
	return found, err
}

// withFileList calls fn with the list as it is now. Where an object of it was missing it
// is called again if the list has changed meanwhile: then a newer one has taken its place.
func withFileList(ctx context.Context, v *vault.Vault, vm backstay.VMID, fn func(fileindex.Head, keptSegments) error) error {
	var last []byte
	for {
		kept, head, err := openFileList(ctx, v, vm)
		if err == nil {
			err = fn(head, kept)
		}
		if err == nil || !anewable(err) {
			return err
		}
		if now := kept.now(); now == nil || slices.Equal(now, last) {
			return backstay.Errorf(backstay.CodeDamaged, "the list of files in the vault is damaged").Because(err).
				Do("the next backup's index makes it anew; until then, look into a point with `backstay files ls POINT`")
		} else {
			last = now
		}
	}
}

// now is the head that was read, if any.
func (k keptSegments) now() []byte {
	if k.FileList == nil {
		return nil
	}
	return k.Head()
}
