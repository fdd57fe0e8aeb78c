package link

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/pair/pairtest"
)

// world is a server that knows one region, west, and a client of that region.
type world struct {
	fake       *pairtest.Fake
	here, west *Identity
	address    string
	client     *Client
	mu         sync.Mutex
	known      map[string]backstay.RegionName // guarded by mu
	strangers  bool                           // guarded by mu
	joined     []string                       // guarded by mu: fingerprints
	stop       context.CancelFunc
	served     chan error
	tm         timing
}

func identity(t *testing.T) *Identity {
	t.Helper()
	secret, err := NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := ReadIdentity(secret)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// patient is for tests that nothing holds up; quick for those that see it held up.
var (
	patient = timing{dial: 20 * time.Second, silence: 20 * time.Second, alive: 20 * time.Millisecond, answer: time.Minute, idle: 10 * time.Second}
	quick   = timing{dial: 2 * time.Second, silence: 400 * time.Millisecond, alive: 50 * time.Millisecond, answer: time.Minute, idle: 200 * time.Millisecond}
)

func start(t *testing.T, tm timing) *world {
	t.Helper()
	w := &world{fake: needy(), here: identity(t), west: identity(t), known: map[string]backstay.RegionName{}, served: make(chan error, 1), tm: tm}
	w.known[w.west.Fingerprint()] = "west"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go func() { w.served <- serve(ctx, l, w.options(), tm) }()
	w.client = dial(w.west, "east", w.address, w.here.Fingerprint(), tm)
	t.Cleanup(func() {
		w.client.Close()
		stop()
		if err := <-w.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

func (w *world) options() ServerOptions {
	return ServerOptions{
		Identity: w.here, Log: slog.New(slog.DiscardHandler),
		Known: func(_ context.Context, fingerprint string) (backstay.RegionName, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.known[fingerprint], nil
		},
		Strangers: func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.strangers
		},
		Join: func(_ context.Context, fingerprint string, t Token, g Greeting) (Greeting, error) {
			if err := w.here.Check(t, time.Now()); err != nil {
				return Greeting{}, err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.joined = append(w.joined, fingerprint)
			w.known[fingerprint] = g.Region
			return Greeting{Region: "east", Address: w.address}, nil
		},
		Hello: func(_ context.Context, region backstay.RegionName, g Greeting) (Greeting, error) {
			return Greeting{Region: "east", Server: "to " + string(region) + " from " + string(g.Region)}, nil
		},
		Holder: func(backstay.RegionName) (pair.Holder, error) { return w.fake, nil },
	}
}

// needy is a fake whose manifests need all objects of the suite's vault.
func needy() *pairtest.Fake {
	return &pairtest.Fake{Needs: func([]byte) (names []string) {
		for _, o := range pairtest.Vault(nil).Objects {
			names = append(names, o.Name)
		}
		return names
	}}
}

func TestTheLinkCarriesAllCallsOfAHolder(t *testing.T) {
	pairtest.Run(t, func(t *testing.T) pairtest.Subject { return pairtest.Vault(start(t, patient).client) })
}

func TestServersGreetEachOther(t *testing.T) {
	w := start(t, patient)
	g, err := w.client.Hello(t.Context(), Greeting{Region: "west"})
	if err != nil || g.Server != "to west from west" {
		t.Errorf("%+v, %v", g, err)
	}
}
