package inside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/ext4"
	"github.com/backstay/backstay/internal/guest/wire"
	"golang.org/x/sys/unix"
)

// inodes answers OpInodes. A volume whose inodes cannot be read from its disk has no
// name, and none follow.
func (t *tree) inodes(ctx context.Context, q wire.InodesRequest, out io.Writer) error {
	device, err := t.device()
	if err != nil {
		return err
	}
	var system *ext4.System
	name := ""
	if device != nil {
		defer device.Close()
		system, err = ext4.Open(device)
		if err != nil && !errors.Is(err, ext4.ErrUnfit) {
			return err
		}
		if err == nil {
			name = system.Name
		}
	}
	w, err := wire.NewInodeWriter(out, name)
	if err != nil {
		return err
	}
	if name != "" && name == q.System {
		if err := system.Inodes(ctx, func(i ext4.Inode) error { return w.Write(inodeOf(i)) }); err != nil {
			return err
		}
	}
	return w.Close()
}

// inodeOf is what row would make of the inode.
func inodeOf(i ext4.Inode) wire.Inode {
	one := wire.Inode{Inode: i.Number, Type: fileType(i.Mode), ModTime: nanoseconds(i.ModTime), Changed: nanoseconds(i.Changed)}
	if one.Type == backstay.TypeFile {
		one.Size = max(i.Size, 0)
	}
	return one
}

// device opens the disk of a volume whose root is that of an ext4 file system, and
// returns nil for others.
func (t *tree) device() (*os.File, error) {
	const rootInode = 2
	var system unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(t.root, &system), unix.Fstat(t.root, &st)); err != nil {
		return nil, fmt.Errorf("look at the volume: %w", err)
	}
	if system.Type != unix.EXT4_SUPER_MAGIC || system.Flags&unix.ST_RDONLY == 0 || st.Ino != rootInode {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "device-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	node := dir + "/disk"
	if err := unix.Mknod(node, unix.S_IFBLK|0o400, int(st.Dev)); err != nil {
		return nil, fmt.Errorf("name the volume's disk: %w", err)
	}
	return os.Open(node)
}
