package pairtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"lukechampine.com/blake3"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
)

// Fake holds vaults in memory. It checks sizes and sums, and knows nothing of what a
// vault is made of: a manifest is complete if Needs says so.
type Fake struct {
	// Quota bounds the bytes that are held; 0 for no bound.
	Quota int64
	// Needs returns the objects without which a manifest is not complete; nil for none.
	Needs func(manifest []byte) []string
	// ManifestName is under which name a manifest is held; nil means points/ID.
	ManifestName func(backstay.PointID) string
	// Before is called before each call with its name and what it is about; an error of
	// it is the call's. nil for nothing.
	Before func(ctx context.Context, call, about string) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	mu     sync.Mutex
	vaults map[string]*fakeVault // guarded by mu
}

type fakeVault struct {
	offer   pair.Offer
	objects map[string][]byte
	points  map[backstay.PointID]time.Time
	gone    map[backstay.PointID]time.Time
}

var _ pair.Holder = (*Fake)(nil)

func (f *Fake) before(ctx context.Context, call, about string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.Before == nil {
		return nil
	}
	return f.Before(ctx, call, about)
}

// vault returns a vault that was offered. The lock is held.
func (f *Fake) vault(id string) (*fakeVault, error) {
	v := f.vaults[id]
	if v == nil {
		return nil, backstay.Errorf(backstay.CodeUnknownVault, "the vault %s was never offered", id)
	}
	return v, nil
}

// used are the bytes that are held. The lock is held.
func (f *Fake) used() (n int64) {
	for _, v := range f.vaults {
		for _, content := range v.objects {
			n += int64(len(content))
		}
	}
	return n
}

// Offer implements pair.Holder.
func (f *Fake) Offer(ctx context.Context, o pair.Offer) (pair.Held, error) {
	if err := f.before(ctx, "offer", o.ID); err != nil {
		return pair.Held{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.ID == "" {
		return pair.Held{}, backstay.Errorf(backstay.CodeReplicaRefused, "the vault has no id")
	}
	if f.vaults == nil {
		f.vaults = map[string]*fakeVault{}
	}
	v := f.vaults[o.ID]
	if v == nil {
		v = &fakeVault{objects: map[string][]byte{}, points: map[backstay.PointID]time.Time{}, gone: map[backstay.PointID]time.Time{}}
		f.vaults[o.ID] = v
	} else if o.Head.Seq < v.offer.Head.Seq {
		return pair.Held{}, backstay.Errorf(backstay.CodeVaultRolledBack, "the vault is older than what was seen of it")
	}
	v.offer = o
	held := pair.Held{Available: maps.Clone(v.points), Gone: maps.Clone(v.gone), Room: -1, Head: o.Head}
	if f.Quota > 0 {
		held.Room = max(0, f.Quota-f.used())
	}
	return held, nil
}

// Lacks implements pair.Holder.
func (f *Fake) Lacks(ctx context.Context, vault string, objects []pair.Object) ([]string, error) {
	if err := f.before(ctx, "lacks", vault); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.vault(vault)
	if err != nil {
		return nil, err
	}
	lacks := []string{}
	for _, o := range objects {
		if content, ok := v.objects[o.Name]; !ok || int64(len(content)) != o.Size || blake3.Sum256(content) != o.Sum {
			lacks = append(lacks, o.Name)
		}
	}
	return lacks, nil
}

// Put implements pair.Holder.
func (f *Fake) Put(ctx context.Context, vault string, o pair.Object, content io.Reader) error {
	if err := f.before(ctx, "put", o.Name); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(content, o.Size+1))
	if err != nil {
		return fmt.Errorf("take %s in: %w", o.Name, err)
	}
	if int64(len(data)) != o.Size || blake3.Sum256(data) != o.Sum {
		return backstay.Errorf(backstay.CodeReplicaRefused, "%s is not what was said of it", o.Name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.vault(vault)
	if err != nil {
		return err
	}
	return f.keep(v, o.Name, data)
}

// keep puts an object, never over another one. The lock is held.
func (f *Fake) keep(v *fakeVault, name string, data []byte) error {
	if old, ok := v.objects[name]; ok {
		if !bytes.Equal(old, data) {
			return backstay.Errorf(backstay.CodeReplicaRefused, "%s is there with other bytes", name)
		}
		return nil
	}
	if f.Quota > 0 && f.used()+int64(len(data)) > f.Quota {
		return backstay.Errorf(backstay.CodeRegionQuota, "there is no room for %s", name)
	}
	v.objects[name] = data
	return nil
}

// Complete implements pair.Holder.
func (f *Fake) Complete(ctx context.Context, vault string, point backstay.PointID, manifest []byte) error {
	if err := f.before(ctx, "complete", string(point)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.vault(vault)
	if err != nil {
		return err
	}
	if _, ok := v.gone[point]; ok {
		return backstay.Errorf(backstay.CodeReplicaRefused, "point %s was let go", point)
	}
	if f.Needs != nil {
		for _, name := range f.Needs(manifest) {
			if _, ok := v.objects[name]; !ok {
				return backstay.Errorf(backstay.CodeReplicaRefused, "point %s lacks %s", point, name)
			}
		}
	}
	name := "points/" + string(point)
	if f.ManifestName != nil {
		name = f.ManifestName(point)
	}
	if err := f.keep(v, name, bytes.Clone(manifest)); err != nil {
		return err
	}
	if _, ok := v.points[point]; !ok {
		now := time.Now
		if f.Now != nil {
			now = f.Now
		}
		v.points[point] = now().UTC()
	}
	return nil
}

// List implements pair.Holder.
func (f *Fake) List(ctx context.Context, vault string, fn func(pair.Object) error) error {
	if err := f.before(ctx, "list", vault); err != nil {
		return err
	}
	f.mu.Lock()
	v, err := f.vault(vault)
	var objects []pair.Object
	if err == nil {
		for _, name := range slices.Sorted(maps.Keys(v.objects)) {
			content := v.objects[name]
			objects = append(objects, pair.Object{Name: name, Size: int64(len(content)), Sum: blake3.Sum256(content)})
		}
	}
	f.mu.Unlock()
	for _, o := range objects {
		if err := fn(o); err != nil {
			return err
		}
	}
	return err
}

// Get implements pair.Holder.
func (f *Fake) Get(ctx context.Context, vault string, name string) (io.ReadCloser, error) {
	if err := f.before(ctx, "get", name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v, err := f.vault(vault)
	if err != nil {
		return nil, err
	}
	content, ok := v.objects[name]
	if !ok {
		return nil, backstay.Errorf(backstay.CodeReplicaRefused, "the vault has no object %s here", name)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

// Vaults implements pair.Holder.
func (f *Fake) Vaults(ctx context.Context) ([]pair.Offer, error) {
	if err := f.before(ctx, "vaults", ""); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	offers := []pair.Offer{}
	for _, id := range slices.Sorted(maps.Keys(f.vaults)) {
		offers = append(offers, f.vaults[id].offer)
	}
	return offers, nil
}

// Objects returns what is held of a vault, by name.
func (f *Fake) Objects(vault string) map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.vaults[vault]; v != nil {
		return maps.Clone(v.objects)
	}
	return nil
}

// LetGo is what retention does: the point goes, and is not taken in again.
func (f *Fake) LetGo(vault string, point backstay.PointID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.vaults[vault]
	delete(v.points, point)
	v.gone[point] = time.Now().UTC()
}

// Damage changes what is held of an object; nil removes it.
func (f *Fake) Damage(vault, name string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if content == nil {
		delete(f.vaults[vault].objects, name)
		return
	}
	f.vaults[vault].objects[name] = content
}
