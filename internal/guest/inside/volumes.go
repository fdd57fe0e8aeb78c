package inside

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/internal/guest/inside/volumes"
	"github.com/backstay/backstay/internal/guest/wire"
)

// addVolumes adds the operations on disks and volumes.
func addVolumes(s *server, w *world) {
	handle(s, wire.OpAttached, func(ctx context.Context, q wire.AttachedRequest) (struct{}, error) {
		device, err := diskOf(ctx, q.Serial)
		if err == nil {
			w.volumes.Add(volumes.Disk{Device: device, Target: q.Disk, Size: q.Size, Opens: q.Opens})
		}
		return struct{}{}, err
	})
	handle(s, wire.OpScan, func(ctx context.Context, _ struct{}) (wire.Scanned, error) {
		return w.volumes.Scan(ctx)
	})
	handle(s, wire.OpUnlock, func(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
		defer clear(q.VolumeKey)
		defer clear(q.Passphrase)
		defer clear(q.KeyFile)
		defer clear(q.RecoveryKey)
		return w.volumes.Unlock(ctx, q)
	})
}

// tune makes the kernel read a disk in few large requests: each costs more than its
// bytes do. What cannot be set stays as it is.
func tune(queue string) {
	for name, value := range map[string]string{"scheduler": "none", "max_sectors_kb": "1024", "read_ahead_kb": "1024"} {
		_ = os.WriteFile(queue+name, []byte(value), 0)
	}
}

// diskOf waits for the disk with a serial number and returns its name below /dev.
func diskOf(ctx context.Context, serial string) (string, error) {
	for {
		pages, _ := filepath.Glob("/sys/block/sd*/device/vpd_pg80")
		for _, page := range pages {
			// Four bytes of header, then the number.
			text, err := os.ReadFile(page)
			if err != nil || len(text) <= 4 || strings.TrimRight(string(text[4:]), "\x00 ") != serial {
				continue
			}
			// It is seen a little before it can be opened.
			name := filepath.Base(filepath.Dir(filepath.Dir(page)))
			if file, err := os.Open("/dev/" + name); err == nil {
				tune("/sys/block/" + name + "/queue/")
				return name, file.Close()
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for disk %s: %w", serial, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}
