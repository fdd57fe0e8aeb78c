package quiesce

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
)

// hostile are guests whose agents answer what a test says.
type hostile struct {
	hypervisor.Guests
	answer string
	err    error
}

func (h hostile) AgentCommand(context.Context, backstay.VMID, string, time.Duration) (string, error) {
	return h.answer, h.err
}

func (h hostile) Freeze(context.Context, backstay.VMID, []string, time.Duration) (int, error) {
	return 0, h.err
}

// TestWhatAGuestSaysDoesNothingToTheTerminalsThatShowIt: its words are cut and
// have nothing in them but letters, whatever its agent answers.
func TestWhatAGuestSaysDoesNothingToTheTerminalsThatShowIt(t *testing.T) {
	escape := strings.Repeat("\x1b]0;owned\a\x1b[2J\u202e\r\n\t", 1<<14)
	deep := `{"return":` + strings.Repeat("[", 1<<16) + strings.Repeat("]", 1<<16) + `}`
	quoted, err := json.Marshal(escape)
	must(t, err)
	for name, guests := range map[string]hostile{
		"an error full of escapes": {err: errors.New(escape)},
		"a deep answer":            {answer: deep},
		"an answer of another kind": {answer: `{"return":{"supported_commands":` + string(quoted) +
			`,"pid":-1e400,"id":"` + strconv.Itoa(1<<62) + `"}}`},
		"no JSON": {answer: escape},
		"a huge list": {answer: `{"return":[` + strings.Repeat(`{"mountpoint":`+string(quoted)+`},`, 4) +
			`{}]}`},
	} {
		w := newWorld(t)
		d, err := w.hv.Domain(t.Context(), vmID)
		must(t, err)
		guests.Guests = w.hv
		s, err := Begin(t.Context(), guests, Request{
			VM: d.VM, Wish: backstay.ApplicationConsistent,
			Guard: func(ctx context.Context) (Guard, error) { return w.guards.Start(ctx, vmID) },
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		must(t, s.Hold(t.Context(), false))
		s.Switched()
		s.LetGo(t.Context())
		o, err := s.Finish(t.Context())
		if err != nil || o.Consistency != backstay.CrashConsistent {
			t.Errorf("%s: %s, %v", name, o.Consistency, err)
		}
		for _, words := range append(o.Notes, o.Reason) {
			if len(words) > 3*guestagent.MostOfError || strings.ContainsFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s is shown as %d bytes: %.200q", name, len(words), words)
			}
		}
	}
}

// TestAHookWhosePathIsNoPlainOneIsRefused also if it is only made to look like one.
func TestAHookWhosePathIsNoPlainOneIsRefused(t *testing.T) {
	for _, path := range []string{"", "pre", "/opt/../pre", "/opt/pre\x1b[0m", "/opt/\u202eerp", "/" + strings.Repeat("a", longestPath)} {
		text, err := json.Marshal(Config{Version: 1, Pre: Hook{Path: path}, Post: Hook{Path: "/opt/post"}})
		must(t, err)
		if _, err := ParseConfig(text); err == nil {
			t.Errorf("%.40q is taken", path)
		}
	}
}
