package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// filesFolder is where the lists of the files of VMs are: one folder for each VM, named
// with its pseudonym. In it h-<number> is the head, of which the newest counts, and
// s-<ULID> a segment.
const filesFolder = "find/"

// FileList is the list of one VM's files in a vault, as it was when it was opened. It is
// an index: nothing of a point depends on it, the chain does not know it, and when it is
// lost it is made anew. What is in it is its caller's: a head, which names segments.
type FileList struct {
	v      *Vault
	folder string
	there  []string // objects of the list when it was opened
	number uint64   // of the newest head; 0 for none
	head   []byte
	damage error
}

// FileList opens the list of a VM's files. A list that does not exist has no Head.
func (v *Vault) FileList(ctx context.Context, vm backstay.VMID) (*FileList, error) {
	item := v.keys.Item(vm)
	l := &FileList{v: v, folder: fmt.Sprintf("%s%x/", filesFolder, item)}
	err := v.store.List(ctx, l.folder, func(i blob.Info) error {
		l.there = append(l.there, i.Name)
		if n, ok := headNumber(i.Name); ok && n > l.number {
			l.number = n
		}
		return nil
	})
	if err != nil {
		return nil, readError("the list of files", err)
	}
	if l.number == 0 {
		return l, nil
	}
	l.head, err = l.read(ctx, l.headName(l.number))
	if backstay.IsCode(err, backstay.CodeDamaged) {
		l.damage, err = err, nil
	}
	return l, err
}

// Head returns what was committed last; nil if there is nothing, or nothing that could be
// read.
func (l *FileList) Head() []byte { return l.head }

// Damage says why the newest head could not be read; nil if it could, or there is none.
func (l *FileList) Damage() error { return l.damage }

func (l *FileList) headName(n uint64) string { return fmt.Sprintf("%sh-%016d", l.folder, n) }

func headNumber(object string) (uint64, bool) {
	_, digits, ok := strings.Cut(object, "/h-")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil && len(digits) == 16
}

// Get reads a segment. CodeDamaged if no copy shows it; it may be that a newer list
// took its place meanwhile.
func (l *FileList) Get(ctx context.Context, name string) ([]byte, error) {
	if _, err := ulid.ParseStrict(name); err != nil {
		return nil, backstay.Errorf(backstay.CodeDamaged, "the list of files names a segment that cannot be").Because(err)
	}
	return l.read(ctx, l.folder+"s-"+name)
}

// read opens an object in the first copy that shows it unharmed.
func (l *FileList) read(ctx context.Context, object string) ([]byte, error) {
	var errs []error
	for i, c := range l.v.copies {
		data, err := c.Get(ctx, object, 0, -1)
		var plain []byte
		if err == nil {
			plain, err = openFiles(l.v.keys, object, data)
		}
		if err == nil {
			return plain, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", unitName(ctx, c, i), err))
	}
	return nil, readError(object, errs...)
}

// Put keeps a segment and returns its name. It is in every copy when Put returns, and
// counts when a head that names it is committed.
func (l *FileList) Put(ctx context.Context, data []byte) (string, error) {
	name := ulid.Make().String()
	return name, l.write(ctx, l.folder+"s-"+name, data)
}

func (l *FileList) write(ctx context.Context, object string, data []byte) error {
	if err := l.v.own(); err != nil {
		return err
	}
	sealed, err := sealFiles(l.v.keys, l.v.header.Epoch, object, data)
	if err != nil {
		return err
	}
	if err := l.v.store.Put(ctx, object, sealed); err != nil {
		if errors.Is(err, blob.ErrExist) {
			return backstay.Errorf(backstay.CodeConflict, "the list of files was changed by another meanwhile").Because(err).
				Do("nothing is to be done: the next backup's index goes on from there")
		}
		return writeError(object, err)
	}
	return nil
}

// Commit makes a head the newest, and then removes what it does not need of what was
// there when the list was opened. So at every instant the newest head is one whose
// segments are all there; a crash leaves at most objects that nobody needs, which the
// next commit removes. Of two that were opened at one state only one commits; the other
// gets CodeConflict. Where no head was seen nothing is removed. segments are those that the
// head names.
func (l *FileList) Commit(ctx context.Context, head []byte, segments []string) error {
	if err := l.v.Unmixed(ctx); err != nil {
		return err
	}
	now := l.headName(l.number + 1)
	if err := l.write(ctx, now, head); err != nil {
		return err
	}
	if l.number == 0 {
		l.there = nil // segments without a head: the listing may have been short, and nothing is deleted for that (I6)
	}
	l.number++
	l.head, l.damage = head, nil
	there := []string{now}
	for _, object := range l.there {
		if slices.Contains(segments, strings.TrimPrefix(object, l.folder+"s-")) {
			there = append(there, object)
			continue
		}
		if err := l.v.store.Delete(ctx, object); err != nil {
			return writeError("removing "+object, err)
		}
	}
	for _, name := range segments {
		if object := l.folder + "s-" + name; !slices.Contains(there, object) {
			there = append(there, object)
		}
	}
	l.there = there
	return nil
}

const fileSalt = 16

// filesHead is the head of an object of a list of files: its id is a hash of its name.
func filesHead(keys *seal.Keys, object string, epoch uint32) seal.Head {
	sum := seal.Hash([]byte(object))
	return keys.Head(seal.Files, [16]byte(sum[:16]), epoch)
}

// sealFiles seals an object of a list of files, for its name alone.
func sealFiles(keys *seal.Keys, epoch uint32, object string, plain []byte) ([]byte, error) {
	head := filesHead(keys, object, epoch)
	out := head.Encode(nil)
	var salt [fileSalt]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	out = append(out, salt[:]...)
	box, err := keys.Box(head, salt[:])
	if err != nil {
		return nil, err
	}
	out = box.Seal(out, 0, plain, append(slices.Clone(out), object...))
	sum := seal.Hash(out)
	return append(out, sum[:]...), nil
}

// openFiles is sealFiles' inverse.
func openFiles(keys *seal.Keys, object string, data []byte) ([]byte, error) {
	if err := checkFiles(data); err != nil {
		return nil, err
	}
	head, err := keys.CheckHead(data, seal.Files, filesHead(keys, object, 0).ID)
	if err != nil {
		return nil, err
	}
	clear, end := data[:seal.HeadSize+fileSalt], len(data)-32
	box, err := keys.Box(head, clear[seal.HeadSize:])
	if err != nil {
		return nil, err
	}
	plain, err := box.Open(nil, 0, data[len(clear):end], append(slices.Clone(clear), object...))
	if err != nil {
		return nil, fmt.Errorf("open list of files: %w", err)
	}
	return plain, nil
}

// checkFiles checks an object of a list of files with no key.
func checkFiles(data []byte) error {
	end := len(data) - 32
	if end < seal.HeadSize+fileSalt+seal.Overhead || !seal.Equal(seal.Hash(data[:end]), [32]byte(data[end:])) {
		return fmt.Errorf("another hash than it says: %w", seal.ErrWrong)
	}
	return nil
}

// tidyFiles removes the lists of VMs that have no point any more. names are the objects
// of lists that were there before w was looked at: who makes a list has a point before.
// Heads go before what they name.
func (r *Reclaim) tidyFiles(ctx context.Context, w *view, names []string) error {
	keep := map[string]bool{}
	for _, p := range w.points {
		keep[fmt.Sprintf("%x", p.item)] = true
	}
	for _, name := range names {
		item, _, _ := strings.Cut(strings.TrimPrefix(name, filesFolder), "/")
		if keep[item] {
			continue
		}
		if err := r.v.store.Delete(ctx, name); err != nil {
			return writeError("removing "+name, err)
		}
	}
	return nil
}
