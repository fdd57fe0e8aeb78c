package blobserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/retry"
)

// Open returns the store of a server that is reached at an address and is given
// up after idle without progress.
type Open func(t *testing.T, addr string, idle time.Duration) blob.Store

// patient is longer than any pause that a loaded machine makes.
const patient = 30 * time.Second

// Troubles tests what an adapter makes of a network and a server that fail, and
// what package retry makes of that.
func Troubles(t *testing.T, s *Server, open Open) {
	t.Run("AGetThatIsCutIsAnErrorNeverShort", func(t *testing.T) { cutGet(t, s, open) })
	t.Run("APutThatIsCutLeavesTheWholeObjectOrNone", func(t *testing.T) { cutPut(t, s, open) })
	t.Run("APutWhoseAnswerIsLostIsFoundToBeDone", func(t *testing.T) { lostAnswer(t, s, open) })
	t.Run("ACutListingIsAnErrorOrComplete", func(t *testing.T) { cutList(t, s, open) })
	t.Run("AServerThatHangsIsGivenUp", func(t *testing.T) { hangs(t, s, open) })
	t.Run("ASlowServerIsAwaited", func(t *testing.T) { slow(t, s, open) })
	t.Run("AServerThatRestartsIsAwayMeanwhile", func(t *testing.T) { restarts(t, s, open) })
}

func content(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data) // never fails
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quick tries again without losing time.
func quick(s blob.Store) blob.Store { return retry.Wrap(s, retry.Options{First: time.Millisecond}) }

func cutGet(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below := open(t, p.Addr, patient)
	data := content(5 << 20)
	must(t, below.Put(t.Context(), "cut/get", data))
	for _, after := range []int64{0, 100, 1 << 20, 5 << 20} {
		p.CutDown(after)
		for _, from := range []int64{0, 10} {
			p.CutDown(after)
			got, err := below.Get(t.Context(), "cut/get", from, 5<<20-from)
			// Before the first byte of an answer, HTTP itself may ask again.
			again := after == 0 && err == nil && bytes.Equal(got, data[from:])
			if !again && (!errors.Is(err, blob.ErrAway) || got != nil) {
				t.Errorf("cut after %d bytes: %d bytes, %v", after, len(got), err)
			}
		}
		p.CutDown(after)
		if got, err := quick(below).Get(t.Context(), "cut/get", 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("cut after %d bytes and tried again: %v", after, err)
		}
	}
	if p.Cuts() != 12 {
		t.Errorf("%d cuts, 12 were planned", p.Cuts())
	}
}

func cutPut(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below, direct := open(t, p.Addr, patient), open(t, s.Addr, patient)
	data := content(5 << 20)
	for i, after := range []int64{0, 100, 1 << 20, 5<<20 - 1} {
		name := fmt.Sprintf("cut/put%d", i)
		p.CutUp(after)
		if err := below.Put(t.Context(), name, data); !errors.Is(err, blob.ErrAway) {
			t.Errorf("cut after %d bytes: %v", after, err)
		}
		info, err := direct.Stat(t.Context(), name)
		if err == nil && info.Size != int64(len(data)) || err != nil && !errors.Is(err, blob.ErrNotExist) {
			t.Errorf("cut after %d bytes: %d are there, %v", after, info.Size, err)
		}
		p.CutUp(after)
		if err := quick(below).Put(t.Context(), name+"again", data); err != nil {
			t.Errorf("cut after %d bytes and tried again: %v", after, err)
		}
		if got, err := direct.Get(t.Context(), name+"again", 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("cut after %d bytes and tried again: %d bytes are there, %v", after, len(got), err)
		}
	}
	if p.Cuts() != 8 {
		t.Errorf("%d cuts, 8 were planned", p.Cuts())
	}
}

func lostAnswer(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below := open(t, p.Addr, patient)
	p.CutDown(0)
	if err := below.Put(t.Context(), "lost/1", []byte("mine")); !errors.Is(err, blob.ErrAway) {
		t.Errorf("put: %v", err)
	}
	p.CutDown(0)
	if err := quick(below).Put(t.Context(), "lost/2", []byte("mine")); err != nil {
		t.Errorf("put, tried again: %v", err)
	}
	must(t, below.Put(t.Context(), "lost/3", []byte("another's")))
	p.CutDown(0)
	if err := quick(below).Put(t.Context(), "lost/3", []byte("mine")); !errors.Is(err, blob.ErrExist) {
		t.Errorf("put of a name that another has: %v", err)
	}
	if p.Cuts() != 3 {
		t.Errorf("%d cuts, 3 were planned", p.Cuts())
	}
}

func cutList(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below := open(t, p.Addr, patient)
	for i := range 50 {
		must(t, below.Put(t.Context(), fmt.Sprintf("list/%02d", i), nil))
	}
	listed := func(s blob.Store) (n int, err error) {
		err = s.List(t.Context(), "list/", func(blob.Info) error { n++; return nil })
		return n, err
	}
	for _, after := range []int64{0, 300, 2000} {
		p.CutDown(after)
		if n, err := listed(below); !errors.Is(err, blob.ErrAway) && (err != nil || n != 50) {
			t.Errorf("cut after %d bytes: %d objects, %v", after, n, err)
		}
		p.CutDown(after)
		if n, err := listed(quick(below)); err != nil || n != 50 {
			t.Errorf("cut after %d bytes and tried again: %d objects, %v", after, n, err)
		}
	}
}

func hangs(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below := open(t, p.Addr, 300*time.Millisecond)
	must(t, open(t, s.Addr, patient).Put(t.Context(), "hang/there", content(1<<20)))
	p.Hang()
	for name, call := range map[string]func() error{
		"put":    func() error { return below.Put(t.Context(), "hang/put", content(1<<20)) },
		"get":    func() error { _, err := below.Get(t.Context(), "hang/there", 0, -1); return err },
		"stat":   func() error { _, err := below.Stat(t.Context(), "hang/there"); return err },
		"list":   func() error { return below.List(t.Context(), "", func(blob.Info) error { return nil }) },
		"delete": func() error { return below.Delete(t.Context(), "hang/there") },
	} {
		if err := call(); !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func slow(t *testing.T, s *Server, open Open) {
	p := NewProxy(t, s.Addr)
	below := open(t, p.Addr, patient)
	data := content(1 << 20)
	must(t, below.Put(t.Context(), "slow/1", data))
	p.Slow(5 * time.Millisecond)
	if got, err := below.Get(t.Context(), "slow/1", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %v", err)
	}
}

func restarts(t *testing.T, s *Server, open Open) {
	below := open(t, s.Addr, patient)
	must(t, below.Put(t.Context(), "restart/1", []byte("before")))
	s.Stop()
	if _, err := below.Get(t.Context(), "restart/1", 0, -1); !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
		t.Errorf("get meanwhile: %v", err)
	}
	if _, err := below.Stat(t.Context(), "restart/none"); !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
		t.Errorf("stat meanwhile: %v", err)
	}
	if err := below.Put(t.Context(), "restart/2", nil); !errors.Is(err, blob.ErrAway) {
		t.Errorf("put meanwhile: %v", err)
	}
	s.Start()
	if got, err := quick(below).Get(t.Context(), "restart/1", 0, -1); err != nil || string(got) != "before" {
		t.Errorf("get after: %q, %v", got, err)
	}
	must(t, quick(below).Put(t.Context(), "restart/2", nil))
}
