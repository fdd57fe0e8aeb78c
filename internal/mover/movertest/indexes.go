package movertest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// IndexPoint is mover.Indexes'. All points of the fake hold the same files.
func (f *Fake) IndexPoint(ctx context.Context, r mover.IndexRequest, progress mover.Progress) (mover.Indexed, error) {
	if err := f.enter(ctx, "IndexPoint"); err != nil {
		return mover.Indexed{}, err
	}
	if err := f.opens(&r.Vault); err != nil {
		return mover.Indexed{}, err
	}
	if _, err := f.point(r.Point, r.Tier); err != nil {
		return mover.Indexed{}, err
	}
	if progress != nil {
		progress(mover.Report{Phase: "list"})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	done := mover.Indexed{}
	for _, v := range f.Volumes {
		if v.Kind == backstay.VolumeFiles {
			done.Files += int64(len(v.Files))
		} else {
			done.Notes = append(done.Notes, "volume "+string(v.ID)+" was not listed: "+v.Reason)
		}
	}
	if slices.Contains(f.indexed, r.Point) {
		return done, nil
	}
	if n := len(f.indexed); n > 0 && f.indexed[n-1] > r.Point {
		return mover.Indexed{}, backstay.Errorf(backstay.CodeConflict, "point %s is older than the list", r.Point)
	}
	if f.indexed = append(f.indexed, r.Point); len(f.indexed) == 1 {
		done.Changed = done.Files
	}
	return done, nil
}

// FindFiles is mover.Indexes'. It knows * and ? within a name, and parts.
func (f *Fake) FindFiles(ctx context.Context, r mover.FindRequest) (mover.FoundFiles, error) {
	if err := f.enter(ctx, "FindFiles"); err != nil {
		return mover.FoundFiles{}, err
	}
	if err := f.opens(&r.Vault); err != nil {
		return mover.FoundFiles{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	found := mover.FoundFiles{Files: []backstay.FoundFile{}}
	var in []backstay.PointID
	for _, p := range r.Points {
		if slices.Contains(f.indexed, p) {
			in = append(in, p)
		} else {
			found.Without = append(found.Without, p)
		}
	}
	if len(in) == 0 {
		return found, nil
	}
	for _, v := range f.Volumes {
		for p, file := range v.Files {
			if v.Kind == backstay.VolumeFiles && fakeMatch(r, string(p)) {
				one := backstay.FileVersion{Size: int64(len(file.Content)), ModTime: file.ModTime, First: slices.Min(in), Last: slices.Max(in), Points: len(in)}
				if file.Type == backstay.TypeFile {
					sum := sha256.Sum256(file.Content)
					one.SHA256 = hex.EncodeToString(sum[:])
				}
				found.Files = append(found.Files, backstay.FoundFile{Volume: v.ID, Path: p, Type: file.Type, Versions: []backstay.FileVersion{one}})
			}
		}
	}
	slices.SortFunc(found.Files, func(a, b backstay.FoundFile) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Path, b.Path))
	})
	if found.More = len(found.Files) > r.Limit; found.More {
		found.Files = found.Files[:r.Limit]
	}
	return found, nil
}

func fakeMatch(r mover.FindRequest, p string) bool {
	pattern := r.Pattern
	if r.Fold {
		pattern, p = strings.ToLower(pattern), strings.ToLower(p)
	}
	if !strings.Contains(pattern, "/") {
		p = path.Base(p)
	}
	if !strings.ContainsAny(pattern, "*?[") {
		return strings.Contains(p, pattern)
	}
	ok, err := path.Match(pattern, p)
	return ok && err == nil
}

// DiffPoints is mover.Indexes'. Nothing differs.
func (f *Fake) DiffPoints(ctx context.Context, r mover.DiffRequest, _ mover.Progress) (backstay.PointDiff, error) {
	if err := f.enter(ctx, "DiffPoints"); err != nil {
		return backstay.PointDiff{}, err
	}
	before, err := f.point(r.Before, r.BeforeTier)
	if err != nil {
		return backstay.PointDiff{}, err
	}
	if _, err := f.point(r.After, r.AfterTier); err != nil {
		return backstay.PointDiff{}, err
	}
	d := backstay.PointDiff{Before: r.Before, After: r.After, Files: []backstay.FileChange{}, Notes: []string{}}
	for _, disk := range before.taken.Disks {
		d.Disks = append(d.Disks, backstay.DiskChange{Target: disk.Target})
	}
	return d, nil
}

// testIndexes: a search says which points it did not search, and a point that is not
// there is not indexed or compared. It needs nothing of what the disks hold.
func testIndexes(t *testing.T, s Subject) {
	ctx := t.Context()
	taken := take(t, s)
	index := mover.IndexRequest{Job: job, Point: nowhere, VM: s.VM, Tier: backstay.SnapshotTier, Vault: s.Vault}
	if _, err := s.Mover.IndexPoint(ctx, index, nil); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("index of a point that is not there: %v", err)
	}
	found, err := s.Mover.FindFiles(ctx, mover.FindRequest{VM: s.VM, Vault: s.Vault, Pattern: "passwd", Points: []backstay.PointID{taken.Point}, Limit: 10})
	if err != nil || len(found.Files) != 0 || !slices.Equal(found.Without, []backstay.PointID{taken.Point}) {
		t.Errorf("found %+v: %v", found, err)
	}
	diff := mover.DiffRequest{VM: s.VM, Before: nowhere, After: taken.Point, BeforeTier: backstay.SnapshotTier, AfterTier: backstay.SnapshotTier, Limit: 10}
	if _, err := s.Mover.DiffPoints(ctx, diff, nil); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("a comparison with a point that is not there: %v", err)
	}
	if ids, err := s.Mover.OpenSessions(ctx); err != nil || len(ids) != 0 {
		t.Errorf("sessions are left: %v, %v", ids, err)
	}
}
