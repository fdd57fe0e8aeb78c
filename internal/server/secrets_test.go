package server_test

import (
	"encoding/base64"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

// TestSecretsAreGivenAndToldNobody: a value that is brought along is in no answer and
// in no audit entry (I10), and only a secret that the point needs is taken.
func TestSecretsAreGivenAndToldNobody(t *testing.T) {
	w := start(t)
	path := "/v1/points/" + string(servertest.PointBoth) + "/secrets"
	states := as[api.PointSecrets](t, w, backstay.Operator, "GET", path+"?tier=vault", "")
	if len(states.Secrets) != 1 || states.Secrets[0].UUID != servertest.SecretUUID || states.Tier != backstay.VaultTier {
		t.Errorf("secrets: %+v", states)
	}
	value := base64.StdEncoding.EncodeToString([]byte("open sesame"))
	body := func(uuid string) string { return `{"secrets":[{"uuid":"` + uuid + `","value":"` + value + `"}]}` }
	if status, text := ask(t, w, w.Tokens[backstay.Operator], "POST", path, body(servertest.SecretUUID)); status != 204 || text != "" {
		t.Errorf("given: %d %q", status, text)
	}
	refused(t, w, "POST", path, body("5ec2e700-0000-4000-8000-00000000ffff"), 422, backstay.CodeUsage)
	_, audit := ask(t, w, w.Tokens[backstay.Owner], "GET", "/v1/audit", "")
	if strings.Contains(audit, value) || strings.Contains(audit, "open sesame") || !strings.Contains(audit, `/secrets","target":"`+string(servertest.PointBoth)) {
		t.Errorf("the audit log: %s", audit)
	}
}

// TestAVMIsProtectedWithAKeyServiceThatThereIs.
func TestAVMIsProtectedWithAKeyServiceThatThereIs(t *testing.T) {
	w := start(t)
	body := func(service string) string {
		return `{"policy":"daily","vault":"default","keyService":"` + service + `"}`
	}
	refused(t, w, "PUT", "/v1/vms/web01/protection", body("nobodys"), 422, backstay.CodeUsage)
	out := as[api.ProtectResponse](t, w, backstay.Owner, "PUT", "/v1/vms/web01/protection", body("corp"))
	if out.Item.KeyService != "corp" {
		t.Errorf("item %+v", out.Item)
	}
}
