package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/pair/link"
	"github.com/backstay/backstay/internal/pair/pairtest"
)

// lone is what a server has of other regions, without the rest of it. Its clock
// stands, and its catalogue can be told to fail.
type lone struct {
	*regions
	fake   *pairtest.Fake
	failAt int // the ChangeRegions call that ends the process before it; 0 for none
	dead   bool
	stop   func()
}

// endingRegions is a catalogue whose process ends before the n-th change.
type endingRegions struct {
	catalog.Regions
	l *lone
}

var errDead = errors.New("the process has ended")

func (d endingRegions) ChangeRegions(ctx context.Context, change func(map[backstay.RegionName]catalog.RegionRecord) error) error {
	if d.l.failAt > 0 {
		if d.l.failAt--; d.l.failAt == 0 {
			d.l.dead = true
		}
	}
	if d.l.dead {
		return errDead
	}
	return d.Regions.ChangeRegions(ctx, change)
}

// loneRegion makes one that other regions can call; without an address none can.
func loneRegion(t *testing.T, name backstay.RegionName, callable bool) *lone {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := link.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := link.ReadIdentity(secret)
	if err != nil {
		t.Fatal(err)
	}
	l := &lone{fake: &pairtest.Fake{}, stop: func() {}}
	c.Regions = endingRegions{c.Regions, l}
	now := time.Now().UTC().Truncate(time.Second)
	l.regions = &regions{
		config: config.Config{Region: string(name)}, catalog: c, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }, id: id,
		recipient: func(context.Context) (string, error) { return "", nil }, limiter: &pair.Limiter{},
		hold:    func(backstay.RegionName) pair.Holder { return l.fake },
		clients: map[backstay.RegionName]dialled{}, sights: map[backstay.RegionName]sight{},
	}
	if callable {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.config.Pair.Listen = listener.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- l.serve(ctx, listener) }()
		l.stop = func() {
			cancel()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	}
	t.Cleanup(func() {
		for _, d := range l.clients {
			d.client.Close()
		}
		l.stop()
		_ = c.Close()
	})
	return l
}

// token makes one in l.
func (l *lone) token(t *testing.T, replace backstay.RegionName) string {
	t.Helper()
	made, err := l.NewPairingToken(t.Context(), api.PairingTokenRequest{Replace: replace})
	if err != nil {
		t.Fatal(err)
	}
	return made.Token
}

func (l *lone) pairWith(t *testing.T, token string, replace backstay.RegionName) error {
	t.Helper()
	_, err := l.Pair(t.Context(), api.PairRequest{Token: token, Replace: replace})
	return err
}

// greets tells whether l reaches the region.
func (l *lone) greets(t *testing.T, name backstay.RegionName) error {
	t.Helper()
	h, err := l.holder(t.Context(), name)
	if err == nil {
		_, err = h.Vaults(t.Context())
	}
	return err
}

func wantCode(t *testing.T, err error, code backstay.Code) {
	t.Helper()
	if !backstay.IsCode(err, code) {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestOneTokenPairsTwoRegionsBothWays(t *testing.T) {
	west, east := loneRegion(t, "west", true), loneRegion(t, "east", true)
	wantCode(t, east.greets(t, "west"), backstay.CodeUnknownRegion)
	token := west.token(t, "")
	if err := east.pairWith(t, token, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(east.greets(t, "west"), west.greets(t, "east")); err != nil {
		t.Fatal(err)
	}
	if got, err := west.Region(t.Context(), "east"); err != nil || got.Fingerprint != east.id.Fingerprint() || got.Address != east.config.Pair.Listen {
		t.Errorf("west knows %+v, %v", got, err)
	}
	// The one that used it may do so again; nobody else may.
	if err := east.pairWith(t, token, ""); err != nil {
		t.Errorf("again: %v", err)
	}
	wantCode(t, loneRegion(t, "north", false).pairWith(t, token, ""), backstay.CodePairing)
	wantCode(t, loneRegion(t, "north", false).pairWith(t, strings.Replace(token, "a", "b", 1), ""), backstay.CodePairing)
	if all, err := west.Regions(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("west knows %+v, %v", all, err)
	}
}

func TestATokenEndsWithItsHour(t *testing.T) {
	west, east := loneRegion(t, "west", true), loneRegion(t, "east", false)
	token, made := west.token(t, ""), west.now()
	west.now = func() time.Time { return made.Add(tokenLife) }
	// With no token out the other server does not even listen to strangers.
	wantCode(t, east.pairWith(t, token, ""), backstay.CodePairing)
	west.token(t, "")
	err := east.pairWith(t, token, "")
	wantCode(t, err, backstay.CodePairing)
	if !strings.Contains(err.Error(), "expired") {
		t.Errorf("the reason is not named: %v", err)
	}
	if all, _ := west.Regions(t.Context()); len(all) > 0 {
		t.Errorf("west knows %+v", all)
	}
}

// A region that cannot be called is told so, and pairs by another one's token.
func TestARegionThatCannotBeCalledMakesNoToken(t *testing.T) {
	west, east := loneRegion(t, "west", true), loneRegion(t, "east", false)
	_, err := east.NewPairingToken(t.Context(), api.PairingTokenRequest{})
	wantCode(t, err, backstay.CodeConfig)
	if err := east.pairWith(t, west.token(t, ""), ""); err != nil {
		t.Fatal(err)
	}
	if err := east.greets(t, "west"); err != nil {
		t.Error(err)
	}
	err = west.greets(t, "east")
	wantCode(t, err, backstay.CodeRegionAway)
	if !strings.Contains(err.Error(), "did not say where") {
		t.Errorf("the reason is not named: %v", err)
	}
}

// A server can take another's place in a name only where the owner of the other
// region said so, on both sides.
func TestANewServerOfARegionReplacesTheOldOneByConsentOnly(t *testing.T) {
	east, west := loneRegion(t, "east", true), loneRegion(t, "west", true)
	if err := west.pairWith(t, east.token(t, ""), ""); err != nil {
		t.Fatal(err)
	}
	again := loneRegion(t, "west", true) // a new server with the old name
	wantCode(t, again.pairWith(t, east.token(t, ""), ""), backstay.CodeExists)
	wantCode(t, again.pairWith(t, east.token(t, "north"), ""), backstay.CodeExists)
	if err := west.greets(t, "east"); err != nil {
		t.Errorf("the old server was put out: %v", err)
	}
	if err := again.pairWith(t, east.token(t, "west"), ""); err != nil {
		t.Fatal(err)
	}
	if err := again.greets(t, "east"); err != nil {
		t.Error(err)
	}
	// The old one is a stranger now, also on the connection that it still has.
	wantCode(t, west.greets(t, "east"), backstay.CodePairing)
	// The other way round: the new server makes the token.
	third := loneRegion(t, "west", true)
	wantCode(t, east.pairWith(t, third.token(t, ""), ""), backstay.CodeExists)
	if all, _ := third.Regions(t.Context()); len(all) > 0 {
		t.Errorf("the new server was told of a pairing that was refused: %+v", all)
	}
	if err := east.pairWith(t, third.token(t, ""), "west"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(third.greets(t, "east"), east.greets(t, "west")); err != nil {
		t.Error(err)
	}
}

// A region that is removed is out at once, its tokens pair nobody else, and it may be
// paired again.
func TestARegionThatIsRemovedIsOutAtOnce(t *testing.T) {
	west, east := loneRegion(t, "west", true), loneRegion(t, "east", true)
	token := west.token(t, "")
	if err := errors.Join(east.pairWith(t, token, ""), east.greets(t, "west")); err != nil {
		t.Fatal(err)
	}
	if err := west.catalog.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "main", Pair: "east"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, west.RemoveRegion(t.Context(), "east"), backstay.CodeConflict)
	if err := west.catalog.Vaults.UpdateVault(t.Context(), backstay.Vault{Name: "main"}); err != nil {
		t.Fatal(err)
	}
	if err := west.RemoveRegion(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, west.RemoveRegion(t.Context(), "east"), backstay.CodeUnknownRegion)
	wantCode(t, east.greets(t, "west"), backstay.CodePairing)
	wantCode(t, west.greets(t, "east"), backstay.CodeUnknownRegion)
	if all, err := west.Regions(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
	wantCode(t, loneRegion(t, "north", false).pairWith(t, token, ""), backstay.CodePairing)
	other := loneRegion(t, "east", false)
	if err := errors.Join(other.pairWith(t, west.token(t, ""), ""), other.greets(t, "west")); err != nil {
		t.Errorf("another server of that name, with a token of its own: %v", err)
	}
	wantCode(t, loneRegion(t, "north", false).pairWith(t, token, ""), backstay.CodePairing)
}

func TestARegionIsNotPairedWithItselfOrTwice(t *testing.T) {
	west := loneRegion(t, "west", true)
	wantCode(t, west.pairWith(t, west.token(t, ""), ""), backstay.CodeExists)
	other := loneRegion(t, "west", false)
	wantCode(t, other.pairWith(t, west.token(t, ""), ""), backstay.CodeExists)
	east := loneRegion(t, "east", true)
	if err := east.pairWith(t, west.token(t, ""), ""); err != nil {
		t.Fatal(err)
	}
	east.config.Region = "north"
	wantCode(t, east.pairWith(t, west.token(t, ""), ""), backstay.CodeExists)
}

// A pairing that was cut by the end of either process, before any change in its
// catalogue, is made whole by the same token.
func TestAPairingThatWasCutIsMadeWholeByTheSameToken(t *testing.T) {
	for _, victim := range []string{"west", "east"} {
		west, east := loneRegion(t, "west", true), loneRegion(t, "east", true)
		token := west.token(t, "")
		dies := map[string]*lone{"west": west, "east": east}[victim]
		dies.failAt = 1
		if err := east.pairWith(t, token, ""); err == nil {
			t.Fatalf("%s ended, and the pairing was told to be made", victim)
		}
		dies.dead = false // its next life
		if victim == "east" {
			// West knows east already. East does not know west, and lets it do nothing.
			wantCode(t, west.greets(t, "east"), backstay.CodePairing)
		}
		if err := east.pairWith(t, token, ""); err != nil {
			t.Errorf("%s ended: %v", victim, err)
		}
		if err := errors.Join(east.greets(t, "west"), west.greets(t, "east")); err != nil {
			t.Errorf("%s ended: %v", victim, err)
		}
	}
}

// What the other server says of itself goes into the catalogue and onto terminals.
func TestAGreetingIsLookedAtBeforeItIsKept(t *testing.T) {
	good := link.Greeting{Region: "east", Address: "10.0.0.1:7071", Server: "https://east.example"}
	if err := checkGreeting(good); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]func(*link.Greeting){
		"a name with an escape": func(g *link.Greeting) { g.Region = "east\x1b[2J" },
		"no name":               func(g *link.Greeting) { g.Region = "" },
		"no port":               func(g *link.Greeting) { g.Address = "east" },
		"an escape in the host": func(g *link.Greeting) { g.Address = "\x1b[2J:1" },
		"no URL":                func(g *link.Greeting) { g.Server = "javascript:alert(1)" },
		"a long URL":            func(g *link.Greeting) { g.Server = "https://" + strings.Repeat("x", 2000) },
		"no recipient":          func(g *link.Greeting) { g.Recipient = "age1nothing" },
	} {
		g := good
		if bad(&g); checkGreeting(g) == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// What changes of how a region is reached is learnt by greeting; who it is is not.
func TestAnAddressThatChangedIsLearnt(t *testing.T) {
	west, east := loneRegion(t, "west", true), loneRegion(t, "east", true)
	if err := east.pairWith(t, west.token(t, ""), ""); err != nil {
		t.Fatal(err)
	}
	east.config.Pair.Server = "https://east.example"
	rec, err := west.record(t.Context(), "east")
	if err != nil {
		t.Fatal(err)
	}
	west.look(t.Context(), rec)
	got, err := west.Region(t.Context(), "east")
	if err != nil || got.State != "connected" || got.Server != "https://east.example" || got.Fingerprint != east.id.Fingerprint() || got.LastSeen == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if text := metricsOf(t, west); !strings.Contains(text, `backstay_region_connected{region="east"} 1`) || !strings.Contains(text, "backstay_region_seen_timestamp_seconds") {
		t.Errorf("metrics: %s", text)
	}
	east.stop()
	east.stop = func() {}
	west.look(t.Context(), rec)
	if text := metricsOf(t, west); !strings.Contains(text, `backstay_region_connected{region="east"} 0`) {
		t.Errorf("metrics: %s", text)
	}
	if got, err = west.Region(t.Context(), "east"); err != nil || got.State != "unreachable" || got.Reason == "" || got.LastSeen == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// metricsOf is what /metrics says of other regions.
func metricsOf(t *testing.T, l *lone) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(l.regions)
	out := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
	return out.Body.String()
}

// pairable makes the region of newRegion one that can be called.
func pairable(t *testing.T, result config.InitResult, name string) {
	t.Helper()
	cfg, err := config.Load(result.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Region, cfg.Pair = name, config.Pair{Listen: freeAddress(t), Server: "http://" + cfg.Listen}
	if err := os.WriteFile(result.ConfigPath, []byte(config.Sample(cfg)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Two whole servers are paired over the API and know each other also after a
// restart; the token is in no log of requests.
func TestTwoServersArePairedOverTheAPI(t *testing.T) {
	worlds := map[string]config.InitResult{"west": newRegion(t), "east": newRegion(t)}
	clients, stops := map[string]*client.Client{}, map[string]func() error{}
	for name, result := range worlds {
		pairable(t, result, name)
		clients[name], stops[name] = start(t, result)
	}
	ctx := t.Context()
	token, err := clients["west"].NewPairingToken(ctx, api.PairingTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	paired, err := clients["east"].PairRegion(ctx, api.PairRequest{Token: token.Token})
	if err != nil {
		t.Fatal(err)
	}
	if paired.Name != "west" || paired.Fingerprint != token.Fingerprint || paired.State != "connected" || paired.Recipient == "" || paired.Server == "" {
		t.Errorf("%+v", paired)
	}
	if err := stops["west"](); err != nil {
		t.Error(err)
	}
	clients["west"], stops["west"] = start(t, worlds["west"])
	eventually(t, func() bool {
		r, err := clients["west"].Region(ctx, "east")
		return err == nil && r.State == "connected"
	})
	for name, c := range clients {
		entries, err := c.Audit(ctx, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(e.Target, "bspair_") {
				t.Errorf("%s: a token is in the audit log: %+v", name, e)
			}
		}
		if err := stops[name](); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(filepath.Join(worlds[name].DataDir, "catalog.db")); err != nil || bytes.Contains(data, []byte("bspair_")) {
			t.Errorf("%s: a token is in the catalogue (%v)", name, err)
		}
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatal("it never came to be")
}
