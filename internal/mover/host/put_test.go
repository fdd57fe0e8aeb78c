package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/items"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
)

// shellGuest is a running guest whose agent works on this machine's own files: the
// scripts of a put are run by a real shell with real tools.
type shellGuest struct {
	hypervisor.Host
	forbidden []string
	os        string
	// before is asked before each command; an error is the agent's answer.
	before func(command string, n int) error
	// script is asked before each script; an error is the agent's answer.
	script func(script []byte) error
	// spoil changes what is written.
	spoil func([]byte) []byte

	mu    sync.Mutex
	n     int
	files map[int64]*os.File
	ran   []guestRan
}

type guestRan struct {
	code     int
	out, err []byte
}

type guestQuestion struct {
	Execute   string `json:"execute"`
	Arguments struct {
		Path   string   `json:"path"`
		Arg    []string `json:"arg"`
		Input  []byte   `json:"input-data"`
		PID    int      `json:"pid"`
		Handle int64    `json:"handle"`
		Offset int64    `json:"offset"`
		Data   []byte   `json:"buf-b64"`
	} `json:"arguments"`
}

func (g *shellGuest) AgentCommand(ctx context.Context, _ backstay.VMID, command string, _ time.Duration) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var q guestQuestion
	if err := json.Unmarshal([]byte(command), &q); err != nil {
		return "", err
	}
	if slices.Contains(g.forbidden, q.Execute) {
		return "", fmt.Errorf("the command %s has been disabled for this instance", q.Execute)
	}
	if changes := q.Execute == "guest-exec" || strings.HasPrefix(q.Execute, "guest-file"); changes && g.before != nil {
		g.n++
		if err := g.before(q.Execute, g.n); err != nil {
			return "", err
		}
	}
	value, err := g.answer(&q)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"return": value})
	return string(text), err
}

func (g *shellGuest) answer(q *guestQuestion) (any, error) {
	a := &q.Arguments
	switch q.Execute {
	case "guest-info":
		var all []map[string]any
		for _, c := range []string{"guest-exec", "guest-exec-status", "guest-file-open", "guest-file-seek", "guest-file-write", "guest-file-close"} {
			all = append(all, map[string]any{"name": c, "enabled": !slices.Contains(g.forbidden, c)})
		}
		return map[string]any{"supported_commands": all}, nil
	case "guest-get-osinfo":
		return map[string]any{"id": g.os}, nil
	case "guest-file-open":
		_, none := os.Lstat(a.Path)
		f, err := os.Create(a.Path)
		if err == nil && none != nil {
			err = f.Chmod(0o666) // as QEMU's agent does with what it makes, whatever its umask
		}
		if err != nil {
			return nil, err
		}
		if g.files == nil {
			g.files = map[int64]*os.File{}
		}
		handle := int64(1000 + g.n)
		g.files[handle] = f
		return handle, nil
	case "guest-file-seek":
		at, err := g.files[a.Handle].Seek(a.Offset, io.SeekStart)
		return map[string]any{"position": at, "eof": false}, err
	case "guest-file-write":
		data := a.Data
		if g.spoil != nil {
			data = g.spoil(data)
		}
		n, err := g.files[a.Handle].Write(data)
		return map[string]any{"count": n, "eof": false}, err
	case "guest-file-close":
		return map[string]any{}, g.files[a.Handle].Close()
	case "guest-exec":
		if g.script != nil {
			if err := g.script(a.Input); err != nil {
				return nil, err
			}
		}
		cmd := exec.Command(a.Path, a.Arg...)
		var out, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(a.Input), &out, &stderr
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			return nil, err
		}
		g.ran = append(g.ran, guestRan{cmd.ProcessState.ExitCode(), out.Bytes(), stderr.Bytes()})
		return map[string]any{"pid": len(g.ran)}, nil
	case "guest-exec-status":
		r := g.ran[a.PID-1]
		encode := base64.StdEncoding.EncodeToString
		return map[string]any{"exited": true, "exitcode": r.code, "out-data": encode(r.out), "err-data": encode(r.err)}, nil
	}
	return nil, fmt.Errorf("the command %s has not been found", q.Execute)
}

// putWorld is a guest that files are put into.
type putWorld struct {
	t     *testing.T
	dir   string // in the guest
	state string
	guest *shellGuest
	host  *Host
	logs  lockedBuffer
}

func newPutWorld(t *testing.T) *putWorld {
	t.Helper()
	base := newTestWorld(t).dir // in memory: everything here is synced many times
	w := &putWorld{t: t, dir: filepath.Join(base, "guest"), state: filepath.Join(base, "mover")}
	must(t, os.Mkdir(w.dir, 0o755))
	hv := fake.New(filepath.Join(base, "puts"))
	disk := filepath.Join(base, "disk")
	must(t, os.Mkdir(filepath.Join(base, "puts"), 0o700))
	must(t, hv.Create(t.Context(), disk, "raw", 1<<20))
	_, err := hv.Define(t.Context(), fake.XML("web01", sourceVM, backstay.Disk{Target: "vda", Source: disk, Format: "raw"}))
	must(t, err)
	must(t, hv.Start(t.Context(), sourceVM))
	w.guest = &shellGuest{Host: hv}
	w.start()
	return w
}

// start starts the mover anew.
func (w *putWorld) start() {
	w.t.Helper()
	var err error
	w.host, err = New(Options{
		Hypervisor: w.guest, Images: w.guest.Host.(*fake.Host), Keyring: keyfile.New(filepath.Join(w.state, "keys")), StateDir: w.state,
		SocketDir: filepath.Join(w.state, "s"), OpenVault: (&testWorld{}).openVault, Name: "h1", Log: slog.New(slog.NewTextHandler(&w.logs, nil)),
	})
	must(w.t, err)
}

func (w *putWorld) put(ctx context.Context, conflict backstay.Conflict, stream []byte) (mover.PutReport, error) {
	return w.host.PutFiles(ctx, mover.PutRequest{Job: testJob, VM: sourceVM, To: backstay.FilePath(w.dir), Conflict: conflict},
		io.NopCloser(bytes.NewReader(stream)), nil)
}

// tree is all that is in the guest's folder, hidden names and folders' times too.
func (w *putWorld) tree() string {
	w.t.Helper()
	var all strings.Builder
	must(w.t, filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == w.dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(w.dir, path)
		s := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&all, "%s %v %d:%d %s", name, info.Mode(), s.Uid, s.Gid, info.ModTime().UTC().Format(time.RFC3339Nano))
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, " %d %s", s.Nlink, hexSum(data))
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			all.WriteString(" -> " + target)
		}
		all.WriteByte('\n')
		return nil
	}))
	return all.String()
}

// writtenItem is an item with its content.
type writtenItem struct {
	items.Item
	runs []items.Run
}

func stream(t *testing.T, all ...writtenItem) []byte {
	t.Helper()
	var b bytes.Buffer
	w := items.NewWriter(&b)
	for _, i := range all {
		must(t, w.Begin(&i.Item))
		for _, r := range i.runs {
			must(t, w.Data(r.Offset, r.Data))
		}
		must(t, w.End(""))
	}
	must(t, w.Close())
	return b.Bytes()
}

var longAgo = time.Date(2024, 2, 3, 4, 5, 6, 789000000, time.UTC)

func putFile(path string, mode uint32, content []byte) writtenItem {
	i := writtenItem{Item: items.Item{Path: backstay.FilePath(path), Type: backstay.TypeFile, Mode: mode, UID: 0, GID: 0, ModTime: longAgo, Size: int64(len(content))}}
	for at := 0; at < len(content); at += items.MaxRun {
		i.runs = append(i.runs, items.Run{Offset: int64(at), Data: content[at:min(at+items.MaxRun, len(content))]})
	}
	return i
}

func hexSum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// mine makes this test's user the owner, so that it needs no root.
func mine(all []writtenItem) []writtenItem {
	for i := range all {
		all[i].UID, all[i].GID = uint32(os.Getuid()), uint32(os.Getgid())
	}
	return all
}

// someTree has all kinds of item; big is a file of several writes.
func someTree() (all []writtenItem, big []byte) {
	big = bytes.Repeat([]byte("0123456789abcde\n"), 40_000)
	odd := "it's \"odd\" $(name)\n\\x \xc3\xa4"
	linked := putFile("etc/one", 0o600, []byte("two names"))
	linked.Linked = true
	sparse := putFile("etc/sparse", 0o640, nil)
	sparse.Size, sparse.Sparse = 3<<20, true
	sparse.Extents = []items.Extent{{Offset: 1 << 20, Length: 5}}
	sparse.runs = []items.Run{{Offset: 1 << 20, Data: []byte("inner")}}
	all = mine([]writtenItem{
		{Item: items.Item{Path: "etc", Type: backstay.TypeFolder, Mode: 0o751, ModTime: longAgo}},
		putFile("etc/conf", 0o4750, []byte("as it was\n")),
		putFile(backstay.FilePath("etc/"+odd).String(), 0o644, nil),
		putFile("etc/big", 0o644, big),
		linked, sparse,
		{Item: items.Item{Path: "etc/two", Type: backstay.TypeFile, Mode: 0o600, ModTime: longAgo, HardLink: "etc/one", Size: 9}},
		{Item: items.Item{Path: "etc/link", Type: backstay.TypeLink, ModTime: longAgo, Target: "../elsewhere 'x'"}},
		{Item: items.Item{Path: "etc/sub", Type: backstay.TypeFolder, Mode: 0o700, ModTime: longAgo}},
		putFile("etc/sub/empty", 0o400, nil),
	})
	all[2] = putFile("", 0o644, []byte("x"))
	all[2].Path = backstay.FilePath("etc/" + odd)
	mine(all[2:3])
	return all, big
}

// before makes what is in the guest when the put begins.
func (w *putWorld) before() {
	w.t.Helper()
	must(w.t, os.Mkdir(filepath.Join(w.dir, "etc"), 0o755))
	must(w.t, os.WriteFile(filepath.Join(w.dir, "etc/conf"), []byte("changed since"), 0o666))
	must(w.t, os.Symlink("conf", filepath.Join(w.dir, "etc/link")))
	must(w.t, os.WriteFile(filepath.Join(w.dir, "etc/other"), []byte("not of the point"), 0o644))
	for _, name := range []string{"etc/conf", "etc/other", "etc"} {
		must(w.t, os.Chtimes(filepath.Join(w.dir, name), longAgo, longAgo.Add(time.Hour)))
	}
}

// TestWhatIsPutIsAsItWasInThePoint: content, owner, mode, times, links, holes, and
// whatever the names are; folders that are there, and what is not of the point, stay.
func TestWhatIsPutIsAsItWasInThePoint(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	all, big := someTree()
	report, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, all...))
	must(t, err)
	if report.Files != 7 || report.Links != 1 || report.Folders != 1 || len(report.Warnings) > 0 {
		t.Errorf("report %+v", report)
	}
	tree := w.tree()
	for _, want := range []string{
		"etc drwxr-xr-x ", fmt.Sprintf("etc/big -rw-r--r-- %d:%d 2024-02-03T04:05:06.789Z 1 %s", os.Getuid(), os.Getgid(), hexSum(big)),
		fmt.Sprintf("etc/conf urwxr-x--- %d:%d 2024-02-03T04:05:06.789Z 1 %s", os.Getuid(), os.Getgid(), hexSum([]byte("as it was\n"))),
		"etc/link Lrwxrwxrwx", "-> ../elsewhere 'x'", "etc/other -rw-r--r--", "etc/sub drwx------", "etc/sub/empty -r--------",
		fmt.Sprintf(" 2 %s", hexSum([]byte("two names"))), string(all[2].Path) + " -rw-r--r--",
	} {
		if !strings.Contains(tree, want) {
			t.Errorf("no %q in\n%s", want, tree)
		}
	}
	if strings.Contains(tree, ".backstay") {
		t.Errorf("something is left beside:\n%s", tree)
	}
	var s syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(w.dir, "etc/sparse"), &s))
	data, err := os.ReadFile(filepath.Join(w.dir, "etc/sparse"))
	must(t, err)
	if s.Size != 3<<20 || s.Blocks*512 >= 1<<20 || string(data[1<<20:1<<20+5]) != "inner" {
		t.Errorf("a file with holes has %d bytes in %d blocks", s.Size, s.Blocks)
	}
	if got, complete, err := w.host.EndPut(t.Context(), testJob); err != nil || !complete || got.Files != report.Files {
		t.Errorf("ended with %+v %v %v", got, complete, err)
	}
	if _, complete, err := w.host.EndPut(t.Context(), testJob); complete || err != nil {
		t.Errorf("a put was remembered twice: %v %v", complete, err)
	}
}

// TestAPutThatFailsLeavesTheGuestAsItWas: whichever question to the agent is not
// answered, and whether it was carried out or not.
func TestAPutThatFailsLeavesTheGuestAsItWas(t *testing.T) {
	all, _ := someTree()
	content := stream(t, all...)
	for n := 1; ; n++ {
		w := newPutWorld(t)
		w.before()
		before := w.tree()
		failed := false
		w.guest.before = func(_ string, at int) error {
			if at == n {
				failed = true
				return errors.New("the agent was hit by a meteor")
			}
			return nil
		}
		_, err := w.put(t.Context(), backstay.ConflictOverwrite, content)
		if !failed {
			must(t, err)
			if n < 15 {
				t.Errorf("only %d questions", n)
			}
			return
		}
		if err == nil { // only what had been kept was not taken away
			_, complete, err := w.host.EndPut(t.Context(), testJob)
			if must(t, err); !complete || strings.Contains(w.tree(), ".backstay") {
				t.Errorf("after %d questions: %v\n%s", n, complete, w.tree())
			}
			continue
		}
		if !backstay.IsCode(err, backstay.CodePutFailed) {
			t.Errorf("after %d questions: %v", n, err)
		}
		if after := w.tree(); after != withTimeOf(before, after) {
			t.Errorf("after %d questions (%v):\n%s\nand was\n%s", n, err, after, before)
		}
	}
}

// withTimeOf takes the times of folders, which a put cannot leave alone, from another tree.
func withTimeOf(tree, from string) string {
	times := map[string]string{}
	for line := range strings.Lines(from) {
		if name, rest, ok := strings.Cut(line, " d"); ok {
			times[name] = rest
		}
	}
	var b strings.Builder
	for line := range strings.Lines(tree) {
		if name, _, ok := strings.Cut(line, " d"); ok && times[name] != "" {
			line = name + " d" + times[name]
		}
		b.WriteString(line)
	}
	return b.String()
}

// TestAPutWhoseMoverDiesIsTakenBackByTheNext, whenever it dies, unless all was there.
func TestAPutWhoseMoverDiesIsTakenBackByTheNext(t *testing.T) {
	all, _ := someTree()
	content := stream(t, all...)
	completed := 0
	for n := 1; ; n++ {
		w := newPutWorld(t)
		w.before()
		before := w.tree()
		dead := false
		w.guest.before = func(_ string, at int) error {
			if at >= n {
				dead = true
				return hypervisor.ErrAway // nothing more is done by this mover
			}
			return nil
		}
		_, err := w.put(t.Context(), backstay.ConflictOverwrite, content)
		if !dead {
			must(t, err)
			break
		}
		w.guest.before = nil
		w.start()
		switch _, complete, err := w.host.EndPut(t.Context(), testJob); {
		case err != nil:
			t.Fatalf("after %d questions: %v", n, err)
		case complete:
			completed++
		default:
			if after := w.tree(); after != withTimeOf(before, after) {
				t.Errorf("after %d questions:\n%s\nand was\n%s", n, after, before)
			}
		}
		if strings.Contains(w.tree(), ".backstay") {
			t.Errorf("after %d questions something is left:\n%s", n, w.tree())
		}
		jobs, err := w.host.putJobs()
		if must(t, err); len(jobs) > 0 {
			t.Errorf("journals are left: %v", jobs)
		}
	}
	if completed == 0 {
		t.Error("no put was complete before its mover died")
	}
}

// TestASweepTakesBackWhatNoJobGoesOnWith.
func TestASweepTakesBackWhatNoJobGoesOnWith(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	before := w.tree()
	all, _ := someTree()
	w.guest.before = func(command string, n int) error {
		if n > 9 {
			return hypervisor.ErrAway
		}
		return nil
	}
	if _, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, all...)); err == nil {
		t.Fatal("it did not fail")
	}
	w.guest.before = nil
	w.start()
	_, err := w.host.Sweep(t.Context(), []backstay.JobID{testJob})
	must(t, err)
	if !strings.Contains(w.tree(), ".backstay") {
		t.Error("a sweep took away what a job goes on with")
	}
	_, err = w.host.Sweep(t.Context(), nil)
	must(t, err)
	if after := w.tree(); after != withTimeOf(before, after) {
		t.Errorf("left:\n%s", after)
	}
}

// TestContentThatTheGuestSpoiledTakesNoPlace.
func TestContentThatTheGuestSpoiledTakesNoPlace(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	before := w.tree()
	w.guest.spoil = func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		return data
	}
	_, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, mine([]writtenItem{
		{Item: items.Item{Path: "etc", Type: backstay.TypeFolder, Mode: 0o755, ModTime: longAgo}}, putFile("etc/conf", 0o600, []byte("as it was")),
	})...))
	if !backstay.IsCode(err, backstay.CodePutFailed) || !strings.Contains(err.Error(), "not in the guest as it was written") {
		t.Error(err)
	}
	if after := w.tree(); after != withTimeOf(before, after) {
		t.Errorf("now:\n%s\nand was\n%s", after, before)
	}
}

// TestAConflictIsSettledAsAsked: skipped, put beside, or nothing at all.
func TestAConflictIsSettledAsAsked(t *testing.T) {
	content := stream(t, mine([]writtenItem{
		{Item: items.Item{Path: "etc", Type: backstay.TypeFolder, Mode: 0o755, ModTime: longAgo}},
		putFile("etc/conf", 0o600, []byte("as it was")), putFile("etc/new", 0o600, []byte("new")),
	})...)
	w := newPutWorld(t)
	w.before()
	before := w.tree()
	_, err := w.put(t.Context(), backstay.ConflictAsk, content)
	if !backstay.IsCode(err, backstay.CodeFileExists) || withTimeOf(before, w.tree()) != w.tree() {
		t.Errorf("asked: %v\n%s", err, w.tree())
	}
	report, err := w.put(t.Context(), backstay.ConflictSkip, content)
	if must(t, err); report.Skipped != 1 || report.Files != 1 || !strings.Contains(w.tree(), hexSum([]byte("changed since"))) {
		t.Errorf("skipped: %+v\n%s", report, w.tree())
	}
	_, _, err = w.host.EndPut(t.Context(), testJob)
	must(t, err)
	report, err = w.put(t.Context(), backstay.ConflictRename, content)
	must(t, err)
	was, err := os.ReadFile(filepath.Join(w.dir, "etc/conf.1"))
	if must(t, err); report.Files != 2 || string(was) != "as it was" || !strings.Contains(w.tree(), hexSum([]byte("changed since"))) {
		t.Errorf("renamed: %+v\n%s", report, w.tree())
	}
}

// inEtc are files in a folder.
func inEtc(files ...writtenItem) []writtenItem {
	return mine(append([]writtenItem{{Item: items.Item{Path: "etc", Type: backstay.TypeFolder, Mode: 0o755, ModTime: longAgo}}}, files...))
}

// TestWhatIsRenamedTakesNoOthersPlace: the free name of one file may be the name of
// another that is put, before or after it.
func TestWhatIsRenamedTakesNoOthersPlace(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	must(t, os.WriteFile(filepath.Join(w.dir, "etc/log"), []byte("of the guest"), 0o644))
	all := inEtc(
		putFile("etc/conf.1", 0o600, []byte("conf.1 of the point")), putFile("etc/conf", 0o600, []byte("conf of the point")),
		putFile("etc/log", 0o600, []byte("log of the point")), putFile("etc/log.1", 0o600, []byte("log.1 of the point")),
	)
	report, err := w.put(t.Context(), backstay.ConflictRename, stream(t, all...))
	must(t, err)
	tree := w.tree()
	for _, content := range []string{
		"changed since", "of the guest", "conf of the point", "conf.1 of the point", "log of the point", "log.1 of the point",
	} {
		if !strings.Contains(tree, hexSum([]byte(content))) {
			t.Errorf("%q is nowhere in\n%s", content, tree)
		}
	}
	if report.Files != 4 {
		t.Errorf("report %+v", report)
	}
}

// TestNobodyInTheGuestReadsOrWritesWhatIsPutBeforeItHasItsMode: not while its content is
// written either.
func TestNobodyInTheGuestReadsOrWritesWhatIsPutBeforeItHasItsMode(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	writes := 0
	w.guest.before = func(command string, _ int) error {
		if command != "guest-file-write" {
			return nil
		}
		writes++
		for _, f := range w.guest.files {
			if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is written to and has the mode %v", info.Name(), info.Mode())
			}
		}
		return nil
	}
	_, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, inEtc(putFile("etc/shadow", 0o600, []byte("secret")))...))
	if must(t, err); writes == 0 {
		t.Error("nothing was written")
	}
}

// TestWhatCameToBeThereMeanwhileIsNotReplaced: nothing was there when the put looked,
// which may be long before a file takes its place.
func TestWhatCameToBeThereMeanwhileIsNotReplaced(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	w.guest.before = func(command string, _ int) error {
		if command != "guest-file-close" {
			return nil
		}
		return os.WriteFile(filepath.Join(w.dir, "etc/new"), []byte("made by the guest"), 0o600)
	}
	_, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, inEtc(putFile("etc/new", 0o600, []byte("of the point")))...))
	if !backstay.IsCode(err, backstay.CodePutFailed) {
		t.Errorf("error %v", err)
	}
	if tree := w.tree(); !strings.Contains(tree, hexSum([]byte("made by the guest"))) || strings.Contains(tree, ".backstay") {
		t.Errorf("what the guest made is gone, or something is left:\n%s", tree)
	}
}

// putWhoseMoverDies puts a file, and the mover dies with the n-th script that has the
// word in it, which is then passed to late instead of being run.
func (w *putWorld) putWhoseMoverDies(word string, late func(script []byte), all ...writtenItem) {
	w.t.Helper()
	dead := false
	w.guest.script = func(script []byte) error {
		if dead = dead || bytes.Contains(script, []byte("\n"+word+" ")); !dead {
			return nil
		}
		if late != nil {
			late(script)
			late = nil
		}
		return hypervisor.ErrAway
	}
	if _, err := w.put(w.t.Context(), backstay.ConflictOverwrite, stream(w.t, all...)); err == nil {
		w.t.Fatal("it did not fail")
	}
	w.guest.script = nil
	w.start()
}

// TestATakeThatRunsLateDestroysNothing: the mover was killed when it had asked for files
// to take their places, and the guest does so while the next mover takes the put back.
// Of each file either the one or the other comes first.
func TestATakeThatRunsLateDestroysNothing(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	var take []byte
	w.putWhoseMoverDies("take", func(s []byte) { take = s }, inEtc(putFile("etc/conf", 0o600, []byte("as it was")))...)
	words, calls, ok := bytes.Cut(take, []byte("\ntake "))
	if !ok {
		t.Fatal("no file was to take its place")
	}
	run := func(script string) {
		cmd := exec.Command("/bin/sh", "-s")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	met := 0
	// The guest takes right when the undo has looked whose the file in its place is.
	w.guest.script = func(script []byte) error {
		late := string(words) + "\ntake " + string(calls)
		must(t, os.WriteFile(filepath.Join(w.state, "late"), []byte(late), 0o600))
		meet := strings.Replace(string(script), "ours() {", "ours() { ourz \"$@\"; z=$?; sh -s <'"+filepath.Join(w.state, "late")+"' >/dev/null 2>&1; return $z; }\nourz() {", 1)
		if meet != string(script) {
			met++
			run(meet)
		}
		return nil
	}
	_, _, err := w.host.EndPut(t.Context(), testJob)
	if must(t, err); met == 0 {
		t.Error("nothing was taken back")
	}
	if tree := w.tree(); !strings.Contains(tree, hexSum([]byte("changed since"))) || strings.Contains(tree, ".backstay") {
		t.Errorf("what was there before is gone:\n%s", tree)
	}
}

// TestAGuestThatWasSetBackKeepsItsFiles: a put was cut off, and the guest was restored to
// a time when it had a file there, which has the number that the put's file had.
func TestAGuestThatWasSetBackKeepsItsFiles(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	place := filepath.Join(w.dir, "etc/conf")
	info, err := os.Stat(place)
	must(t, err)
	inode := info.Sys().(*syscall.Stat_t).Ino
	j := putJournal{
		putBegin: putBegin{Version: journalVersion, Job: testJob, VM: sourceVM}, entries: []putEntry{{N: 1, Path: backstay.FilePath(place)}},
		taking: map[int]putTaking{1: {N: 1, Inode: fmt.Sprintf("%d %d", inode, time.Now().Add(time.Hour).Unix())}},
	}
	must(t, w.host.clean(t.Context(), &j))
	if _, err := os.Stat(place); err != nil {
		t.Error("the guest's own file was taken away")
	}
}

// TestAGuestThatForbidsWhatIsNeededIsNotTouched, and the error says what and what to do.
func TestAGuestThatForbidsWhatIsNeededIsNotTouched(t *testing.T) {
	for name, change := range map[string]func(*shellGuest){
		"guest-exec": func(g *shellGuest) { g.forbidden = []string{"guest-exec", "guest-file-open"} },
		"Windows":    func(g *shellGuest) { g.os = "mswindows" },
	} {
		w := newPutWorld(t)
		change(w.guest)
		_, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, mine([]writtenItem{putFile("conf", 0o600, []byte("x"))})...))
		if e := backstay.AsError(err); e.Code != backstay.CodePutFailed || !strings.Contains(e.Cause, name) || !strings.Contains(e.Action, "files get") {
			t.Errorf("%s: %+v", name, e)
		}
		if w.tree() != "" {
			t.Errorf("%s: put all the same:\n%s", name, w.tree())
		}
	}
}

// TestAPutWaitsForAGuestThatABackupFroze.
func TestAPutWaitsForAGuestThatABackupFroze(t *testing.T) {
	w := newPutWorld(t)
	frozen := map[int]bool{3: true, 4: true, 8: true}
	w.guest.before = func(command string, n int) error {
		if frozen[n] {
			return fmt.Errorf("the command %s has been disabled: the agent is in frozen state", command)
		}
		return nil
	}
	report, err := w.put(t.Context(), backstay.ConflictOverwrite, stream(t, mine([]writtenItem{putFile("conf", 0o600, []byte("x"))})...))
	if must(t, err); report.Files != 1 {
		t.Errorf("%+v", report)
	}
}

// TestAPutThatIsCancelledLeavesNothing.
func TestAPutThatIsCancelledLeavesNothing(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	before := w.tree()
	ctx, cancel := context.WithCancel(t.Context())
	w.guest.before = func(command string, n int) error {
		if command == "guest-file-write" {
			cancel()
		}
		return nil
	}
	all, _ := someTree()
	_, err := w.put(ctx, backstay.ConflictOverwrite, stream(t, all...))
	if after := w.tree(); !backstay.IsCode(err, backstay.CodeCancelled) || after != withTimeOf(before, after) {
		t.Errorf("%v\n%s", err, after)
	}
}

// A small machine that the disks of one point took over has no say in what is written
// into the guest beyond what was asked for.
func TestWhatNobodyAskedForIsNotPut(t *testing.T) {
	w := newPutWorld(t)
	w.before()
	before := w.tree()
	all, _ := someTree()
	_, err := w.host.PutFiles(t.Context(), mover.PutRequest{
		Job: testJob, VM: sourceVM, To: backstay.FilePath(w.dir), Conflict: backstay.ConflictOverwrite, Paths: []backstay.FilePath{"/etc/big"}, Strip: "/",
	}, io.NopCloser(bytes.NewReader(stream(t, all...))), nil)
	if !backstay.IsCode(err, backstay.CodePutFailed) || !strings.Contains(err.Error(), "nobody asked for") {
		t.Errorf("it was put: %v", err)
	}
	if tree := w.tree(); tree != before {
		t.Errorf("the guest was\n%s\nand is\n%s", before, tree)
	}
}
