package vault_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/tier/vault/chain"
)

// hooked is a copy in which something happens before the first put or delete of
// an object with a prefix.
type hooked struct {
	*mem.Store
	put, delete func()
	prefix      string
	once        sync.Once
}

func (h *hooked) before(name string, do func()) {
	if do != nil && strings.HasPrefix(name, h.prefix) {
		h.once.Do(do)
	}
}

func (h *hooked) Put(ctx context.Context, name string, data []byte) error {
	h.before(name, h.put)
	return h.Store.Put(ctx, name, data)
}

func (h *hooked) Delete(ctx context.Context, name string) error {
	h.before(name, h.delete)
	return h.Store.Delete(ctx, name)
}

// twoAttempts is a transfer that is about to commit when a second attempt at the
// same point begins elsewhere, in the belief that the first one is dead. A pack of
// the first was condemned between the two.
type twoAttempts struct {
	*world
	id    backstay.PointID
	data  []byte
	first *vault.Vault
	copy  *hooked // of the first attempt
}

func newTwoAttempts(t *testing.T, between func(*twoAttempts)) *twoAttempts {
	a := &twoAttempts{world: newWorld(t), id: newID(), data: sparse(3, 256<<10)}
	a.copy = &hooked{Store: a.copies[0], prefix: chain.Prefix}
	a.first = a.open(replica.New(a.copy, a.copies[1], a.copies[2]))
	a.copy.put = func() {
		pack := a.objects("packs/")[0]
		a.condemn(pack[strings.LastIndexByte(pack, '/')+1:])
		between(a)
	}
	return a
}

func (a *twoAttempts) source() source { return source{target: "vda", disk: &disk{data: a.data}} }

func (a *twoAttempts) check() {
	a.t.Helper()
	a.restored(a.open(a.store), a.id, "vda", a.data)
	for i, c := range a.copies {
		if _, err := c.Stat(a.ctx, "points/"+string(a.id)); err != nil {
			a.t.Errorf("manifest in copy %d: %v", i, err)
		}
	}
}

func TestASecondAttemptDoesNotTakeTheManifestFromTheFirst(t *testing.T) {
	var second *vault.Writer
	a := newTwoAttempts(t, func(a *twoAttempts) {
		var err error
		second, err = a.open(a.store).Begin(a.ctx, vault.WriteOptions{Point: a.id})
		a.must(err)
		if left := a.objects("points/"); len(left) != 0 {
			t.Fatalf("the second attempt left %v", left)
		}
	})
	_, err := backup(a.ctx, a.first, vault.WriteOptions{Point: a.id}, a.source())
	a.must(err)
	a.check()
	_, err = second.WriteDisk(a.ctx, vault.DiskSource{Target: "vda", Image: a.source().disk})
	a.must(err)
	if _, err = second.Commit(a.ctx, facts(a.id), definition); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("the second attempt: %v", err)
	}
	a.check()
}

// The second attempt puts its own manifest before the first one's record.
func TestOfTwoAttemptsThePointIsTheOneThatTheChainNames(t *testing.T) {
	a := newTwoAttempts(t, func(a *twoAttempts) {
		c := &hooked{Store: a.copies[0], prefix: chain.Prefix}
		ctx, cancel := context.WithCancel(a.ctx)
		c.put = cancel // the second attempt dies before its record
		v := a.open(replica.New(c, a.copies[1], a.copies[2]))
		w, err := v.Begin(ctx, vault.WriteOptions{Point: a.id})
		a.must(err)
		_, err = w.WriteDisk(ctx, vault.DiskSource{Target: "vda", Image: a.source().disk})
		a.must(err)
		later := facts(a.id)
		later.Time = later.Time.Add(1)
		_, _ = w.Commit(ctx, later, definition)
	})
	_, err := backup(a.ctx, a.first, vault.WriteOptions{Point: a.id}, a.source())
	if err != nil && !backstay.IsCode(err, backstay.CodeConflict) {
		t.Fatal(err)
	}
	a.check()
}

func TestAManifestThatIsCommittedWhileItIsRemovedIsPutBack(t *testing.T) {
	removing, committed, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	a := newTwoAttempts(t, func(a *twoAttempts) {
		last := &hooked{Store: a.copies[2], prefix: "points/"}
		last.delete = func() {
			close(removing)
			<-committed
		}
		v := a.open(replica.New(a.copies[0], a.copies[1], last))
		go func() {
			_, err := v.Begin(a.ctx, vault.WriteOptions{Point: a.id})
			done <- err
		}()
		<-removing
	})
	_, err := backup(a.ctx, a.first, vault.WriteOptions{Point: a.id}, a.source())
	a.must(err)
	close(committed)
	if err := <-done; !backstay.IsCode(err, backstay.CodeExists) {
		t.Errorf("the second attempt: %v", err)
	}
	a.check()
}

// A commit that broke off is completed only with a manifest that is sound in every
// copy (I2).
func TestABrokenCommitIsNotCompletedWithADamagedManifest(t *testing.T) {
	for n := range 3 {
		w := newWorld(t)
		id := newID()
		w.brokenOff(id, 1)
		name := "points/" + string(id)
		bad := w.get(n, name)
		bad[len(bad)/2] ^= 1
		w.copies[n].Replace(name, bad)
		if err := w.small(w.open(w.store), id, 1); err != nil && !backstay.IsCode(err, backstay.CodeExists) {
			t.Fatalf("copy %d: %v", n, err)
		}
		headers, err := w.open(w.store).Points(w.ctx)
		w.must(err)
		if len(headers) != 1 || headers[0].Copies != 3 {
			t.Errorf("copy %d: %+v", n, headers)
		}
	}
}
