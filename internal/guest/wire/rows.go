package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	backstay "github.com/backstay/backstay"
)

// OpHash reads the content of some files of a volume.
const OpHash = "hash" // HashRequest → Hashes

// MaxHashes is the most paths of one HashRequest.
const MaxHashes = 1000

// HashRequest asks for the SHA-256 of the content of files.
type HashRequest struct {
	Volume backstay.VolumeID   `json:"volume"`
	Paths  []backstay.FilePath `json:"paths"` // at most MaxHashes
}

// Hashes answers a HashRequest, in its order.
type Hashes struct {
	SHA256 [][]byte `json:"sha256"` // 32 bytes each; none for what is no file or cannot be read
	Read   int64    `json:"read"`   // bytes
}

// Row is one entry of a volume, as a walk tells of it. A walk lists a folder before
// what is in it, and the names in a folder in the order of their bytes; so paths come
// in the order of ComparePaths, each once. The root of the volume has no row.
type Row struct {
	Path    backstay.FilePath // begins with "/"
	Type    backstay.FileType
	Size    int64  // bytes
	ModTime int64  // nanoseconds since 1970
	Changed int64  // the inode, likewise; 0 where the file system has none
	Inode   uint64 // 0 where the file system has none that lasts
	// Unread says that a folder could not be listed, or an entry not be looked at: what
	// is in it is not in the rows.
	Unread bool
}

// MaxPath is the longest path of a row, in bytes.
const MaxPath = 64 << 10

var rowTypes = []backstay.FileType{backstay.TypeFile, backstay.TypeFolder, backstay.TypeLink, backstay.TypeBlock,
	backstay.TypeChar, backstay.TypeFIFO, backstay.TypeSocket}

// ComparePaths orders paths as a walk visits them: name by name.
func ComparePaths(a, b backstay.FilePath) int {
	n := min(len(a), len(b))
	for i := range n {
		x, y := a[i], b[i]
		switch {
		case x == y:
			continue
		case x == '/':
			return -1
		case y == '/' || x > y:
			return 1
		default:
			return -1
		}
	}
	return len(a) - len(b)
}

// RowWriter writes rows: for each one byte (index of the type, 0x80 if Unread), how
// many bytes of the path are those of the row before, how many follow, these, and
// size, mod time, changed and inode, all of them varints. A byte 0xff ends the stream.
type RowWriter struct {
	w    *bufio.Writer
	last backstay.FilePath
	buf  []byte
}

// NewRowWriter returns a writer of rows to w.
func NewRowWriter(w io.Writer) *RowWriter { return &RowWriter{w: bufio.NewWriterSize(w, 64<<10)} }

const (
	rowUnread = 0x80
	rowsEnd   = 0xff
)

// Write adds a row.
func (w *RowWriter) Write(r Row) error {
	kind := byte(0)
	for i, t := range rowTypes {
		if t == r.Type {
			kind = byte(i)
		}
	}
	if r.Unread {
		kind |= rowUnread
	}
	same := 0
	for same < min(len(w.last), len(r.Path)) && w.last[same] == r.Path[same] {
		same++
	}
	b := append(w.buf[:0], kind)
	b = binary.AppendUvarint(b, uint64(same))
	b = binary.AppendUvarint(b, uint64(len(r.Path)-same))
	b = append(b, r.Path[same:]...)
	b = binary.AppendUvarint(b, uint64(max(r.Size, 0)))
	b = binary.AppendVarint(b, r.ModTime)
	b = binary.AppendVarint(b, r.Changed)
	b = binary.AppendUvarint(b, r.Inode)
	w.buf, w.last = b, r.Path
	_, err := w.w.Write(b)
	return err
}

// Close writes the end and flushes. It does not close what is below.
func (w *RowWriter) Close() error {
	if err := w.w.WriteByte(rowsEnd); err != nil {
		return err
	}
	return w.w.Flush()
}

// ErrBadRows is what a stream of rows gets that is none.
var ErrBadRows = errors.New("the rows of the small machine are malformed")

// RowReader reads what a RowWriter wrote, and believes none of it.
type RowReader struct {
	r    *bufio.Reader
	last []byte
	any  bool
}

// NewRowReader returns a reader of rows from r.
func NewRowReader(r io.Reader) *RowReader { return &RowReader{r: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the next row, and io.EOF behind the last one. A stream that breaks off
// is io.ErrUnexpectedEOF; one that is out of order or malformed ErrBadRows.
func (r *RowReader) Next() (Row, error) {
	kind, err := r.r.ReadByte()
	if err != nil {
		return Row{}, early(err)
	}
	if kind == rowsEnd {
		return Row{}, io.EOF
	}
	n := int(kind &^ rowUnread)
	if n >= len(rowTypes) {
		return Row{}, fmt.Errorf("type %d: %w", kind, ErrBadRows)
	}
	row := Row{Type: rowTypes[n], Unread: kind&rowUnread != 0}
	if row.Path, err = r.path(); err != nil {
		return Row{}, err
	}
	size, err := binary.ReadUvarint(r.r)
	if err == nil {
		row.ModTime, err = binary.ReadVarint(r.r)
	}
	if err == nil {
		row.Changed, err = binary.ReadVarint(r.r)
	}
	if err == nil {
		row.Inode, err = binary.ReadUvarint(r.r)
	}
	if row.Size = int64(size); err != nil || row.Size < 0 {
		return Row{}, broken(err)
	}
	return row, nil
}

// path reads the path of a row, which must follow the one before.
func (r *RowReader) path() (backstay.FilePath, error) {
	same, err := binary.ReadUvarint(r.r)
	if err != nil {
		return "", broken(err)
	}
	more, err := binary.ReadUvarint(r.r)
	if err != nil {
		return "", broken(err)
	}
	if same > uint64(len(r.last)) || more > MaxPath || same+more > MaxPath {
		return "", fmt.Errorf("a path of %d bytes: %w", more, ErrBadRows)
	}
	tail := make([]byte, more)
	if _, err := io.ReadFull(r.r, tail); err != nil {
		return "", broken(err)
	}
	path := backstay.FilePath(string(r.last[:same]) + string(tail))
	switch {
	case !CleanPath(path):
		return "", fmt.Errorf("path %q: %w", path, ErrBadRows)
	case r.any && ComparePaths(path, backstay.FilePath(r.last)) <= 0:
		return "", fmt.Errorf("path %q is behind one that follows it: %w", path, ErrBadRows)
	}
	r.last, r.any = append(r.last[:same], tail...), true
	return path, nil
}

// CleanPath tells whether a path begins with "/" and consists of names that a file
// system can have.
func CleanPath(p backstay.FilePath) bool {
	if len(p) < 2 || p[0] != '/' || len(p) > MaxPath || strings.IndexByte(string(p), 0) >= 0 {
		return false
	}
	for name := range strings.SplitSeq(string(p[1:]), "/") {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	return true
}

func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func broken(err error) error {
	if err == nil {
		return ErrBadRows
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrBadRows, err)
}

// Rows are the rows of a stream, in order. The first error ends it.
func Rows(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for in := NewRowReader(r); ; {
			row, err := in.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}
