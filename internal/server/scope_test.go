package server_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server"
	"github.com/backstay/backstay/internal/server/servertest"
)

// pointToken puts a token into the world that counts for so long, bound to a point or
// to none.
func pointToken(t *testing.T, w *servertest.World, name string, role backstay.Role, p backstay.PointID, life time.Duration) string {
	t.Helper()
	secret, hash := server.NewTokenSecret()
	until := servertest.Now.Add(life)
	token := backstay.Token{ID: "of-" + name, Name: name, Role: role, Files: true, Point: p, Created: servertest.Now.Add(-time.Minute), Expires: &until}
	if err := w.Catalog.Tokens.PutToken(t.Context(), token, hash); err != nil {
		t.Fatal(err)
	}
	return secret
}

// scopedRoutes are all that a token of one point may use. A route that is opened to
// such tokens belongs here, and into the tests below.
var scopedRoutes = []string{
	"whoAmI", "listPoints", "getPoint", "getPointRestores", "getPointSecrets", "giveSecrets", "startRestore", "finishRestore",
	"openFiles", "listFileSessions", "getFileSession", "endFileSession", "unlockVolume", "listFolder", "getEntry", "readFile", "takeFiles", "readDisk",
	"listJobs", "getJob", "cancelJob", "followJob",
}

func TestATokenOfOnePointIsKeptOutOfEveryRouteThatIsNotMeantForIt(t *testing.T) {
	w := start(t)
	secret := pointToken(t, w, "one", backstay.Operator, servertest.PointBoth, time.Hour)
	for _, r := range server.Routes() {
		if r.Scoped != slices.Contains(scopedRoutes, r.ID) {
			t.Errorf("%s: open to a token of one point is %v", r.ID, r.Scoped)
		}
		if r.Scoped || r.Need == "" {
			continue
		}
		path := strings.NewReplacer("{point}", string(servertest.PointBoth), "{vault}", "default", "{vm}", "web01", "{policy}", "daily", "{host}", "local", "{token}", "one").Replace(r.Path)
		status, text := ask(t, w, secret, r.Method, path, `{}`)
		if e := decodeError(t, text); status != 403 || e.Code != backstay.CodeNotAllowed {
			t.Errorf("%s %s: %d %s", r.Method, path, status, text)
		}
	}
}

// Row R8: the token for one point does not open another, however that is named.
func TestATokenOfOnePointOpensThatPointAlone(t *testing.T) {
	w := start(t)
	secret := pointToken(t, w, "one", backstay.Operator, servertest.PointBoth, time.Hour)
	own, other := string(servertest.PointBoth), string(servertest.PointSnapshot)
	for name, allowed := range map[string]bool{
		own: true, own[:24]: true, strings.ToLower(own): true, "web01@" + servertest.Now.Add(-2*time.Hour).Format(time.RFC3339): true,
		other: false, "web01@latest": false, "db01@latest": false, "nobody@latest": false, "01ZZZZ": false,
	} {
		for _, r := range [][3]string{
			{"GET", "/v1/points/" + name, ""},
			{"GET", "/v1/points/" + name + "/restores", ""},
			{"GET", "/v1/points/" + name + "/secrets", ""},
			{"POST", "/v1/restores", fmt.Sprintf(`{"kind":"create-vm","point":%q,"name":"new01","dryRun":true}`, name)},
			{"POST", "/v1/restores", fmt.Sprintf(`{"kind":"disks","point":%q,"to":"/srv/r","dryRun":true}`, name)},
			{"POST", "/v1/file-sessions", fmt.Sprintf(`{"point":%q}`, name)},
		} {
			status, text := ask(t, w, secret, r[0], r[1], r[2])
			if allowed && status >= 300 || !allowed && (status != 403 || decodeError(t, text).Code != backstay.CodeNotAllowed) {
				t.Errorf("%s %s %s: %d %s", r[0], r[1], r[2], status, text)
			}
		}
	}
	if points := asSecret[[]backstay.RecoveryPoint](t, w, secret, "GET", "/v1/points", ""); len(points) != 1 || points[0].ID != servertest.PointBoth {
		t.Errorf("it sees %d points", len(points))
	}
	status, text := ask(t, w, secret, "POST", "/v1/restores", fmt.Sprintf(`{"kind":"replace-disks","point":%q}`, own))
	if status != 403 {
		t.Errorf("replacing disks: %d %s", status, text)
	}
}

// It sees and cancels what it started, and nothing of a namesake that was before.
func TestATokenOfOnePointSeesItsOwnJobsOnly(t *testing.T) {
	w := start(t)
	w.Queue.Play(servertest.Hang)
	secret := pointToken(t, w, "one", backstay.Operator, servertest.PointBoth, time.Hour)
	restore := fmt.Sprintf(`{"kind":"create-vm","point":%q,"name":"new01"}`, servertest.PointBoth)
	own := asSecret[api.RestoreResponse](t, w, secret, "POST", "/v1/restores", restore).Job
	foreign := as[api.RestoreResponse](t, w, backstay.Operator, "POST", "/v1/restores", restore).Job
	namesake := pointToken(t, w, "one-b", backstay.Operator, servertest.PointSnapshot, time.Hour)
	for _, at := range []struct {
		secret string
		job    backstay.JobID
		ok     bool
	}{{secret, own.ID, true}, {secret, foreign.ID, false}, {secret, "01JNOSUCH", false}, {namesake, own.ID, false}} {
		for _, path := range []string{"", "/cancel"} {
			method := map[string]string{"": "GET", "/cancel": "POST"}[path]
			if status, text := ask(t, w, at.secret, method, "/v1/jobs/"+string(at.job)+path, ""); (status == 200) != at.ok || !at.ok && status != 403 {
				t.Errorf("%s %s%s: %d %s", method, at.job, path, status, text)
			}
		}
		if status, _ := ask(t, w, at.secret, "GET", "/v1/jobs/"+string(at.job)+"/events", ""); (status == 200) != at.ok {
			t.Errorf("following %s: %d", at.job, status)
		}
	}
	if jobs := asSecret[[]backstay.Job](t, w, secret, "GET", "/v1/jobs", ""); len(jobs) != 1 || jobs[0].ID != own.ID {
		t.Errorf("it sees %v", jobs)
	}
	later := backstay.Token{Name: "one", Point: servertest.PointBoth, Created: own.Created.Add(time.Second)}
	if later.Started(*own) {
		t.Error("a token sees the jobs of one that had its name before")
	}
}

func TestATokenOfOnePointReadsFilesInItsOwnSessionsUntilItExpires(t *testing.T) {
	w := start(t)
	secret := pointToken(t, w, "one", backstay.Operator, servertest.PointBoth, time.Hour)
	opened := asSecret[api.OpenFilesResponse](t, w, secret, "POST", "/v1/file-sessions", fmt.Sprintf(`{"point":%q}`, servertest.PointBoth))
	if want := servertest.Now.Add(time.Hour); opened.Session.Expires.After(want) {
		t.Errorf("the session counts until %s, its token until %s", opened.Session.Expires, want)
	}
	resp, body, err := fetch(t, secret, "GET", contentURL(w, opened.Session, "/etc/hostname"))
	if err != nil || resp.StatusCode != http.StatusOK || body == "" {
		t.Errorf("its own file: %v %v %q", err, resp, body)
	}
	others := as[api.OpenFilesResponse](t, w, backstay.Operator, "POST", "/v1/file-sessions", fmt.Sprintf(`{"point":%q}`, servertest.PointBoth))
	resp, _, err = fetch(t, secret, "GET", contentURL(w, others.Session, "/etc/hostname"))
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("another's session: %v %v", err, resp)
	}
	if list := asSecret[[]backstay.FileSession](t, w, secret, "GET", "/v1/file-sessions", ""); len(list) != 1 || list[0].ID != opened.Session.ID {
		t.Errorf("it sees %v", list)
	}
}

func TestATokenOfOnePointMustExpireAndIsNoOwners(t *testing.T) {
	w := start(t)
	for body, why := range map[string]string{
		`{"name":"x","role":"operator","point":"web01@latest"}`:                   "no end",
		`{"name":"x","role":"operator","point":"web01@latest","expires":9999999}`: "too late an end",
		`{"name":"x","role":"owner","point":"web01@latest","expires":60}`:         "an owner",
	} {
		if status, text := ask(t, w, w.Tokens[backstay.Owner], "POST", "/v1/tokens", body); status != 422 {
			t.Errorf("%s: %d %s", why, status, text)
		}
	}
	refused(t, w, "POST", "/v1/tokens", `{"name":"x","role":"operator","point":"nobody@latest","expires":60}`, 404, backstay.CodeUnknownVM)
	made := as[api.CreateTokenResponse](t, w, backstay.Owner, "POST", "/v1/tokens", `{"name":"x","role":"operator","point":"web01@latest","expires":60}`)
	if made.Token.Point != servertest.PointSnapshot || made.Token.Expires == nil || !made.Token.Expires.Equal(servertest.Now.Add(time.Minute)) {
		t.Errorf("got %+v", made.Token)
	}
	who := asSecret[api.Identity](t, w, made.Secret, "GET", "/v1/whoami", "")
	if who.Point != servertest.PointSnapshot || who.Expires == nil {
		t.Errorf("it is told %+v", who)
	}
}

// Else nobody could make a token once the owner's has expired.
func TestAnOwnersTokenThatExpiresIsNotTheLastOne(t *testing.T) {
	w := start(t)
	as[api.CreateTokenResponse](t, w, backstay.Owner, "POST", "/v1/tokens", `{"name":"guest","role":"owner","expires":3600}`)
	refused(t, w, "DELETE", "/v1/tokens/the-owner", "", 409, backstay.CodeConflict)
}
