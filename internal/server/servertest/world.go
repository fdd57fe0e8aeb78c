// Package servertest is a region without hosts: the real API over a real
// catalogue, with a queue whose jobs are played instead of run. The tests of
// the client and of the command line use it.
//
// It is no test of the engines; the sandbox is the world with real VMs.
package servertest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/mover/movertest"
	"github.com/backstay/backstay/internal/server"
)

// Now is the world's time.
var Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// The VMs and points of every world.
const (
	Web    = backstay.VMID("11111111-1111-4111-8111-111111111111") // local/web01: two disks, protected, three points
	DB     = backstay.VMID("22222222-2222-4222-8222-222222222222") // local/db01: one disk of two is not possible
	LUN    = backstay.VMID("33333333-3333-4333-8333-333333333333") // local/lun01: no disk is possible
	Shared = backstay.VMID("44444444-4444-4444-8444-444444444444") // local/shared01: cannot be protected
	MailA  = backstay.VMID("55555555-5555-4555-8555-555555555555") // local/mail
	MailB  = backstay.VMID("66666666-6666-4666-8666-666666666666") // east/mail
	Gone   = backstay.VMID("77777777-7777-4777-8777-777777777777") // local/gone: has a point, but no host has it

	PointBoth     = backstay.PointID("01K0000000000000000000AAAA") // web01, in both tiers, two hours ago
	PointSnapshot = backstay.PointID("01K0000000000000000000BBBB") // web01, snapshot tier only, one hour ago
	PointMaking   = backstay.PointID("01K0000000000000000000CCCC") // web01, being made
	PointGone     = backstay.PointID("01K1000000000000000000DDDD") // gone, vault tier
	PointPinned   = backstay.PointID("01K2000000000000000000EEEE") // db01, vault tier, pinned
)

// World is a region that runs.
type World struct {
	URL     string
	Tokens  map[backstay.Role]string
	Catalog *catalog.Catalog
	Queue   *Queue
	Handler http.Handler
	// Dir is a folder that goes away with the world.
	Dir string
	// Layers is the snapshot tier of the hosts.
	Layers Layers
	// Files is the mover of host local, as far as files are concerned, and Sessions are
	// what is open there.
	Files    *movertest.Fake
	Sessions *files.Sessions

	stop   context.CancelFunc
	served chan error
}

// Start makes a world and serves it on a port of its own.
func Start(log *slog.Logger) (*World, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "backstay-servertest-")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &World{Dir: dir, Tokens: map[backstay.Role]string{}, stop: stop, served: make(chan error, 1)}
	close(w.served)
	if err := w.open(ctx, log); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) open(ctx context.Context, log *slog.Logger) (err error) {
	if w.Catalog, err = sqlite.Open(ctx, filepath.Join(w.Dir, "catalog.db")); err != nil {
		return err
	}
	if err := w.furnish(ctx); err != nil {
		return err
	}
	w.openFiles()
	w.Queue = newQueue()
	w.Handler = server.New(server.Options{
		Catalog: w.Catalog, Jobs: w.Queue, Planner: planner{w.Catalog}, Vaults: vaults{w.Catalog}, Units: units{w.Catalog}, Keys: &vaultKeys{}, Layers: &w.Layers, Lives: lives{}, Secrets: pointSecrets{}, Files: fileSessions{w.Sessions}, Lists: w.lists(), Regions: &regions{}, Replications: &replications{}, Drills: drills{w.Catalog},
		Region: "home", Version: "test", Now: func() time.Time { return Now }, Log: log, Heartbeat: 20 * time.Millisecond,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.URL = "http://" + l.Addr().String()
	w.served = make(chan error, 1)
	go func() { w.served <- server.Serve(ctx, l, w.Handler, log) }()
	return nil
}

// Close stops the server and the jobs, and removes the world.
func (w *World) Close() error {
	w.stop()
	err := <-w.served
	if w.Queue != nil {
		w.Queue.close()
	}
	if w.Sessions != nil {
		w.Sessions.Close(context.Background())
	}
	if w.Catalog != nil {
		err = errors.Join(err, w.Catalog.Close())
	}
	return errors.Join(err, os.RemoveAll(w.Dir))
}
