package job

import (
	"fmt"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// parse reads a queue, oldest first: "id state vms host vault", "-" for none.
func parse(lines string) []catalog.JobRecord {
	var active []catalog.JobRecord
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		for i := range f {
			if f[i] == "-" {
				f[i] = ""
			}
		}
		rec := catalog.JobRecord{
			Job:  backstay.Job{ID: backstay.JobID(f[0]), Kind: backstay.JobBackup, State: backstay.JobState(f[1]), Target: "h/" + f[2]},
			Host: backstay.HostName(f[3]), Vault: backstay.VaultName(f[4]),
		}
		if f[2] != "" {
			for vm := range strings.SplitSeq(f[2], ",") {
				rec.VMs = append(rec.VMs, backstay.VMID(vm))
			}
		}
		active = append(active, rec)
	}
	return active
}

func starts(t *testing.T, lines string) (ids string, waiting map[string]string) {
	t.Helper()
	waiting = map[string]string{}
	for _, d := range plan(parse(lines), Limits{PerHost: 2, PerVault: 3}, func(backstay.JobKind) bool { return true }) {
		if d.waiting == "" {
			ids += string(d.job.ID)
		} else {
			waiting[string(d.job.ID)] = d.waiting
		}
	}
	return ids, waiting
}

func TestWhichQueuedJobsStart(t *testing.T) {
	for _, c := range []struct{ rule, queue, want string }{
		{"nothing is queued", `1 running a h1 v`, ""},
		{"one job at a time may change one VM", `
			1 running a h1 v
			2 queued  a h1 v
			3 queued  b h1 v`, "3"},
		{"a cancelling job still has its VM", `
			1 cancelling a - -
			2 queued     a - -`, ""},
		{"the older of two queued jobs of one VM goes first", `
			1 queued a h1 v
			2 queued a h1 v`, "1"},
		{"a job behind one that waits for its VM waits too", `
			1 running a   - -
			2 queued  a,b - -
			3 queued  b   - -`, ""},
		{"a job that changes no VM waits for none", `
			1 running a h1 v
			2 queued  - h1 v`, "2"},
		{"a host takes so many jobs", `
			1 running a h1 -
			2 queued  b h1 -
			3 queued  c h1 -
			4 queued  d h2 -`, "24"},
		{"a vault takes so many jobs", `
			1 running a - v
			2 queued  b - v
			3 queued  c - v
			4 queued  d - v
			5 queued  e - w`, "235"},
		{"a job that waits for its VM takes no slot", `
			1 running a h1 -
			2 queued  a h1 -
			3 queued  b h1 -`, "3"},
		{"the first that waits for a host keeps a slot of its vault", `
			1 running a h1 v
			2 running b h1 -
			3 running c h2 v
			4 queued  d h1 v
			5 queued  e h3 v`, ""},
		{"the second that waits for a host keeps no slot of its vault", `
			1 running a h1 -
			2 running b h1 -
			3 queued  c h1 v
			4 queued  d h1 v
			5 queued  e h1 v
			6 queued  f h3 v`, "6"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got, waiting := starts(t, c.queue); got != c.want {
				t.Errorf("starts %q, want %q; waiting %v", got, c.want, waiting)
			}
		})
	}
}

func TestWhatAJobWaitsForIsSaidInWords(t *testing.T) {
	_, waiting := starts(t, `
		1 running a h1 v
		2 running b h1 -
		3 queued  a -  -
		4 queued  a -  -
		5 queued  c h1 -`)
	for id, want := range map[string]string{
		"3": "waits for job 1 (backup of h/a), which works on the same VM",
		"4": "waits for job 1 (backup of h/a), which works on the same VM",
		"5": "waits for a slot on host h1: 2 of 2 taken by job 1, job 2",
	} {
		if waiting[id] != want {
			t.Errorf("job %s %q, want %q", id, waiting[id], want)
		}
	}
	none := plan(parse(`1 queued a - -`), Limits{1, 1}, func(backstay.JobKind) bool { return false })
	if none[0].waiting != "waits for a server that runs backup jobs" {
		t.Errorf("%q", none[0].waiting)
	}
}

// TestNobodyWaitsForEver plays a queue into which younger jobs keep coming: a
// job that needs a busy host and a busy vault at once must get both in the end.
func TestNobodyWaitsForEver(t *testing.T) {
	active := parse(`
		000 running x0 h1 -
		001 running x1 h1 -
		002 running x2 -  v
		003 running x3 -  v
		004 running x4 -  v
		005 queued  me h1 v`)
	for round := range 50 {
		// One running job ends, in turns of host and vault, and two younger
		// rivals arrive: one for the host only, one for the vault only.
		for i, j := range active {
			if j.Job.State == backstay.JobRunning && (round%2 == 0) == (j.Host == "h1") {
				active = append(active[:i], active[i+1:]...)
				break
			}
		}
		id := fmt.Sprint(100 + round)
		active = append(active, parse(id+"a queued "+id+"a h1 -\n"+id+"b queued "+id+"b - v")...)
		for _, d := range plan(active, Limits{PerHost: 2, PerVault: 3}, func(backstay.JobKind) bool { return true }) {
			for i := range active {
				if active[i].ID == d.job.ID && d.waiting == "" {
					if d.job.ID == "005" {
						return
					}
					active[i].Job.State = backstay.JobRunning
				}
			}
		}
	}
	t.Error("the job waited for 50 rounds")
}
