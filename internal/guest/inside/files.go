package inside

import (
	"context"
	"io"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// files answers what is asked about the files of volumes. A volume stays open once it
// was asked about: it goes with the machine.
type files struct {
	root func(ctx context.Context, volume backstay.VolumeID) (int, error)

	mu    sync.Mutex
	trees map[backstay.VolumeID]*tree // guarded by mu
}

// addFiles adds the operations on files.
func addFiles(s *server, w *world) {
	f := &files{trees: map[backstay.VolumeID]*tree{}, root: func(_ context.Context, volume backstay.VolumeID) (int, error) {
		root, err := w.root(volume)
		if err != nil {
			return -1, err
		}
		defer root.Close()
		return reopenFolder(int(root.Fd()))
	}}
	handle(s, wire.OpList, func(ctx context.Context, q wire.ListRequest) (wire.Folder, error) {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return wire.Folder{}, err
		}
		return t.list(ctx, q)
	})
	handle(s, wire.OpStat, func(ctx context.Context, q wire.PathRequest) (backstay.FileEntry, error) {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return backstay.FileEntry{}, err
		}
		return t.stat(q.Path)
	})
	handle(s, wire.OpHash, func(ctx context.Context, q wire.HashRequest) (wire.Hashes, error) {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return wire.Hashes{}, err
		}
		return t.hash(ctx, q)
	})
	f.addStreams(s)
}

func (f *files) addStreams(s *server) {
	handleStream(s, wire.OpRead, func(ctx context.Context, q wire.ReadRequest, out io.Writer) error {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return err
		}
		return t.read(ctx, q, out)
	})
	handleStream(s, wire.OpTake, func(ctx context.Context, q wire.TakeRequest, out io.Writer) error {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return err
		}
		return t.take(ctx, q, out)
	})
	handleStream(s, wire.OpWalk, func(ctx context.Context, q wire.WalkRequest, out io.Writer) error {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return err
		}
		return t.walk(ctx, q, out)
	})
	handleStream(s, wire.OpInodes, func(ctx context.Context, q wire.InodesRequest, out io.Writer) error {
		t, err := f.tree(ctx, q.Volume)
		if err != nil {
			return err
		}
		return t.inodes(ctx, q, out)
	})
}

// tree returns the files of a volume, which is mounted for the first that asks. No lock
// is held meanwhile: mounting one volume makes nobody wait who reads another.
func (f *files) tree(ctx context.Context, volume backstay.VolumeID) (*tree, error) {
	f.mu.Lock()
	t := f.trees[volume]
	f.mu.Unlock()
	if t != nil {
		return t, nil
	}
	root, err := f.root(ctx, volume)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.trees[volume]; t != nil {
		closeFD(root)
		return t, nil
	}
	t = newTree(root)
	f.trees[volume] = t
	return t, nil
}
