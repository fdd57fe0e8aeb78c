package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/config"
	sessions "github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/engine/hold"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/keyring"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/rpc"
	"github.com/backstay/backstay/internal/server"
)

// firstContact is how long the start waits for the hosts, so that the jobs
// which a crash cut off find them. A host that is away longer does not keep
// the others waiting.
const firstContact = 15 * time.Second

// region is a running server.
type region struct {
	daemon      *Daemon
	config      config.Config
	log         *slog.Logger
	catalog     *catalog.Catalog
	hosts       *hosts
	vaults      *vaults
	queue       *job.Queue
	engines     *engines
	files       *sessions.Sessions
	rooms       *rooms
	drills      *drillBoard
	held        *hold.Keeper // other regions' vaults
	regions     *regions
	replication *replication // to the paired region
	metrics     *prometheus.Registry
	// owned are closed at the end, the last first.
	owned []func() error
	// tasks are the goroutines of the hosts and the schedule.
	tasks sync.WaitGroup
}

// Server runs one region until ctx ends: API, jobs and schedule. It returns nil
// after a graceful stop; jobs that were running go on at the next start.
func (d *Daemon) Server(ctx context.Context, configPath string) error {
	cfg, err := config.Load(configPath)
	if err != nil {
		return err
	}
	limitMemory()
	r := &region{daemon: d, config: cfg, log: newLogger(cfg.Log, os.Stderr), metrics: prometheus.NewRegistry()}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return err
	}
	var listener net.Listener
	err = whileBusy(ctx, unix.EADDRINUSE, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
		return err
	})
	if err != nil {
		return backstay.Errorf(backstay.CodeConfig, "cannot listen on %s", cfg.Listen).Because(err).Do("choose another address with listen: in %s", configPath)
	}
	var others net.Listener
	err = whileBusy(ctx, unix.EADDRINUSE, func() (err error) {
		others, err = r.regions.listen(ctx)
		return err
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	r.log.Info("region opened", "region", cfg.Region, "hosts", len(cfg.Hosts), "listen", listener.Addr().String(), "pair", listenNow(others))
	return r.serve(ctx, listener, others)
}

func newLogger(l config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	// The configuration was checked; an unknown level stays at info.
	_ = level.UnmarshalText([]byte(l.Level))
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// open puts the parts together and starts nothing.
func (r *region) open(ctx context.Context) error {
	unlock, err := lockFolder(ctx, r.config.Data)
	if err != nil {
		return err
	}
	r.owned = append(r.owned, unlock)
	if r.catalog, err = sqlite.Open(ctx, r.config.Catalogue()); err != nil {
		return err
	}
	r.owned = append(r.owned, r.catalog.Close)
	keys := keyfile.New(r.config.Keys())
	r.vaults = &vaults{
		units: units{hooks: r.daemon.Hooks}, catalog: r.catalog, keys: keys, now: time.Now,
		opened: map[backstay.VaultName]mover.VaultAccess{},
		onLost: r.unitsLost,
	}
	if err := r.vaults.registerAll(ctx); err != nil {
		return err
	}
	r.hosts = newHosts(r.catalog, r.log, time.Now)
	for _, h := range r.config.Hosts {
		m, err := r.reach(ctx, h, keys)
		if err != nil {
			return err
		}
		r.hosts.add(h.Name, m)
	}
	if err := r.forgetHosts(ctx); err != nil {
		return err
	}
	r.files = r.fileSessions()
	r.hosts.onReached = r.reachedFiles
	if r.regions, err = newRegions(ctx, r, keys); err != nil {
		return err
	}
	r.metrics.MustRegister(r.regions)
	r.rooms = newRooms(r)
	r.metrics.MustRegister(r.rooms)
	r.held = r.keeper()
	r.regions.hold = r.holder
	r.replication = newReplication(r)
	r.metrics.MustRegister(r.replication)
	r.regions.reached = r.replication.poke
	if r.drills, err = newDrillBoard(ctx, r); err != nil {
		return err
	}
	r.engines = newEngines(r)
	r.queue, err = job.New(r.engines.queueOptions(r))
	return err
}

// forgetHosts marks the hosts that the configuration no longer names.
func (r *region) forgetHosts(ctx context.Context) error {
	known, err := r.catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return fmt.Errorf("list hosts: %w", err)
	}
	for _, h := range known {
		if _, ok := r.hosts.movers[h.Name]; ok {
			continue
		}
		h.State, h.Reason = "unreachable", "the server's configuration does not name it any more"
		if err := r.catalog.Hosts.PutHost(ctx, h); err != nil {
			return fmt.Errorf("record host %s: %w", h.Name, err)
		}
	}
	return nil
}

// predecessor is how long a start waits for what a server that was just killed
// still holds: the kernel takes its time to tear a process down.
const predecessor = 5 * time.Second

// whileBusy repeats fn while it fails with the given error, for as long as a
// predecessor may take to be gone.
func whileBusy(ctx context.Context, busy error, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, predecessor)
	defer cancel()
	for {
		err := fn()
		if !errors.Is(err, busy) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lockFolder makes sure that one server at a time uses the data folder.
func lockFolder(ctx context.Context, dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = whileBusy(ctx, unix.EWOULDBLOCK, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		return nil, errors.Join(backstay.Errorf(backstay.CodeConflict, "another server uses the data folder %s", dir).
			Because(err).Do("stop the other one, or give this one another folder with data:"), f.Close())
	}
	return f.Close, nil
}

// reach returns a client of the host's mover. A host of this machine has its
// mover in this process, behind a socket all the same (architecture decision 7).
func (r *region) reach(ctx context.Context, h config.Host, keys keyring.Keyring) (mover.Mover, error) {
	if h.Mover != "" {
		return rpc.Dial(h.Mover), nil
	}
	socket := filepath.Join(r.config.Data, "movers", string(h.Name)+".sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of sockets: %w", err)
	}
	m, closeHost, err := r.daemon.hostMover(ctx, hostOptions{
		name: h.Name, libvirt: h.Libvirt, state: filepath.Join(r.config.Data, "movers", string(h.Name)), keys: keys, log: r.log,
		layers: h.Layers.Dir, files: r.config.Files,
	})
	if err != nil {
		return nil, err
	}
	r.owned = append(r.owned, closeHost)
	listener, err := rpc.Listen(socket)
	if err != nil {
		return nil, err
	}
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(serveCtx, listener, m, r.log) }()
	r.owned = append(r.owned, func() error {
		stop()
		return <-served
	})
	return rpc.Dial("unix://" + socket), nil
}

// serve runs the region until ctx ends, then stops what it started in the
// reverse order: requests, schedule, jobs, hosts.
// others is where paired regions call; nil if they cannot.
func (r *region) serve(ctx context.Context, listener, others net.Listener) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer r.tasks.Wait()
	defer stopBackground()
	defer r.files.Close(background)
	for name := range r.hosts.movers {
		r.tasks.Go(func() { r.hosts.run(background, name) })
	}
	r.tasks.Go(func() { r.files.Run(background) })
	r.tasks.Go(func() { r.regions.watch(background) })
	if others != nil {
		r.tasks.Go(func() {
			if err := r.regions.serve(background, others); err != nil {
				r.log.Error("other regions are not answered any more", "error", err)
			}
		})
	}
	handler := server.New(server.Options{
		Catalog: r.catalog, Jobs: queueAdapter{r.queue}, Planner: r.engines, Vaults: r.vaults, Units: r.vaults, Keys: r.vaults, Layers: r.rooms, Lives: r.engines, Secrets: r.engines, Files: fileSessions{r.files}, Lists: fileLists{r.engines.index}, Regions: r.regions, Replications: r.replication, Drills: r.engines,
		Region: r.config.Region, Version: Version(), Now: time.Now, Log: r.log, Metrics: r.metrics,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener, handler, r.log) }()
	started := make(chan struct{})
	r.tasks.Go(func() {
		defer close(started)
		r.startJobs(background)
	})
	err := <-served
	r.log.Info("region stopping")
	stopBackground()
	<-started
	r.queue.Stop()
	return err
}

// startJobs waits for the hosts to be swept, then lets jobs and schedule run.
func (r *region) startJobs(ctx context.Context) {
	r.hosts.waitReady(ctx, firstContact)
	if ctx.Err() != nil {
		return
	}
	if err := r.queue.Start(ctx); err != nil {
		r.log.Error("start the queue of jobs", "error", err)
		return
	}
	r.tasks.Go(func() { r.engines.schedule(ctx) })
	r.tasks.Go(func() { r.scheduleVerify(ctx) })
	r.tasks.Go(func() { r.scheduleReclaim(ctx) })
	r.tasks.Go(func() { r.scheduleRedundancy(ctx) })
	r.tasks.Go(func() { r.scheduleIndexes(ctx) })
	r.tasks.Go(func() { r.replication.schedule(ctx) })
	r.tasks.Go(func() { r.scheduleHeld(ctx) })
	r.tasks.Go(func() { r.scheduleDrills(ctx) })
	for name := range r.hosts.movers {
		r.tasks.Go(func() { r.rooms.watch(ctx, name) })
	}
}

func (r *region) close() {
	for i := len(r.owned) - 1; i >= 0; i-- {
		if err := r.owned[i](); err != nil {
			r.log.Warn("close", "error", err)
		}
	}
}
