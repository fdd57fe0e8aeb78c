package items

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
)

// Reader reads a stream of items from somebody who is not believed. What it returns keeps
// to the rules of Item and to the limits; it holds one run in memory, the folders that
// are open and a fingerprint of each Linked item. It is for one goroutine.
type Reader struct {
	r       *bufio.Reader
	started bool
	err     error // after which nothing more is read
	header  []byte
	run     []byte

	items, bytes uint64
	item         Item
	open         bool  // item's end was not read yet
	at           int64 // where its next content may begin
	extent       int   // of item.Extents, in which that is

	folders []string // the open ones, each a path within the one before
	seed    maphash.Seed
	linked  map[uint64]struct{}
	paths   int // bytes of the linked items' paths
	asked   []backstay.FilePath
}

// NewReader reads a stream from r, to the end of r: behind the end mark there must be nothing.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 256<<10), seed: maphash.MakeSeed(), linked: map[uint64]struct{}{}}
}

// Only makes every item an error that nobody asked for: one that is none of paths, lies
// in none of them, and is no folder in which one of them lies. Whoever sends the stream
// could else write to any place of the target. No paths mean that all was asked for.
func (r *Reader) Only(paths []backstay.FilePath) *Reader {
	r.asked = paths
	return r
}

// Asked are the paths, for Only, of the items of what was asked to be taken: paths of a
// volume, and the folder to which the items' paths are relative; "" means the parent of
// each. It is nil if that is all of a folder, under whatever names.
func Asked(paths []backstay.FilePath, strip backstay.FilePath) []backstay.FilePath {
	above := strings.TrimRight(string(strip), "/")
	var asked []backstay.FilePath
	for _, p := range paths {
		path := strings.TrimRight(string(p), "/")
		relative := path[strings.LastIndexByte(path, '/')+1:]
		if strip != "" {
			relative = strings.TrimLeft(strings.TrimPrefix(path, above), "/")
		}
		if relative == "" {
			return nil
		}
		asked = append(asked, backstay.FilePath(relative))
	}
	return asked
}

func (r *Reader) checkAsked(it *Item) error {
	for _, asked := range r.asked {
		if within(it.Path, asked) || it.Type == backstay.TypeFolder && within(asked, it.Path) {
			return nil
		}
	}
	if len(r.asked) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnasked, it.Path)
}

// within tells whether a path is a folder or lies in it.
func within(path, folder backstay.FilePath) bool {
	return strings.HasPrefix(string(path), string(folder)) && (len(path) == len(folder) || path[len(folder)] == '/')
}

// Next returns the next item, past what is left of the content of the one before. At the
// end of a whole stream it returns io.EOF; every other error is final too.
func (r *Reader) Next() (Item, error) {
	for r.open {
		var broken *Broken
		if _, err := r.Run(); err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &broken) {
			return Item{}, err
		}
	}
	if r.err != nil {
		return Item{}, r.err
	}
	it, err := r.next()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read item %d: %w", r.items+1, err)
		}
		r.err = err
		return Item{}, err
	}
	r.items++
	r.item, r.open, r.at, r.extent = it, true, 0, 0
	return it, nil
}

func (r *Reader) next() (Item, error) {
	if err := r.start(); err != nil {
		return Item{}, err
	}
	mark, err := r.r.ReadByte()
	switch {
	case err != nil:
		return Item{}, cut(err)
	case mark == markLast:
		return Item{}, r.last()
	case mark != markItem:
		return Item{}, fmt.Errorf("%w: a record %q", ErrFormat, mark)
	}
	var size [4]byte
	if _, err := io.ReadFull(r.r, size[:]); err != nil {
		return Item{}, cut(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxHeader {
		return Item{}, fmt.Errorf("%w: an item of %d bytes", ErrTooBig, n)
	}
	if cap(r.header) < int(n) {
		r.header = make([]byte, n, max(4096, n))
	}
	r.header = r.header[:n]
	if _, err := io.ReadFull(r.r, r.header); err != nil {
		return Item{}, cut(err)
	}
	it, err := decodeItem(r.header)
	if err != nil {
		return Item{}, err
	}
	return it, r.check(&it)
}

func (r *Reader) start() error {
	if r.started {
		return nil
	}
	var head [len(magic)]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return cut(err)
	}
	if string(head[:]) != magic {
		return ErrFormat
	}
	r.started = true
	return nil
}

// last reads the end mark and returns io.EOF if the stream is whole.
func (r *Reader) last() error {
	var last [16]byte
	if _, err := io.ReadFull(r.r, last[:]); err != nil {
		return cut(err)
	}
	if binary.BigEndian.Uint64(last[:]) != r.items || binary.BigEndian.Uint64(last[8:]) != r.bytes {
		return ErrCount
	}
	switch _, err := r.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("%w: something behind the end mark", ErrFormat)
	case !errors.Is(err, io.EOF):
		return err
	}
	return io.EOF
}

// Run returns the next content of the item. At its end it returns io.EOF, or a *Broken if
// the content could not be read to its end; the stream goes on after both. What lies between
// two runs and behind the last is a hole.
func (r *Reader) Run() (Run, error) {
	if r.err != nil {
		return Run{}, r.err
	}
	if !r.open {
		return Run{}, io.EOF
	}
	run, err := r.next1()
	var broken *Broken
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &broken) {
		err = fmt.Errorf("read content of %s: %w", r.item.Path, err)
		r.err, r.open = err, false
	}
	return run, err
}

func (r *Reader) next1() (Run, error) {
	mark, err := r.r.ReadByte()
	switch {
	case err != nil:
		return Run{}, cut(err)
	case mark == markEnd:
		return Run{}, r.end()
	case mark != markRun:
		return Run{}, fmt.Errorf("%w: a record %q", ErrFormat, mark)
	}
	var head [12]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return Run{}, cut(err)
	}
	offset, n := int64(binary.BigEndian.Uint64(head[:])), int64(binary.BigEndian.Uint32(head[8:]))
	if err := r.fits(offset, n); err != nil {
		return Run{}, err
	}
	if int64(cap(r.run)) < n {
		r.run = make([]byte, n, max(64<<10, n))
	}
	r.run = r.run[:n]
	if _, err := io.ReadFull(r.r, r.run); err != nil {
		return Run{}, cut(err)
	}
	r.at = offset + n
	r.bytes += uint64(n)
	return Run{Offset: offset, Data: r.run}, nil
}

// fits tells whether content may be where the stream says that it is.
func (r *Reader) fits(offset, n int64) error {
	it := &r.item
	switch {
	case it.Type != backstay.TypeFile || it.HardLink != "" || it.Error != "":
		return ErrContent
	case n == 0 || n > MaxRun:
		return fmt.Errorf("%w: a run of %d bytes", ErrTooBig, n)
	case offset < r.at || offset > it.Size-n:
		return fmt.Errorf("%w: %d bytes at %d, of %d bytes in all, behind those up to %d", ErrContent, n, offset, it.Size, r.at)
	case !it.Sparse:
		return nil
	}
	for ; r.extent < len(it.Extents); r.extent++ {
		if e := it.Extents[r.extent]; offset < e.Offset+e.Length {
			if offset < e.Offset || offset+n > e.Offset+e.Length {
				break
			}
			return nil
		}
	}
	return fmt.Errorf("%w: %d bytes at %d, which was said to be a hole", ErrContent, n, offset)
}

func (r *Reader) end() error {
	var size [2]byte
	if _, err := io.ReadFull(r.r, size[:]); err != nil {
		return cut(err)
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > MaxText {
		return fmt.Errorf("%w: a reason of %d bytes", ErrTooBig, n)
	}
	reason := make([]byte, n)
	if _, err := io.ReadFull(r.r, reason); err != nil {
		return cut(err)
	}
	r.open = false
	if n == 0 {
		return io.EOF
	}
	return &Broken{Path: r.item.Path, Reason: printable(string(reason))}
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return err
}

// check holds the item to the rules of Item, and notes what later ones are held to.
func (r *Reader) check(it *Item) error {
	if err := CheckPath(it.Path); err != nil {
		return err
	}
	if err := r.checkAsked(it); err != nil {
		return err
	}
	if err := r.checkFolder(it); err != nil {
		return err
	}
	file := it.Type == backstay.TypeFile && it.HardLink == ""
	switch {
	case strings.IndexByte(string(it.Target), 0) >= 0 || (it.Target != "") != (it.Type == backstay.TypeLink) && it.Error == "":
		return fmt.Errorf("%w: a link to %q", ErrPath, it.Target)
	case it.Size != 0 && it.Type != backstay.TypeFile, it.Sparse && !file, !it.Sparse && len(it.Extents) > 0:
		return fmt.Errorf("%w: %s", ErrContent, it.Path)
	}
	var at int64
	for _, e := range it.Extents {
		if e.Length == 0 || e.Offset < at || e.Offset > it.Size-e.Length {
			return fmt.Errorf("%w: %d bytes at %d of %s", ErrContent, e.Length, e.Offset, it.Path)
		}
		at = e.Offset + e.Length
	}
	for _, x := range it.Xattrs {
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("%w: an extended attribute %q", ErrPath, x.Name)
		}
	}
	return r.checkLinks(it)
}

// checkFolder sees that the item lies in one of the folders that are open, which ends
// those within it. So all that is remembered of the folders is one path's.
func (r *Reader) checkFolder(it *Item) error {
	path := string(it.Path)
	parent := ""
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent = path[:i]
	}
	n := len(r.folders)
	for n > 0 && r.folders[n-1] != parent {
		n--
	}
	if n == 0 && parent != "" {
		return fmt.Errorf("%w: %s", ErrOrder, it.Path)
	}
	r.folders = r.folders[:n]
	if it.Type == backstay.TypeFolder {
		r.folders = append(r.folders, path)
	}
	return nil
}

func (r *Reader) checkLinks(it *Item) error {
	if it.HardLink != "" {
		_, ok := r.linked[maphash.String(r.seed, string(it.HardLink))]
		if !ok || it.Linked || it.Type == backstay.TypeFolder || it.HardLink == it.Path {
			return fmt.Errorf("%w: %s", ErrHardLink, it.HardLink)
		}
	}
	if it.Linked {
		if it.Type == backstay.TypeFolder {
			return fmt.Errorf("%w: the folder %s", ErrHardLink, it.Path)
		}
		r.paths += len(it.Path)
		r.linked[maphash.String(r.seed, string(it.Path))] = struct{}{}
		if len(r.linked) > MaxLinked || r.paths > MaxLinkedBytes {
			return fmt.Errorf("%w: files with several names", ErrTooBig)
		}
	}
	return nil
}

// CheckPath tells whether a path may be an item's: relative, of names that are neither
// empty nor "." nor "..", without NUL, within the limits.
func CheckPath(path backstay.FilePath) error {
	if path == "" || len(path) > MaxPath || strings.IndexByte(string(path), 0) >= 0 {
		return fmt.Errorf("%w: %.80q", ErrPath, string(path))
	}
	depth := 0
	for name := range strings.SplitSeq(string(path), "/") {
		depth++
		if name == "" || name == "." || name == ".." || len(name) > MaxName || depth > MaxDepth {
			return fmt.Errorf("%w: %.80q", ErrPath, string(path))
		}
	}
	return nil
}
