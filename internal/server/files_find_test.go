package server_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

func findPath(vm, pattern string) string {
	return api.PathFindFiles + "?" + url.Values{"vm": {vm}, "pattern": {pattern}}.Encode()
}

func TestFilesAreFoundOverPointsAndWhoLookedIsRecorded(t *testing.T) {
	w := start(t)
	owner := w.Tokens[backstay.Owner]
	status, text := ask(t, w, owner, "GET", findPath("web01", "passwd"), "")
	if e := decodeError(t, text); status != 404 || e.Code != backstay.CodeNotIndexed {
		t.Errorf("before any list: %d %s", status, text)
	}
	w.List(t, servertest.PointBoth)
	found := as[api.FoundFiles](t, w, backstay.Reader, "GET", findPath("web01", "passw*"), "")
	if len(found.Files) != 1 || found.Files[0].Path != "/etc/passwd" || found.Files[0].Versions[0].Last != servertest.PointBoth ||
		!slices.Contains(found.Without, servertest.PointSnapshot) {
		t.Errorf("found %+v", found)
	}
	entries := as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", "")
	if last := entries[len(entries)-1]; last.User != "the-reader" || !strings.Contains(last.Target, "local/web01: files passw*") {
		t.Errorf("audit: %+v", last)
	}
	status, text = ask(t, w, owner, "GET", findPath("nobody", "passwd"), "")
	if e := decodeError(t, text); status != 404 || e.Code != backstay.CodeUnknownVM {
		t.Errorf("a VM that is not there: %d %s", status, text)
	}
}

func TestTwoPointsOfOneVMAreCompared(t *testing.T) {
	w := start(t)
	diff := "/v1/points/" + string(servertest.PointBoth) + "/diff?with="
	d := as[backstay.PointDiff](t, w, backstay.Reader, "GET", diff+string(servertest.PointSnapshot), "")
	if d.Before == d.After || len(d.Disks) != 2 {
		t.Errorf("%+v", d)
	}
	for with, want := range map[string]backstay.Code{
		string(servertest.PointBoth): backstay.CodeUsage, string(servertest.PointGone): backstay.CodeUsage, "nothing": backstay.CodeUnknownPoint,
	} {
		status, text := ask(t, w, w.Tokens[backstay.Owner], "GET", diff+with, "")
		if e := decodeError(t, text); e.Code != want {
			t.Errorf("with %s: %d %s", with, status, text)
		}
	}
}
