package hold_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/pair/link"
	"github.com/backstay/backstay/internal/pair/pairtest"
)

// subject is a real vault with one point, for a place that holds nothing yet.
func subject(t *testing.T, h pair.Holder) pairtest.Subject {
	t.Helper()
	home := newHome(t)
	id := home.backup("web01", day)
	s := pairtest.Subject{Holder: h, Offer: home.offer(), Point: id}
	_, s.Manifest = home.object("points/" + string(id))
	for _, prefix := range []string{"keys/", "vault.json", "headers/", "packs/", "indexes/"} {
		for _, name := range home.names(prefix) {
			_, content := home.object(name)
			s.Objects = append(s.Objects, pairtest.Sample{Name: name, Content: content})
		}
	}
	return s
}

func TestAKeeperHoldsAsAHolderDoes(t *testing.T) {
	pairtest.Run(t, func(t *testing.T) pairtest.Subject { return subject(t, newPlace(t).from("west")) })
}

// The same over the link, between two servers that are known by their certificates.
func TestAKeeperHoldsAsAHolderDoesOverTheLink(t *testing.T) {
	pairtest.Run(t, func(t *testing.T) pairtest.Subject { return subject(t, linked(t, newPlace(t))) })
}

// linked is a client of the place's region, as region west has one.
func linked(t *testing.T, p *place) pair.Holder {
	t.Helper()
	var ids [2]*link.Identity
	for i := range ids {
		secret, err := link.NewIdentity(time.Now())
		must(t, err)
		ids[i], err = link.ReadIdentity(secret)
		must(t, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- link.Serve(ctx, l, link.ServerOptions{
			Identity: ids[0], Log: slog.New(slog.DiscardHandler), Strangers: func() bool { return false },
			Known: func(_ context.Context, fingerprint string) (backstay.RegionName, error) {
				if fingerprint == ids[1].Fingerprint() {
					return "west", nil
				}
				return "", nil
			},
			Holder: func(region backstay.RegionName) (pair.Holder, error) { return p.from(region), nil },
		})
	}()
	c := link.Dial(ids[1], "east", l.Addr().String(), ids[0].Fingerprint())
	t.Cleanup(func() {
		c.Close()
		stop()
		must(t, <-served)
	})
	return c
}
