package daemon

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/job"
)

// A vault that is away leaves nothing in its health, and still it is not tried at
// every tick: nobody could find anything among the failed jobs of a night.
func TestAVaultThatIsAwayIsNotVerifiedAtEveryTick(t *testing.T) {
	ctx := t.Context()
	c, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	queue, err := job.New(job.Options{Catalog: c, Region: "home", Owner: "me", Now: func() time.Time { return now },
		Runners: map[backstay.JobKind]job.Runner{backstay.JobVerify: func(context.Context, backstay.Run) error { return nil }}})
	must(err)
	r := &region{catalog: c, queue: queue}
	must(c.Vaults.CreateVault(ctx, backstay.Vault{Name: "main", ID: "1", Created: now.Add(-72 * time.Hour)}))
	must(c.Points.PutPoint(ctx, backstay.RecoveryPoint{ID: firstPoint, Vault: "main", VM: backstay.VMRef{UUID: "u"}, Time: now.Add(-48 * time.Hour),
		Tiers: []backstay.PointTier{{Tier: backstay.VaultTier, State: backstay.TierAvailable, Since: now.Add(-48 * time.Hour)}}}))
	jobs := func() int {
		t.Helper()
		must(r.queueVerifies(ctx, now))
		all, err := c.Jobs.ListJobs(ctx, 0)
		must(err)
		_, err = c.Jobs.UpdateJob(ctx, all[0].ID, 0, func(j *catalog.JobRecord) error {
			j.Job.State = backstay.JobFailed
			return nil
		})
		must(err)
		return len(all)
	}
	for hour, want := range []int{1, 1, 1, 1, 1, 1, 2, 2} {
		for range 6 {
			if got := jobs(); got != want {
				t.Fatalf("after %d hours: %d jobs, want %d", hour, got, want)
			}
			now = now.Add(10 * time.Minute)
		}
	}
}
