package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// gate lets one of many through every lookEvery.
type gate struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
}

func (g *gate) passed(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = now
}

func (g *gate) due(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := now.Sub(g.last); d >= 0 && d < lookEvery {
		return false
	}
	g.last = now
	return true
}

// stock is what is known of the other region's objects.
type stock struct {
	mu    sync.Mutex
	there map[string]bool  // it said to have them, or was given them; guarded by mu
	lacks map[string]int64 // it said to lack them, with their sizes; guarded by mu
}

// unknown returns those of which nothing is known.
func (s *stock) unknown(names []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, name := range names {
		if _, lacks := s.lacks[name]; !lacks && !s.there[name] {
			out = append(out, name)
		}
	}
	return out
}

// lacking returns those that are known to be lacking, in their order.
func (s *stock) lacking(names []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, name := range names {
		if _, lacks := s.lacks[name]; lacks {
			out = append(out, name)
		}
	}
	return out
}

func (s *stock) has(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.there[name] = true
		delete(s.lacks, name)
	}
}

func (s *stock) needs(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lacks[name] = size
}

func (s *stock) forget(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		delete(s.there, name)
		delete(s.lacks, name)
	}
}

// sum counts what is known to be lacking.
func (s *stock) sum() (objects, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, size := range s.lacks {
		bytes += size
	}
	return int64(len(s.lacks)), bytes
}

// frame pushes what the vault is opened with, once for each job: keys are changed
// seldom, and the next job has them.
func (p *pushing) frame(ctx context.Context) error {
	if p.framed {
		return nil
	}
	names, err := p.source.Names(ctx, Frame)
	if err != nil {
		return err
	}
	if err := p.ask(ctx, names); err != nil {
		return err
	}
	// A header names its keys: one after the other, in their order.
	for _, name := range p.stock.lacking(names) {
		if err := p.put(ctx, name); err != nil {
			return err
		}
	}
	p.framed = true
	return nil
}

// vouch takes note of packs that are there because points that are whole there
// need them. What cannot be read here is asked for instead.
func (p *pushing) vouch(ctx context.Context, points []backstay.PointID, held pair.Held) {
	if p.vouched {
		return
	}
	p.vouched = true
	for _, id := range Vouching(points, held) {
		if needs, err := p.source.Needs(ctx, id); err == nil {
			p.stock.has(needs.Packs...)
		}
	}
}

// survey counts what the points lack, all together.
func (p *pushing) survey(ctx context.Context, missing []backstay.PointID) error {
	if p.surveyed {
		return nil
	}
	for _, id := range missing {
		if err := p.goOn(ctx); err != nil {
			return err
		}
		needs, err := p.source.Needs(ctx, id)
		if backstay.IsCode(err, backstay.CodeUnknownPoint) || backstay.IsCode(err, backstay.CodeDamaged) {
			continue // it is met again when its turn comes
		}
		if err != nil {
			return err
		}
		if err := p.ask(ctx, needs.Packs); err != nil {
			return err
		}
	}
	p.surveyed = true
	return nil
}

// point makes one point available there. A failure of its own leaves it out and
// is no error: the other points do not need it (I3).
func (p *pushing) point(ctx context.Context, id backstay.PointID) error {
	err := p.giveWay(ctx, id, func(ctx context.Context) error { return p.pushPoint(ctx, id) })
	switch {
	case errors.Is(err, ErrGone):
		// Dropped, or moved by a repack, since it was planned; or lost.
		if p.stale[id]++; p.stale[id] < 3 {
			return errLook
		}
		p.failed[id] = err
	case backstay.IsCode(err, backstay.CodeUnknownPoint):
		return nil // dropped since
	case backstay.IsCode(err, backstay.CodeDamaged), backstay.IsCode(err, backstay.CodeReplicaRefused):
		p.failed[id] = err
	default:
		return err
	}
	return nil
}

// pushPoint pushes what a point lacks there, in an order that leaves nothing half
// wherever it is cut off: packs, indexes, lists of moved packs, and then the
// manifest, by which it becomes visible (I2).
func (p *pushing) pushPoint(ctx context.Context, id backstay.PointID) error {
	needs, err := p.source.Needs(ctx, id)
	if err != nil {
		return err
	}
	if err := p.set(ctx, id, backstay.ReplicaCopying); err != nil {
		return err
	}
	indexes, err := p.source.Names(ctx, Indexes)
	if err != nil {
		return err
	}
	// Lists of moved packs come behind the packs to which they lead.
	groups := [][]string{needs.Packs, indexes, needs.Moved}
	for again := range 2 {
		for _, names := range groups {
			if again > 0 {
				// What was taken to be there may have gone by its own retention: it is asked
				// for in full.
				p.stock.forget(names)
			}
			if err := p.supply(ctx, names); err != nil {
				return err
			}
		}
		err = p.patiently(ctx, backstay.CodeRegionAway, func() error {
			if err := p.pace.Wait(ctx, len(needs.Manifest)); err != nil {
				return err
			}
			return p.holder.Complete(ctx, p.id, id, needs.Manifest)
		})
		if !backstay.IsCode(err, backstay.CodeReplicaRefused) {
			break
		}
	}
	if err != nil {
		return err
	}
	p.meter.completed(p.Now())
	return p.set(ctx, id, backstay.ReplicaAvailable)
}

// chain pushes the chain's records: a witness of what was committed and dropped
// here, for a region that is to be rebuilt. No point there depends on them.
func (p *pushing) chain(ctx context.Context) error {
	// Also in a later life of the job, which pushed nothing itself.
	if _, err := p.look(ctx); err != nil {
		return err
	}
	names, err := p.source.Names(ctx, Chain)
	if err != nil {
		return err
	}
	if err := p.ask(ctx, names); err != nil {
		return err
	}
	for _, name := range p.stock.lacking(names) {
		if err := p.goOn(ctx); err != nil {
			return err
		}
		err := p.put(ctx, name)
		switch {
		case errors.Is(err, ErrGone): // tidied by a reclaim meanwhile
			p.stock.forget([]string{name})
		case backstay.IsCode(err, backstay.CodeDamaged), backstay.IsCode(err, backstay.CodeReplicaRefused):
			if err := p.run.Warn(fmt.Sprintf("%s is not in region %s: %v", name, p.params.Region, err)); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// ask finds out which of the objects are lacking there, and how large they are.
func (p *pushing) ask(ctx context.Context, names []string) error {
	for names = range slices.Chunk(p.stock.unknown(names), pair.MaxAsked) {
		question := make([]pair.Object, len(names))
		for i, name := range names {
			question[i].Name = name
		}
		var answer []string
		err := p.patiently(ctx, backstay.CodeRegionAway, func() (err error) {
			answer, err = p.holder.Lacks(ctx, p.id, question)
			return err
		})
		if err != nil {
			return err
		}
		lacking := map[string]bool{}
		for _, name := range answer {
			lacking[name] = true // of names that were not asked for nothing is made
		}
		wanted := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !lacking[name] })
		p.stock.has(slices.DeleteFunc(slices.Clone(names), func(name string) bool { return lacking[name] })...)
		sizes, err := p.source.Sizes(ctx, wanted)
		if err != nil {
			return err
		}
		for _, name := range wanted {
			p.stock.needs(name, sizes[name])
		}
		p.tell()
	}
	return nil
}

// supply puts those of the objects that are lacking there.
func (p *pushing) supply(ctx context.Context, names []string) error {
	if err := p.ask(ctx, names); err != nil {
		return err
	}
	return p.putAll(ctx, p.stock.lacking(names))
}

// putAll puts objects in about their order, several at a time. After a failure no
// other is begun, and those that are on their way arrive.
func (p *pushing) putAll(ctx context.Context, names []string) error {
	workers := p.AtOnce
	if workers <= 0 {
		workers = atOnce
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range min(workers, len(names)) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				err := p.goOn(ctx)
				if err == nil {
					err = p.put(ctx, names[i])
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// put puts one object. What was read is sent as often as it takes.
func (p *pushing) put(ctx context.Context, name string) error {
	o, data, err := p.source.Read(ctx, name)
	if err != nil {
		return err
	}
	err = p.patiently(ctx, backstay.CodeReplicaRefused, func() error {
		return p.holder.Put(ctx, p.id, o, &paced{ctx: ctx, from: bytes.NewReader(data), pace: p.pace, sent: p.meter.sent})
	})
	if err != nil {
		return err
	}
	p.stock.has(name)
	p.tell()
	return nil
}

// tell shows how far the job is.
func (p *pushing) tell() {
	objects, bytes := p.stock.sum()
	done := p.meter.backlog(objects, bytes)
	p.run.Progress(done, done+bytes)
}

// pacedBytes is how much is sent at once, so that a rate is one at every moment.
const pacedBytes = 64 << 10

// paced reads no faster than may be sent.
type paced struct {
	ctx  context.Context
	from io.Reader
	pace Pace
	sent func(int)
}

// Read implements io.Reader.
func (r *paced) Read(b []byte) (int, error) {
	n, err := r.from.Read(b[:min(len(b), pacedBytes)])
	if n > 0 {
		if err := r.pace.Wait(r.ctx, n); err != nil {
			return 0, err
		}
		r.sent(n)
	}
	return n, err
}
