package files_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/mover"
)

// host is a mover of which only the sessions are there.
type host struct {
	mu   sync.Mutex
	open []backstay.FileSessionID
	got  []mover.OpenFilesRequest
	fail error
	// opening and reading, if set, are what OpenFiles and ReadFile do until they return.
	opening, reading func(ctx context.Context) error
	most             int // sessions; 0 for any number
}

func (h *host) OpenFiles(ctx context.Context, r mover.OpenFilesRequest, _ mover.Progress) (mover.OpenedFiles, error) {
	h.mu.Lock()
	h.got = append(h.got, r)
	fail, opening := h.fail, h.opening
	if h.most > 0 && len(h.open) >= h.most {
		h.mu.Unlock()
		return mover.OpenedFiles{}, backstay.Errorf(backstay.CodeSessionLimit, "no more")
	}
	h.open = append(h.open, r.Session)
	h.mu.Unlock()
	if opening != nil {
		fail = opening(ctx)
	}
	if fail != nil {
		return mover.OpenedFiles{}, fail
	}
	return mover.OpenedFiles{Volumes: []backstay.Volume{{ID: "vda1", Kind: backstay.VolumeLocked}}, Holds: "layers of web01",
		Disks: []backstay.PointDisk{{Target: "vda", Size: 1 << 20, Included: true}, {Target: "vdb"}}}, nil
}

func (h *host) UnlockVolume(context.Context, mover.UnlockRequest) ([]backstay.Volume, error) {
	return []backstay.Volume{{ID: "vda1", Kind: backstay.VolumeFiles}}, nil
}

func (h *host) Folder(context.Context, mover.FolderRequest) (mover.FolderPage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return mover.FolderPage{}, h.fail
}

func (h *host) ReadFile(ctx context.Context, _ mover.FileReadRequest, w io.Writer) error {
	if h.reading != nil {
		return h.reading(ctx)
	}
	_, err := io.WriteString(w, "content")
	return err
}

func (h *host) TakeFiles(context.Context, mover.FileTakeRequest, io.Writer) error { return nil }

func (h *host) CloseFiles(_ context.Context, id backstay.FileSessionID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = slices.DeleteFunc(h.open, func(o backstay.FileSessionID) bool { return o == id })
	return nil
}

func (h *host) OpenSessions(context.Context) ([]backstay.FileSessionID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.open), nil
}

func (h *host) sessions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open)
}

// region is two hosts and their sessions.
type region struct {
	catalog.Hosts
	west, east *host
	states     map[backstay.HostName]string
	now        time.Time
	sessions   *files.Sessions
}

func (r *region) ListHosts(context.Context) ([]backstay.Host, error) {
	return []backstay.Host{{Name: "east", State: r.states["east"], Reason: "no route"}, {Name: "west", State: r.states["west"], Reason: "no route"}}, nil
}

func newRegion(t *testing.T) *region {
	r := &region{west: &host{}, east: &host{}, states: map[backstay.HostName]string{"west": "connected", "east": "connected"}, now: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)}
	n := 0
	r.sessions = files.New(files.Options{
		Hosts: r, Services: func() []mover.KeyService { return nil }, Now: func() time.Time { return r.now },
		NewID: func() backstay.FileSessionID { n++; return backstay.FileSessionID(fmt.Sprintf("S%02d", n)) },
		Mover: func(name backstay.HostName) (mover.Files, error) {
			return map[backstay.HostName]mover.Files{"west": r.west, "east": r.east}[name], nil
		},
		Vault: func(_ context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: name}, nil
		},
	})
	t.Cleanup(func() { r.sessions.Close(context.Background()) })
	return r
}

func point(tiers ...backstay.Tier) backstay.RecoveryPoint {
	p := backstay.RecoveryPoint{ID: "P", Vault: "default", VM: backstay.VMRef{Name: "web01", Host: "west"}}
	for _, t := range tiers {
		p.Tiers = append(p.Tiers, backstay.PointTier{Tier: t, State: backstay.TierAvailable})
	}
	return p
}

func browse(p backstay.RecoveryPoint) files.OpenRequest {
	return files.OpenRequest{Point: p, Kind: backstay.SessionBrowse, User: "ann"}
}

func reused(p backstay.RecoveryPoint) files.OpenRequest {
	r := browse(p)
	r.Reuse = true
	return r
}

func TestAPointIsOpenedWhereItIsNearest(t *testing.T) {
	both := point(backstay.SnapshotTier, backstay.VaultTier)
	for _, c := range []struct {
		name  string
		point backstay.RecoveryPoint
		wish  backstay.Tier
		away  backstay.HostName
		want  string
	}{
		{"both tiers", both, "", "", "snapshot on west"},
		{"both, vault wished", both, backstay.VaultTier, "", "vault on west"},
		{"both, its host away", both, "", "west", "vault on east"},
		{"both, its host away, snapshot wished", both, backstay.SnapshotTier, "west", "host-unreachable"},
		{"vault", point(backstay.VaultTier), "", "", "vault on west"},
		{"vault, its host away", point(backstay.VaultTier), "", "west", "vault on east"},
		{"vault, snapshot wished", point(backstay.VaultTier), backstay.SnapshotTier, "", "tier-not-available"},
		{"snapshot", point(backstay.SnapshotTier), "", "", "snapshot on west"},
		{"snapshot, its host away", point(backstay.SnapshotTier), "", "west", "host-unreachable"},
		{"snapshot, vault wished", point(backstay.SnapshotTier), backstay.VaultTier, "", "tier-not-available"},
		{"in no tier", point(), "", "", "tier-not-available"},
	} {
		r := newRegion(t)
		r.states[c.away] = "unreachable"
		request := browse(c.point)
		request.Tier = c.wish
		session, _, err := r.sessions.Open(t.Context(), request)
		got := string(session.Tier) + " on " + string(session.Host)
		if err != nil {
			got = string(backstay.AsError(err).Code)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAHostThatLostThePointIsPassedOver(t *testing.T) {
	r := newRegion(t)
	r.west.fail = backstay.Errorf(backstay.CodeHostAway, "gone")
	session, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier, backstay.VaultTier)))
	if err != nil || session.Host != "east" || session.Tier != backstay.VaultTier || r.east.got[0].Vault == nil {
		t.Errorf("got %+v, %v", session, err)
	}
}

func TestATicketOpensItsSessionUntilThatEnds(t *testing.T) {
	r := newRegion(t)
	a, ticket, err := r.sessions.Open(t.Context(), browse(point(backstay.VaultTier)))
	if err != nil {
		t.Fatal(err)
	}
	b, other, err := r.sessions.Open(t.Context(), browse(point(backstay.VaultTier)))
	if err != nil || ticket == other || len(ticket) < 43 {
		t.Fatalf("%q %q %v", ticket, other, err)
	}
	if got, ok := r.sessions.ByTicket(ticket); !ok || got.ID != a.ID {
		t.Errorf("the ticket of %s opens %s, %v", a.ID, got.ID, ok)
	}
	if got, ok := r.sessions.ByTicket(other); !ok || got.ID != b.ID {
		t.Errorf("the ticket of %s opens %s, %v", b.ID, got.ID, ok)
	}
	for _, wrong := range []string{"", "bsf_", ticket + "A", ticket[:len(ticket)-1], "bst_" + ticket[4:]} {
		if got, ok := r.sessions.ByTicket(wrong); ok {
			t.Errorf("%q opens %s", wrong, got.ID)
		}
	}
	if err := r.sessions.End(t.Context(), a.ID, "revoked by ann"); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.sessions.ByTicket(ticket); ok {
		t.Error("the ticket of a revoked session opens it")
	}
	if _, err := r.sessions.Get(a.ID); !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "revoked by ann") {
		t.Errorf("got %v", err)
	}
	r.now = b.Expires
	if _, ok := r.sessions.ByTicket(other); ok {
		t.Error("the ticket of an expired session opens it, since no sweep was there yet")
	}
	if n := r.west.sessions(); n != 1 {
		t.Errorf("%d sessions on the host, want the one that no sweep has ended yet", n)
	}
	r.sessions.Sweep(t.Context())
	if n := r.west.sessions(); n != 0 {
		t.Errorf("%d sessions on the host", n)
	}
}

func TestASessionThatACommandOpenedIsReusedAndEndsWhenNobodyUsesIt(t *testing.T) {
	r := newRegion(t)
	p := point(backstay.SnapshotTier)
	a, ticket, err := r.sessions.Open(t.Context(), reused(p))
	if err != nil || ticket != "" {
		t.Fatalf("%q %v", ticket, err)
	}
	if again, _, err := r.sessions.Open(t.Context(), reused(p)); err != nil || again.ID != a.ID {
		t.Errorf("got %s, %v", again.ID, err)
	}
	bob := reused(p)
	bob.User = "bob"
	if other, _, err := r.sessions.Open(t.Context(), bob); err != nil || other.ID == a.ID {
		t.Errorf("another user was given the session: %v", err)
	}
	if own, _, err := r.sessions.Open(t.Context(), browse(p)); err != nil || own.ID == a.ID {
		t.Errorf("a session of one's own was shared: %v", err)
	}
	r.now = r.now.Add(files.DefaultIdle - time.Second)
	if _, err := r.sessions.Folder(t.Context(), mover.FolderRequest{Session: a.ID}); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(2 * time.Second)
	r.sessions.Sweep(t.Context())
	if list := r.sessions.List(); len(list) != 2 || list[0].ID != a.ID { // bob's was idle, ann's was used, the third stays
		t.Errorf("left: %+v", list)
	}
}

func TestASessionInUseIsNotIdle(t *testing.T) {
	r := newRegion(t)
	a, _, err := r.sessions.Open(t.Context(), reused(point(backstay.SnapshotTier)))
	if err != nil {
		t.Fatal(err)
	}
	r.west.reading = func(ctx context.Context) error {
		r.now = r.now.Add(2 * files.DefaultIdle)
		r.sessions.Sweep(ctx)
		return ctx.Err()
	}
	if err := r.sessions.ReadFile(t.Context(), mover.FileReadRequest{Session: a.ID}, io.Discard); err != nil {
		t.Error(err)
	}
}

func TestWhatIsUnderWayFailsWithTheReasonWhenTheSessionEnds(t *testing.T) {
	r := newRegion(t)
	a, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	if err != nil {
		t.Fatal(err)
	}
	r.west.reading = func(ctx context.Context) error {
		if err := r.sessions.End(ctx, a.ID, "revoked by the owner"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	err = r.sessions.ReadFile(t.Context(), mover.FileReadRequest{Session: a.ID}, io.Discard)
	if !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "revoked by the owner") || r.west.sessions() != 0 {
		t.Errorf("got %v, %d sessions", err, r.west.sessions())
	}
}

func TestASessionThatIsRevokedWhileItOpensLeavesNothing(t *testing.T) {
	r := newRegion(t)
	r.west.opening = func(ctx context.Context) error {
		r.sessions.EndOf(ctx, "ann", "her token was deleted")
		<-ctx.Done()
		return ctx.Err()
	}
	_, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	r.sessions.Close(t.Context())
	if !backstay.IsCode(err, backstay.CodeSessionEnded) || r.west.sessions() != 0 {
		t.Errorf("got %v, %d sessions", err, r.west.sessions())
	}
}

func TestWhoeverGivesUpWaitingForASessionLeavesNothing(t *testing.T) {
	r := newRegion(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.west.opening = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	_, _, err := r.sessions.Open(ctx, browse(point(backstay.SnapshotTier)))
	r.sessions.Close(t.Context())
	if err == nil || r.west.sessions() != 0 {
		t.Errorf("got %v, %d sessions", err, r.west.sessions())
	}
}

func TestASessionThatItsHostEndedIsForgottenWithTheReason(t *testing.T) {
	r := newRegion(t)
	a, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	if err != nil {
		t.Fatal(err)
	}
	r.west.fail = backstay.Errorf(backstay.CodeSessionEnded, "ended").Becausef("a backup needed the room of its layers")
	for range 2 {
		_, err = r.sessions.Folder(t.Context(), mover.FolderRequest{Session: a.ID})
		if !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "needed the room") {
			t.Errorf("got %v", err)
		}
	}
	if list := r.sessions.List(); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
}

func TestASessionThatItsHostEndedDoesNotWaitForItsNextUse(t *testing.T) {
	r := newRegion(t)
	session, ticket, err := r.sessions.Open(t.Context(), files.OpenRequest{Point: point(backstay.VaultTier), User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	r.sessions.Sweep(t.Context())
	if _, ok := r.sessions.ByTicket(ticket); !ok {
		t.Fatal("a session that is open on its host was forgotten")
	}
	h := map[backstay.HostName]*host{"west": r.west, "east": r.east}[session.Host]
	if err := h.CloseFiles(t.Context(), session.ID); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.fail = backstay.Errorf(backstay.CodeSessionEnded, "it has ended").Becausef("its small machine ended")
	h.mu.Unlock()
	r.sessions.Sweep(t.Context())
	if _, ok := r.sessions.ByTicket(ticket); ok || len(r.sessions.List()) > 0 {
		t.Errorf("it is listed: %+v", r.sessions.List())
	}
	if _, err := r.sessions.Get(session.ID); !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(backstay.AsError(err).Cause, "small machine") {
		t.Errorf("whoever asks for it is told: %v", err)
	}
}

func TestASessionEndsWithItsSmallMachine(t *testing.T) {
	r := newRegion(t)
	session, _, err := r.sessions.Open(t.Context(), files.OpenRequest{Point: point(backstay.VaultTier), User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	h := map[backstay.HostName]*host{"west": r.west, "east": r.east}[session.Host]
	h.mu.Lock()
	h.fail = backstay.Errorf(backstay.CodeMachineFailed, "the small machine failed")
	h.mu.Unlock()
	if _, err := r.sessions.Folder(t.Context(), mover.FolderRequest{Session: session.ID}); !backstay.IsCode(err, backstay.CodeMachineFailed) {
		t.Errorf("the first to notice is told: %v", err)
	}
	if h.sessions() > 0 || len(r.sessions.List()) > 0 {
		t.Errorf("the host has %d sessions, the server %+v", h.sessions(), r.sessions.List())
	}
}

func TestACommandOpensAnewWhatItsHostHasLost(t *testing.T) {
	r := newRegion(t)
	p := point(backstay.SnapshotTier)
	a, _, err := r.sessions.Open(t.Context(), reused(p))
	if err != nil {
		t.Fatal(err)
	}
	r.west.open = nil // its mover was started anew
	if b, _, err := r.sessions.Open(t.Context(), reused(p)); err != nil || b.ID == a.ID {
		t.Errorf("got %s, %v", b.ID, err)
	}
}

func TestAHostThatIsReachedKeepsOnlyOurSessions(t *testing.T) {
	r := newRegion(t)
	a, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	if err != nil {
		t.Fatal(err)
	}
	r.west.open = append(r.west.open, "of-an-earlier-server")
	if err := r.sessions.Reached(t.Context(), "west"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.west.open, []backstay.FileSessionID{a.ID}) {
		t.Errorf("the host has %v", r.west.open)
	}
	r.west.open = nil
	if err := r.sessions.Reached(t.Context(), "west"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.sessions.Get(a.ID); !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatStopsLeavesNoSession(t *testing.T) {
	r := newRegion(t)
	for range 3 {
		if _, _, err := r.sessions.Open(t.Context(), browse(point(backstay.VaultTier))); err != nil {
			t.Fatal(err)
		}
	}
	r.sessions.Close(t.Context())
	if n := r.west.sessions(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	if _, _, err := r.sessions.Open(t.Context(), browse(point(backstay.VaultTier))); err == nil {
		t.Error("opened one more")
	}
}

func TestSeveralCommandsAtOnceShareOneOpening(t *testing.T) {
	r := newRegion(t)
	go1, entered := make(chan struct{}), make(chan struct{}, 1)
	r.west.opening = func(context.Context) error {
		entered <- struct{}{}
		<-go1
		return nil
	}
	ids := make(chan backstay.FileSessionID, 4)
	open := func() {
		session, _, err := r.sessions.Open(t.Context(), reused(point(backstay.SnapshotTier)))
		if err != nil {
			t.Error(err)
		}
		ids <- session.ID
	}
	go open()
	<-entered
	for range 3 {
		go open()
	}
	close(go1)
	first := <-ids
	for range 3 {
		if id := <-ids; id != first {
			t.Errorf("got %s and %s", first, id)
		}
	}
}

func TestUnlockingShowsTheVolumesThatAreThereThen(t *testing.T) {
	r := newRegion(t)
	a, _, err := r.sessions.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	if err != nil || a.Volumes[0].Kind != backstay.VolumeLocked {
		t.Fatalf("%+v %v", a, err)
	}
	if b, err := r.sessions.Unlock(t.Context(), mover.UnlockRequest{Session: a.ID, Volume: "vda1"}); err != nil || b.Volumes[0].Kind != backstay.VolumeFiles {
		t.Errorf("%+v %v", b, err)
	}
	if a, err = r.sessions.Get(a.ID); err != nil || a.Volumes[0].Kind != backstay.VolumeFiles {
		t.Errorf("%+v %v", a, err)
	}
}

func TestWholeDisksAreOfSessionsForThem(t *testing.T) {
	r := newRegion(t)
	request := browse(point(backstay.SnapshotTier))
	a, _, err := r.sessions.Open(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.sessions.Disk(a.ID, "vda"); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("got %v", err)
	}
	request.Kind = backstay.SessionNBD
	if a, _, err = r.sessions.Open(t.Context(), request); err != nil || !r.west.got[1].Raw {
		t.Fatal(err)
	}
	if d, err := r.sessions.Disk(a.ID, "vda"); err != nil || d.Size != 1<<20 {
		t.Errorf("%+v %v", d, err)
	}
	if _, err := r.sessions.Disk(a.ID, "vdb"); !backstay.IsCode(err, backstay.CodeDiskUnknown) {
		t.Errorf("got %v", err)
	}
}

// A full host ends what commands left open before it refuses, and nothing else.
func TestWhatNobodyUsesMakesRoomForANewSession(t *testing.T) {
	r := newRegion(t)
	r.west.most = 2
	open := func(id backstay.PointID, user string, reuse bool) (backstay.FileSession, error) {
		p := point(backstay.SnapshotTier)
		p.ID = id
		r.now = r.now.Add(time.Second)
		session, _, err := r.sessions.Open(t.Context(), files.OpenRequest{Point: p, Kind: backstay.SessionBrowse, User: user, Reuse: reuse})
		return session, err
	}
	a, _ := open("A", "ann", true)
	open("B", "ann", true)
	_, err := open("C", "ann", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.sessions.Get(a.ID); !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("the one that was idle longest: %v", err)
	}
	if _, err := open("D", "bob", true); !backstay.IsCode(err, backstay.CodeSessionLimit) {
		t.Errorf("another user's sessions were used a moment ago: %v", err)
	}
	r.now = r.now.Add(time.Minute)
	for _, id := range []backstay.PointID{"D", "E"} {
		if _, err := open(id, "bob", false); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := open("F", "bob", true); !backstay.IsCode(err, backstay.CodeSessionLimit) {
		t.Errorf("sessions with a ticket were ended: %v", err)
	}
}
