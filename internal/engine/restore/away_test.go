package restore

import (
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// awayPoint makes the world's point one of the replica of region west's vault: its
// host is called as the one here, and is another.
func awayPoint(w *world) {
	p := w.facts.Point
	p.Vault = backstay.ReplicaName(backstay.VaultOrigin{Region: "west", Vault: "default"})
	p.VM.Host = backstay.AwayHost(p.VM.Host, "west")
	p.Tiers = nil
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, time.Time{})
	must(w.t, w.catalog.Points.PutPoint(w.t.Context(), p))
	w.facts.Point = p
}

// B5a: with one host there is nothing to ask; the disks go to its pool, since the
// point's folders are another host's.
func TestAPointOfAnotherRegionIsRestoredOnTheOnlyHost(t *testing.T) {
	w := newWorld(t)
	awayPoint(w)
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	if err := p.Refusal(); err != nil {
		t.Fatal(err)
	}
	if p.Host != "east" || p.Tier != backstay.VaultTier || p.Vault != "default@west" || p.Source.Host != "east@west" || p.StreamedFrom != "" {
		t.Errorf("plan %+v", p)
	}
	for _, d := range p.Disks {
		if !strings.HasPrefix(d.Path, "/var/lib/libvirt/images/copy-") {
			t.Errorf("disk %s goes to %s", d.Target, d.Path)
		}
	}
}

func TestWhereThereAreSeveralHostsTheUserSaysWhich(t *testing.T) {
	w := newWorld(t)
	awayPoint(w)
	must(t, w.catalog.Hosts.PutHost(t.Context(), backstay.Host{Name: "other", State: "connected"}))
	_, err := w.runner().Plan(t.Context(), request())
	if e := backstay.AsError(err); e.Code != backstay.CodePreflight || !strings.Contains(e.Cause, "east@west") || e.Action != "say --host, with one of east, other" {
		t.Fatalf("got %+v", e)
	}
	r := request()
	r.Host = "east"
	p, err := w.runner().Plan(t.Context(), r)
	must(t, err)
	if p.Host != "east" || p.Refusal() != nil {
		t.Errorf("plan %+v", p)
	}
}

// B5a: a network that has no namesake here must be mapped, and the refusal says how.
func TestANetworkOfAnotherRegionThatIsNotHereMustBeMapped(t *testing.T) {
	w := newWorld(t)
	w.facts.Point.Shape.NICs[0].Network = "dmz-west"
	awayPoint(w)
	p, err := w.runner().Plan(t.Context(), request())
	must(t, err)
	e := backstay.AsError(p.Refusal())
	if e == nil || e.Code != backstay.CodeNetworkMissing || !strings.Contains(e.Action, "--network dmz-west=") {
		t.Fatalf("got %+v", e)
	}
	r := request()
	r.Networks = map[string]string{"dmz-west": "lab"}
	p, err = w.runner().Plan(t.Context(), r)
	must(t, err)
	if p.Refusal() != nil || p.NICs[0].Network != "lab" {
		t.Errorf("plan %+v: %v", p, p.Refusal())
	}
}

// B5a: the disks of a VM are replaced in its own region. R7: of a VM that is named
// they are, also here.
func TestTheDisksOfAnotherRegionsVMAreReplacedInAVMThatIsNamedOnly(t *testing.T) {
	w := newWorld(t)
	awayPoint(w)
	r := backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: "P", NoSafetyPoint: true}
	_, err := w.runner().Plan(t.Context(), r)
	if e := backstay.AsError(err); e.Code != backstay.CodeVMMissing || !strings.Contains(e.Cause, "region west") || !strings.Contains(e.Action, "--vm VM") {
		t.Fatalf("got %+v", e)
	}
	f := w.facts
	f.Over, f.Point.VM.UUID, r.VM = "source-uuid", "uuid-in-west", "source-uuid"
	p, err := NewPlan(r, f)
	must(t, err)
	if p.UUID != "source-uuid" || p.Name != "web01" || p.Tier != backstay.VaultTier || p.Source.UUID != "source-uuid" {
		t.Errorf("plan %+v", p)
	}
	said := false
	for _, c := range p.Preflight {
		said = said || c.Name == "source" && c.OK && strings.Contains(c.Detail, "the disks of another VM, east@west/web01")
	}
	if !said {
		t.Errorf("nothing says that it is another VM's point: %+v", p.Preflight)
	}
}
