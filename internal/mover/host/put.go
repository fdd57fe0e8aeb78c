package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/mover"
)

const (
	// frozenPatience is how long a put waits for a guest that a backup froze.
	frozenPatience = 2 * time.Minute
	// scriptPatience bounds a script that reads no content.
	scriptPatience = 2 * time.Minute
	// slowestRead is how fast a guest reads what was written, at the least, in bytes/s.
	slowestRead = 4 << 20
	// takeBackPatience bounds taking back what a put began.
	takeBackPatience = 5 * time.Minute
)

// put is one run of PutFiles.
type put struct {
	mover.PutRequest
	agent    guestagent.Agent
	log      *putLog
	progress mover.Progress
	report   mover.PutReport

	n       int                 // of the entry before
	entries []*putItem          // that will take their places
	folders []*putItem          // that were made
	made    map[string]bool     // the paths of folders
	claimed map[string]bool     // where entries go
	linked  map[string]*putItem // by the paths of items that others may be names of; nil if left out
}

// putItem is an item on its way to its place.
type putItem struct {
	items.Item
	n     int
	dest  string // where it goes
	was   string // what is there, in the words of look
	inode string
	sum   string // SHA-256, in hex
	small []items.Run
	left  bool // out
	// verified: the guest read it, and it is what was written.
	verified bool
}

// beside is the name that an entry has until it takes its place, and kept that of
// what was there, until all have.
func (p *put) beside(i *putItem) string { return besideName(p.Job, i.n, i.dest, "new") }
func (p *put) kept(i *putItem) string   { return besideName(p.Job, i.n, i.dest, "old") }

func besideName(job backstay.JobID, n int, dest, what string) string {
	folder := dest[:strings.LastIndexByte(dest, '/')+1]
	return fmt.Sprintf("%s.backstay-%s-%d.%s", folder, strings.ToLower(string(job)), n, what)
}

// PutFiles is mover.Puts'.
func (h *Host) PutFiles(ctx context.Context, r mover.PutRequest, content io.ReadCloser, progress mover.Progress) (report mover.PutReport, err error) {
	defer func() { err = errors.Join(err, content.Close()) }()
	if progress == nil {
		progress = func(mover.Report) {}
	}
	p := &put{
		PutRequest: r, progress: progress, made: map[string]bool{}, claimed: map[string]bool{}, linked: map[string]*putItem{},
		agent: guestagent.Agent{Guests: guestagent.WhileFrozen(h.hv, frozenPatience), VM: r.VM},
	}
	if err := h.canPut(ctx, p); err != nil {
		return report, err
	}
	unlock, err := h.puts.lock(ctx, string(r.Job))
	if err != nil {
		return report, err
	}
	defer unlock()
	p.log, err = h.beginPut(r)
	if errors.Is(err, fs.ErrExist) {
		return report, backstay.Errorf(backstay.CodePutFailed, "job %s put files before, and did not end it", r.Job)
	}
	if err != nil {
		return report, err
	}
	err = p.run(ctx, items.NewReader(content).Only(items.Asked(r.Paths, r.Strip)))
	if err != nil {
		undo := h.endPut(context.WithoutCancel(ctx), r.Job)
		return mover.PutReport{}, errors.Join(p.failed(ctx, err, undo), p.log.f.Close())
	}
	// Should this fail, EndPut does it.
	if err := h.cleanPut(context.WithoutCancel(ctx), r.Job, p.log); err != nil {
		p.report.Warnings = append(p.report.Warnings, "files named .backstay-… may be left beside those that were put: "+err.Error())
	}
	return p.report, p.log.f.Close()
}

// failed is the error of a put, with what could not be taken back.
func (p *put) failed(ctx context.Context, err, undo error) error {
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		err = backstay.Errorf(backstay.CodeCancelled, "the put was cancelled").Because(context.Cause(ctx))
	}
	coded := (*backstay.Error)(nil)
	if !errors.As(err, &coded) {
		coded = backstay.Errorf(backstay.CodePutFailed, "the files could not be put into the guest").Because(err)
	}
	if undo == nil {
		return coded
	}
	return backstay.Errorf(coded.Code, "%s", coded.Message).Becausef("%s; and not all of it could be taken back: %v", coded.Cause, undo).
		Do("files named .backstay-… may be left in the guest under %s; what was there before is untouched or beside them as .old; they are taken away when the mover is started next, or by hand", p.To)
}

// canPut sees whether this guest takes files at all.
func (h *Host) canPut(ctx context.Context, p *put) error {
	if !path.IsAbs(string(p.To)) || strings.ContainsRune(string(p.To), 0) {
		return backstay.Errorf(backstay.CodeUsage, "%q is not the absolute path of a folder in a guest", p.To.String())
	}
	d, err := h.hv.Domain(ctx, p.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s on this host", p.VM)
	} else if err != nil {
		return err
	}
	refuse := func(format string, args ...any) *backstay.Error {
		return backstay.Errorf(backstay.CodePutFailed, "nothing can be put into %s", d.VM.Name).Becausef(format, args...).
			Do("take the files with `backstay files get`, and copy them into the guest by other means")
	}
	if d.VM.State != backstay.VMRunning {
		return refuse("it does not run (%s)", d.VM.State).Do("start it, or take the files with `backstay files get`")
	}
	forbidden, err := p.agent.Forbidden(ctx, "guest-exec", "guest-exec-status", "guest-file-open", "guest-file-seek", "guest-file-write", "guest-file-close")
	switch {
	case errors.Is(err, hypervisor.ErrAgentSilent):
		return refuse("its guest agent does not answer").Do("install and start qemu-guest-agent in the guest, or take the files with `backstay files get`")
	case err != nil:
		return refuse("%v", err)
	case len(forbidden) > 0:
		return refuse("the guest forbids its agent %s: without them no file can be verified, get its owner and mode, or take its place at once", strings.Join(forbidden, ", ")).
			Do("allow them in the guest agent's configuration (/etc/qemu/qemu-ga.conf or /etc/sysconfig/qemu-ga) and start it anew, or take the files with `backstay files get`")
	}
	if windows, err := p.agent.Windows(ctx); err != nil || windows {
		if err != nil {
			return refuse("%v", err)
		}
		return refuse("it runs Windows, whose owners and permissions of files cannot be set through the guest agent")
	}
	out, err := p.agent.Script(ctx, []byte(putWords+"for t in "+strings.Join(putTools, " ")+"; do command -v $t >/dev/null || echo $t; done\n"), scriptPatience)
	if err != nil {
		return refuse("%v", err)
	}
	if missing := strings.Fields(guestagent.Shown(out, guestagent.MostOfError)); len(missing) > 0 {
		return refuse("the guest lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

// run puts all that the stream has.
func (p *put) run(ctx context.Context, in *items.Reader) error {
	if err := p.above(ctx); err != nil {
		return err
	}
	var batch putBatch
	for {
		it, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read files of the point: %w", err)
		}
		if err := p.next(ctx, &batch, in, it); err != nil {
			return err
		}
	}
	if err := p.write(ctx, &batch, nil); err != nil {
		return err
	}
	return p.take(ctx)
}

// next adds an item to the batch, and writes the batch when it is full. A large file
// is written as it comes, in a batch of its own.
func (p *put) next(ctx context.Context, batch *putBatch, in *items.Reader, it items.Item) error {
	i := &putItem{Item: it, dest: strings.TrimSuffix(string(p.To), "/") + "/" + string(it.Path)}
	if why := leftOut(it); why != "" {
		p.warn("%s was not put: %s", it.Path, why)
		i.left = true
		p.linked[string(it.Path)] = i
		return nil
	}
	p.n++
	i.n = p.n
	if it.Type == backstay.TypeFile && it.HardLink == "" && it.Size > smallFile {
		if err := p.write(ctx, batch, nil); err != nil {
			return err
		}
		batch.all = append(batch.all, i)
		return p.write(ctx, batch, in)
	}
	if err := i.gather(in); err != nil {
		var broken *items.Broken
		if !errors.As(err, &broken) {
			return fmt.Errorf("read files of the point: %w", err)
		}
		p.warn("%s was not put: %s", it.Path, broken.Reason)
		i.left, p.linked[string(it.Path)] = true, i
		return nil
	}
	batch.all = append(batch.all, i)
	batch.bytes += it.Size
	if len(batch.all) < mostBatch && batch.bytes < mostBatchBytes {
		return nil
	}
	return p.write(ctx, batch, nil)
}

// leftOut says why an item cannot be put; "" if it can.
func leftOut(it items.Item) string {
	switch {
	case it.Error != "":
		return "it could not be read: " + it.Error
	case it.Type != backstay.TypeFile && it.Type != backstay.TypeFolder && it.Type != backstay.TypeLink:
		return "a " + string(it.Type) + " is not put into a guest"
	case strings.ContainsRune(string(it.Path)+string(it.Target), 0):
		return "no guest takes such a name"
	}
	return ""
}

// mostWarnings bounds what is said one by one.
const mostWarnings = 50

func (p *put) warn(format string, args ...any) {
	switch n := len(p.report.Warnings); {
	case n < mostWarnings:
		p.report.Warnings = append(p.report.Warnings, fmt.Sprintf(format, args...))
	case n == mostWarnings:
		p.report.Warnings = append(p.report.Warnings, "and more of the same")
	}
}

// gather takes a small file's content into memory.
func (i *putItem) gather(in *items.Reader) error {
	for {
		run, err := in.Run()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		i.small = append(i.small, items.Run{Offset: run.Offset, Data: append([]byte(nil), run.Data...)})
	}
}
