package backstay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

func TestASecretPrintsAsStarsEverywhere(t *testing.T) {
	secret := backstay.NewSecret([]byte("hunter2"))
	holder := struct{ Key backstay.Secret }{secret}
	encoded, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "secret", secret, "holder", holder)
	for _, out := range []string{
		fmt.Sprint(secret), fmt.Sprintf("%v %+v %#v %s %q %x", secret, secret, secret, secret, secret, secret),
		fmt.Sprintf("%v %+v %#v", holder, holder, holder), fmt.Sprintf("%d", secret), string(encoded), log.String(),
		fmt.Errorf("open with %v", secret).Error(),
	} {
		if strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") || strings.Contains(out, "104 117 110") {
			t.Errorf("the secret is printed: %s", out)
		}
	}
	if string(secret.Reveal()) != "hunter2" {
		t.Error("the value is lost")
	}
}

func TestEveryCodeSaysWhatToDo(t *testing.T) {
	for code, e := range backstay.Codes() {
		if e.Action == "" || e.Kind == "" {
			t.Errorf("code %s has kind %q and action %q", code, e.Kind, e.Action)
		}
		if made := backstay.Errorf(code, "x"); made.Kind != e.Kind || made.Code != code {
			t.Errorf("code %s makes %+v", code, made)
		}
		if string(code) != strings.ToLower(string(code)) || strings.ContainsAny(string(code), " _") {
			t.Errorf("code %q is not in lower-case words with hyphens", code)
		}
	}
}

func TestAnErrorKeepsItsCodeAndCauseWhenWrapped(t *testing.T) {
	root := errors.New("disk on fire")
	err := fmt.Errorf("job 7: %w", backstay.Errorf(backstay.CodeNoSpace, "no room in %s", "/x").Because(root))
	if !backstay.IsCode(err, backstay.CodeNoSpace) || !errors.Is(err, root) {
		t.Errorf("%v lost its code or cause", err)
	}
	if e := backstay.AsError(err); e.Cause != "disk on fire" || e.Kind.ExitCode() != 4 {
		t.Errorf("%+v", e)
	}
	if e := backstay.AsError(root); e.Code != backstay.CodeInternal {
		t.Errorf("an uncoded error is %s", e.Code)
	}
	if backstay.AsError(nil) != nil {
		t.Error("no error became one")
	}
}

func TestOnlyAnAvailableTierIsRestorable(t *testing.T) {
	var p backstay.RecoveryPoint
	now := time.Unix(0, 0)
	for _, state := range []backstay.TierState{backstay.TierCreating, backstay.TierDeleting} {
		p.SetTier(backstay.VaultTier, state, now)
		if p.Has(backstay.VaultTier) {
			t.Errorf("a tier that is %s is offered", state)
		}
	}
	p.SetTier(backstay.VaultTier, backstay.TierAvailable, now)
	p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
	if !p.Has(backstay.VaultTier) || len(p.Tiers) != 2 {
		t.Errorf("tiers %+v", p.Tiers)
	}
	p.DropTier(backstay.VaultTier)
	if p.Has(backstay.VaultTier) || !p.Has(backstay.SnapshotTier) {
		t.Errorf("tiers %+v", p.Tiers)
	}
}

func TestARoleCoversThoseBelowIt(t *testing.T) {
	roles := []backstay.Role{backstay.Reader, backstay.Operator, backstay.Owner}
	for i, have := range roles {
		for j, need := range roles {
			if have.Covers(need) != (i >= j) {
				t.Errorf("%s covers %s: %v", have, need, have.Covers(need))
			}
		}
		if have.Covers("admin") || backstay.Role("admin").Covers(have) {
			t.Error("an unknown role has rights")
		}
	}
}

func ExampleErrorf() {
	err := backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %q", "web9")
	fmt.Println(err.Code)
	fmt.Println(err.Message)
	fmt.Println(err.Action)
	fmt.Println("exit code", err.Kind.ExitCode())
	// Output:
	// unknown-vm
	// there is no VM "web9"
	// list the VMs with `backstay vm list`
	// exit code 3
}

func ExampleRecoveryPoint_Has() {
	var p backstay.RecoveryPoint
	p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, time.Unix(0, 0))
	p.SetTier(backstay.VaultTier, backstay.TierCreating, time.Unix(0, 0))
	fmt.Println(p.Has(backstay.SnapshotTier), p.Has(backstay.VaultTier))
	// Output: true false
}

func TestADurationThatDoesNotFitIsNotTurnedAround(t *testing.T) {
	for _, bad := range []string{"1e300", "-1e300", "1e10", `"1h"`} {
		var d backstay.Duration
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s seconds became %v", bad, time.Duration(d))
		}
	}
	var d backstay.Duration
	if err := json.Unmarshal([]byte("1.5"), &d); err != nil || time.Duration(d) != 1500*time.Millisecond {
		t.Errorf("%v, %v", time.Duration(d), err)
	}
}
