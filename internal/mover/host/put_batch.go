package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strconv"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/mover"
)

// Small files are written many at a time, since each script in a guest takes as
// long as many of them.
const (
	smallFile      = 256 << 10 // bytes
	mostBatch      = 128       // items
	mostBatchBytes = 4 << 20
)

// putBatch is what is written together.
type putBatch struct {
	all   []*putItem
	bytes int64
}

// write writes a batch beside its places, verifies it there, and empties it. stream
// has the content of the only item, if it is not in memory.
func (p *put) write(ctx context.Context, b *putBatch, stream *items.Reader) error {
	all := b.all
	*b = putBatch{}
	if len(all) == 0 {
		return nil
	}
	if err := p.look(ctx, all); err != nil {
		return err
	}
	var entries []*putItem
	var folders []*putItem
	for _, i := range all {
		p.linked[string(i.Path)] = i
		switch {
		case i.left:
			p.report.Skipped++
		case i.Type == backstay.TypeFolder && i.was == "none":
			folders = append(folders, i)
		case i.Type != backstay.TypeFolder:
			entries = append(entries, i)
		}
	}
	if err := p.makeFolders(ctx, folders); err != nil {
		return err
	}
	if err := p.journal(entries); err != nil {
		return err
	}
	if err := p.makeFiles(ctx, entries); err != nil {
		return err
	}
	for _, i := range entries {
		if err := p.writeContent(ctx, i, stream); err != nil {
			return err
		}
		i.small = nil // or all content stays in memory until the end
	}
	return p.finish(ctx, entries)
}

// look finds out what is where the items go, and decides.
func (p *put) look(ctx context.Context, all []*putItem) error {
	var s script
	byNumber := map[int]*putItem{}
	for _, i := range all {
		s.call("look", i.n, i.dest)
		byNumber[i.n] = i
	}
	lines, err := s.run(ctx, p.agent, scriptPatience)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if i := byNumber[l.n]; i != nil {
			i.was = l.word
		}
	}
	for _, i := range all {
		rename, err := p.decide(i)
		if err == nil && rename {
			err = p.rename(ctx, i)
		}
		if err != nil {
			return err
		}
		if !i.left && i.Type != backstay.TypeFolder {
			p.claimed[i.dest] = true
		}
	}
	return nil
}

// rename finds a name for an item that is free in the guest, and that no other item
// goes to.
func (p *put) rename(ctx context.Context, i *putItem) error {
	for at := 1; ; at++ {
		var s script
		s.call("free", i.n, i.dest, strconv.Itoa(at))
		lines, err := s.run(ctx, p.agent, scriptPatience)
		if err != nil {
			return err
		}
		if len(lines) != 1 || lines[0].n != i.n || lines[0].word != "free" {
			return fmt.Errorf("put %s: the guest did not say which name is free", backstay.FilePath(i.dest))
		}
		if at, err = strconv.Atoi(lines[0].rest); err != nil {
			return fmt.Errorf("put %s: the guest did not say which name is free: %w", backstay.FilePath(i.dest), err)
		}
		if dest := i.dest + "." + lines[0].rest; !p.claimed[dest] {
			i.dest, i.was = dest, "none"
			return nil
		}
	}
}

// decide says what becomes of an item where something is already, and whether it gets
// another name.
func (p *put) decide(i *putItem) (rename bool, err error) {
	blocked := func(what string) error {
		return backstay.Errorf(backstay.CodePutFailed, "%s cannot take its place in the guest", i.dest).Becausef("%s is there", what).
			Do("move it away in the guest, or name another folder with --to")
	}
	switch {
	case i.Type == backstay.TypeFolder:
		if i.was != "none" && i.was != "folder" && i.was != "link" {
			return false, blocked("what is no folder")
		}
		return false, nil // a link to no folder shows when something is written into it
	case i.was == "none":
		return p.claimed[i.dest], nil // another item was renamed to this, and is not there yet
	case i.was == "folder":
		return false, blocked("a folder")
	case i.was != "file" && i.was != "link":
		return false, blocked("what is neither a file nor a link")
	}
	switch p.Conflict {
	case backstay.ConflictSkip:
		i.left = true
	case backstay.ConflictRename:
		return true, nil
	case backstay.ConflictOverwrite:
	default:
		return false, backstay.Errorf(backstay.CodeFileExists, "%s is there already in the guest", backstay.FilePath(i.dest)).
			Becausef("nothing was said about files that are there").Do("say --on-conflict overwrite, rename or skip")
	}
	return false, nil
}

// above makes To and the folders above it, where the guest has none.
func (p *put) above(ctx context.Context) error {
	chain := []*putItem{}
	for dir := path.Clean(string(p.To)); dir != "/"; dir = path.Dir(dir) {
		p.n++
		chain = append([]*putItem{{n: p.n, dest: dir, Item: items.Item{Type: backstay.TypeFolder, Mode: 0o755}}}, chain...)
	}
	if len(chain) == 0 {
		return nil
	}
	if err := p.look(ctx, chain); err != nil {
		return err
	}
	var missing []*putItem
	for _, i := range chain {
		if i.was == "none" {
			missing = append(missing, i)
		}
	}
	return p.makeFolders(ctx, missing)
}

// makeFolders makes folders; those above others come first.
func (p *put) makeFolders(ctx context.Context, all []*putItem) error {
	var s script
	var names []backstay.FilePath
	for _, i := range all {
		if p.made[i.dest] {
			continue
		}
		p.made[i.dest] = true
		names = append(names, backstay.FilePath(i.dest))
		s.call("folder", i.n, i.dest)
		p.folders = append(p.folders, i)
	}
	if len(names) == 0 {
		return nil
	}
	if err := p.log.add(putLine{Folders: names}); err != nil {
		return err
	}
	p.report.Folders += len(names)
	return p.obey(ctx, &s, scriptPatience, all)
}

// obey runs a script; whatever it could not do is an error, and what it could do only
// in part a warning.
func (p *put) obey(ctx context.Context, s *script, patience time.Duration, all []*putItem) error {
	lines, err := s.run(ctx, p.agent, patience)
	if err != nil {
		return err
	}
	byNumber := map[int]*putItem{}
	for _, i := range all {
		byNumber[i.n] = i
	}
	for _, l := range lines {
		i := byNumber[l.n]
		if i == nil {
			continue
		}
		switch l.word {
		case "no":
			return fmt.Errorf("put %s: the guest says: %s", backstay.FilePath(i.dest), guestagent.Shown(l.rest, guestagent.MostOfError))
		case "weak":
			p.warn("%s has not got its %s again", backstay.FilePath(i.dest), guestagent.Shown(l.rest, guestagent.MostOfError))
		case "sum":
			if l.rest != i.sum {
				return backstay.Errorf(backstay.CodePutFailed, "%s is not in the guest as it was written", backstay.FilePath(i.dest)).
					Becausef("its SHA-256 there is %s, and should be %s", guestagent.Shown(l.rest, 64), i.sum)
			}
			i.verified = true
		case "node":
			i.inode = l.rest
		}
	}
	return nil
}

// journal says what will be written.
func (p *put) journal(entries []*putItem) error {
	if len(entries) == 0 {
		return nil
	}
	var line putLine
	for _, i := range entries {
		line.Entries = append(line.Entries, putEntry{N: i.n, Path: backstay.FilePath(i.dest)})
	}
	p.entries = append(p.entries, entries...)
	return p.log.add(line)
}

// makeFiles makes the files that content is written to, so that nobody but the agent's
// user can open them.
func (p *put) makeFiles(ctx context.Context, entries []*putItem) error {
	var s script
	for _, i := range entries {
		if i.hasContent() {
			s.call("fresh", i.n, p.beside(i))
		}
	}
	return p.obey(ctx, &s, scriptPatience, entries)
}

func (i *putItem) hasContent() bool { return i.Type == backstay.TypeFile && i.HardLink == "" }

// writeContent writes a file's content beside its place.
func (p *put) writeContent(ctx context.Context, i *putItem, stream *items.Reader) (err error) {
	if !i.hasContent() {
		return nil
	}
	f, err := p.agent.Create(ctx, p.beside(i))
	if err != nil {
		return fmt.Errorf("put %s: %w", backstay.FilePath(i.dest), err)
	}
	defer func() { err = errors.Join(err, f.Close(ctx)) }()
	sum := &sparseSum{Hash: sha256.New()}
	next := i.next
	if stream != nil {
		next = stream.Run
	}
	for {
		run, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", i.Path, err)
		}
		sum.add(run)
		if err := f.WriteAt(ctx, run.Offset, run.Data); err != nil {
			return fmt.Errorf("put %s: %w", backstay.FilePath(i.dest), err)
		}
		p.report.Bytes += int64(len(run.Data))
		p.progress(mover.Report{Phase: "put", Done: p.report.Bytes, Total: p.report.Bytes})
	}
	sum.zeros(i.Size)
	i.sum = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// next returns a small file's runs.
func (i *putItem) next() (items.Run, error) {
	if len(i.small) == 0 {
		return items.Run{}, io.EOF
	}
	run := i.small[0]
	i.small = i.small[1:]
	return run, nil
}

// sparseSum hashes content with its holes.
type sparseSum struct {
	hash.Hash
	at int64
}

var someZeros [64 << 10]byte

func (s *sparseSum) zeros(until int64) {
	for s.at < until {
		n := min(int64(len(someZeros)), until-s.at)
		_, _ = s.Write(someZeros[:n]) // a hash never fails
		s.at += n
	}
}

func (s *sparseSum) add(run items.Run) {
	s.zeros(run.Offset)
	_, _ = s.Write(run.Data)
	s.at += int64(len(run.Data))
}

// finish makes what has no content, gives all their owners, modes and times, and
// verifies them.
func (p *put) finish(ctx context.Context, entries []*putItem) error {
	var s script
	var bytes int64
	for _, i := range entries {
		beside := p.beside(i)
		switch {
		case i.Type == backstay.TypeLink:
			s.call("link", i.n, beside, string(i.Target))
			s.meta(i.n, beside, &i.Item)
		case i.HardLink != "":
			first := p.linked[string(i.HardLink)]
			if first == nil || first.left || first.Type != backstay.TypeFile {
				p.warn("%s was not put: it is another name of %s, which was not", i.Path, i.HardLink)
				i.left = true
				continue
			}
			s.call("same", i.n, beside, p.beside(first))
		default:
			s.call("size", i.n, beside, fmt.Sprint(i.Size))
			s.meta(i.n, beside, &i.Item)
			s.call("sum", i.n, beside)
			bytes += i.Size
		}
		s.call("node", i.n, beside)
	}
	if err := p.obey(ctx, &s, scriptPatience+time.Duration(bytes/slowestRead)*time.Second, entries); err != nil {
		return err
	}
	for _, i := range entries {
		if !i.left && (i.inode == "" || i.hasContent() && !i.verified) {
			return fmt.Errorf("put %s: the guest did not say that it is there", backstay.FilePath(i.dest))
		}
	}
	return nil
}
