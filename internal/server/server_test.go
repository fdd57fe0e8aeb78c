package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

func start(t *testing.T) *servertest.World {
	t.Helper()
	w, err := servertest.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// ask sends a request and returns status and body.
func ask(t *testing.T, w *servertest.World, token, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// as asks with a role's token and decodes the answer, which must be a success.
func as[T any](t *testing.T, w *servertest.World, role backstay.Role, method, path, body string) T {
	t.Helper()
	return asSecret[T](t, w, w.Tokens[role], method, path, body)
}

// asSecret does it with the token itself.
func asSecret[T any](t *testing.T, w *servertest.World, secret, method, path, body string) T {
	t.Helper()
	status, text := ask(t, w, secret, method, path, body)
	var out T
	if status >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	return out
}

// refused asks as the owner and requires a coded error with all its parts.
func refused(t *testing.T, w *servertest.World, method, path, body string, status int, code backstay.Code) backstay.Error {
	t.Helper()
	got, text := ask(t, w, w.Tokens[backstay.Owner], method, path, body)
	e := decodeError(t, text)
	if got != status || e.Code != code {
		t.Fatalf("%s %s %s: got %d %s, want %d %s", method, path, body, got, text, status, code)
	}
	return e
}

func decodeError(t *testing.T, text string) backstay.Error {
	t.Helper()
	var body api.ErrorResponse
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		t.Fatalf("not an error body: %v in %q", err, text)
	}
	if e := body.Error; e.Code == "" || e.Message == "" || e.Cause == "" || e.Action == "" {
		t.Fatalf("an error must have code, message, cause and action: %q", text)
	}
	return body.Error
}

func TestUnknownThingsAreNamedAndNotFound(t *testing.T) {
	w := start(t)
	for path, code := range map[string]backstay.Code{
		"/v1/hosts/nowhere":                    backstay.CodeUnknownHost,
		"/v1/vms/nobody":                       backstay.CodeUnknownVM,
		"/v1/vms/local%2Fnobody":               backstay.CodeUnknownVM,
		"/v1/vaults/none":                      backstay.CodeUnknownVault,
		"/v1/vaults/none/usage":                backstay.CodeUnknownVault,
		"/v1/policies/none":                    backstay.CodeUnknownPolicy,
		"/v1/points/01KZZZ":                    backstay.CodeUnknownPoint,
		"/v1/points/db01@1999-01-01T00:00:00Z": backstay.CodeUnknownPoint,
		"/v1/points/nobody@latest":             backstay.CodeUnknownVM,
		"/v1/jobs/01JZZZ":                      backstay.CodeUnknownJob,
		"/v1/jobs/01JZZZ/events":               backstay.CodeUnknownJob,
		"/v1/points?vm=nobody":                 backstay.CodeUnknownVM,
	} {
		refused(t, w, "GET", path, "", 404, code)
	}
	refused(t, w, "GET", "/v1/nothing", "", 404, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/hosts", "{}", 404, backstay.CodeUsage)
}

func TestAVMIsFoundByNameHostAndUUID(t *testing.T) {
	w := start(t)
	for _, name := range []string{"web01", "local%2Fweb01", string(servertest.Web), strings.ToUpper(string(servertest.Web))} {
		if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/"+name, ""); vm.ID != servertest.Web || vm.Protection == nil {
			t.Errorf("%s: got %+v", name, vm)
		}
	}
	e := refused(t, w, "GET", "/v1/vms/mail", "", 422, backstay.CodeAmbiguousVM)
	if !strings.Contains(e.Cause, "east/mail or local/mail") {
		t.Errorf("the cause does not say which: %s", e.Cause)
	}
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/east%2Fmail", ""); vm.ID != servertest.MailB {
		t.Errorf("got %s", vm.ID)
	}
}

// I2: what is still being made is not a recovery point yet.
func TestAPointIsFoundByIDPrefixLatestAndTime(t *testing.T) {
	w := start(t)
	for name, want := range map[string]backstay.PointID{
		string(servertest.PointBoth):        servertest.PointBoth,
		"01k0000000000000000000aaaa":        servertest.PointBoth,
		"01K1":                              servertest.PointGone,
		"web01@latest":                      servertest.PointSnapshot, // not the newer one that is being made
		"local%2Fweb01@latest":              servertest.PointSnapshot,
		"web01@2026-11-22T10:30:00Z":        servertest.PointBoth,
		"web01@2026-11-22T11:00:00Z":        servertest.PointSnapshot, // at that very second
		"web01@2026-11-22T12:30:00%2B02:00": servertest.PointBoth,
		"gone@latest":                       servertest.PointGone, // points outlive their VM
		string(servertest.Gone) + "@latest": servertest.PointGone,
	} {
		if p := as[backstay.RecoveryPoint](t, w, backstay.Reader, "GET", "/v1/points/"+name, ""); p.ID != want {
			t.Errorf("%s: got %s, want %s", name, p.ID, want)
		}
	}
	refused(t, w, "GET", "/v1/points/01K0", "", 422, backstay.CodeUsage)
	refused(t, w, "GET", "/v1/points/web01@yesterday", "", 422, backstay.CodeUsage)
	list := as[[]backstay.RecoveryPoint](t, w, backstay.Reader, "GET", "/v1/points?vm=web01", "")
	if len(list) != 3 || list[0].ID != servertest.PointMaking || list[2].ID != servertest.PointBoth {
		t.Errorf("not newest first: %v", list)
	}
	if r := list[0].Restores.CreateVM; r.Allowed || !strings.Contains(r.Reason, "snapshot tier is creating") {
		t.Errorf("a point that is being made is offered: %+v", r)
	}
	if r := list[0].Restores.Files; r.Allowed || !strings.Contains(r.Reason, "snapshot tier is creating") {
		t.Errorf("files of a point that is being made are offered: %+v", r)
	}
	if r := list[2].Restores; !r.CreateVM.Allowed || !r.Files.Allowed {
		t.Errorf("restores of a complete point: %+v", r)
	}
}

func TestProtectNamesWhatCannotBeBackedUp(t *testing.T) {
	w := start(t)
	const body = `{"policy":"daily","vault":"default"}`
	got := as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", body)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "vdb") || !strings.Contains(got.Warnings[0], "block device") {
		t.Errorf("warnings %q", got.Warnings)
	}
	got = as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default","includeDisks":["vda"]}`)
	if !slices.Equal(got.Item.Included, []backstay.DiskTarget{"vda"}) || len(got.Item.Excluded) != 0 || got.Item.Since != servertest.Now.AddDate(0, 0, -1) {
		t.Errorf("item %+v", got.Item)
	}
	refused(t, w, "PUT", "/v1/vms/lun01/protection", body, 409, backstay.CodeNoDisks)
	refused(t, w, "PUT", "/v1/vms/shared01/protection", body, 409, backstay.CodeVMNotPossible)
	refused(t, w, "PUT", "/v1/vms/web01/protection", `{"policy":"none","vault":"default"}`, 404, backstay.CodeUnknownPolicy)
	refused(t, w, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"none"}`, 404, backstay.CodeUnknownVault)
	refused(t, w, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default","excludeDisks":["vdz"]}`, 422, backstay.CodeUsage)
	refused(t, w, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default","excludeDisks":["vda"],"includeDisks":["vdb"]}`, 422, backstay.CodeUsage)
}

func TestUnprotectKeepsThePointsUnlessToldOtherwise(t *testing.T) {
	w := start(t)
	got := as[api.UnprotectResponse](t, w, backstay.Owner, "DELETE", "/v1/vms/web01/protection?dropSnapshotPoints=true", "")
	if got.PointsKept != 1 || len(got.Jobs) != 1 {
		t.Errorf("got %+v", got)
	}
	refused(t, w, "DELETE", "/v1/vms/web01/protection", "", 409, backstay.CodeNotProtected)
	as[api.ProtectResponse](t, w, backstay.Owner, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default"}`)
	got = as[api.UnprotectResponse](t, w, backstay.Owner, "DELETE", "/v1/vms/web01/protection?deleteData=true", "")
	if got.PointsKept != 0 || len(got.Jobs) != 4 || got.Jobs[0].Kind != backstay.JobExpire {
		t.Errorf("got %+v", got)
	}
}

func TestBackupAnswersWithAJobAtOnce(t *testing.T) {
	w := start(t)
	got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01","tier":"snapshot","retain":86400}`)
	if got.Job == nil || got.Job.Kind != backstay.JobBackup || got.Job.Target != "local/web01" || got.Job.User != "the-operator" {
		t.Fatalf("job %+v", got.Job)
	}
	r, _ := w.Queue.Request(got.Job.ID)
	params, ok := r.Params.(backstay.BackupParams)
	if !ok || params.VM != servertest.Web || params.Tier != backstay.SnapshotTier || time.Duration(params.Retain) != 24*time.Hour {
		t.Errorf("params %+v", r.Params)
	}
	if !slices.Equal(r.VMs, []backstay.VMID{servertest.Web}) || r.Host != "local" || r.Vault != "" {
		t.Errorf("slots %+v", r)
	}
	refused(t, w, "POST", "/v1/backups", `{"vm":"db01"}`, 409, backstay.CodeNotProtected)
	refused(t, w, "POST", "/v1/backups", `{"vm":"web01","tier":"moon"}`, 422, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/backups", `{"vm":"web01","surprise":1}`, 422, backstay.CodeUsage)
	before := w.Queue.Count()
	if dry := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01","dryRun":true}`); dry.Job != nil || len(dry.Plan.Disks) != 2 {
		t.Errorf("dry run: %+v", dry)
	}
	if w.Queue.Count() != before {
		t.Error("a dry run queued a job")
	}
}

func TestBackupOfAVMWithoutAPossibleDiskIsRefused(t *testing.T) {
	w := start(t)
	vm, err := w.Catalog.VMs.VM(t.Context(), servertest.LUN)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: vm.Ref(), Policy: "daily", Vault: "default"}); err != nil {
		t.Fatal(err)
	}
	e := refused(t, w, "POST", "/v1/backups", `{"vm":"lun01"}`, 409, backstay.CodeNoDisks)
	if !strings.Contains(e.Cause, "vda") || !strings.Contains(e.Cause, "LUN") {
		t.Errorf("the disk and the reason are not named: %s", e.Cause)
	}
}

func TestARestoreThatPreflightRefusesStartsNothing(t *testing.T) {
	w := start(t)
	e := refused(t, w, "POST", "/v1/restores", `{"kind":"create-vm","point":"web01@latest","name":"db01"}`, 409, backstay.CodeNameTaken)
	if !strings.Contains(e.Cause, "a VM on local is called db01 already") {
		t.Errorf("cause %q", e.Cause)
	}
	refused(t, w, "POST", "/v1/restores", `{"kind":"create-vm","point":"`+string(servertest.PointMaking)+`","name":"x"}`, 409, backstay.CodeNotRestorable)
	dry := as[api.RestoreResponse](t, w, backstay.Operator, "POST", "/v1/restores", `{"kind":"create-vm","point":"web01@latest","name":"db01","dryRun":true}`)
	if dry.Job != nil || len(dry.Plan.Refused()) != 1 {
		t.Errorf("dry run %+v", dry)
	}
	if n := w.Queue.Count(); n != 0 {
		t.Errorf("%d jobs were queued", n)
	}
	got := as[api.RestoreResponse](t, w, backstay.Operator, "POST", "/v1/restores",
		`{"kind":"create-vm","point":"01k0000000000000000000aaaa","tier":"vault","name":"copy","probe":{"kind":"port","text":"10.0.0.1:22","timeout":60}}`)
	r, _ := w.Queue.Request(got.Job.ID)
	params, ok := r.Params.(backstay.RestoreParams)
	if !ok || params.Request.Point != servertest.PointBoth || params.Plan.Name != "copy" || time.Duration(params.Request.Probe.Timeout) != time.Minute {
		t.Errorf("params %+v", r.Params)
	}
	if slices.Contains(r.VMs, servertest.Web) || r.Vault != "default" {
		t.Errorf("a restore must not hold up its source: %+v", r)
	}
}

func TestAPinnedPointIsNotDeleted(t *testing.T) {
	w := start(t)
	refused(t, w, "DELETE", "/v1/points/"+string(servertest.PointPinned), "", 409, backstay.CodeConflict)
	job := as[backstay.Job](t, w, backstay.Owner, "DELETE", "/v1/points/"+string(servertest.PointBoth), "")
	r, _ := w.Queue.Request(job.ID)
	if params := r.Params.(backstay.ExpireParams); params.Point != servertest.PointBoth || params.VM != servertest.Web {
		t.Errorf("params %+v", params)
	}
}

func TestVerifyReadsATierThatThePointHas(t *testing.T) {
	w := start(t)
	verify := func(point, body string) backstay.VerifyParams {
		job := as[backstay.Job](t, w, backstay.Operator, "POST", "/v1/points/"+point+"/verify", body)
		r, _ := w.Queue.Request(job.ID)
		return r.Params.(backstay.VerifyParams)
	}
	if p := verify(string(servertest.PointBoth), ""); p.Tier != backstay.VaultTier {
		t.Errorf("got %+v", p)
	}
	if p := verify(string(servertest.PointBoth), `{"tier":"snapshot"}`); p.Tier != backstay.SnapshotTier {
		t.Errorf("got %+v", p)
	}
	if p := verify("web01@latest", `{}`); p.Tier != backstay.SnapshotTier {
		t.Errorf("got %+v", p)
	}
	refused(t, w, "POST", "/v1/points/"+string(servertest.PointSnapshot)+"/verify", `{"tier":"vault"}`, 409, backstay.CodeNotRestorable)
}

func TestPoliciesThatCannotBeMeantAreRefused(t *testing.T) {
	w := start(t)
	good := `{"name":"p","every":3600,"consistency":"crash","snapshot":{"days":2,"count":5},"vault":{"last":1,"daily":0,"weekly":0,"monthly":0,"yearly":0}}`
	for old, bad := range map[string]string{
		`"every":3600`: `"every":5`, `"crash"`: `"perfect"`, `"days":2`: `"days":31`, `"last":1`: `"last":0`,
		`"count":5`: `"count":-1`, `"name":"p"`: `"name":"a/b"`, `"days":2,`: `"days":2,"depth":33,`,
		`"every":`:  `"fallback":["file-system"],"every":`,
		`{"name"`:   `{"guest":{"freezeBudget":0.05},"name"`,
		`{`:         `{"guest":{"latencyLimit":31},`,
		`,"vault"`:  `,"guest":{"skipMounts":["mnt"]},"vault"`,
		`,"vault":`: `,"guest":{"hooks":"perhaps"},"vault":`,
	} {
		refused(t, w, "POST", "/v1/policies", strings.Replace(good, old, bad, 1), 422, backstay.CodeUsage)
	}
	as[backstay.Policy](t, w, backstay.Owner, "POST", "/v1/policies", good)
	refused(t, w, "POST", "/v1/policies", good, 409, backstay.CodeExists)
	e := refused(t, w, "DELETE", "/v1/policies/daily", "", 409, backstay.CodeConflict)
	if !strings.Contains(e.Cause, "local/web01") {
		t.Errorf("who uses it is not said: %s", e.Cause)
	}
	if status, _ := ask(t, w, w.Tokens[backstay.Owner], "DELETE", "/v1/policies/p", ""); status != 204 {
		t.Errorf("status %d", status)
	}
}

// Schedule × retention is held to the depth of a chain, and the refusal has the
// numbers.
func TestAPolicyWhoseChainWouldBeTooDeepIsRefusedWithTheNumbers(t *testing.T) {
	w := start(t)
	for _, c := range []struct{ every, snapshot, want string }{
		{"3600", `{"days":2,"count":0}`, "every 1h × 2 days = 48 points, and the chain may hold 8; give --snapshot-count 8 (--snapshot-depth goes up to 32); the vault keeps the rest"},
		{"14400", `{"days":2,"count":0}`, "every 4h × 2 days = 12 points, and the chain may hold 8; give --snapshot-count 8 or --snapshot-days 1, or allow more layers with --snapshot-depth 12; the vault keeps the rest"},
		{"0", `{"days":2,"count":9}`, "--snapshot-count 9 is more than the 8 points that the chain may hold; give --snapshot-count 8, or allow more layers with --snapshot-depth 9; the vault keeps the rest"},
		{"3600", `{"days":2,"count":8}`, ""},
		{"3600", `{"days":0,"count":0}`, ""},
		{"14400", `{"days":2,"count":0,"depth":12}`, ""},
		{"0", `{"days":30,"count":0}`, ""},
	} {
		body := `{"name":"daily","every":` + c.every + `,"consistency":"crash","snapshot":` + c.snapshot + `,"vault":{"last":1,"daily":0,"weekly":0,"monthly":0,"yearly":0}}`
		if c.want == "" {
			as[backstay.Policy](t, w, backstay.Owner, "PUT", "/v1/policies/daily", body)
			continue
		}
		e := refused(t, w, "PUT", "/v1/policies/daily", body, 422, backstay.CodeUsage)
		if got := e.Cause + "; " + e.Action; got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestAPolicyIsEditedUnderItsName(t *testing.T) {
	w := start(t)
	p := as[backstay.Policy](t, w, backstay.Reader, "GET", "/v1/policies/daily", "")
	p.Vault.Last, p.Fallback = 99, []backstay.Consistency{}
	text, _ := json.Marshal(p)
	as[backstay.Policy](t, w, backstay.Owner, "PUT", "/v1/policies/daily", string(text))
	got := as[backstay.Policy](t, w, backstay.Reader, "GET", "/v1/policies/daily", "")
	if got.Vault.Last != 99 || got.Fallback == nil || len(got.Fallback) > 0 {
		t.Errorf("got %+v", got)
	}
	// That nothing is said of a fallback is something else than that there is none.
	got.Fallback = nil
	text, _ = json.Marshal(got)
	if got := as[backstay.Policy](t, w, backstay.Owner, "PUT", "/v1/policies/daily", string(text)); got.Fallback != nil {
		t.Errorf("a policy without a word on fallbacks is answered as %q", got.Fallback)
	}
	refused(t, w, "PUT", "/v1/policies/other", string(text), 422, backstay.CodeUsage)
	refused(t, w, "PUT", "/v1/policies/none", strings.Replace(string(text), `"daily"`, `"none"`, 1), 404, backstay.CodeUnknownPolicy)
}

func TestAVaultNeedsAPlaceForEachCopy(t *testing.T) {
	w := start(t)
	for _, body := range []string{
		`{"name":"v","units":[{"url":"file:///a"}]}`,
		`{"name":"v","units":[{"url":"file:///a"},{"url":"file:///a/"},{"url":"file:///b"}]}`,
		`{"name":"v","units":[{"url":"file:///a"},{"url":"b"},{"url":"file:///c"}]}`,
		`{"name":"v","redundancy":"ZRS","units":[{"url":"file:///a"},{"url":"file:///b"},{"url":"file:///c"}]}`,
		`{"name":"v","redundancy":"GRS","units":[{"url":"file:///a"},{"url":"file:///b"},{"url":"file:///c"}]}`,
		`{"name":"V/","units":[{"url":"file:///a"},{"url":"file:///b"},{"url":"file:///c"}]}`,
	} {
		refused(t, w, "POST", "/v1/vaults", body, 422, backstay.CodeUsage)
	}
	const good = `{"name":"v","units":[{"url":"file:///a"},{"url":"file:///b"},{"url":"file:///c"}]}`
	if got := as[api.CreateVaultResponse](t, w, backstay.Owner, "POST", "/v1/vaults", good); got.RecoveryKey != servertest.RecoveryKey {
		t.Errorf("got %+v", got)
	}
	refused(t, w, "POST", "/v1/vaults", good, 409, backstay.CodeExists)
}

// I10: the recovery key and a token's secret are in one answer and nowhere else.
func TestSecretsAreShownOnce(t *testing.T) {
	w := start(t)
	made := as[api.CreateTokenResponse](t, w, backstay.Owner, "POST", "/v1/tokens", `{"name":"ci","role":"operator"}`)
	as[api.CreateVaultResponse](t, w, backstay.Owner, "POST", "/v1/vaults", `{"name":"v","units":[{"url":"file:///a"},{"url":"file:///b"},{"url":"file:///c"}]}`)
	if status, _ := ask(t, w, made.Secret, "GET", "/v1/vms", ""); status != 200 {
		t.Errorf("the new token does not work: %d", status)
	}
	for _, path := range []string{"/v1/tokens", "/v1/audit", "/v1/vaults", "/v1/vaults/v", "/v1/jobs", "/metrics", "/v1/whoami"} {
		_, text := ask(t, w, w.Tokens[backstay.Owner], "GET", path, "")
		if strings.Contains(text, made.Secret) || strings.Contains(text, servertest.RecoveryKey) {
			t.Errorf("%s shows a secret", path)
		}
	}
	refused(t, w, "POST", "/v1/tokens", `{"name":"ci","role":"reader"}`, 409, backstay.CodeExists)
	if status, _ := ask(t, w, w.Tokens[backstay.Owner], "DELETE", "/v1/tokens/ci", ""); status != 204 {
		t.Errorf("delete: %d", status)
	}
	if status, _ := ask(t, w, made.Secret, "GET", "/v1/vms", ""); status != 401 {
		t.Errorf("a deleted token still works: %d", status)
	}
}

func TestTheLastOwnersTokenStays(t *testing.T) {
	w := start(t)
	refused(t, w, "DELETE", "/v1/tokens/the-owner", "", 409, backstay.CodeConflict)
	refused(t, w, "DELETE", "/v1/tokens/nobody", "", 404, backstay.CodeUnknownToken)
}

func TestARequestThatIsTooLargeOrMalformedIsACodedError(t *testing.T) {
	w := start(t)
	big := `{"vm":"` + strings.Repeat("x", 2<<20) + `"}`
	status, text := ask(t, w, w.Tokens[backstay.Owner], "POST", "/v1/backups", big)
	if e := decodeError(t, text); status != 413 || e.Code != backstay.CodeUsage {
		t.Errorf("got %d %s", status, text)
	}
	for _, body := range []string{`{`, `[]`, `{"vm":7}`, `{}`, ``} {
		status, text := ask(t, w, w.Tokens[backstay.Owner], "POST", "/v1/backups", body)
		if e := decodeError(t, text); status/100 != 4 || e.Code != backstay.CodeUsage {
			t.Errorf("%q: got %d %s", body, status, text)
		}
	}
	refused(t, w, "GET", "/v1/jobs?limit=0", "", 422, backstay.CodeUsage)
	refused(t, w, "GET", "/v1/jobs?state=lost", "", 422, backstay.CodeUsage)
	refused(t, w, "GET", "/v1/points?vn=web01", "", 422, backstay.CodeUsage)
}

func TestListsAreNeverNull(t *testing.T) {
	w := start(t)
	for _, path := range []string{"/v1/jobs", "/v1/points/web01@latest", "/v1/hosts", "/v1/vms", "/v1/items"} {
		_, text := ask(t, w, w.Tokens[backstay.Reader], "GET", path, "")
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil || v == nil {
			t.Errorf("%s: %s", path, text)
		}
		for _, list := range []string{"replicas", "keys", "excluded", "emulators", "bridges"} {
			if strings.Contains(text, `"`+list+`":null`) {
				t.Errorf("%s: %s is null", path, list)
			}
		}
	}
}

// What is not coded is not for users: only the log has it (I10).
func TestUncodedErrorsStayInTheLog(t *testing.T) {
	w := start(t)
	if err := w.Catalog.Close(); err != nil {
		t.Fatal(err)
	}
	status, text := ask(t, w, w.Tokens[backstay.Owner], "GET", "/v1/vms", "")
	if e := decodeError(t, text); status != 500 || e.Code != backstay.CodeInternal || bytes.Contains([]byte(text), []byte("sql")) {
		t.Errorf("got %d %s", status, text)
	}
	if status, _ := ask(t, w, "", "GET", "/healthz", ""); status != 503 {
		t.Errorf("health without a catalogue: %d", status)
	}
}

func TestStreamsEndWhenTheServerStops(t *testing.T) {
	w, err := servertest.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Queue.Play(servertest.Hang)
	got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01"}`)
	req, _ := http.NewRequestWithContext(context.Background(), "GET", w.URL+"/v1/jobs/"+string(got.Job.ID)+"/events", nil)
	req.Header.Set("Authorization", "Bearer "+w.Tokens[backstay.Reader])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 10)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // returns only once the stream has ended
		t.Fatal(err)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(rest), "the server is stopping") {
		t.Errorf("the stream was cut off: %v %q", err, rest)
	}
}

func TestFollowSendsTheJobUntilItEnded(t *testing.T) {
	w := start(t)
	got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01"}`)
	_, text := ask(t, w, w.Tokens[backstay.Reader], "GET", "/v1/jobs/"+string(got.Job.ID)+"/events", "")
	var last backstay.Job
	events := 0
	for _, block := range strings.Split(text, "\n\n") {
		if data, ok := strings.CutPrefix(block, "event: job\ndata: "); ok {
			events++
			if err := json.Unmarshal([]byte(data), &last); err != nil {
				t.Fatal(err)
			}
		}
	}
	if events == 0 || last.State != backstay.JobSucceeded {
		t.Errorf("%d events, last %s", events, last.State)
	}
}

func TestWhenTheNextBackupIsDueIsSaid(t *testing.T) {
	w := start(t)
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", ""); vm.Protection == nil || vm.Protection.NextDue == nil {
		t.Errorf("vm show: %+v", vm.Protection)
	}
	got := as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", `{"policy":"daily","vault":"default"}`)
	if got.Item.NextDue == nil || !got.Item.NextDue.After(servertest.Now) {
		t.Errorf("protect: %+v", got.Item)
	}
	for _, item := range as[[]backstay.ProtectedItem](t, w, backstay.Reader, "GET", "/v1/items", "") {
		if item.NextDue == nil {
			t.Errorf("items: %+v", item)
		}
	}
	if got.Item.LastPoint == nil {
		t.Error("the points of an earlier protection are not seen")
	}
	// A policy for people alone has no next backup.
	as[backstay.Policy](t, w, backstay.Owner, "POST", "/v1/policies",
		`{"name":"byhand","every":0,"consistency":"crash","snapshot":{"days":2,"count":0},"vault":{"last":1,"daily":0,"weekly":0,"monthly":0,"yearly":0}}`)
	if got := as[api.ProtectResponse](t, w, backstay.Operator, "PUT", "/v1/vms/db01/protection", `{"policy":"byhand","vault":"default"}`); got.Item.NextDue != nil {
		t.Errorf("by hand: %+v", got.Item.NextDue)
	}
}

func TestDataIsNotDeletedWhileABackupWouldMakeMore(t *testing.T) {
	w := start(t)
	w.Queue.Play(servertest.Hang)
	got := as[api.BackupResponse](t, w, backstay.Operator, "POST", "/v1/backups", `{"vm":"web01"}`)
	e := refused(t, w, "DELETE", "/v1/vms/web01/protection?deleteData=true", "", 409, backstay.CodeConflict)
	if !strings.Contains(e.Action, string(got.Job.ID)) {
		t.Errorf("the job is not named: %+v", e)
	}
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", ""); vm.Protection == nil {
		t.Error("refused, and unprotected all the same")
	}
	refused(t, w, "DELETE", "/v1/vms/web01/protection", "", 409, backstay.CodeConflict)
}

// Ending a protection puts the VM back on its own files, and loses no point
// without saying so.
func TestEndingAProtectionSaysWhichPointsWouldBeLost(t *testing.T) {
	w := start(t)
	e := refused(t, w, "DELETE", "/v1/vms/web01/protection", "", 409, backstay.CodeConflict)
	if !strings.Contains(e.Message, "1 recovery points of local/web01 are in the snapshot tier only") || !strings.Contains(e.Action, "--drop-snapshot-points") {
		t.Errorf("%+v", e)
	}
	got := as[api.UnprotectResponse](t, w, backstay.Owner, "DELETE", "/v1/vms/web01/protection?dropSnapshotPoints=true", "")
	if got.PointsKept != 1 || len(got.Jobs) != 1 || got.Jobs[0].Kind != backstay.JobExpire || got.Jobs[0].Point != "" {
		t.Errorf("%+v", got)
	}
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", ""); vm.Protection != nil {
		t.Error("it is protected still")
	}
}

// A pin is written beside the disks as well, so that it outlives the catalogue;
// what is pinned is not deleted, and ends no protection.
func TestAPinIsHandedToTheHost(t *testing.T) {
	w := start(t)
	path := "/v1/points/" + string(servertest.PointBoth)
	if p := as[backstay.RecoveryPoint](t, w, backstay.Operator, "PUT", path+"/pin", ""); !p.Pinned || !slices.Equal(w.Layers.Pinned(), []backstay.PointID{p.ID}) {
		t.Errorf("%+v, %v", p, w.Layers.Pinned())
	}
	refused(t, w, "DELETE", path, "", 409, backstay.CodeConflict)
	refused(t, w, "DELETE", "/v1/vms/web01/protection?dropSnapshotPoints=true", "", 409, backstay.CodeConflict)
	if p := as[backstay.RecoveryPoint](t, w, backstay.Owner, "DELETE", path+"/pin", ""); p.Pinned || len(w.Layers.Pinned()) > 0 {
		t.Errorf("%+v, %v", p, w.Layers.Pinned())
	}
	// In the vault only: the host has nothing to do with it.
	w.Layers.Away = backstay.Errorf(backstay.CodeHostAway, "the host is away").Becausef("nobody answers")
	if p := as[backstay.RecoveryPoint](t, w, backstay.Operator, "PUT", "/v1/points/"+string(servertest.PointGone)+"/pin", ""); !p.Pinned {
		t.Errorf("%+v", p)
	}
	refused(t, w, "PUT", path+"/pin", "", 503, backstay.CodeHostAway)
	if p := as[backstay.RecoveryPoint](t, w, backstay.Reader, "GET", path, ""); p.Pinned {
		t.Error("the catalogue says more than the host keeps")
	}
}

func TestAVMSaysThatItsRoomRunsOut(t *testing.T) {
	w := start(t)
	id := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", "").ID
	w.Layers.Room = []backstay.Room{{Folder: "/vms", Free: 5 << 20, Floor: 9 << 20, Warning: "no point can go: it is pinned", VMs: []backstay.RoomVM{{VM: backstay.VMRef{UUID: id}, Stalled: true}}}}
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/web01", ""); len(vm.Warnings) != 2 || vm.Warnings[1] != "no point can go: it is pinned" {
		t.Errorf("%q", vm.Warnings)
	}
	if vm := as[api.VMDetail](t, w, backstay.Reader, "GET", "/v1/vms/db01", ""); len(vm.Warnings) != 0 {
		t.Errorf("%q", vm.Warnings)
	}
	if rooms := as[[]backstay.Room](t, w, backstay.Reader, "GET", "/v1/hosts/local/rooms", ""); len(rooms) != 1 || rooms[0].Floor != 9<<20 {
		t.Errorf("%+v", rooms)
	}
}
