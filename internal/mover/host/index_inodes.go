package host

import (
	"context"
	"io"
	"iter"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/fileindex"
	"github.com/backstay/backstay/internal/guest/wire"
)

// volumeRows are the rows of a volume of the point that is listed.
type volumeRows struct {
	iter.Seq2[wire.Row, error]
	close func()
	// system is the file system, if the next point can be listed by its inodes.
	system string
}

// rows lists a volume: by its inodes, if the list has it from an earlier point and
// nothing speaks against it, else by walking all its folders. Both give the same.
func (x *indexing) rows(ctx context.Context, head fileindex.Head, v backstay.Volume) (volumeRows, error) {
	system, inodes := x.inodes(ctx, head, v)
	if inodes != nil {
		by := fileindex.Inodes{All: inodes, Until: until(head, v.ID), Walk: func(ctx context.Context, folder backstay.FilePath, flat bool) (io.ReadCloser, error) {
			return x.from.Walk(ctx, wire.WalkRequest{Volume: v.ID, Path: folder, Flat: flat})
		}}
		return volumeRows{by.Rows(ctx, fileindex.State(head.Events(ctx, x.kept), v.ID)), func() {}, system}, nil
	}
	stream, err := x.from.Walk(ctx, wire.WalkRequest{Volume: v.ID, Path: "/"})
	if err != nil {
		return volumeRows{}, err
	}
	return volumeRows{wire.Rows(stream), func() { _ = stream.Close() }, system}, nil
}

// inodes returns which file system a volume holds, "" if it is none whose inodes can be
// read, and the inodes if the list is of this one. What fails here is no error: the walk
// that follows tells what is wrong with the volume.
func (x *indexing) inodes(ctx context.Context, head fileindex.Head, v backstay.Volume) (string, []wire.Inode) {
	if !strings.HasPrefix(v.FileSystem, "ext") {
		return "", nil
	}
	q := wire.InodesRequest{Volume: v.ID}
	if was, _, ok := head.Volume(v.ID); ok && !x.walk {
		q.System = was.System
	}
	stream, err := x.from.Inodes(ctx, q)
	if err != nil {
		return "", nil
	}
	defer func() { _ = stream.Close() }()
	system, inodes, err := wire.ReadInodes(stream)
	if err != nil {
		return "", nil
	}
	if q.System == "" || system != q.System {
		return system, nil
	}
	return system, inodes
}
