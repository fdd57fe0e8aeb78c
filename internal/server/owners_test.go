package server_test

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
)

// What an operator may ask for by its route, and not in this form: any file of the
// host as a disk, a device written over, a VM thrown away with what its guest wrote.
func TestAnOperatorNeitherTakesFilesOfTheHostNorDeletes(t *testing.T) {
	w := start(t)
	made := as[api.RestoreResponse](t, w, backstay.Operator, "POST", "/v1/restores", `{"kind":"create-vm","point":"web01@latest","name":"web02"}`)
	record := catalog.JobRecord{Job: *made.Job}
	if err := w.Catalog.Jobs.InsertJob(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	undo := "/v1/jobs/" + string(made.Job.ID) + "/undo"
	const deploy = `{"folder":"/srv/restored","set":{"disk.vda.path":"`
	for _, r := range []struct {
		path, body string
		operator   bool
	}{
		{"/v1/deploys", deploy + `/srv/restored/other.qcow2"}}`, true},
		{"/v1/deploys", deploy + `/etc/shadow"}}`, false},
		{"/v1/deploys", deploy + `/etc/shadow"},"dryRun":true}`, false},
		{"/v1/deploys", deploy + `/srv/restored/../../etc/shadow"}}`, false},
		{"/v1/deploys", deploy + `/srv/restored-too/vda.qcow2"}}`, false},
		{"/v1/restores", `{"kind":"disks","point":"web01@latest","to":"/srv/x"}`, true},
		{"/v1/restores", `{"kind":"disks","point":"web01@latest","to":"/dev/vg0/x","dryRun":true}`, true},
		{"/v1/restores", `{"kind":"disks","point":"web01@latest","to":"/dev/vg0/x"}`, false},
		{undo, `{"dryRun":true}`, true},
		{undo, `{}`, false},
	} {
		if !r.operator {
			status, text := ask(t, w, w.Tokens[backstay.Operator], "POST", r.path, r.body)
			if e := decodeError(t, text); status != 403 || e.Code != backstay.CodeNotAllowed || e.Action == "" {
				t.Errorf("%s %s as an operator: %d %s", r.path, r.body, status, text)
			}
		}
		as := w.Tokens[backstay.Owner]
		if r.operator {
			as = w.Tokens[backstay.Operator]
		}
		if status, text := ask(t, w, as, "POST", r.path, r.body); status != 200 && status != 202 {
			t.Errorf("%s %s: %d %s", r.path, r.body, status, text)
		}
	}
}
