package point

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const (
	// clearFixed: head, item, time, expiry, root, salt, body length, number of packs.
	clearFixed = seal.HeadSize + 32 + 8 + 8 + 32 + 16 + 4 + 4 + 4
	rootAt     = seal.HeadSize + 32 + 8 + 8
	hashSize   = 32
	// maxBody bounds the plain body of a manifest, in bytes.
	maxBody = 256 << 20
	never   = math.MaxInt64
)

// Header is the clear part of a manifest.
type Header struct {
	Epoch   uint32
	Item    [32]byte
	Time    time.Time
	Expires *time.Time
	Root    [32]byte
	Packs   []pack.ID // sorted, each once
}

// Disk says how a disk of the point is mapped.
type Disk struct {
	Target backstay.DiskTarget `json:"target"`
	Size   int64               `json:"size"`
	Format string              `json:"format"`
	// PageBytes is how much of the disk each page describes.
	PageBytes int64 `json:"pageBytes"`
	// Pages are the names of the table pages, 32 bytes each; zeros stand for a
	// page of zeros.
	Pages []byte `json:"pages"`
	// Places are where the table pages were, placeSize bytes each; none in
	// manifests of version-1 vaults.
	Places []byte `json:"places,omitempty"`
}

// placeSize: pack, epoch, ordinal, offset, sealed and plain length.
const placeSize = 16 + 5*4

// Place returns where a page was.
func (d *Disk) Place(i int) Place {
	if len(d.Places) == 0 {
		return Place{}
	}
	b := d.Places[i*placeSize:]
	n := func(at int) uint32 { return binary.BigEndian.Uint32(b[16+4*at:]) }
	return Place{Pack: pack.ID(b), Epoch: n(0), Ordinal: n(1), Offset: n(2), Sealed: n(3), Plain: n(4)}
}

// SetPage names a page and says where it is. Pages and Places have room for it.
func (d *Disk) SetPage(i int, name chunk.Name, at Place) {
	copy(d.Pages[i*len(name):], name[:])
	b := append(make([]byte, 0, placeSize), at.Pack[:]...)
	for _, n := range []uint32{at.Epoch, at.Ordinal, at.Offset, at.Sealed, at.Plain} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	copy(d.Places[i*placeSize:], b)
}

// MakePages makes room for the pages of the disk's size, all of zeros.
func (d *Disk) MakePages() {
	pages := (d.Size + d.PageBytes - 1) / d.PageBytes
	d.Pages, d.Places = make([]byte, pages*int64(len(chunk.Name{}))), make([]byte, pages*placeSize)
}

// Units returns the number of units of the disk; the last one may reach behind
// its end, and is zeros there.
func (d *Disk) Units() int64 { return (d.Size + chunk.Unit - 1) / chunk.Unit }

// PageCount returns the number of pages.
func (d *Disk) PageCount() int { return len(d.Pages) / len(chunk.Name{}) }

// Page returns the name of a page.
func (d *Disk) Page(i int) chunk.Name { return chunk.Name(d.Pages[i*len(chunk.Name{}):]) }

// PageUnits returns how many units the page describes.
func (d *Disk) PageUnits(i int) uint32 {
	full := d.PageBytes / chunk.Unit
	return uint32(min(full, d.Units()-int64(i)*full))
}

// check demands what every reader relies on.
func (d *Disk) check() error {
	pages := int64(0)
	if d.PageBytes >= chunk.MaxData && d.PageBytes <= PageBytes && d.PageBytes%chunk.MaxData == 0 && d.Size >= 0 {
		pages = d.Size / d.PageBytes
		if d.Size%d.PageBytes != 0 {
			pages++
		}
		if int64(len(d.Pages)) == pages*int64(len(chunk.Name{})) && (len(d.Places) == 0 || int64(len(d.Places)) == pages*placeSize) {
			return nil
		}
	}
	return fmt.Errorf("disk %s: size, page size and pages do not fit: %w", d.Target, ErrBad)
}

// Body is the sealed part of a manifest. Definition is the VM's (tier.Definition
// in JSON), which this package does not look into.
type Body struct {
	Facts      backstay.RecoveryPoint `json:"facts"`
	Definition json.RawMessage        `json:"definition"`
	Disks      []Disk                 `json:"disks"`
}

// ParseID turns a point's id into the 16 bytes of its ULID.
func ParseID(id backstay.PointID) ([16]byte, error) {
	u, err := ulid.ParseStrict(string(id))
	if err != nil || u.String() != string(id) {
		return u, fmt.Errorf("point id %q is not a ULID in its canonical form", string(id))
	}
	return u, nil
}

// Object returns the name of the manifest of a point.
func Object(id backstay.PointID) string { return "points/" + string(id) }

// Encode returns the bytes of a manifest, and the root hash that it sets.
func Encode(keys *seal.Keys, id backstay.PointID, h Header, body Body) ([]byte, [32]byte, error) {
	point, err := ParseID(id)
	if err != nil {
		return nil, h.Root, err
	}
	plain, err := json.Marshal(body)
	if err != nil {
		return nil, h.Root, fmt.Errorf("encode manifest: %w", err)
	}
	encoded, err := chunk.Encode(nil, plain)
	if err != nil {
		return nil, h.Root, err
	}
	h.Root = keys.Root(point, plain)
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	head := keys.Head(seal.Manifest, point, h.Epoch)
	out := append(head.Encode(nil), h.Item[:]...)
	out = binary.BigEndian.AppendUint64(out, uint64(h.Time.UnixNano()))
	expires := int64(never)
	if h.Expires != nil && h.Expires.Before(time.Unix(0, never)) { // later ones have no number (year 2262)
		expires = h.Expires.UnixNano()
	}
	out = binary.BigEndian.AppendUint64(out, uint64(expires))
	out = append(append(out, h.Root[:]...), salt[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(plain)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(encoded)+seal.Overhead))
	out = binary.BigEndian.AppendUint32(out, uint32(len(h.Packs)))
	for _, p := range h.Packs {
		out = append(out, p[:]...)
	}
	mac := keys.ManifestMAC(out)
	out = append(out, mac[:]...)
	box, err := keys.Box(head, salt[:])
	if err != nil {
		return nil, h.Root, err
	}
	out = box.Seal(out, 0, encoded, slices.Clone(out))
	sum := seal.Hash(out)
	return append(out, sum[:]...), h.Root, nil
}

// DecodeHeader authenticates a whole manifest's clear part and its checksum.
func DecodeHeader(keys *seal.Keys, id backstay.PointID, data []byte) (Header, error) {
	h, _, err := decodeHeader(keys, id, data)
	return h, err
}

// frame is where the parts of a manifest are.
type frame struct {
	point  [16]byte
	head   seal.Head
	salt   []byte
	clear  []byte // with its MAC
	sealed []byte
	plain  int
}

func decodeHeader(keys *seal.Keys, id backstay.PointID, data []byte) (Header, frame, error) {
	var h Header
	var f frame
	point, err := ParseID(id)
	if err != nil {
		return h, f, err
	}
	if len(data) < clearFixed+hashSize+seal.Overhead+hashSize {
		return h, f, fmt.Errorf("manifest of %d bytes: %w", len(data), seal.ErrWrong)
	}
	end := len(data) - hashSize
	if !seal.Equal(seal.Hash(data[:end]), [32]byte(data[end:])) {
		return h, f, fmt.Errorf("manifest has another hash than it says: %w", seal.ErrWrong)
	}
	head, err := keys.CheckHead(data, seal.Manifest, point)
	if err != nil {
		return h, f, err
	}
	rest := data[seal.HeadSize:]
	h.Epoch, h.Item = head.Epoch, [32]byte(rest)
	h.Time = time.Unix(0, int64(binary.BigEndian.Uint64(rest[32:]))).UTC()
	if expires := int64(binary.BigEndian.Uint64(rest[40:])); expires != never {
		t := time.Unix(0, expires).UTC()
		h.Expires = &t
	}
	h.Root = [32]byte(rest[48:])
	plain, sealed := int64(binary.BigEndian.Uint32(rest[96:])), int64(binary.BigEndian.Uint32(rest[100:]))
	packs := int64(binary.BigEndian.Uint32(rest[104:]))
	macAt := clearFixed + packs*16
	if macAt+hashSize+sealed != int64(end) || plain > maxBody {
		return h, f, fmt.Errorf("manifest's lengths do not fit: %w", seal.ErrWrong)
	}
	if !seal.Equal(keys.ManifestMAC(data[:macAt]), [32]byte(data[macAt:])) {
		return h, f, fmt.Errorf("manifest's header: %w", seal.ErrWrong)
	}
	for i := range packs {
		h.Packs = append(h.Packs, pack.ID(data[clearFixed+i*16:]))
	}
	f = frame{point: point, head: head, salt: rest[80:96], clear: data[:macAt+hashSize], sealed: data[macAt+hashSize : end], plain: int(plain)}
	return h, f, nil
}

// Decode authenticates a manifest, opens its body and recomputes its root.
func Decode(keys *seal.Keys, id backstay.PointID, data []byte) (Header, Body, error) {
	var body Body
	h, f, err := decodeHeader(keys, id, data)
	if err != nil {
		return h, body, err
	}
	box, err := keys.Box(f.head, f.salt)
	if err != nil {
		return h, body, err
	}
	encoded, err := box.Open(nil, 0, f.sealed, f.clear)
	if err != nil {
		return h, body, fmt.Errorf("open manifest: %w", err)
	}
	plain, err := chunk.Decode(nil, encoded, f.plain)
	if err != nil {
		return h, body, fmt.Errorf("open manifest: %w: %w", seal.ErrWrong, err)
	}
	if !seal.Equal(keys.Root(f.point, plain), h.Root) {
		return h, body, fmt.Errorf("manifest's root: %w", seal.ErrWrong)
	}
	if err := json.Unmarshal(plain, &body); err != nil {
		return h, body, fmt.Errorf("decode manifest: %w: %w", ErrBad, err)
	}
	for i := range body.Disks {
		if err := body.Disks[i].check(); err != nil {
			return h, body, err
		}
	}
	if body.Facts.ID != id {
		return h, body, fmt.Errorf("manifest holds the facts of another point: %w", ErrBad)
	}
	return h, body, nil
}
