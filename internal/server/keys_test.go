package server_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/server/servertest"
)

// safeBuffer may be written to by every request at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A key that is sent to the server is in no answer, no log and no audit entry,
// also when the request is not as it should be (I10).
func TestKeysThatAreSentAreToldNobody(t *testing.T) {
	var log safeBuffer
	w, err := servertest.Start(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	const key, words = "AGE-SECRET-KEY-1SECRETSECRET", "hushhush hushhush"
	owner := w.Tokens[backstay.Owner]
	for _, path := range []string{"rotate", "add-recipient", "remove-recipient", "escrow-check"} {
		for _, body := range []string{
			`{"key":"%[1]s"}`, `{"passphrase":"%[2]s"}`, `{"key":"%[1]s","passphrase":"%[2]s"}`, `{"passphrases":["%[2]s"]}`,
			`{"recipient":"%[1]s"}`, `{"recipient":"%[1]s","passphrases":["%[2]s"]}`, `{"recipient":["%[1]s"]}`, `{"purpose":"%[2]s"}`,
			`{"key":"%[1]s`, `"%[1]s"`, `{"passphrases":"%[2]s"}`, `{"passphrases":[["%[2]s"]]}`, `{"label":"x","passphrase":"%[2]s","purpose":"person"}`,
		} {
			_, answer := ask(t, w, owner, "POST", "/v1/vaults/default/keys/"+path, fmt.Sprintf(body, key, words))
			// A public text that is stored as a recipient is not secret; the fake takes anything for one.
			if strings.Contains(answer, words) || strings.Contains(answer, key) && !strings.Contains(answer, `"recipient":"`+key) {
				t.Errorf("%s with %s: %s", path, body, answer)
			}
		}
	}
	_, audit := ask(t, w, owner, "GET", "/v1/audit", "")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	for what, text := range map[string]string{"audit log": audit, "server's log": log.String()} {
		if strings.Contains(text, words) || strings.Contains(text, key) {
			t.Errorf("the %s holds a secret: %s", what, text)
		}
	}
	if !strings.Contains(log.String(), "operation=checkEscrow") {
		t.Error("nothing was logged, so nothing is proved")
	}
}
