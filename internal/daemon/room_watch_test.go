package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/engine/expire"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// watched is a region with one fake host, on which each of three points takes
// 100 of 1024 MiB. The third is in no vault.
func watched(t *testing.T, floor config.Floor) (*rooms, *movertest.Fake, *squeezed) {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := &region{
		catalog: c, log: slog.New(slog.DiscardHandler), metrics: prometheus.NewRegistry(), hosts: newHosts(c, slog.New(slog.DiscardHandler), time.Now),
		config: config.Config{Hosts: []config.Host{{Name: "east", Layers: config.Layers{Floor: floor}}}},
	}
	fake := movertest.NewFake([]byte("key"))
	m := &squeezed{Fake: fake}
	r.hosts.add("east", m)
	r.hosts.reached("east")
	w := newRooms(r)
	e := &engines{region: r, expire: &expire.Runner{Catalog: c, Mover: r.hosts.mover, Now: utcNow, Floor: w.floor}}
	r.engines = e
	r.queue, err = job.New(job.Options{Catalog: c, Runners: map[backstay.JobKind]job.Runner{
		backstay.JobExpire: runner(e, e.expire.Run),
		backstay.JobBackup: func(ctx context.Context, _ backstay.Run) error { <-ctx.Done(); return context.Cause(ctx) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.queue.Stop)
	for i, id := range []backstay.PointID{"A", "B", "C"} {
		at := time.Now().Add(time.Duration(i-9) * time.Hour)
		if _, err := fake.Prepare(t.Context(), mover.PrepareRequest{Point: id, VM: fake.Machine.ID, Disks: []backstay.DiskTarget{"vda"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := fake.Take(t.Context(), mover.TakeRequest{Point: id, VM: fake.Machine.ID, Time: at}); err != nil {
			t.Fatal(err)
		}
		ref := fake.Machine.Ref()
		ref.Host = "east"
		p := backstay.RecoveryPoint{ID: id, VM: ref, Time: at}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, at)
		if i < 2 {
			p.SetTier(backstay.VaultTier, backstay.TierAvailable, at)
		}
		if err := c.Points.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return w, fake, m
}

// squeezed is a mover whose points others hold.
type squeezed struct {
	*movertest.Fake
	held      string
	transfers []backstay.JobID
	full      bool
}

func (s *squeezed) Room(ctx context.Context) ([]backstay.Room, error) {
	rooms, err := s.Fake.Room(ctx)
	for i := range rooms {
		rooms[i].Seen = time.Now()
		if s.full {
			rooms[i].Free = 0
		}
		for j := range rooms[i].VMs {
			for k := range rooms[i].VMs[j].Points {
				p := &rooms[i].VMs[j].Points[k]
				if p.Transfers = s.transfers; s.held != "" {
					p.Held = []string{s.held}
				}
			}
		}
	}
	return rooms, err
}

// settle lets the watcher look until no urgent job is left, and tells what stays.
func (w *rooms) settleNow(t *testing.T, m *squeezed) string {
	t.Helper()
	for {
		if _, err := w.look(t.Context(), "east"); err != nil {
			t.Fatal(err)
		}
		jobs, err := w.queue.List(t.Context(), 0, backstay.JobQueued, backstay.JobRunning)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(jobs, func(j backstay.Job) bool { return j.Urgent })
		if i < 0 {
			break
		}
		ended, err := w.queue.Follow(t.Context(), jobs[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		for range ended {
		}
	}
	rooms, err := m.Fake.Room(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stays := ""
	for _, vm := range rooms[0].VMs {
		for _, p := range vm.Points {
			stays += string(p.Point)
		}
	}
	return stays
}

func TestTheFloorIsHeldByDroppingPoints(t *testing.T) {
	for floor, want := range map[config.Floor]string{
		"600MiB": "ABC", // half of the file system at most, and 100 MiB for a merge: 724 are free
		"0B":     "ABC",
	} {
		w, _, m := watched(t, floor)
		if got := w.settleNow(t, m); got != want {
			t.Errorf("floor %s: %q stay, want %q", floor, got, want)
		}
	}
	w, _, m := watched(t, "0B")
	w.config.Hosts[0].Layers.Floor = "50%"
	m.full = true // somebody else took the rest
	if got := w.settleNow(t, m); got != "" {
		t.Errorf("%q stay although nothing is left", got)
	}
	if rooms := w.Rooms("east"); len(rooms) != 1 || rooms[0].Floor == 0 {
		t.Errorf("%+v", rooms)
	}
}

// Pinned and used points stay, and the alarm says who holds them; in the log and
// the audit log once.
func TestWhatCannotGoRaisesAnAlarm(t *testing.T) {
	w, _, m := watched(t, "0B")
	m.full, m.held = true, "VM copy was restored on it"
	for range 3 {
		if got := w.settleNow(t, m); got != "ABC" {
			t.Fatalf("%q stay", got)
		}
	}
	if warning := w.Rooms("east")[0].Warning; !strings.Contains(warning, "point A of web01: VM copy was restored on it") {
		t.Errorf("%q", warning)
	}
	entries, err := w.catalog.Audit.ListAudit(t.Context(), 0, 99)
	if err != nil {
		t.Fatal(err)
	}
	alarms := 0
	for _, e := range entries {
		if e.Action == "the floor cannot be held" {
			alarms++
		}
	}
	if alarms != 1 {
		t.Errorf("%d alarms in %+v", alarms, entries)
	}
}

// A transfer that holds the last layers is cancelled: the guest comes first (I12).
func TestATransferThatHoldsTheLastLayersIsCancelled(t *testing.T) {
	w, _, m := watched(t, "0B")
	made, err := w.queue.Submit(t.Context(), job.Request{Kind: backstay.JobBackup, Target: "east/web01"})
	if err != nil {
		t.Fatal(err)
	}
	m.full, m.transfers = true, []backstay.JobID{made.ID}
	w.settleNow(t, m)
	ended, err := w.queue.Follow(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	var last backstay.Job
	for last = range ended {
	}
	if last.State != backstay.JobCancelled {
		t.Errorf("the transfer is %s", last.State)
	}
	m.transfers = nil
	if got := w.settleNow(t, m); got != "" {
		t.Errorf("%q stay", got)
	}
}

// Only a VM that was seen to stand still on a full file system is let go on, and
// only when there is room again.
func TestAVMGoesOnWhenThereIsRoomAgain(t *testing.T) {
	w, fake, m := watched(t, "0B")
	fake.Stalled = true
	w.settleNow(t, m)
	if !fake.Stalled {
		t.Error("a VM that stood still for another reason was let go on")
	}
	m.full, m.held = true, "pinned"
	w.settleNow(t, m)
	if !fake.Stalled {
		t.Error("it was let go on with no room")
	}
	m.full = false
	w.settleNow(t, m)
	if fake.Stalled {
		t.Error("it still stands")
	}
	// Its last layer goes for the room: nothing tells of its file system then.
	fake.Stalled, m.full = true, true
	if _, err := w.look(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	m.held = ""
	if got := w.settleNow(t, m); got != "" {
		t.Errorf("%q stay", got)
	}
	w.settleNow(t, m)
	if fake.Stalled {
		t.Error("it stands on its own file")
	}
}
