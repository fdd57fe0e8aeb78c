package server_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

// shop is a world with the group shop of web01 and db01.
func shop(t *testing.T) *servertest.World {
	t.Helper()
	w := start(t)
	as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", `{"policy":"daily","vault":"default"}`)
	g := as[backstay.Group](t, w, backstay.Operator, "POST", "/v1/groups", `{"name":"shop","vms":["web01","local/db01"]}`)
	if len(g.VMs) != 2 || g.VMs[0].UUID != servertest.Web || g.VMs[1].UUID != servertest.DB {
		t.Fatalf("group %+v", g)
	}
	return w
}

func TestAGroupIsOfProtectedVMsEachInNoOther(t *testing.T) {
	w := start(t)
	refused(t, w, "POST", "/v1/groups", `{"name":"shop","vms":["web01","db01"]}`, 409, backstay.CodeNotProtected)
	w = shop(t)
	refused(t, w, "POST", "/v1/groups", `{"name":"shop","vms":["web01","db01"]}`, 409, backstay.CodeExists)
	refused(t, w, "POST", "/v1/groups", `{"name":"other","vms":["web01","db01"]}`, 409, backstay.CodeConflict)
	refused(t, w, "POST", "/v1/groups", `{"name":"twice","vms":["web01","local/web01"]}`, 422, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/groups", `{"name":"lost","vms":["web01","nobody"]}`, 404, backstay.CodeUnknownVM)
	refused(t, w, "GET", "/v1/groups/none", "", 404, backstay.CodeUnknownGroup)
	refused(t, w, "DELETE", "/v1/vms/web01/protection", "", 409, backstay.CodeConflict)
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", ""); vm.Group != "shop" {
		t.Errorf("web01 is in the group %q", vm.Group)
	}
	if status, text := ask(t, w, w.Tokens[backstay.Operator], "DELETE", "/v1/groups/shop", ""); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	if groups := as[[]backstay.Group](t, w, backstay.Reader, "GET", "/v1/groups", ""); len(groups) != 0 {
		t.Errorf("groups %+v", groups)
	}
}

func TestABackupOfAGroupIsOneJobForAllItsVMs(t *testing.T) {
	w := shop(t)
	for _, name := range []string{"shop", "group:shop"} {
		got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"`+name+`"}`)
		if got.Job == nil || got.Job.Target != "group:shop" || len(got.Plans) != 2 || len(got.Warnings) == 0 {
			t.Fatalf("%s: %+v", name, got)
		}
		r, _ := w.Queue.Request(got.Job.ID)
		params, ok := r.Params.(backstay.BackupParams)
		want := []backstay.VMID{servertest.Web, servertest.DB}
		if !ok || params.Group != "shop" || params.VM != "" || !slices.Equal(params.VMs, want) || !slices.Equal(r.VMs, want) || !r.Alone {
			t.Errorf("%s: request %+v", name, r)
		}
	}
	refused(t, w, "POST", "/v1/backups", `{"vm":"group:none"}`, 404, backstay.CodeUnknownGroup)
}

func TestAGroupStaysWhileABackupOfItRuns(t *testing.T) {
	w := shop(t)
	w.Queue.Play(servertest.Hang)
	as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"shop"}`)
	refused(t, w, "DELETE", "/v1/groups/shop", "", 409, backstay.CodeConflict)
}

func TestANameOfAVMAndOfAGroupMustBeToldApart(t *testing.T) {
	w := shop(t)
	if err := w.Catalog.Groups.DeleteGroup(context.Background(), "shop"); err != nil {
		t.Fatal(err)
	}
	as[backstay.Group](t, w, backstay.Operator, "POST", "/v1/groups", `{"name":"web01","vms":["web01","db01"]}`)
	status, text := ask(t, w, w.Tokens[backstay.Operator], "POST", "/v1/backups", `{"vm":"web01"}`)
	e := decodeError(t, text)
	if status != 422 || e.Code != backstay.CodeAmbiguousVM || !strings.Contains(e.Action, "group:web01") || !strings.Contains(e.Action, "local/web01") {
		t.Errorf("%d %+v", status, e)
	}
	if got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"group:web01"}`); len(got.Plans) != 2 {
		t.Errorf("the group: %+v", got)
	}
	if got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"local/web01"}`); len(got.Plans) != 1 {
		t.Errorf("the VM: %+v", got)
	}
}

func TestEachDiskHasAVerdictAndListsReplaceEachOther(t *testing.T) {
	w := start(t)
	verdicts := func(got []backstay.DiskVerdict) string {
		var all []string
		for _, v := range got {
			word := string(v.Target) + " " + v.Reason
			if v.Included {
				word = string(v.Target) + " in"
			} else if v.Excluded {
				word = string(v.Target) + " out"
			}
			all = append(all, word)
		}
		return strings.Join(all, "; ")
	}
	protect := func(lists string) {
		t.Helper()
		as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default"`+lists+`}`)
	}
	is := func(want string) {
		t.Helper()
		if got := verdicts(as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", "").Verdicts); got != want {
			t.Errorf("verdicts %q, want %q", got, want)
		}
	}
	protect(`,"includeDisks":["vda"]`)
	is("vda in; vdb out; sda a CD-ROM is not a disk")
	protect(`,"excludeDisks":["vda"]`)
	is("vda out; vdb in; sda a CD-ROM is not a disk")
	protect(``)
	is("vda in; vdb in; sda a CD-ROM is not a disk")
}

func TestAPointFromWhichTheUserLeftDisksOutMakesNoVMUnlessSaid(t *testing.T) {
	w := start(t)
	err := w.Catalog.Points.ChangePoint(context.Background(), servertest.PointBoth, func(p *backstay.RecoveryPoint) error {
		p.Disks = append(p.Disks, backstay.PointDisk{Target: "vdc", Excluded: true, Reason: "left out by the user"},
			backstay.PointDisk{Target: "vdd", Reason: "it is shared"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r := as[backstay.PossibleRestores](t, w, backstay.Reader, "GET", "/v1/points/"+string(servertest.PointBoth)+"/restores", "")
	for kind, is := range map[string]backstay.Allowed{"create-vm": r.CreateVM, "replace-disks": r.ReplaceDisks} {
		if is.Allowed || !strings.Contains(is.Reason, "vdc") || strings.Contains(is.Reason, "vdd") {
			t.Errorf("%s: %+v", kind, is)
		}
	}
}

func TestAPointOnItsWayToTheVaultIsNotDeleted(t *testing.T) {
	w := start(t)
	w.Queue.Play(servertest.Hang)
	job := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01"}`).Job
	err := w.Catalog.Points.ChangePoint(context.Background(), servertest.PointSnapshot, func(p *backstay.RecoveryPoint) error {
		p.SetTier(backstay.VaultTier, backstay.TierCreating, servertest.Now)
		p.Job = job.ID
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/points/" + string(servertest.PointSnapshot)
	status, text := ask(t, w, w.Tokens[backstay.Owner], "DELETE", path, "")
	if e := decodeError(t, text); status != 409 || e.Code != backstay.CodeConflict || !strings.Contains(e.Action, string(job.ID)) {
		t.Errorf("%d %s", status, text)
	}
	as[backstay.Job](t, w, backstay.Operator, "POST", "/v1/jobs/"+string(job.ID)+"/cancel", "")
	if status, text := ask(t, w, w.Tokens[backstay.Owner], "DELETE", path, ""); status != 202 {
		t.Errorf("after the job: %d %s", status, text)
	}
}

func TestAGroupKeepsItsVMsUntilItIsDeletedAndItsBackupHasEnded(t *testing.T) {
	w := shop(t)
	refused(t, w, "PUT", "/v1/vms/db01/protection", `{"policy":"daily","vault":"default","method":"pull"}`, 409, backstay.CodeConflict)
	w.Queue.Play(servertest.Hang)
	job := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"shop"}`).Job
	status, text := ask(t, w, w.Tokens[backstay.Operator], "DELETE", "/v1/groups/shop", "")
	if e := decodeError(t, text); status != 409 || e.Code != backstay.CodeConflict || !strings.Contains(e.Action, string(job.ID)) {
		t.Errorf("%d %s", status, text)
	}
	as[backstay.Job](t, w, backstay.Operator, "POST", "/v1/jobs/"+string(job.ID)+"/cancel", "")
	if status, text := ask(t, w, w.Tokens[backstay.Operator], "DELETE", "/v1/groups/shop", ""); status != 204 {
		t.Errorf("after the job: %d %s", status, text)
	}
}

// A VM that runs on layers is not pulled from, also when none of its points is in
// the snapshot tier because only the change map stays there.
func TestAVMThatRunsOnLayersIsNotPulledFrom(t *testing.T) {
	w := start(t)
	as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", `{"policy":"daily","vault":"default"}`)
	pull := `{"policy":"daily","vault":"default","method":"pull"}`
	ctx := context.Background()
	item, err := w.Catalog.Items.Item(ctx, servertest.DB)
	if err != nil {
		t.Fatal(err)
	}
	item.LastPoint = &servertest.Now
	if err := w.Catalog.Items.PutItem(ctx, item); err != nil {
		t.Fatal(err)
	}
	refused(t, w, "PUT", "/v1/vms/db01/protection", pull, 409, backstay.CodeConflict)
	item.LastPoint = nil
	if err := w.Catalog.Items.PutItem(ctx, item); err != nil {
		t.Fatal(err)
	}
	as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", pull)
}
