package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// pacer knows what the guests of this host may feel (I12). Merges are asked for
// by no policy, and some by nobody (a sweep finishes those that were cut off), so
// the limit that came with a VM's last backup is kept for them.
type pacer struct {
	*pace.Pacer
	file string
	log  *slog.Logger

	mu     sync.Mutex
	limits map[backstay.VMID]backstay.Duration // guarded by mu; nil until read
	merges map[backstay.VMID]*pace.Governor    // guarded by mu
}

func newPacer(p *pace.Pacer, stateDir string, log *slog.Logger) *pacer {
	return &pacer{Pacer: p, file: filepath.Join(stateDir, "latency-limits.json"), log: log,
		merges: map[backstay.VMID]*pace.Governor{}}
}

// load reads what is kept. The caller holds mu.
func (p *pacer) load() {
	if p.limits != nil {
		return
	}
	p.limits = map[backstay.VMID]backstay.Duration{}
	data, err := os.ReadFile(p.file)
	if err == nil {
		err = json.Unmarshal(data, &p.limits)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("the latency limits of the guests cannot be read; merges go by the default", "error", err)
	}
}

// keep remembers a VM's limit. That it cannot be kept fails no backup: without it
// the default holds.
func (p *pacer) keep(vm backstay.VMID, limit backstay.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load()
	if p.limits[vm] == limit {
		return
	}
	p.limits[vm] = limit
	if limit == 0 {
		delete(p.limits, vm)
	}
	if err := p.save(); err != nil {
		p.log.Warn("the latency limit of a guest cannot be kept", "vm", vm, "error", err)
	}
}

func (p *pacer) save() error {
	data, err := json.Marshal(p.limits)
	if err != nil {
		return fmt.Errorf("encode latency limits: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(p.file), 0o700); err != nil {
		return fmt.Errorf("keep latency limits: %w", err)
	}
	temp := p.file + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("keep latency limits: %w", err)
	}
	return os.Rename(temp, p.file)
}

func (p *pacer) limit(vm backstay.VMID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load()
	return time.Duration(p.limits[vm])
}

// throttle is snapshot.Options.Pace: the pace of what merging began for the VM.
func (p *pacer) throttle(vm backstay.VMID) hypervisor.Throttle {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.merges[vm].Limit
}

// merging lets work merge layers of a VM at the pace that its guest allows. Work
// that is given up fails with the reason; whoever merges is safe to be called
// again. The caller is the only one to change the VM.
func (p *pacer) merging(ctx context.Context, vm backstay.VMID, progress mover.Progress, work func(context.Context, snapshot.Progress) error) error {
	if progress == nil {
		progress = func(mover.Report) {}
	}
	ctx, governor := p.Start(ctx, pace.Work{VM: vm, Limit: p.limit(vm), Unstoppable: true})
	defer governor.Close()
	p.use(vm, governor)
	defer p.use(vm, nil)
	var before int64
	return givenUp(governor, work(ctx, func(done, total int64) {
		governor.Moved(done - before)
		before = done
		progress(mover.Report{Phase: "merge", Done: done, Total: total, Note: governor.Note()})
	}))
}

// use says which governor sets the pace of merges of a VM; nil for none.
func (p *pacer) use(vm backstay.VMID, g *pace.Governor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.merges[vm] = g
	if g == nil {
		delete(p.merges, vm)
	}
}

// reading begins reading at the pace that a guest allows. The progress that it
// returns tells when the guest holds the reading up.
func (p *pacer) reading(ctx context.Context, vm backstay.VMID, limit time.Duration, progress mover.Progress) (context.Context, *pace.Governor, mover.Progress) {
	var state atomic.Int64
	var paced context.Context
	told := func(r mover.Report) {
		if paced.Err() == nil {
			r.Note = pace.State(state.Load()).Note()
		}
		progress(r)
	}
	paced, cancel := context.WithCancel(ctx)
	work, g := p.Start(paced, pace.Work{VM: vm, Limit: limit, Changed: func(s pace.State) {
		state.Store(int64(s))
		told(mover.Report{})
	}})
	context.AfterFunc(work, cancel)
	return work, g, told
}

// pacedImage is an image that is read as fast as the guest allows.
type pacedImage struct {
	tier.Image
	ctx      context.Context
	governor *pace.Governor
}

func (i pacedImage) ReadAt(p []byte, off int64) (int, error) {
	read := 0
	for read < len(p) {
		n := len(p) - read
		if i.governor.State() != pace.Free {
			n = min(n, pace.Piece)
		}
		if err := i.governor.Wait(i.ctx, int64(n)); err != nil {
			return read, err
		}
		n, err := i.Image.ReadAt(p[read:read+n], off+int64(read))
		read += n
		if err != nil {
			return read, err
		}
	}
	return read, nil
}

// givenUp is err, or why the work was given up for the guest's sake if it was.
func givenUp(g *pace.Governor, err error) error {
	if reason := g.Err(); err != nil && reason != nil {
		return reason
	}
	return err
}
