package server_test

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// TestFilesArePutByAJobThatHoldsUpNothing: neither its VM nor a slot is taken, where each
// file was is found by the guest's own fstab, and each path is in the audit trail before
// it begins.
func TestFilesArePutByAJobThatHoldsUpNothing(t *testing.T) {
	w := start(t)
	s := openPoint(t, w, `,"reuse":true`).Session
	put := strings.Replace(api.PathFilePut, "{session}", string(s.ID), 1)
	before := len(as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", ""))
	job := as[backstay.Job](t, w, backstay.Owner, "POST", put, `{"paths":["/etc/passwd"],"vm":"web01"}`)
	r, _ := w.Queue.Request(job.ID)
	p, ok := r.Params.(backstay.PutParams)
	if !ok || len(r.VMs) > 0 || !r.Urgent || r.Kind != backstay.JobPut || p.To != "/" || p.Strip != "/" || p.Conflict != backstay.ConflictAsk ||
		p.Session != s.ID || len(p.Paths) != 1 || p.Paths[0] != "/etc/passwd" {
		t.Errorf("got %+v with %+v", r, p)
	}
	entries := as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", "")[before:]
	if len(entries) != 2 || !strings.Contains(entries[0].Target, "/etc/passwd into local/web01") || entries[1].Job != job.ID {
		t.Errorf("audited %+v", entries)
	}
	job = as[backstay.Job](t, w, backstay.Owner, "POST", put, `{"paths":["/etc/passwd"],"vm":"web01","to":"/root/x/../y/","conflict":"rename"}`)
	r, _ = w.Queue.Request(job.ID)
	if p := r.Params.(backstay.PutParams); p.To != "/root/y" || p.Strip != "" || p.Conflict != backstay.ConflictRename {
		t.Errorf("with a folder: %+v", p)
	}
	for body, code := range map[string]backstay.Code{
		`{"paths":["/etc/passwd"],"vm":"web01","to":"etc"}`:  backstay.CodeUsage,
		`{"paths":["/etc/passwd"],"vm":"nobody"}`:            backstay.CodeUnknownVM,
		`{"paths":["/etc/none"],"vm":"web01"}`:               backstay.CodeUnknownFile,
		`{"paths":[],"vm":"web01"}`:                          backstay.CodeUsage,
		`{"paths":["/x"],"vm":"web01","conflict":"shuffle"}`: backstay.CodeUsage,
	} {
		if _, text := ask(t, w, w.Tokens[backstay.Owner], "POST", put, body); decodeError(t, text).Code != code {
			t.Errorf("%s: %s", body, text)
		}
	}
}

// TestATicketPutsNothing: it is for reading.
func TestATicketPutsNothing(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	put := strings.Replace(api.PathFilePut, "{session}", string(opened.Session.ID), 1)
	if status, text := ask(t, w, opened.Ticket, "POST", put, `{"paths":["/etc/passwd"],"vm":"web01"}`); status != 403 {
		t.Errorf("%d %s", status, text)
	}
}
