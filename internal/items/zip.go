package items

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	backstay "github.com/backstay/backstay"
	"github.com/klauspost/compress/flate"
)

// Zip writes streams as one zip archive, for those who have nothing that reads tar: with
// UTF-8 names, Unix modes, owners and symbolic links, but without extended attributes,
// and with hard links as symbolic ones. What would not get smaller is not compressed.
// It holds 1 MiB of content at most, and the directory that goes to its end.
type Zip struct {
	archive
	z     *zip.Writer
	level int               // of the entry that is begun
	wrong []*zip.FileHeader // whose checksum shall not fit

	deflate *flate.Writer // into out
	out     bytes.Buffer
}

// NewZip begins an archive on w.
func NewZip(w io.Writer, o ArchiveOptions) *Zip {
	z := &Zip{archive: archive{o: o}, z: zip.NewWriter(w)}
	z.z.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(out, z.level)
	})
	return z
}

// Add writes all of a stream. After an error the archive is cut, and not to be closed.
func (z *Zip) Add(ctx context.Context, stream *Reader) error {
	return z.add(ctx, stream, z.put)
}

// Close writes the directory, after a list of what the archive lacks if that is
// anything (IncompleteName). It does not close what lies below.
func (z *Zip) Close() (Report, error) {
	if list := z.list(); list != nil {
		h := &zip.FileHeader{Name: IncompleteName, Modified: zipTime(time.Time{})}
		h.SetMode(0o644)
		if err := z.raw(h, list, ^crc32.ChecksumIEEE(list)); err != nil {
			return z.report, err
		}
	}
	for _, h := range z.wrong {
		h.CRC32 ^= 0xffffffff // the directory is written from these
	}
	return z.report, z.z.Close()
}

func (z *Zip) put(it *Item, content *filled) error {
	h := &zip.FileHeader{Name: zipName(it.Path), Modified: zipTime(it.ModTime), Extra: zipOwner(it)}
	if h.Name != string(it.Path) {
		z.report.remark(Renamed, it.Path, h.Name)
	}
	mode := fs.FileMode(it.Mode & 0o777)
	for bit, is := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if it.Mode&bit != 0 {
			mode |= is
		}
	}
	switch {
	case it.Type == backstay.TypeFolder:
		h.Name += "/"
		h.SetMode(mode | fs.ModeDir)
		_, err := z.z.CreateHeader(h)
		return err
	case it.Type == backstay.TypeLink:
		h.SetMode(0o777 | fs.ModeSymlink)
		return z.whole(h, []byte(it.Target))
	case it.HardLink != "":
		h.SetMode(0o777 | fs.ModeSymlink)
		z.report.remark(Lacking, it.Path, "it is a symbolic link to "+it.HardLink.String()+" here, and another name of it in the point")
		return z.whole(h, []byte(relativeLink(it.Path, it.HardLink)))
	case content == nil:
		z.report.remark(LeftOut, it.Path, "it is a "+string(it.Type)+", which no zip holds")
		return nil
	}
	h.SetMode(mode)
	if content.loaded != nil || it.Size == 0 {
		return z.whole(h, content.loaded)
	}
	return z.large(h, content)
}

// zipName is a path without what other systems take for a separator.
func zipName(p backstay.FilePath) string {
	return strings.ReplaceAll(string(p), `\`, "\uff3c")
}

// zipTime is the nearest time that all fields of a zip can hold.
func zipTime(at time.Time) time.Time {
	first, last := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC)
	switch {
	case at.Before(first):
		return first
	case at.After(last):
		return last
	}
	return at
}

// relativeLink is where a link must point that leads from one path to another.
func relativeLink(from, to backstay.FilePath) string {
	up := strings.Repeat("../", strings.Count(string(from), "/"))
	return path.Join(up, zipName(to))
}

// zipOwner is the extra field of Unix owners.
func zipOwner(it *Item) []byte {
	b := binary.LittleEndian.AppendUint16(nil, 0x7875)
	b = binary.LittleEndian.AppendUint16(b, 11)
	b = append(b, 1, 4)
	b = binary.LittleEndian.AppendUint32(b, it.UID)
	b = append(b, 4)
	return binary.LittleEndian.AppendUint32(b, it.GID)
}

// sampled is how much of a file is compressed to see whether that pays.
const sampled = 64 << 10

// pays tells whether data gets smaller by at least a tenth, and leaves in z.out what
// became of it.
func (z *Zip) pays(data []byte) (bool, error) {
	if z.deflate == nil {
		var err error
		if z.deflate, err = flate.NewWriter(&z.out, flate.DefaultCompression); err != nil {
			return false, err
		}
	}
	z.out.Reset()
	z.deflate.Reset(&z.out)
	_, _ = z.deflate.Write(data) // a buffer takes all
	_ = z.deflate.Close()
	return z.out.Len() < len(data)-len(data)/10, nil
}

// whole writes content that is at hand, with its sizes before it.
func (z *Zip) whole(h *zip.FileHeader, data []byte) error {
	return z.raw(h, data, crc32.ChecksumIEEE(data))
}

func (z *Zip) raw(h *zip.FileHeader, data []byte, sum uint32) error {
	h.CRC32, h.UncompressedSize64 = sum, uint64(len(data))
	h.Method = zip.Store
	out := data
	smaller, err := z.pays(data[:min(len(data), sampled)])
	if err == nil && smaller && len(data) > sampled {
		smaller, err = z.pays(data)
	}
	if err != nil {
		return err
	}
	if smaller {
		h.Method, out = zip.Deflate, z.out.Bytes()
	}
	h.CompressedSize64 = uint64(len(out))
	w, err := z.z.CreateRaw(stamped(h))
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// stamped sets what CreateRaw leaves to its caller: the times and the flag of UTF-8 names.
func stamped(h *zip.FileHeader) *zip.FileHeader {
	if utf8.ValidString(h.Name) {
		h.Flags |= 0x800
	}
	h.CreatorVersion = h.CreatorVersion&0xff00 | 20
	h.ReaderVersion = 20
	//lint:ignore SA1019 it is the only way to set the fields that old programs read
	h.SetModTime(h.Modified)
	h.Extra = binary.LittleEndian.AppendUint16(h.Extra, 0x5455)
	h.Extra = binary.LittleEndian.AppendUint16(h.Extra, 5)
	h.Extra = append(h.Extra, 1)
	h.Extra = binary.LittleEndian.AppendUint32(h.Extra, uint32(h.Modified.Unix()))
	return h
}

// large writes a file that comes piece by piece; its sizes follow it. Where compressing
// does not pay it is deflated at level 0, which costs nothing: a stored entry of unknown
// length could not be read from a pipe.
func (z *Zip) large(h *zip.FileHeader, content *filled) error {
	if z.buf == nil {
		z.buf = make([]byte, 256<<10)
	}
	n, err := io.ReadFull(content, z.buf)
	if err != nil {
		return err
	}
	z.level = flate.NoCompression
	smaller, err := z.pays(z.buf[:min(n, sampled)])
	if err != nil {
		return err
	}
	if smaller {
		z.level = flate.DefaultCompression
	}
	h.Method = zip.Deflate
	w, err := z.z.CreateHeader(h)
	if err != nil {
		return err
	}
	if _, err := w.Write(z.buf[:n]); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{w}, content, z.buf); err != nil {
		return err
	}
	if err := content.finish(); err != nil {
		return err
	}
	if content.broken != "" {
		z.wrong = append(z.wrong, h)
	}
	return nil
}
