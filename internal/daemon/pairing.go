package daemon

import (
	"context"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/pair/link"
	"github.com/backstay/backstay/internal/tier/vault"
)

// tokenLife is how long a token of pairing can be used.
const tokenLife = time.Hour

// NewPairingToken implements server.Regions. Nothing is kept of the token: what it
// says is under a key of this server.
func (g *regions) NewPairingToken(_ context.Context, r api.PairingTokenRequest) (api.PairingToken, error) {
	address := g.config.Pair.Reached()
	if g.config.Pair.Listen == "" || address == "" {
		return api.PairingToken{}, backstay.Errorf(backstay.CodeConfig, "another region could not call this one").
			Becausef("the configuration does not say where it listens, or how others reach that").
			Do("set `pair:` with `listen: 0.0.0.0:7071` and `address: HOST:7071` and start the server again, or make the token in the other region")
	}
	expires := g.now().Add(tokenLife).Truncate(time.Second)
	g.mu.Lock()
	g.tokens = expires
	g.mu.Unlock()
	token, err := g.id.Issue(link.Token{Region: backstay.RegionName(g.config.Region), Address: address, Expires: expires.Unix(), Replace: r.Replace})
	return api.PairingToken{
		Token: token, Expires: expires, Region: backstay.RegionName(g.config.Region), Address: address, Fingerprint: g.id.Fingerprint(),
	}, err
}

// tokenMayBeOut tells whether somebody may have a token of this server that counts.
func (g *regions) tokenMayBeOut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now().Before(g.tokens)
}

// Pair implements server.Regions. The order is: the other server's row is written
// there, then it answers, then the row of it is written here. Killed in between, only
// the other one knows: its calls are refused here, and the same token makes it whole.
func (g *regions) Pair(ctx context.Context, r api.PairRequest) (backstay.Region, error) {
	token, err := link.ParseToken(r.Token)
	if err != nil {
		return backstay.Region{}, err
	}
	newcomer := newcomer{name: token.Region, fingerprint: token.Fingerprint, replace: r.Replace}
	recs, err := g.catalog.Regions.ListRegions(ctx)
	if err != nil {
		return backstay.Region{}, err
	}
	known := map[backstay.RegionName]catalog.RegionRecord{}
	for _, rec := range recs {
		known[rec.Name] = rec
	}
	// Before the other server is told anything, see whether it would be taken.
	if err := g.admit(known, newcomer); err != nil {
		return backstay.Region{}, err
	}
	greeting, err := g.greeting(ctx)
	if err != nil {
		return backstay.Region{}, err
	}
	other, err := link.Join(ctx, g.id, token, greeting)
	if err != nil {
		return backstay.Region{}, err
	}
	if other.Region != token.Region {
		return backstay.Region{}, backstay.Errorf(backstay.CodePairing, "the other server calls its region %q", other.Region).Becausef("the token is of region %s", token.Region)
	}
	if other.Address == "" {
		other.Address = token.Address
	}
	if err := g.enter(ctx, newcomer, other, link.Token{}); err != nil {
		return backstay.Region{}, err
	}
	g.saw(token.Region, token.Fingerprint, nil)
	return g.Region(ctx, token.Region)
}

// join takes in a server that has a token of this one.
func (g *regions) join(ctx context.Context, fingerprint string, t link.Token, other link.Greeting) (link.Greeting, error) {
	if err := g.id.Check(t, g.now()); err != nil {
		return link.Greeting{}, err
	}
	if err := g.enter(ctx, newcomer{name: other.Region, fingerprint: fingerprint, replace: t.Replace}, other, t); err != nil {
		return link.Greeting{}, err
	}
	g.log.Info("paired with region", "region", other.Region, "fingerprint", fingerprint)
	return g.greeting(ctx)
}

// RemoveRegion implements server.Regions. The row stays until the tokens by which the
// region was paired have expired: none of them pairs anybody else.
func (g *regions) RemoveRegion(ctx context.Context, name backstay.RegionName) error {
	vaults, err := g.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return err
	}
	for _, v := range vaults {
		if v.Pair == name {
			return backstay.Errorf(backstay.CodeConflict, "region %s is needed", name).Becausef("the vault %s is replicated to it", v.Name).
				Do("give the vault another redundancy first: `backstay vault set %s redundancy=LRS`", v.Name)
		}
	}
	err = g.catalog.Regions.ChangeRegions(ctx, func(known map[backstay.RegionName]catalog.RegionRecord) error {
		rec, ok := known[name]
		if !ok || rec.Removed {
			return unknownRegion(name)
		}
		known[name] = catalog.RegionRecord{Region: backstay.Region{Name: name}, Tokens: rec.Tokens, Removed: true}
		return nil
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, ok := g.clients[name]; ok {
		d.client.Close()
		delete(g.clients, name)
	}
	delete(g.sights, name)
	return nil
}

// newcomer is a server that is to be paired.
type newcomer struct {
	name        backstay.RegionName
	fingerprint string
	replace     backstay.RegionName // the region that may get another server
}

// admit says whether the newcomer may be entered.
func (g *regions) admit(known map[backstay.RegionName]catalog.RegionRecord, n newcomer) error {
	if n.name == backstay.RegionName(g.config.Region) || n.fingerprint == g.id.Fingerprint() {
		return backstay.Errorf(backstay.CodeExists, "region %s cannot be paired with a region %s", g.config.Region, n.name).
			Becausef("two regions have two names and two servers").Do("give one of them another name: `region:` in its configuration")
	}
	for name, rec := range known {
		if rec.Removed {
			continue
		}
		if rec.Fingerprint == n.fingerprint && name != n.name {
			return backstay.Errorf(backstay.CodeExists, "the server of region %s is paired already", n.name).Becausef("it is known as region %s", name).
				Do("give the region its old name again")
		}
	}
	if rec, ok := known[n.name]; ok && !rec.Removed && rec.Fingerprint != n.fingerprint && n.replace != n.name {
		return backstay.Errorf(backstay.CodeExists, "region %s is paired already, with another server", n.name).Becausef("the fingerprint of that one is %s", rec.Fingerprint).
			Do("if it has a new server, say --replace %s in the region that knows the old one: to the command that makes the token, or to the one that uses it", n.name)
	}
	return nil
}

// enter writes what a region said of itself, unless it may not be entered. A token
// that another server used is refused; the same server may use it again.
func (g *regions) enter(ctx context.Context, n newcomer, other link.Greeting, used link.Token) error {
	if err := checkGreeting(other); err != nil {
		return err
	}
	now := g.now()
	return g.catalog.Regions.ChangeRegions(ctx, func(known map[backstay.RegionName]catalog.RegionRecord) error {
		for _, rec := range known {
			if usedBy(rec, used.ID) && rec.Fingerprint != n.fingerprint {
				return backstay.Errorf(backstay.CodePairing, "the token was used already").Becausef("region %s was paired by it", rec.Name)
			}
		}
		if err := g.admit(known, n); err != nil {
			return err
		}
		maps.DeleteFunc(known, func(_ backstay.RegionName, rec catalog.RegionRecord) bool {
			return rec.Removed && !slices.ContainsFunc(rec.Tokens, func(t catalog.UsedToken) bool { return t.Expires.After(now) })
		})
		rec, was := known[n.name]
		if !was || rec.Fingerprint != n.fingerprint {
			rec.Paired = now
		}
		rec.Removed = false
		rec.Name, rec.Fingerprint, rec.Address, rec.Server, rec.Recipient = n.name, n.fingerprint, other.Address, other.Server, other.Recipient
		rec.Tokens = slices.DeleteFunc(rec.Tokens, func(t catalog.UsedToken) bool { return !t.Expires.After(now) })
		if used.ID != "" && !usedBy(rec, used.ID) {
			rec.Tokens = append(rec.Tokens, catalog.UsedToken{ID: used.ID, Expires: time.Unix(used.Expires, 0).UTC()})
		}
		known[n.name] = rec
		return nil
	})
}

func usedBy(rec catalog.RegionRecord, token string) bool {
	return token != "" && slices.ContainsFunc(rec.Tokens, func(t catalog.UsedToken) bool { return t.ID == token })
}

var regionForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// checkGreeting looks at what another server says of itself: it goes into the
// catalogue, and onto terminals.
func checkGreeting(other link.Greeting) error {
	refuse := func(format string, args ...any) error {
		return backstay.Errorf(backstay.CodePairing, "what the other region's server says of itself is not possible").Becausef(format, args...).
			Do("correct its configuration")
	}
	if !regionForm.MatchString(string(other.Region)) {
		return refuse("%q cannot be the name of a region", other.Region)
	}
	if other.Address != "" {
		if _, port, err := net.SplitHostPort(other.Address); err != nil || port == "" || !plain(other.Address, 300) {
			return refuse("%q is not an address", other.Address)
		}
	}
	if other.Server != "" {
		if _, err := config.ServerURL(other.Server); err != nil || !plain(other.Server, 1000) {
			return refuse("%q is not the address of an API", other.Server)
		}
	}
	if other.Recipient != "" {
		kind, err := vault.KindOf(other.Recipient)
		if err != nil || kind != backstay.KindX25519 && kind != backstay.KindHybrid || !plain(other.Recipient, 8000) {
			return refuse("its recipient is none that a server has")
		}
	}
	return nil
}

// plain tells whether a text is printable ASCII without spaces, and no longer than
// that.
func plain(s string, most int) bool {
	return len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
