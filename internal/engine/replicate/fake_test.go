package replicate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/pair"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

var errKilled = errors.New("the process was killed")

// fakeSource is a vault in memory. A manifest is the JSON of the names it needs.
type fakeSource struct {
	mu      sync.Mutex
	seq     uint64
	objects map[string][]byte
	points  map[backstay.PointID]Needs
	damaged map[string]bool
	reads   int
}

func sum(data []byte) (s [32]byte) {
	copy(s[:], fmt.Sprintf("%d %.20s", len(data), data))
	return s
}

func (s *fakeSource) Offer(context.Context) (pair.Offer, error) {
	return pair.Offer{ID: "id", Name: "main", Created: start, Head: backstay.VaultHead{Seq: s.seq}}, nil
}

func (s *fakeSource) Points(context.Context) ([]backstay.PointID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.points)), nil
}

func (s *fakeSource) Needs(_ context.Context, id backstay.PointID) (Needs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.points[id]
	if !ok {
		return n, backstay.Errorf(backstay.CodeUnknownPoint, "no point %s", id)
	}
	return n, nil
}

func (s *fakeSource) Names(_ context.Context, c Class) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	folder := map[Class]string{Frame: "keys/", Indexes: "indexes/", Chain: "chain/"}[c]
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.objects)), func(n string) bool { return !strings.HasPrefix(n, folder) })
	if c == Frame {
		names = append(names, "vault.json")
	}
	return names, nil
}

func (s *fakeSource) Sizes(_ context.Context, names []string) (map[string]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := map[string]int64{}
	for _, n := range names {
		if data, ok := s.objects[n]; ok {
			sizes[n] = int64(len(data))
		}
	}
	return sizes, nil
}

func (s *fakeSource) Read(_ context.Context, name string) (pair.Object, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	data, ok := s.objects[name]
	if !ok {
		return pair.Object{}, nil, fmt.Errorf("read %s: %w", name, ErrGone)
	}
	if s.damaged[name] {
		return pair.Object{}, nil, backstay.Errorf(backstay.CodeDamaged, "%s is damaged", name)
	}
	return pair.Object{Name: name, Size: int64(len(data)), Sum: sum(data)}, data, nil
}

func (s *fakeSource) Close() error { return nil }

// fakeHolder holds in memory. It takes a point only if all that it needs is there,
// and notes every call.
type fakeHolder struct {
	mu      sync.Mutex
	t       *testing.T
	held    pair.Held
	objects map[string][]byte
	puts    []string // in the order in which they were durable
	calls   int
	ctx     context.Context                   // of the last put
	before  func(call int, what string) error // may fail a call
	clock   func() time.Time
}

func (h *fakeHolder) call(what string) error {
	h.mu.Lock()
	h.calls++
	n, before := h.calls, h.before
	h.mu.Unlock()
	if before != nil {
		return before(n, what)
	}
	return nil
}

func (h *fakeHolder) Offer(_ context.Context, o pair.Offer) (pair.Held, error) {
	if err := h.call("offer"); err != nil {
		return pair.Held{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return pair.Held{Available: maps.Clone(h.held.Available), Gone: maps.Clone(h.held.Gone), Room: -1, Head: o.Head}, nil
}

func (h *fakeHolder) Lacks(_ context.Context, _ string, objects []pair.Object) ([]string, error) {
	if err := h.call("lacks"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(objects) > pair.MaxAsked {
		h.t.Errorf("asked for %d objects at once", len(objects))
	}
	lacks := []string{"packs/never-asked-for"}
	for _, o := range objects {
		if _, ok := h.objects[o.Name]; !ok {
			lacks = append(lacks, o.Name)
		}
	}
	return lacks, nil
}

func (h *fakeHolder) Put(ctx context.Context, _ string, o pair.Object, content io.Reader) error {
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	if err := h.call("put " + o.Name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return backstay.Errorf(backstay.CodeRegionAway, "the call was given up")
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if int64(len(data)) != o.Size || sum(data) != o.Sum {
		return backstay.Errorf(backstay.CodeReplicaRefused, "%s came with other bytes", o.Name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects[o.Name] = data
	h.puts = append(h.puts, o.Name)
	return nil
}

func (h *fakeHolder) Complete(_ context.Context, _ string, id backstay.PointID, manifest []byte) error {
	if err := h.call("complete " + string(id)); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var needs []string
	if err := json.Unmarshal(manifest, &needs); err != nil {
		return err
	}
	for _, n := range append(needs, "vault.json", "keys/a") {
		if _, ok := h.objects[n]; !ok {
			return backstay.Errorf(backstay.CodeReplicaRefused, "%s needs %s, which is not there", id, n)
		}
	}
	h.held.Available[id] = h.clock()
	h.puts = append(h.puts, "points/"+string(id))
	return nil
}

func (h *fakeHolder) List(context.Context, string, func(pair.Object) error) error { return nil }
func (h *fakeHolder) Get(context.Context, string, string) (io.ReadCloser, error) {
	return nil, errors.New("not asked for")
}
func (h *fakeHolder) Vaults(context.Context) ([]pair.Offer, error) { return nil, nil }

type fakePace struct {
	mu   sync.Mutex
	shut error
	sent int
}

func (p *fakePace) Open(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shut
}

func (p *fakePace) Wait(_ context.Context, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += n
	return nil
}

type fakeRun struct {
	job  backstay.Job
	done map[string]bool
	note string
}

func (r *fakeRun) Job() backstay.Job { return r.job }
func (r *fakeRun) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if r.done[name] {
		return nil
	}
	err := fn(ctx)
	r.done[name] = err == nil
	return err
}
func (r *fakeRun) Progress(int64, int64)  {}
func (r *fakeRun) Load(any) (bool, error) { return false, nil }
func (r *fakeRun) Save(any) error         { return nil }
func (r *fakeRun) FreeVMs() error         { return nil }
func (r *fakeRun) Skip(_, _ string) error { return nil }
func (r *fakeRun) Note(_, d string) error { r.note = d; return nil }
func (r *fakeRun) Warn(w string) error    { r.job.Warnings = append(r.job.Warnings, w); return nil }
func (r *fakeRun) Update(change func(*backstay.Job)) error {
	change(&r.job)
	return nil
}

type world struct {
	*Runner
	t      *testing.T
	source *fakeSource
	holder *fakeHolder
	pace   *fakePace
	mu     sync.Mutex
	now    time.Time
}

var params = backstay.ReplicateParams{Vault: "main", Region: "east"}

func newWorld(t *testing.T) *world {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &world{t: t, now: start.Add(time.Hour), pace: &fakePace{}}
	w.source = &fakeSource{objects: map[string][]byte{"keys/a": []byte("key"), "vault.json": []byte("header")},
		points: map[backstay.PointID]Needs{}, damaged: map[string]bool{}}
	w.forgetRegion()
	w.Runner = &Runner{Catalog: c, Now: w.clock, AtOnce: 1, Patience: []time.Duration{0, 0}, Nudge: make(chan struct{}),
		Open:   func(context.Context, backstay.VaultName) (Source, error) { return w.source, nil },
		Holder: func(context.Context, backstay.RegionName) (pair.Holder, error) { return w.holder, nil },
		Pace:   func(backstay.RegionName) Pace { return w.pace },
	}
	w.must(c.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "main", ID: "id", Redundancy: backstay.GRS}))
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(lookEvery) // so that each look is due
	return w.now
}

func (w *world) forgetRegion() {
	w.holder = &fakeHolder{t: w.t, objects: map[string][]byte{}, clock: w.clock,
		held: pair.Held{Available: map[backstay.PointID]time.Time{}, Gone: map[backstay.PointID]time.Time{}}}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func id(n int) backstay.PointID { return backstay.PointID(fmt.Sprintf("01POINT%04d", n)) }

// commit makes point n of the packs, with an index and a record of the chain.
func (w *world) commit(n int, packs ...string) {
	w.t.Helper()
	s := w.source
	s.mu.Lock()
	s.seq++
	var names []string
	for _, p := range packs {
		name := "packs/" + p
		names = append(names, name)
		if s.objects[name] == nil {
			s.objects[name] = bytes.Repeat([]byte(p), 1000)
		}
	}
	index := fmt.Sprintf("indexes/%d", n)
	s.objects[index] = []byte(index)
	s.objects[fmt.Sprintf("chain/%d", s.seq)] = []byte("record")
	manifest, err := json.Marshal(append(slices.Clone(names), index))
	s.points[id(n)] = Needs{Packs: names, Manifest: manifest}
	seq := s.seq
	s.mu.Unlock()
	w.must(err)
	w.must(w.Catalog.Points.PutPoint(context.WithoutCancel(w.t.Context()), backstay.RecoveryPoint{ID: id(n), Vault: "main", Time: start.Add(time.Duration(n) * time.Minute),
		Tiers: []backstay.PointTier{{Tier: backstay.VaultTier, State: backstay.TierAvailable}}}))
	w.must(w.Catalog.Vaults.UpdateVault(context.WithoutCancel(w.t.Context()), backstay.Vault{Name: "main", ID: "id", Redundancy: backstay.GRS, Head: &backstay.VaultHead{Seq: seq}}))
}

func (w *world) push() (*fakeRun, error) {
	run := &fakeRun{done: map[string]bool{}, job: backstay.Job{ID: "01JOB"}}
	return run, w.Run(w.t.Context(), run, params)
}

func (w *world) pushed() *fakeRun {
	w.t.Helper()
	run, err := w.push()
	w.must(err)
	return run
}

// states are those that the catalogue has, by point.
func (w *world) states() map[backstay.PointID]backstay.ReplicaState {
	w.t.Helper()
	records, err := w.Catalog.Replicas.ListReplicas(w.t.Context(), "main")
	w.must(err)
	out := map[backstay.PointID]backstay.ReplicaState{}
	for _, r := range records {
		out[r.Point] = r.State
	}
	return out
}
