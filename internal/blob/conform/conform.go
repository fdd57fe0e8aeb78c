// Package conform is the conformance suite of the blob port: each check is a
// sentence of the contract in package blob. Every adapter and wrapper passes it
// in the tests (package blobtest), and people run it against their own storage
// units (`backstay unit check`).
//
// It is no benchmark: the times it gives say where the wait was, not more.
package conform

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/backstay/backstay/internal/blob"
)

// Options say how large the checks are. The zero value is right for a check of
// a unit that is going to be used.
type Options struct {
	Large int // bytes of the large object; 0: 64 MiB
	Many  int // objects of the long listing; 0: 1,100, more than servers give at once
}

// Verdict is what a check came to.
type Verdict string

// The verdicts.
const (
	OK    Verdict = "ok"
	Warn  Verdict = "warn"  // the unit can be used, with what the detail says
	Fails Verdict = "fails" // the unit cannot be used
)

// Result is what one check found.
type Result struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail,omitempty"` // empty if all is well
	Action  string  `json:"action,omitempty"`
	Millis  int64   `json:"milliseconds"`
}

// Report is what all checks found.
type Report struct {
	OK      bool     `json:"ok"` // nothing fails
	Results []Result `json:"results"`
}

// Weakness is an error of a check that a unit can be used with.
type Weakness struct{ Detail string }

// Error implements error.
func (w Weakness) Error() string { return w.Detail }

// Check is one sentence of the contract.
type Check struct {
	Name string // for people
	Rule string // as the name of a Go test
	do   string // what to do if it fails
	run  func(*area)
}

// Run tries the check on a store that holds no object yet and is nobody else's.
func (c Check) Run(ctx context.Context, s blob.Store, o Options) error {
	a := &area{Store: s, ctx: ctx, o: o}
	c.run(a)
	return errors.Join(a.errs...)
}

// Run runs all checks on a store in use, each below a name of its own, and
// deletes what it wrote. It goes on after a check that fails, but not after one
// that finds the store away or read-only: there the rest would say the same.
// Each result is told to tell, if that is not nil, as soon as it is there.
func Run(ctx context.Context, s blob.Store, o Options, tell func(Result)) Report {
	r := Report{OK: true}
	base := "backstay-check-" + strings.ToLower(rand.Text()[:12])
	add := func(result Result) {
		r.OK = r.OK && result.Verdict != Fails
		r.Results = append(r.Results, result)
		if tell != nil {
			tell(result)
		}
	}
	below := &prefixed{store: s, prefix: base + "/", names: map[string]bool{}}
	for i, c := range Checks() {
		below.prefix = fmt.Sprintf("%s/%02d/", base, i)
		began := time.Now()
		err := c.Run(ctx, below, o)
		add(c.result(err, time.Since(began)))
		if ctx.Err() != nil || errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrReadOnly) || errors.Is(err, blob.ErrFull) {
			break
		}
	}
	began := time.Now()
	add(cleaning.result(below.clean(ctx), time.Since(began)))
	return r
}

// cleaning is the last line of a report.
var cleaning = Check{Name: "clean up", do: "delete the objects that begin with backstay-check- yourself; a unit that refuses deletes (object lock, a right that is missing) keeps what expires, too"}

func (c Check) result(err error, took time.Duration) Result {
	r := Result{Check: c.Name, Verdict: OK, Millis: took.Milliseconds()}
	if err == nil {
		return r
	}
	r.Verdict, r.Detail, r.Action = Fails, strings.ReplaceAll(err.Error(), "\n", "; "), c.do
	if onlyWeak(err) {
		r.Verdict = Warn
	}
	switch {
	case errors.Is(err, blob.ErrDenied):
		r.Action = "give the credentials of somebody who may use the unit, and see that its bucket or container is there"
	case errors.Is(err, blob.ErrAway):
		r.Action = "see that the unit can be reached from here: address, network, mount"
	case errors.Is(err, blob.ErrReadOnly):
		r.Action = "allow writing and deleting there"
	case errors.Is(err, blob.ErrFull):
		r.Action = "free space there"
	}
	return r
}

// onlyWeak tells whether all that a check found are weaknesses.
func onlyWeak(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !onlyWeak(e) {
				return false
			}
		}
		return true
	}
	_, weak := err.(Weakness)
	return weak
}

// area is what one check works in.
type area struct {
	blob.Store
	ctx context.Context
	o   Options

	mu   sync.Mutex
	errs []error // guarded by mu
}

// large and many are the sizes asked for.
func (a *area) large() int {
	if a.o.Large > 0 {
		return a.o.Large
	}
	return 64 << 20
}

func (a *area) many() int {
	if a.o.Many > 0 {
		return a.o.Many
	}
	return 1100
}

func (a *area) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs = append(a.errs, err)
}

func (a *area) errorf(format string, args ...any) { a.fail(fmt.Errorf(format, args...)) }

// prefixed puts every object below a prefix and remembers its name.
type prefixed struct {
	store  blob.Store
	prefix string // changes between checks only

	mu    sync.Mutex
	names map[string]bool // guarded by mu: full names of what may have been put
}

func (p *prefixed) Put(ctx context.Context, name string, data []byte) error {
	err := p.store.Put(ctx, p.prefix+name, data)
	if blob.CheckName(p.prefix+name) == nil && !errors.Is(err, blob.ErrDenied) {
		p.mu.Lock()
		p.names[p.prefix+name] = true // also after an error: its answer may be all that was lost
		p.mu.Unlock()
	}
	return err
}

func (p *prefixed) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	return p.store.Get(ctx, p.prefix+name, offset, length)
}

func (p *prefixed) Stat(ctx context.Context, name string) (blob.Info, error) {
	info, err := p.store.Stat(ctx, p.prefix+name)
	info.Name = strings.TrimPrefix(info.Name, p.prefix)
	return info, err
}

func (p *prefixed) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return p.store.List(ctx, p.prefix+prefix, func(i blob.Info) error {
		name, ok := strings.CutPrefix(i.Name, p.prefix)
		if !ok {
			return fmt.Errorf("a listing of %s names %s", p.prefix+prefix, i.Name)
		}
		i.Name = name
		return fn(i)
	})
}

func (p *prefixed) Delete(ctx context.Context, name string) error {
	return p.store.Delete(ctx, p.prefix+name)
}

// clean deletes what was put, also after the caller gave up, and sees that
// nothing is listed then. It takes a minute at most.
func (p *prefixed) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for name := range p.names {
		g.Go(func() error { return p.store.Delete(ctx, name) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for name := range p.names {
		base, _, _ := strings.Cut(name, "/")
		left := 0
		err := p.store.List(context.WithoutCancel(ctx), base+"/", func(blob.Info) error { left++; return nil })
		if err == nil && left > 0 {
			err = fmt.Errorf("%d objects are still listed below %s/ after they were deleted", left, base)
		}
		return err
	}
	return nil
}
