package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	backstay "github.com/backstay/backstay"
)

const (
	mib = 1 << 20
	gib = 1 << 30
	// largeFile is the size of the files in which pages are written.
	largeFile = 128 * mib
	// largeDir and newDir are folders of the image's file system.
	largeDir, newDir = "srv/large", "srv/new"
)

// dataOf is how much of a disk is real data: 5.7 of 8 GiB.
func dataOf(size int64) int64 { return size / 80 * 57 }

// largeFiles is how many of them there are: two fifths of the data, so that random
// pages touch most chunks of 1 MiB at most once, as a database's do.
func largeFiles(data int64) int64 { return max(1, data*2/5/largeFile) }

// sourceFile is a file of this machine whose content goes into images.
type sourceFile struct {
	Path string `json:"p"`
	Size int64  `json:"s"`
}

// sources lists real files root by root, and in each folder by folder in an order
// that depends on their names only.
func sources(roots []string) ([]sourceFile, error) {
	var all []sourceFile
	inodes := map[uint64]bool{}
	for _, root := range roots {
		folders, err := filesBelow(root, inodes)
		if err != nil {
			return nil, err
		}
		for _, dir := range slices.SortedFunc(maps.Keys(folders), byHash) {
			all = append(all, folders[dir]...)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no files below %s", strings.Join(roots, ", "))
	}
	return all, nil
}

// filesBelow lists the files of each folder below a root, of hard links one.
func filesBelow(root string, inodes map[uint64]bool) (map[string][]sourceFile, error) {
	folders := map[string][]sourceFile{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return nil // it vanished, or holds nothing
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if inodes[st.Ino] {
				return nil
			}
			inodes[st.Ino] = true
		}
		dir := filepath.Dir(path)
		folders[dir] = append(folders[dir], sourceFile{path, info.Size()})
		return nil
	})
	return folders, err
}

// byHash orders names as if at random, and always in the same way.
func byHash(a, b string) int {
	key := func(s string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(s)) // never fails (hash.Hash)
		return h.Sum64()
	}
	return cmp.Or(cmp.Compare(key(a), key(b)), strings.Compare(a, b))
}

// sourceRoots are where real files come from: the system's own, which are what a
// guest's disk holds, and behind them Go's, for what those do not fill and for
// new files.
func sourceRoots(ctx context.Context) []string {
	roots := []string{"/usr"}
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE").Output()
	if err == nil {
		for _, dir := range strings.Fields(string(out)) {
			if dir != "" && !strings.HasPrefix(dir, "/usr/") {
				roots = append(roots, dir)
			}
		}
	}
	return roots
}

// stream is the content of all source files one behind the other, again and
// again, each time shifted so that nothing repeats in the same place.
type stream struct {
	files []sourceFile
	next  int
	round int
	open  *os.File
}

// newStream leaves out the files that lie within the first skip bytes.
func newStream(files []sourceFile, skip int64) *stream {
	s := &stream{files: files}
	for skip >= s.files[s.next].Size {
		skip -= s.files[s.next].Size
		s.advance()
	}
	return s
}

func (s *stream) advance() {
	if s.next++; s.next == len(s.files) {
		s.next, s.round = 0, s.round+1
	}
}

// Read never ends, unless none of the files is left. Those that vanished since they
// were listed are left out.
func (s *stream) Read(b []byte) (int, error) {
	for range 2*len(s.files) + 2 {
		if s.open == nil {
			f, err := os.Open(s.files[s.next].Path)
			if err == nil {
				_, err = f.Seek(int64(s.round*611), io.SeekStart)
			}
			s.advance()
			if err != nil {
				continue
			}
			s.open = f
		}
		n, err := s.open.Read(b)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			_ = s.open.Close()
			s.open = nil
		}
	}
	return 0, errors.New("the files whose content goes into images are gone")
}

func (s *stream) close() {
	if s.open != nil {
		_ = s.open.Close()
	}
}

// mounted mounts an image, calls fn with the folder, and unmounts it. What fn
// wrote is in the image then.
func mounted(ctx context.Context, image string, fn func(dir string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(image), "mount-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	if err := tool(ctx, "mount", "-t", "ext4", "-o", "loop,noinit_itable,noatime", image, dir); err != nil {
		return err
	}
	err = fn(dir)
	// A scan by someone else may hold it for a moment; not being unmounted is fatal.
	return errors.Join(err, tool(context.WithoutCancel(ctx), "umount", dir))
}

func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(string(out)))
	}
	return nil
}

// makeImage generates the first state: an ext4 file system with real files and
// some large ones, on a sparse raw image.
func makeImage(ctx context.Context, t task) (map[string]float64, error) {
	files, err := sources(sourceRoots(ctx))
	if err != nil {
		return nil, err
	}
	if err := saveSources(t.Sources, files); err != nil {
		return nil, err
	}
	f, err := os.Create(t.Out)
	if err == nil {
		err = errors.Join(f.Truncate(t.Bytes), f.Close())
	}
	if err != nil {
		return nil, err
	}
	err = tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", t.Out)
	if err != nil {
		return nil, err
	}
	said := map[string]float64{}
	err = mounted(ctx, t.Out, func(dir string) error {
		used, copied, err := fill(ctx, dir, files, dataOf(t.Bytes))
		said["files"], said["bytes"] = float64(copied), float64(used)
		return err
	})
	return said, err
}

// fill lays the large files and then copies of real files until the budget is
// used up. The sources behind the copied files go into the large ones; what is
// behind those is for new files.
func fill(ctx context.Context, dir string, files []sourceFile, budget int64) (used int64, copied int, err error) {
	large := largeFiles(budget)
	s := newStream(files, max(0, budget-large*largeFile)%total(files))
	defer s.close()
	if err := os.MkdirAll(filepath.Join(dir, largeDir), 0o755); err != nil {
		return 0, 0, err
	}
	for i := range large {
		if err := copyTo(filepath.Join(dir, largeDir, fmt.Sprintf("table-%02d", i)), s, largeFile); err != nil {
			return 0, 0, err
		}
		used += largeFile
	}
	for n := 0; used < budget; n++ {
		if ctx.Err() != nil {
			return used, copied, ctx.Err()
		}
		src := files[n%len(files)]
		size := min(src.Size, budget-used)
		path := filepath.Join(dir, src.Path)
		if n >= len(files) { // sources ran out: again, under other names and shifted
			path += fmt.Sprintf(".%d", n/len(files))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return used, copied, err
		}
		in, err := os.Open(src.Path)
		if err != nil {
			continue // it vanished
		}
		_, err = in.Seek(int64(n/len(files)*611), io.SeekStart)
		if err == nil {
			err = copyTo(path, in, size)
		}
		_ = in.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return used, copied, err
		}
		used += (size + block - 1) / block * block
		copied++
	}
	return used, copied, nil
}

func total(files []sourceFile) int64 {
	var sum int64
	for _, f := range files {
		sum += f.Size
	}
	return sum
}

func copyTo(path string, from io.Reader, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, from, size)
	return errors.Join(err, f.Close())
}

func saveSources(path string, files []sourceFile) error {
	data, err := json.Marshal(files)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func loadSources(path string) ([]sourceFile, error) {
	var files []sourceFile
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &files)
	}
	return files, err
}

// changeImage makes the change: random page writes inside the large files, and
// new files; from the third change on the new files of the last but one go. It
// says how much that is, and leaves the ranges that differ.
func changeImage(ctx context.Context, t task) (map[string]float64, error) {
	files, err := loadSources(t.Sources)
	if err != nil {
		return nil, err
	}
	before, err := fingerprint(t.Image)
	if err != nil {
		return nil, err
	}
	if t.Flat {
		err = changeBlocks(ctx, t, files)
	} else {
		err = mounted(ctx, t.Image, func(dir string) error { return changeFiles(ctx, dir, files, t) })
	}
	if err != nil {
		return nil, err
	}
	after, err := fingerprint(t.Image)
	if err != nil {
		return nil, err
	}
	ranges := before.changes(after)
	data, err := json.Marshal(ranges)
	if err == nil {
		err = os.WriteFile(t.Ranges, data, 0o644)
	}
	if err != nil {
		return nil, err
	}
	said := map[string]float64{"runs": float64(len(ranges))}
	for name, size := range map[string]int64{"4k": block, "64k": 64 << 10, "1m": mib, "4m": 4 * mib} {
		said[name] = float64(inBlocks(ranges, size))
	}
	together, single, err := squeeze(t.Image, ranges)
	said["squeezed"], said["single"] = float64(together), float64(single)
	return said, err
}

// sizes of a change: how many pages are written in place, and how many bytes are
// new, as of 8 GiB 5,000 and 100 MiB.
func (t task) change() (pages, fresh int64) {
	return t.Bytes * 5000 / (8 * gib), t.Bytes * 100 / 8192
}

// content is what the step-th change writes. It lies behind the content of the
// first image, each change in its place.
func (t task) content(files []sourceFile) *stream {
	pages, fresh := t.change()
	return newStream(files, (dataOf(t.Bytes)+int64(t.Step)*(fresh+pages*block))%total(files))
}

// pieceSize is the size of a new file: from 4 to 260 KiB, small ones more often.
func pieceSize(r *rand.Rand) int64 { return int64(block)<<r.IntN(7) + r.Int64N(block) }

func changeFiles(ctx context.Context, dir string, files []sourceFile, t task) error {
	pages, fresh := t.change()
	r := rand.New(rand.NewPCG(uint64(t.Step), 20))
	s := t.content(files)
	defer s.close()
	if err := writePages(filepath.Join(dir, largeDir), r, s, pages); err != nil {
		return err
	}
	if t.Step > 2 {
		if err := os.RemoveAll(filepath.Join(dir, newDir, fmt.Sprint(t.Step-2))); err != nil {
			return err
		}
	}
	into := filepath.Join(dir, newDir, fmt.Sprint(t.Step))
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	for n := 0; fresh > 0; n++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		size := min(fresh, pieceSize(r))
		if err := copyTo(filepath.Join(into, fmt.Sprintf("file-%05d", n)), s, size); err != nil {
			return err
		}
		fresh -= size
	}
	return nil
}

// changeBlocks is the change for an image of which nothing is known: pages at
// random places of its data, and new content over runs of it. No file system
// survives that, and none is needed.
func changeBlocks(ctx context.Context, t task, files []sourceFile) error {
	pages, fresh := t.change()
	r := rand.New(rand.NewPCG(uint64(t.Step), 21))
	s := t.content(files)
	defer s.close()
	var runs []backstay.Range // of at least a page, without holes
	var data int64
	err := eachData(t.Image, func(d dataRun) error {
		run := backstay.Range{Offset: (d.from + block - 1) / block * block}
		if run.Length = d.to/block*block - run.Offset; run.Length > 0 {
			runs = append(runs, run)
			data += run.Length
		}
		return nil
	})
	if err != nil {
		return err
	}
	if data == 0 {
		return errors.New("the image holds no data")
	}
	f, err := os.OpenFile(t.Image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, mib)
	write := func(length int64) (int64, error) {
		at := r.Int64N(data/block) * block
		i := 0
		for ; at >= runs[i].Length; i++ {
			at -= runs[i].Length
		}
		length = min(max(length/block*block, block), runs[i].Length-at)
		if _, err := io.ReadFull(s, buf[:length]); err != nil {
			return 0, err
		}
		_, err := f.WriteAt(buf[:length], runs[i].Offset+at)
		return length, errors.Join(err, ctx.Err())
	}
	for range pages {
		if _, err := write(block); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	for fresh > 0 {
		n, err := write(min(fresh, pieceSize(r)))
		if err != nil {
			return errors.Join(err, f.Close())
		}
		fresh -= n
	}
	return f.Close()
}

// writePages writes pages of real content at random places of the large files.
func writePages(dir string, r *rand.Rand, from io.Reader, pages int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close()
		}
	}()
	for _, e := range entries {
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		open = append(open, f)
	}
	if len(open) == 0 {
		return fmt.Errorf("%s holds no large files", dir)
	}
	page := make([]byte, block)
	for range pages {
		if _, err := io.ReadFull(from, page); err != nil {
			return err
		}
		if _, err := open[r.IntN(len(open))].WriteAt(page, r.Int64N(largeFile/block)*block); err != nil {
			return err
		}
	}
	return nil
}

// loadRanges reads what changeImage left.
func loadRanges(path string) ([]backstay.Range, error) {
	var ranges []backstay.Range
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &ranges)
	}
	return ranges, err
}
