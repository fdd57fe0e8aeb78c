package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/server/servertest"
)

func start(t *testing.T) *servertest.World {
	t.Helper()
	w, err := servertest.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run runs the command line in this process, on a terminal or not.
func run(w *servertest.World, terminal bool, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = cli.Main(context.Background(), args, cli.Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		IsTerminal: func(any) bool { return terminal },
		Now:        func() time.Time { return servertest.Now },
		Getenv: func(key string) string {
			return map[string]string{"BACKSTAY_SERVER": w.URL, "BACKSTAY_TOKEN": w.Tokens[backstay.Owner]}[key]
		},
	}, daemons())
	return code, out.String(), errs.String()
}

// What -o json prints is what the OpenAPI document says.
func TestJSONOutputIsAsTheOpenAPIDocumentSays(t *testing.T) {
	w := start(t)
	doc := openAPI(t, w)
	if code, _, errs := run(w, false, "", "backup", "web01"); code != 0 {
		t.Fatal(errs)
	}
	w.Queue.Play(servertest.Fail)
	run(w, false, "", "backup", "web01")
	for args, schema := range map[string]string{
		"point show web01@latest":               "RecoveryPoint",
		"point show 01K0000000000000000000CCCC": "RecoveryPoint",
		"point show gone@latest":                "RecoveryPoint",
		"point list":                            "[]RecoveryPoint",
		"point restores web01@latest":           "PossibleRestores",
		"job show 01J00000000000000000000001":   "Job",
		"job show 01J00000000000000000000002":   "Job", // with an error
		"job list":                              "[]Job",
		"vm list":                               "[]VMDetail",
		"vm show web01":                         "VMDetail",
		"host list":                             "[]Host",
		"host show east":                        "Host",
		"vault list":                            "[]Vault",
		"vault show default":                    "Vault",
		"vault usage default":                   "VaultUsage",
		"vault key default list-recipients":     "VaultKeys",
		"vault key default rotate":              "VaultKeys",
		"policy list":                           "[]Policy",
		"policy show daily":                     "Policy",
		"policy simulate daily --days 9":        "PolicySimulation",
		"audit list":                            "[]AuditEntry",
		"token list":                            "[]Token",
		"backup web01 --dry-run":                "BackupPlan",
		"restore create-vm web01@latest --name new --dry-run": "RestorePlan",
		"restore replace-disks web01@latest --stop --dry-run": "RestorePlan",
		"restore disks web01@latest --to /srv/new --dry-run":  "RestorePlan",
		"deploy /srv/restored --dry-run":                      "DeployResponse",
		"deploy /srv/restored --no-wait":                      "Job",
		"restore create-vm web01@latest --name new --no-wait": "Job",
		"policy create p --every 1h --daily 3":                "Policy",
		"point pin web01@latest":                              "RecoveryPoint",
		"point unpin web01@latest":                            "RecoveryPoint",
		"policy edit daily --keep-last 9":                     "Policy",
		"token create ci --role reader":                       "CreateTokenResponse",
		"vault create v --unit /a --unit /b --unit /c":        "CreateVaultResponse",
		"protect web01 --policy daily --vault default":        "ProtectedItem",
	} {
		code, out, errs := run(w, false, "", append(strings.Fields(args), "-o", "json")...)
		if code != 0 {
			t.Errorf("%s: exit %d: %s", args, code, errs)
			continue
		}
		var v any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Errorf("%s: not JSON alone: %v in %q", args, err, out)
			continue
		}
		s := map[string]any{"$ref": "#/components/schemas/" + strings.TrimPrefix(schema, "[]")}
		if strings.HasPrefix(schema, "[]") {
			s = map[string]any{"type": "array", "items": s, "minItems": 1}
		}
		for _, problem := range doc.check(s, v, "$") {
			t.Errorf("%s: %s", args, problem)
		}
	}
}

// The names that scripts rely on are fixed.
func TestJSONHasTheFieldsThatScriptsRelyOn(t *testing.T) {
	w := start(t)
	run(w, false, "", "backup", "web01")
	for args, want := range map[string]string{
		"point show web01@latest": "id vm.name vm.uuid vm.host vault time consistency consistencyReason tiers.0.tier tiers.0.state tiers.0.since " +
			"disks.0.target disks.0.size disks.0.format disks.0.included disks.0.changedBytes disks.0.storedBytes disks.1.sha256 " +
			"encrypted.guest encrypted.host encrypted.keys expires pinned parent firmware tpm replicas restores.createVM.allowed restores.createVM.reason restores.replaceDisks restores.disks restores.files",
		"job show 01J00000000000000000000001": "id kind state target point region user created started ended percent bytesDone bytesTotal etaSeconds " +
			"tasks.0.name tasks.0.state tasks.0.percent tasks.0.started tasks.0.ended tasks.0.detail error warnings result " +
			"stats.freezeMs stats.bytesRead stats.bytesDirty stats.bytesNew stats.chunksNew stats.requests",
	} {
		_, out, _ := run(w, false, "", append(strings.Fields(args), "-o", "json")...)
		var v any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		for path := range strings.FieldsSeq(want) {
			if !has(v, strings.Split(path, ".")) {
				t.Errorf("%s: no %s in %s", args, path, out)
			}
		}
	}
}

func has(v any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch v := v.(type) {
	case map[string]any:
		next, ok := v[path[0]]
		return ok && has(next, path[1:])
	case []any:
		i := int(path[0][0] - '0')
		return i < len(v) && has(v[i], path[1:])
	}
	return false
}

func TestOnATerminalABarIsShown(t *testing.T) {
	w := start(t)
	code, out, errs := run(w, true, "", "backup", "web01")
	if code != 0 || !strings.Contains(errs, "[") || !strings.Contains(errs, "100 %") || strings.Contains(out, "[") {
		t.Errorf("exit %d\nstdout %q\nstderr %q", code, out, errs)
	}
	w.Queue.Play(servertest.Fail)
	if code, _, errs := run(w, true, "", "backup", "web01"); code != 6 || !strings.Contains(errs, "error: data-damaged") {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
}

func TestOnATerminalPeopleAreAskedBeforeDataGoes(t *testing.T) {
	w := start(t)
	code, _, errs := run(w, true, "no\n", "point", "delete", "web01@latest")
	if code != 1 || !strings.Contains(errs, "delete the recovery point 01K0000000000000000000BBBB of local/web01") || w.Queue.Count() != 0 {
		t.Errorf("exit %d, %d jobs, stderr %q", code, w.Queue.Count(), errs)
	}
	if code, _, _ := run(w, true, "", "point", "delete", "web01@latest"); code != 1 || w.Queue.Count() != 0 {
		t.Errorf("no answer: exit %d, %d jobs", code, w.Queue.Count())
	}
	if code, _, errs := run(w, true, "yes\n", "point", "delete", "web01@latest"); code != 0 || w.Queue.Count() != 1 {
		t.Errorf("exit %d, %d jobs, stderr %q", code, w.Queue.Count(), errs)
	}
}

// apiDoc is the OpenAPI document, as far as the test needs it.
type apiDoc struct {
	Components struct{ Schemas map[string]map[string]any }
}

func openAPI(t *testing.T, w *servertest.World) apiDoc {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.Tokens[backstay.Reader])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var doc apiDoc
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// check validates a value against a schema, with the keywords that the
// document uses, and returns what is wrong.
func (d apiDoc) check(schema map[string]any, v any, at string) (problems []string) {
	if ref, ok := schema["$ref"].(string); ok {
		target := d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
		if target == nil {
			return []string{at + ": no schema " + ref}
		}
		return d.check(target, v, at)
	}
	if any, ok := schema["anyOf"].([]any); ok {
		for _, one := range any {
			if len(d.check(one.(map[string]interface{}), v, at)) == 0 {
				return nil
			}
		}
		return []string{fmt.Sprintf("%s: %v fits none of anyOf", at, v)}
	}
	if typ, ok := schema["type"]; ok && !typeFits(typ, v) { // without a type any value fits
		return []string{fmt.Sprintf("%s: %v is not of type %v", at, v, schema["type"])}
	}
	switch v := v.(type) {
	case []any:
		if least, ok := schema["minItems"].(int); ok && len(v) < least {
			problems = append(problems, at+": the list is empty, so this shows nothing")
		}
		for i, item := range v {
			problems = append(problems, d.check(schema["items"].(map[string]any), item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case map[string]any:
		problems = d.checkObject(schema, v, at)
	case string:
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil || !strings.HasSuffix(v, "Z") {
				problems = append(problems, fmt.Sprintf("%s: %q is not RFC 3339 in UTC", at, v))
			}
		}
	}
	return problems
}

func (d apiDoc) checkObject(schema, v map[string]any, at string) (problems []string) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, key := range required {
		if _, ok := v[key.(string)]; !ok {
			problems = append(problems, fmt.Sprintf("%s: no %v", at, key))
		}
	}
	for key, value := range v {
		if p, ok := properties[key].(map[string]any); ok {
			problems = append(problems, d.check(p, value, at+"."+key)...)
		} else if more, ok := schema["additionalProperties"].(map[string]any); ok {
			problems = append(problems, d.check(more, value, at+"."+key)...)
		} else {
			problems = append(problems, fmt.Sprintf("%s: the document does not know %s", at, key))
		}
	}
	return problems
}

func typeFits(want, v any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(one any) bool { return typeFits(one, v) })
	}
	switch v := v.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case float64:
		return want == "number" || want == "integer" && v == float64(int64(v))
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	}
	return false
}
