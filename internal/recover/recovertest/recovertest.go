// Package recovertest makes vaults with points for the tests of recovery: as a
// server would have left them, without one.
package recovertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// VMName and VMUUID are those of the VM that the points are of.
const (
	VMName = "web01"
	VMUUID = "0c3e1c58-20b7-4bd1-9a0b-b6b9b5a6e0a1"
)

// Created is when the vault was made; its points come an hour apart.
var Created = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// Definition is that of the VM; it has secrets.
var Definition = tier.Definition{
	InactiveXML: `<domain type='kvm'>
  <name>web01</name>
  <uuid>0c3e1c58-20b7-4bd1-9a0b-b6b9b5a6e0a1</uuid>
  <os><type arch='x86_64'>hvm</type><nvram>/var/lib/libvirt/qemu/nvram/web01_VARS.fd</nvram></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/images/web01.qcow2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/vg/web01'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/images/install.iso'/>
      <target dev='sda' bus='sata'/>
    </disk>
    <graphics type='vnc' passwd='hunter2'/>
  </devices>
</domain>
`,
	LiveXML: "<domain id='7'><name>web01</name></domain>",
	NVRAM:   []byte("variables hunter2"),
	TPM:     map[string][]byte{"tpm2/tpm2-00.permall": []byte("state hunter2")},
}

// World is a vault and what was put into it.
type World struct {
	Units    []blob.Store
	ID       string
	Identity backstay.Secret
	Points   []backstay.PointID
	// Disks has the content of each disk of each point, in the order of Points.
	Disks []map[backstay.DiskTarget][]byte
	// Locked are the disks that Add says were encrypted on their host, with the
	// UUIDs of their secrets.
	Locked map[backstay.DiskTarget]string

	vault *vault.Vault
}

// Make makes a vault on the units, with n points of a VM with two disks.
func Make(ctx context.Context, n int, units ...blob.Store) (*World, error) {
	identity, recipient, err := vault.NewIdentity()
	if err != nil {
		return nil, err
	}
	seed := uint64(time.Now().UnixNano())
	w := &World{Units: units, Identity: identity, ID: fmt.Sprintf("6f1d3c1e-8f0a-4a53-9c7b-%012x", seed&0xffffffffffff)}
	s := replica.New(units...)
	keyset, err := vault.Create(ctx, s, vault.CreateOptions{ID: w.ID, Name: "main", Redundancy: backstay.LRS, Created: Created,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient)})
	if err != nil {
		return nil, err
	}
	if w.vault, err = vault.Open(ctx, s, w.ID, keyset); err != nil {
		return nil, err
	}
	for i := range n {
		if err := w.Add(ctx, i); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Add backs the VM up once more.
func (w *World) Add(ctx context.Context, i int) error {
	disks := map[backstay.DiskTarget][]byte{"vda": content(1, 5<<20+512), "vdb": content(2, 3<<20)}
	scribble(rand.New(rand.NewPCG(uint64(i), 3)), disks["vda"][1<<20:][:64<<10*(i+1)])
	return w.AddDisks(ctx, i, disks)
}

// AddDisks backs the VM up with these disks.
func (w *World) AddDisks(ctx context.Context, i int, disks map[backstay.DiskTarget][]byte) error {
	at := Created.Add(time.Duration(i) * time.Hour)
	var u ulid.ULID
	if err := u.SetTime(uint64(at.UnixMilli())); err != nil {
		return err
	}
	u[15] = byte(i)
	id := backstay.PointID(u.String())
	writer, err := w.vault.Begin(ctx, vault.WriteOptions{Point: id})
	if err != nil {
		return err
	}
	defer writer.Abort()
	facts := backstay.RecoveryPoint{ID: id, Time: at, Vault: "main", Consistency: backstay.FileSystemConsistent,
		VM: backstay.VMRef{Name: VMName, UUID: VMUUID, Host: "h1"}, Firmware: backstay.UEFI, TPM: true}
	for _, target := range slices.Sorted(maps.Keys(disks)) {
		if _, err := writer.WriteDisk(ctx, vault.DiskSource{Target: target, Format: "qcow2", Image: image(disks[target])}); err != nil {
			return err
		}
		if secret := w.Locked[target]; secret != "" {
			facts.Shape.Disks = append(facts.Shape.Disks, backstay.Disk{Target: target, Secret: secret})
		}
		facts.Disks = append(facts.Disks, backstay.PointDisk{Target: target, Size: int64(len(disks[target])), Format: "qcow2", Included: true})
	}
	facts.Disks = append(facts.Disks, backstay.PointDisk{Target: "sda", Reason: "a drive for media"})
	if _, err := writer.Commit(ctx, facts, Definition); err != nil {
		return err
	}
	w.Points, w.Disks = append(w.Points, id), append(w.Disks, disks)
	return nil
}

// content makes a disk of zeros with some runs of data in it.
func content(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, size)
	for range 6 {
		from := r.IntN(size)
		scribble(r, data[from:min(size, from+r.IntN(300<<10))])
	}
	return data
}

func scribble(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// image is a disk in memory.
type image []byte

func (m image) ReadAt(b []byte, off int64) (int, error) {
	n := copy(b, m[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m image) Close() error { return nil }
func (m image) Size() int64  { return int64(len(m)) }

func (m image) Extents(offset, length int64) ([]tier.Extent, error) {
	var out []tier.Extent
	for at := offset; at < offset+length; {
		n := min(4096-at%4096, offset+length-at)
		out = append(out, tier.Extent{Range: backstay.Range{Offset: at, Length: n}, Zero: len(bytes.Trim(m[at:at+n], "\x00")) == 0})
		at += n
	}
	return out, nil
}
