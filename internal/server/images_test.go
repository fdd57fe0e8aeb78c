package server_test

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// TestWhoIsNoOwnerReadsImageFilesInPoolsOnly: any file of a host can be named as a
// raw disk, and be read out of the point.
func TestWhoIsNoOwnerReadsImageFilesInPoolsOnly(t *testing.T) {
	w := start(t)
	const body = `{"vm":"","image":{"name":"old","host":"local","folders":["/etc"],"disks":[{"target":"vda","path":"/srv/old.vmdk","size":5}]}}`
	host, err := w.Catalog.Hosts.Host(t.Context(), "local")
	if err != nil || len(host.Facts.Pools) == 0 {
		t.Fatalf("host %+v, %v", host, err)
	}
	for role, want := range map[backstay.Role]int{backstay.Operator: len(host.Facts.Pools), backstay.Owner: 0} {
		got := as[api.BackupResponse](t, w, role, "POST", "/v1/backups", body)
		if got.Job == nil || got.Job.Target != "local/old" {
			t.Fatalf("%s: %+v", role, got)
		}
		r, _ := w.Queue.Request(got.Job.ID)
		params, ok := r.Params.(backstay.BackupParams)
		if !ok || params.Image == nil || params.VM == "" || !r.Alone || len(r.VMs) != 1 || r.VMs[0] != params.VM || r.Vault != params.Image.Vault || r.Vault == "" {
			t.Fatalf("%s: request %+v", role, r)
		}
		if len(params.Image.Folders) != want || params.Image.Disks[0].Size != 0 {
			t.Errorf("%s: may read %q, disks %+v", role, params.Image.Folders, params.Image.Disks)
		}
		if want > 0 && params.Image.Folders[0] != host.Facts.Pools[0].Path {
			t.Errorf("%s: may read %q", role, params.Image.Folders)
		}
	}
}

func TestImageFilesThatMakeNoVMAreRefused(t *testing.T) {
	w := start(t)
	for _, body := range []string{
		`{"vm":"web01","image":{"name":"old","host":"local","disks":[{"target":"vda","path":"/a"}]}}`,
		`{"vm":"","image":{"name":"","host":"local","disks":[{"target":"vda","path":"/a"}]}}`,
		`{"vm":"","image":{"name":"a/b","host":"local","disks":[{"target":"vda","path":"/a"}]}}`,
		`{"vm":"","image":{"name":"old","host":"local","disks":[]}}`,
		`{"vm":"","image":{"name":"old","host":"local","disks":[{"target":"hda","path":"/a"}]}}`,
		`{"vm":"","image":{"name":"old","host":"local","disks":[{"target":"vda","path":"/a"},{"target":"vda","path":"/b"}]}}`,
		`{"vm":"","tier":"snapshot","image":{"name":"old","host":"local","disks":[{"target":"vda","path":"/a"}]}}`,
		`{"vm":"","consistency":"application","image":{"name":"old","host":"local","disks":[{"target":"vda","path":"/a"}]}}`,
		`{"vm":"","image":{"name":"old","host":"local","firmware":"rom","disks":[{"target":"vda","path":"/a"}]}}`,
	} {
		refused(t, w, "POST", "/v1/backups", body, 422, backstay.CodeUsage)
	}
	const named = `{"vm":"","image":{"name":"old","host":"local","disks":[{"target":"vda","path":"/a"}],`
	refused(t, w, "POST", "/v1/backups", named+`"vault":"none"}}`, 404, backstay.CodeUnknownVault)
	refused(t, w, "POST", "/v1/backups", named+`"policy":"none"}}`, 404, backstay.CodeUnknownPolicy)
	refused(t, w, "POST", "/v1/backups", `{"vm":"","image":{"name":"old","host":"none","disks":[{"target":"vda","path":"/a"}]}}`, 404, backstay.CodeUnknownHost)
}
