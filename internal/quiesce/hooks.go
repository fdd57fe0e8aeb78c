package quiesce

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
)

// runHook runs a hook, as often as its configuration allows. which is pre or
// post; most bounds all of it, however long the configuration lets it take.
func (a agent) runHook(ctx context.Context, which string, h Hook, poll, most time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, min(most, longestHook)+agentPatience, errStillRuns)
	defer cancel()
	var err error
	for try := 0; ; try++ {
		if err = a.tryHook(ctx, which, h, poll, most); err == nil || try == h.Retries || ctx.Err() != nil || errors.Is(err, hypervisor.ErrAgentSilent) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(h.delay()):
		}
	}
}

func (a agent) tryHook(ctx context.Context, which string, h Hook, poll, most time.Duration) error {
	failed := func(code backstay.Code, words string) *backstay.Error {
		return backstay.Errorf(code, "the %s hook %s %s", which, h.Path, words)
	}
	pid, err := a.Start(ctx, h.Path, h.Args)
	if err != nil {
		if strings.Contains(err.Error(), "No such file") {
			return failed(backstay.CodeHookMissing, "is not there").Because(err)
		}
		return failed(backstay.CodeHookFailed, "could not be started").Because(err)
	}
	timeout := min(h.timeout(), most)
	e, err := a.Wait(ctx, pid, timeout, poll)
	switch {
	case errors.Is(err, errStillRuns):
		a.kill(ctx, pid)
		return failed(backstay.CodeHookTimeout, "took too long").Becausef("it had not ended after %v", timeout)
	case err != nil:
		return failed(backstay.CodeHookFailed, "was lost sight of").Because(err)
	case e.Signal != 0:
		return failed(backstay.CodeHookFailed, "failed").Becausef("it was ended by signal %d%s", e.Signal, said(e))
	case e.Code != 0:
		return failed(backstay.CodeHookFailed, "failed").Becausef("it ended with code %d%s", e.Code, said(e))
	}
	return nil
}

// kill asks a hook that takes too long to end. Whether it does is its own affair.
func (a agent) kill(ctx context.Context, pid int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*agentPatience)
	defer cancel()
	_, _ = a.Start(ctx, "kill", []string{"-TERM", strconv.Itoa(pid)})
}

func said(e ended) string {
	words := lastWords(e.Err)
	if words == "" {
		words = lastWords(e.Out)
	}
	if words == "" {
		return ""
	}
	return ", and said: " + words
}

// How much of what a guest says is shown and looked at, in bytes.
const (
	mostWords  = 200 // of a hook's output
	mostLooked = 4 << 10
)

// looksSecret finds what a hook's output should not have had in it (I10).
var looksSecret = []*regexp.Regexp{
	regexp.MustCompile(`(?i)((?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|api[-_ ]?key|access[-_ ]?key|private[-_ ]?key)["']?\s*(?:[=:]|\bis\b)\s*)\S+`),
	regexp.MustCompile(`(?i)((?:^|\s)-p\s?|bearer |basic )\S+`),
	regexp.MustCompile(`(://[^/\s:@]*:)[^@\s]+@`),
}

// lastWords is the last line of what a program said, fit to be shown.
func lastWords(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	line := guestagent.Printable(lines[len(lines)-1], mostLooked)
	for _, secret := range looksSecret[:2] {
		line = secret.ReplaceAllString(line, "${1}***")
	}
	line = looksSecret[2].ReplaceAllString(line, "${1}***@")
	return guestagent.Shown(line, mostWords)
}
