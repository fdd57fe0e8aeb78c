//go:build integration

package host

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/vault"
)

// BenchmarkDiskAfterIncrements writes a disk of which a third was changed by twelve
// increments in single steps: as the vault hands the pieces out, and gathered.
func BenchmarkDiskAfterIncrements(b *testing.B) {
	const size = 384 << 20
	w := newBenchWorld(b)
	r := rand.New(rand.NewPCG(1, 5))
	disk := make(memoryDisk, size)
	for i := range disk {
		disk[i] = byte(r.Uint32() >> (i >> 12 & 15))
	}
	var parent backstay.PointID
	for n := range 13 {
		var changed []backstay.Range
		for range n * 650 {
			at := int64(r.IntN(size/content.Step)) * content.Step
			disk[at+int64(r.IntN(content.Step))]++
			changed = append(changed, backstay.Range{Offset: at, Length: content.Step})
		}
		point := backstay.PointID(fmt.Sprintf("01JP000000000000000000000%c", "ABCDEFGHJKMNP"[n]))
		v, err := w.openVault(b.Context(), w.access)
		check(b, err)
		writer, err := v.Begin(b.Context(), vault.WriteOptions{Point: point, Parent: parent})
		check(b, err)
		_, err = writer.WriteDisk(b.Context(), vault.DiskSource{Target: "vda", Format: "raw", Image: disk, Changed: changed, HasMap: n > 0})
		check(b, err)
		_, err = writer.Commit(b.Context(), backstay.RecoveryPoint{ID: point, VM: backstay.VMRef{Name: "web01", UUID: sourceVM}, Time: instant,
			Disks: []backstay.PointDisk{{Target: "vda", Size: size, Format: "raw", Included: true}}}, tier.Definition{InactiveXML: "<domain/>"})
		check(b, err)
		parent = point
	}
	images := qemu.New(qemu.Options{Dir: w.path("nbd")})
	for _, format := range []string{"raw", "qcow2"} {
		for _, gathered := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s gathered %v", format, gathered), func(b *testing.B) {
				for range b.N {
					v, err := w.openVault(b.Context(), w.access)
					check(b, err)
					point, err := v.OpenPoint(b.Context(), parent)
					check(b, err)
					image, err := point.Disk(b.Context(), "vda")
					check(b, err)
					path := w.path("out/disk")
					plan := backstay.PlannedDisk{Target: "vda", Path: path, Format: format, Size: size}
					j := &restoreJournal{}
					check(b, j.begin(backstay.RestorePlan{Disks: []backstay.PlannedDisk{plan}}))
					d := &writtenDisk{images: images, log: w.host.log, plan: plan, image: image, journal: j, progress: j.Disks[0]}
					d.data, err = d.check(b.Context())
					check(b, err)
					check(b, d.make(b.Context()))
					if gathered {
						check(b, d.write(b.Context(), func(int64) {}))
					} else {
						check(b, asHandedOut(b.Context(), d))
					}
					check(b, os.Remove(path))
				}
				b.SetBytes(size)
			})
		}
	}
}

// newBenchWorld is a vault in memory, and a folder on a real disk.
func newBenchWorld(b *testing.B) *testWorld {
	dir, err := os.MkdirTemp("", "mb") // short: it holds sockets
	check(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &testWorld{dir: dir, store: mem.New(), host: &Host{log: slog.New(slog.DiscardHandler)}}
	check(b, os.Mkdir(w.path("out"), 0o700))
	check(b, w.newVault())
	return w
}

// asHandedOut writes each piece where it comes.
func asHandedOut(ctx context.Context, d *writtenDisk) error {
	err := d.connect(ctx, true, func(client *nbd.Client) error {
		err := content.Each(ctx, d.image, workers(), func(offset int64, data []byte) error {
			if err := d.sums.Add(offset, data); err != nil {
				return err
			}
			_, err := content.WriteNonZero(client, offset, data)
			return err
		})
		if err != nil {
			return err
		}
		return client.Flush()
	})
	if err != nil {
		return err
	}
	return durable.Sync(d.plan.Path)
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
