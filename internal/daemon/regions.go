package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/pair/link"
)

// pairIdentity is the name of the certificate for pairing in the server's keyring.
const pairIdentity = "pair-identity"

// regions are the paired regions, and the link to them. It implements
// server.Regions.
type regions struct {
	config  config.Config
	catalog *catalog.Catalog
	log     *slog.Logger
	now     func() time.Time
	id      *link.Identity
	// recipient returns this server's public key, for which the other region wraps the
	// keys of vaults that are to be restored here.
	recipient func(ctx context.Context) (string, error)
	// hold returns what holds the vaults of a region. It is set before serve.
	hold func(region backstay.RegionName) pair.Holder
	// reached is called when a region answers that did not; set before serve, may be nil.
	reached func()
	// limiter is on all that is pushed, to whatever region.
	limiter *pair.Limiter

	mu      sync.Mutex
	clients map[backstay.RegionName]dialled // guarded by mu
	sights  map[backstay.RegionName]sight   // guarded by mu
	// tokens is until when a token may be out; guarded by mu.
	tokens time.Time
}

// dialled is a client, and whom it calls.
type dialled struct {
	address, fingerprint string
	client               *link.Client
}

// sight is how a region was when it was last looked at.
type sight struct {
	fingerprint string
	seen        time.Time // the last answer of it, or call by it; zero for none
	reason      string    // why it is not connected; empty if it is
}

func newRegions(ctx context.Context, r *region, keys keyring.Keyring) (*regions, error) {
	secret, err := keys.Create(ctx, pairIdentity, func() (backstay.Secret, error) { return link.NewIdentity(time.Now()) })
	if err != nil {
		return nil, fmt.Errorf("make the certificate for pairing: %w", err)
	}
	id, err := link.ReadIdentity(secret)
	if err != nil {
		return nil, err
	}
	rate, err := r.config.Pair.Rate.Bytes()
	if err != nil {
		return nil, err // the configuration was checked
	}
	return &regions{
		config: r.config, catalog: r.catalog, log: r.log, now: utcNow, id: id, recipient: r.vaults.recipient, limiter: &pair.Limiter{Rate: rate},
		clients: map[backstay.RegionName]dialled{}, sights: map[backstay.RegionName]sight{},
		// A token that was made before the start may be out.
		tokens: time.Now().Add(tokenLife),
	}, nil
}

// holder returns the region with that name, to hold vaults of this one: its server,
// reached over the link, no faster than the configuration lets it.
func (g *regions) holder(ctx context.Context, name backstay.RegionName) (pair.Holder, error) {
	rec, err := g.record(ctx, name)
	if err != nil {
		return nil, err
	}
	return pair.Throttle(g.client(rec), g.limiter), nil
}

// client returns the client of a region: the same one as long as it is the same server.
func (g *regions) client(rec catalog.RegionRecord) *link.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.clients[rec.Name]
	if d.client == nil || d.address != rec.Address || d.fingerprint != rec.Fingerprint {
		if d.client != nil {
			d.client.Close()
		}
		d = dialled{address: rec.Address, fingerprint: rec.Fingerprint, client: link.Dial(g.id, rec.Name, rec.Address, rec.Fingerprint)}
		g.clients[rec.Name] = d
	}
	return d.client
}

func (g *regions) record(ctx context.Context, name backstay.RegionName) (catalog.RegionRecord, error) {
	rec, err := g.catalog.Regions.Region(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return rec, unknownRegion(name)
	}
	return rec, err
}

func unknownRegion(name backstay.RegionName) error {
	return backstay.Errorf(backstay.CodeUnknownRegion, "there is no region %q", name).Becausef("this one is not paired with it")
}

// Regions implements server.Regions.
func (g *regions) Regions(ctx context.Context) ([]backstay.Region, error) {
	recs, err := g.catalog.Regions.ListRegions(ctx)
	if err != nil {
		return nil, err
	}
	all := []backstay.Region{}
	for _, rec := range recs {
		all = append(all, g.shown(rec))
	}
	return all, nil
}

// Region implements server.Regions.
func (g *regions) Region(ctx context.Context, name backstay.RegionName) (backstay.Region, error) {
	rec, err := g.record(ctx, name)
	if err != nil {
		return backstay.Region{}, err
	}
	return g.shown(rec), nil
}

// shown is what is known of the region with how it was seen last.
func (g *regions) shown(rec catalog.RegionRecord) backstay.Region {
	out := rec.Region
	out.State, out.Reason = "unreachable", "it was not looked at since this server started"
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.sights[rec.Name]
	if !ok || s.fingerprint != rec.Fingerprint {
		return out
	}
	if !s.seen.IsZero() {
		out.LastSeen = &s.seen
	}
	if out.Reason = s.reason; s.reason == "" {
		out.State = "connected"
	}
	return out
}

// lookEvery is how often a paired region is looked at.
const lookEvery = 20 * time.Second

// watch looks at the paired regions until ctx ends.
func (g *regions) watch(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		recs, err := g.catalog.Regions.ListRegions(ctx)
		if err != nil && ctx.Err() == nil {
			g.log.Error("list the paired regions", "error", err)
		}
		var looks sync.WaitGroup
		for _, rec := range recs {
			looks.Go(func() { g.look(ctx, rec) })
		}
		looks.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look greets a region, and notes how it is.
func (g *regions) look(ctx context.Context, rec catalog.RegionRecord) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	greeting, err := g.greeting(ctx)
	var other link.Greeting
	if err == nil {
		other, err = g.client(rec).Hello(ctx, greeting)
	}
	if err == nil && other.Region != rec.Name {
		err = backstay.Errorf(backstay.CodePairing, "the server at %s calls its region %q", rec.Address, other.Region).Becausef("it was paired as %s", rec.Name)
	}
	if err == nil {
		err = g.learn(ctx, rec.Name, rec.Fingerprint, other)
	}
	g.saw(rec.Name, rec.Fingerprint, err)
}

// saw notes how a region was seen, and logs when that changed.
func (g *regions) saw(name backstay.RegionName, fingerprint string, err error) {
	g.mu.Lock()
	before, known := g.sights[name]
	s := sight{fingerprint: fingerprint}
	if known && before.fingerprint == fingerprint {
		s.seen = before.seen
	}
	if err == nil {
		s.seen = g.now()
	} else {
		s.reason = backstay.AsError(err).Error()
	}
	g.sights[name] = s
	g.mu.Unlock()
	switch {
	case err != nil && (!known || before.reason == ""):
		g.log.Warn("paired region is not reached", "region", name, "error", err)
	case err == nil && (!known || before.reason != ""):
		g.log.Info("paired region is reached", "region", name)
		if g.reached != nil {
			g.reached()
		}
	}
}

// learn keeps what a region says of how it is reached, if it changed. Who it is never
// changes by what it says.
func (g *regions) learn(ctx context.Context, name backstay.RegionName, fingerprint string, other link.Greeting) error {
	rec, err := g.record(ctx, name)
	if err != nil || rec.Fingerprint != fingerprint || rec.Address == other.Address && rec.Server == other.Server {
		return err
	}
	if err := checkGreeting(other); err != nil {
		return err
	}
	return g.catalog.Regions.ChangeRegions(ctx, func(known map[backstay.RegionName]catalog.RegionRecord) error {
		if rec, ok := known[name]; ok && rec.Fingerprint == fingerprint {
			rec.Address, rec.Server = other.Address, other.Server
			known[name] = rec
		}
		return nil
	})
}

// greeting is what this server says of itself.
func (g *regions) greeting(ctx context.Context) (link.Greeting, error) {
	recipient, err := g.recipient(ctx)
	return link.Greeting{
		Region: backstay.RegionName(g.config.Region), Address: g.config.Pair.Reached(), Server: g.config.Pair.Server,
		Recipient: recipient, Version: Version(), Time: g.now(),
	}, err
}

// listen listens for other regions; nil if the configuration has no address for them.
func (g *regions) listen(ctx context.Context) (net.Listener, error) {
	if g.config.Pair.Listen == "" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", g.config.Pair.Listen)
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeConfig, "cannot listen on %s for other regions", g.config.Pair.Listen).Because(err).
			Do("choose another address with pair: listen: in the configuration")
	}
	return l, nil
}

// serve answers other regions until ctx ends.
func (g *regions) serve(ctx context.Context, l net.Listener) error {
	return link.Serve(ctx, l, link.ServerOptions{
		Identity: g.id, Known: g.known, Strangers: g.tokenMayBeOut, Join: g.join, Hello: g.hello, Log: g.log,
		Holder: func(name backstay.RegionName) (pair.Holder, error) {
			if g.hold == nil {
				return nil, backstay.Errorf(backstay.CodeReplicaRefused, "region %s holds no vaults of others", g.config.Region)
			}
			return g.hold(name), nil
		},
	})
}

// known returns the region of a certificate.
func (g *regions) known(ctx context.Context, fingerprint string) (backstay.RegionName, error) {
	recs, err := g.catalog.Regions.ListRegions(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(recs, func(r catalog.RegionRecord) bool { return r.Fingerprint == fingerprint })
	if i < 0 {
		return "", nil
	}
	return recs[i].Name, nil
}

// hello answers a region that greets.
func (g *regions) hello(ctx context.Context, name backstay.RegionName, other link.Greeting) (link.Greeting, error) {
	rec, err := g.record(ctx, name)
	if err == nil {
		err = g.learn(ctx, name, rec.Fingerprint, other)
	}
	if err != nil {
		return link.Greeting{}, err
	}
	if rec.Address == "" {
		// It cannot be called, so its calls are the only sign of it.
		g.saw(name, rec.Fingerprint, nil)
	}
	return g.greeting(ctx)
}

// listenNow tells where the link listens, for the log.
func listenNow(l net.Listener) string {
	if l == nil {
		return "nowhere"
	}
	return cmp.Or(l.Addr().String(), "somewhere")
}
