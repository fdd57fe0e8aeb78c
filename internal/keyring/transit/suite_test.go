package transit

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/keyringtest"
)

// admin speaks to a server with its root token, as its administrator would.
type admin struct {
	t          *testing.T
	url, token string
}

func (a admin) do(method, path string, in any) map[string]any {
	a.t.Helper()
	data, err := json.Marshal(in)
	must(a.t, err)
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+"/v1/"+path, bytes.NewReader(data))
	must(a.t, err)
	req.Header.Set("X-Vault-Token", a.token)
	res, err := http.DefaultClient.Do(req)
	must(a.t, err)
	defer res.Body.Close()
	var out map[string]any
	_ = json.NewDecoder(res.Body).Decode(&out) // some answers are empty
	if res.StatusCode >= 300 {
		a.t.Fatalf("%s %s: %d %v", method, path, res.StatusCode, out)
	}
	return out
}

// run runs the suite on a server whose transit engine has a key named vm.
func (a admin) run() {
	t := a.t
	of := func(key, credential string) keyring.Service {
		t.Helper()
		s, err := New(Options{URL: a.url, Key: key, Credential: backstay.NewSecret([]byte(credential))})
		must(t, err)
		return s
	}
	away, err := New(Options{URL: "http://127.0.0.1:1", Key: "vm", Credential: backstay.NewSecret([]byte(a.token))})
	must(t, err)
	keyringtest.RunService(t, keyringtest.ServiceSubject{
		Service: of("vm", a.token),
		Rotate:  func(*testing.T) { a.do("POST", "transit/keys/vm/rotate", nil) },
		Forget: func(*testing.T) {
			a.do("POST", "transit/keys/vm/config", map[string]int{"min_decryption_version": 2})
		},
		Away: away, Denied: of("vm", "hvs.nobodys"), Keyless: of("other", a.token),
	})
}

// signsIn tries the role id and secret id of an AppRole, and wrong ones.
func (a admin) signsIn(role, id string) {
	for _, c := range []struct {
		credential string
		want       error
	}{{role + "\n" + id + "\n", nil}, {role + "\nwrong\n", keyring.ErrServiceDenied}, {"wrong\n" + id, keyring.ErrServiceDenied}} {
		s, err := New(Options{URL: a.url, Key: "vm", Credential: backstay.NewSecret([]byte(c.credential))})
		must(a.t, err)
		for range 2 { // the second with the token of the first
			if err := s.Check(a.t.Context()); !isOrNil(err, c.want) {
				a.t.Errorf("%v, want %v", err, c.want)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
