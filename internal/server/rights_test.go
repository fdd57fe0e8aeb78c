package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/server"
	"github.com/backstay/backstay/internal/server/servertest"
	"github.com/danielgtaylor/huma/v2"
)

// TestEveryRouteIsHeldToItsRight goes over every route × role, and over
// requests without a token and with one that is not known.
func TestEveryRouteIsHeldToItsRight(t *testing.T) {
	w := start(t)
	braces := regexp.MustCompile(`\{[a-z]+\}`)
	secrets := map[backstay.Role]string{"": "", "unknown": "bst_nobody's"}
	for role, secret := range w.Tokens {
		secrets[role] = secret
		plain, err := w.PlainToken(t.Context(), role)
		if err != nil {
			t.Fatal(err)
		}
		secrets["plain-"+role] = plain
		secrets["point-"+role] = pointToken(t, w, "p-"+string(role), role, servertest.PointBoth, time.Hour)
		secrets["past-"+role] = pointToken(t, w, "e-"+string(role), role, "", 0)
	}
	for _, r := range server.Routes() {
		path := braces.ReplaceAllString(r.Path, "none")
		for role, secret := range secrets {
			status, text := ask(t, w, secret, r.Method, path, "")
			switch {
			case r.Need == "":
				if status != 200 {
					t.Errorf("%s %s needs no token, and answered %d to %q", r.Method, r.Path, status, role)
				}
			case role == "" || role == "unknown" || strings.HasPrefix(string(role), "past-"):
				if e := decodeError(t, text); status != 401 || e.Code != backstay.CodeNotSignedIn {
					t.Errorf("%s %s with token %q: %d %s", r.Method, r.Path, role, status, text)
				}
			case strings.HasPrefix(string(role), "plain-"):
				role := backstay.Role(strings.TrimPrefix(string(role), "plain-"))
				if allowed := role.Covers(r.Need) && (!r.Files || r.Owners && role == backstay.Owner); (status == 403) == allowed {
					t.Errorf("%s %s as %s without the right to files: %d %s", r.Method, r.Path, role, status, text)
				}
			case strings.HasPrefix(string(role), "point-"):
				// What "none" means is not its own: only what names nothing is answered.
				answers := r.Scoped && !strings.Contains(r.Path, "{") && r.Method == http.MethodGet
				if answers != (status == 200) || !r.Scoped && status != 403 {
					t.Errorf("%s %s as %s: %d %s", r.Method, r.Path, role, status, text)
				}
			case !role.Covers(r.Need):
				if e := decodeError(t, text); status != 403 || e.Code != backstay.CodeNotAllowed {
					t.Errorf("%s %s as %s: %d %s", r.Method, r.Path, role, status, text)
				}
			case status == 401 || status == 403:
				t.Errorf("%s %s as %s: %d %s", r.Method, r.Path, role, status, text)
			}
		}
	}
}

// The table is complete: what is served is in it, and what is in it is served,
// with all of its path's parts read by the handler.
func TestTheTableOfRoutesIsWhatIsServed(t *testing.T) {
	doc := openAPI(t, start(t))
	served := map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range item {
			served[strings.ToUpper(method)+" "+path] = true
			for _, part := range regexp.MustCompile(`\{([a-z]+)\}`).FindAllStringSubmatch(path, -1) {
				if !slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.In == "path" && p.Name == part[1] }) {
					t.Errorf("%s %s does not read {%s}", method, path, part[1])
				}
			}
		}
	}
	for _, r := range server.Routes() {
		key := r.Method + " " + r.Path
		if served[key] == r.Plain {
			t.Errorf("%s: in the document %v, plain %v", key, served[key], r.Plain)
		}
		delete(served, key)
	}
	if len(served) > 0 {
		t.Errorf("served but not in the table: %v", served)
	}
}

func TestWhatChangesSomethingNeedsMoreThanReading(t *testing.T) {
	for _, r := range server.Routes() {
		if r.Method != http.MethodGet && !r.Need.Covers(backstay.Operator) && !r.Files {
			t.Errorf("%s %s may be called by a %q", r.Method, r.Path, r.Need)
		}
		under := strings.HasPrefix(r.Path, "/v1/file-sessions") || r.Path == "/v1/files" || r.Path == "/v1/points/{point}/diff"
		if under != r.Files || r.Owners && strings.Count(r.Path, "/") > 3 {
			t.Errorf("%s %s: files %v, owners %v", r.Method, r.Path, r.Files, r.Owners)
		}
	}
}

func TestAnOperatorCannotRetryWhatOnlyAnOwnerMayStart(t *testing.T) {
	w := start(t)
	w.Queue.Play(servertest.Fail)
	for _, r := range [][2]string{{"DELETE", "/v1/points/" + string(servertest.PointBoth)}, {"POST", "/v1/vaults/default/catalog/rebuild"}} {
		onlyAnOwnerRetries(t, w, as[backstay.Job](t, w, backstay.Owner, r[0], r[1], ""))
	}
}

func onlyAnOwnerRetries(t *testing.T, w *servertest.World, job backstay.Job) {
	t.Helper()
	ask(t, w, w.Tokens[backstay.Owner], "GET", "/v1/jobs/"+string(job.ID)+"/events", "") // until it ended
	status, text := ask(t, w, w.Tokens[backstay.Operator], "POST", "/v1/jobs/"+string(job.ID)+"/retry", "")
	if e := decodeError(t, text); status != 403 || e.Code != backstay.CodeNotAllowed {
		t.Errorf("got %d %s", status, text)
	}
	again := as[backstay.Job](t, w, backstay.Owner, "POST", "/v1/jobs/"+string(job.ID)+"/retry", "")
	if again.Retries != job.ID {
		t.Errorf("got %+v", again)
	}
}

// Every changing request is in the audit log with its outcome, also a refused
// one; reading and dry runs are not.
func TestEveryChangeIsAuditedWithItsOutcome(t *testing.T) {
	w := start(t)
	owner, reader := w.Tokens[backstay.Owner], w.Tokens[backstay.Reader]
	for _, r := range []struct{ token, method, path, body, want string }{
		{owner, "POST", "/v1/backups", `{"vm":"web01"}`, "the-owner POST /v1/backups local/web01 ok job"},
		{owner, "POST", "/v1/backups", `{"vm":"nobody"}`, "the-owner POST /v1/backups nobody unknown-vm"},
		{owner, "POST", "/v1/backups", `{"vm":`, "the-owner POST /v1/backups POST /v1/backups usage"},
		{owner, "POST", "/v1/backups", `{"vm":"web01","dryRun":true}`, ""},
		{reader, "DELETE", "/v1/policies/daily", "", "the-reader DELETE /v1/policies/{policy} DELETE /v1/policies/daily not-allowed"},
		{"bst_x", "POST", "/v1/tokens", `{}`, " POST /v1/tokens POST /v1/tokens not-signed-in"},
		{owner, "POST", "/v1/restores", `{"kind":"create-vm","point":"web01@latest","name":"db01"}`, "the-owner POST /v1/restores " + string(servertest.PointSnapshot) + " of local/web01 as db01 name-taken"},
		{owner, "DELETE", "/v1/policies/daily", "", "the-owner DELETE /v1/policies/{policy} daily conflict"},
		{owner, "GET", "/v1/vms", "", ""},
	} {
		before := len(as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", ""))
		ask(t, w, r.token, r.method, r.path, r.body)
		entries := as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", "")[before:]
		got := ""
		for _, e := range entries {
			got += fmt.Sprintf("%s %s %s %s", e.User, e.Action, e.Target, e.Outcome)
			if e.Job != "" {
				got += " job"
			}
		}
		if got != r.want {
			t.Errorf("%s %s %s\n got %q\nwant %q", r.method, r.path, r.body, got, r.want)
		}
	}
}

// Nobody without a token can fill the audit log.
func TestAnonymousRequestsAreAuditedOnlySoOften(t *testing.T) {
	w := start(t)
	for range 200 {
		ask(t, w, "", "POST", "/v1/tokens", "{}")
	}
	if n := len(as[[]backstay.AuditEntry](t, w, backstay.Operator, "GET", "/v1/audit", "")); n == 0 || n > 100 {
		t.Errorf("%d entries", n)
	}
}

type parameter struct{ Name, In string }

type document struct {
	OpenAPI string
	Paths   map[string]map[string]struct {
		OperationID string
		Parameters  []parameter
		Security    []map[string][]string
		Responses   map[string]struct {
			Content map[string]struct{ Schema *huma.Schema }
		}
	}
	Components struct{ Schemas map[string]json.RawMessage }
}

func openAPI(t *testing.T, w *servertest.World) document {
	t.Helper()
	doc := as[document](t, w, backstay.Reader, "GET", "/openapi.json", "")
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 10 {
		t.Fatalf("OpenAPI %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	return doc
}
