package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/mover"
)

const (
	lockedVM  = backstay.VMID("22222222-2222-4222-8222-222222222222")
	secretID  = "5ec2e700-0000-4000-8000-000000000001"
	passValue = "open sesame, marker 4711"
)

// lockedWorld is a test world with a VM of a qcow2 and a raw LUKS disk that one
// secret opens, and a point of it in both tiers.
type lockedWorld struct {
	*testWorld
	taken mover.Taken
}

func newLockedWorld(t *testing.T) *lockedWorld {
	t.Helper()
	w := &lockedWorld{testWorld: newTestWorld(t)}
	ctx := t.Context()
	w.hv.SetSecret(secretID, []byte(passValue), false)
	must(t, w.hv.CreateEncrypted(ctx, hypervisor.Image{Location: w.path("vms/safe.qcow2"), Format: "qcow2", Secret: secretID}, testSize))
	must(t, w.hv.CreateEncrypted(ctx, hypervisor.Image{Location: w.path("vms/safe.luks"), Format: "luks", Secret: secretID}, testSize))
	_, err := w.hv.Define(ctx, fake.XML("safe", lockedVM,
		backstay.Disk{Target: "vda", Source: w.path("vms/safe.qcow2"), Format: "qcow2", Secret: secretID},
		backstay.Disk{Target: "vdb", Source: w.path("vms/safe.luks"), Format: "raw", Secret: secretID}))
	must(t, err)
	must(t, w.hv.Start(ctx, lockedVM))
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		w.hv.WriteGuest(lockedVM, target, 8192, []byte("content of "+string(target)+strings.Repeat(".", 5000)))
	}
	disks := []backstay.DiskTarget{"vda", "vdb"}
	_, err = w.host.Prepare(ctx, mover.PrepareRequest{Job: testJob, Point: pointID, VM: lockedVM, Disks: disks})
	must(t, err)
	w.taken, err = w.host.Take(ctx, mover.TakeRequest{Job: testJob, Point: pointID, VM: lockedVM, Time: instant, Consistency: backstay.CrashConsistent})
	must(t, err)
	_, err = w.host.Transfer(ctx, mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, nil)
	must(t, err)
	return w
}

func (w *lockedWorld) restore(tier backstay.Tier) mover.StageRequest {
	r := mover.StageRequest{Job: "01JB0000000000000000000002", Plan: backstay.RestorePlan{
		Kind: backstay.CreateVM, Point: pointID, Tier: tier, Name: "copy", UUID: copyVM,
	}}
	for target, format := range map[backstay.DiskTarget]string{"vda": "qcow2", "vdb": "raw"} {
		if tier == backstay.SnapshotTier {
			format = "qcow2"
		}
		r.Plan.Disks = append(r.Plan.Disks, backstay.PlannedDisk{
			Target: target, Format: format, Size: testSize, Secret: secretID, Path: w.path("out/copy-" + string(target)),
		})
	}
	if tier == backstay.VaultTier {
		r.Vault = &w.access
	}
	return r
}

func (w *lockedWorld) value(uuid string) string {
	value, err := w.hv.Secret(context.Background(), uuid)
	if err != nil {
		return ""
	}
	return string(value.Reveal())
}

// TestThePointHoldsItsSecretsAndNobodyElseDoes (row B4c): the definition has the
// value, what is told of the point has references alone, and no file on the host
// has it in the clear (I10).
func TestThePointHoldsItsSecretsAndNobodyElseDoes(t *testing.T) {
	w := newLockedWorld(t)
	want := []backstay.PointSecret{{UUID: secretID, Scheme: backstay.SecretInPoint}}
	if len(w.taken.Secrets) != 1 || w.taken.Secrets[0] != want[0] {
		t.Errorf("the point tells %+v of its secrets", w.taken.Secrets)
	}
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		held, err := w.host.heldOf(t.Context(), w.restore(tier))
		must(t, err)
		if s := held.definition.Secrets; len(s) != 1 || string(s[0].Value) != passValue {
			t.Errorf("%s tier: the definition holds %d secrets", tier, len(s))
		}
	}
	w.noMarker(t, passValue)
}

// noMarker looks for a text in all files of the world but the hypervisor's.
func (w *lockedWorld) noMarker(t *testing.T, marker string) {
	t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), marker) {
			t.Errorf("%s has it in the clear", path)
		}
		return err
	})
	must(t, err)
	if strings.Contains(w.logs.String(), marker) {
		t.Error("the log has it")
	}
}

// TestALostSecretIsMadeAnew (row B4c): from both tiers, under its UUID, before the
// disks, which are LUKS again; one that is there stays as it is.
func TestALostSecretIsMadeAnew(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		for _, lost := range []bool{false, true} {
			w := newLockedWorld(t)
			if lost {
				must(t, w.hv.Destroy(t.Context(), lockedVM))
				w.hv.SetSecret(secretID, nil, false)
			}
			r := w.restore(tier)
			_, err := w.host.Stage(t.Context(), r, nil)
			must(t, err)
			must(t, define(t, w.testWorld, r))
			if w.value(secretID) != passValue {
				t.Errorf("%s, lost %v: the secret is %q", tier, lost, w.value(secretID))
			}
			domain, err := w.hv.Domain(t.Context(), copyVM)
			must(t, err)
			for _, d := range domain.VM.Disks {
				if d.Secret != secretID {
					t.Errorf("%s: disk %s of the new VM is not encrypted", tier, d.Target)
				}
			}
			for _, d := range r.Plan.Disks {
				info, err := w.hv.Info(t.Context(), d.Path)
				if err != nil || !info.Encrypted && info.Format != "luks" {
					t.Errorf("%s: %s is plain (%+v, %v)", tier, d.Path, info, err)
				}
			}
			must(t, w.hv.Start(t.Context(), copyVM))
			for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
				got := make([]byte, 16)
				w.hv.ReadGuest(copyVM, target, 8192, got)
				if !strings.HasPrefix(string(got), "content of "+string(target)) {
					t.Errorf("%s: disk %s reads %q", tier, target, got)
				}
			}
			must(t, w.hv.Destroy(t.Context(), copyVM))
			must(t, w.host.Abandon(t.Context(), r))
			// The source still names it: it is in use.
			if w.value(secretID) != passValue {
				t.Errorf("%s: an abandoned restore took the secret of a VM that is there", tier)
			}
			w.noMarker(t, passValue)
		}
	}
}

// TestASecretThatARestoreMadeGoesWithIt, where nobody else uses it.
func TestASecretThatARestoreMadeGoesWithIt(t *testing.T) {
	w := newLockedWorld(t)
	must(t, w.hv.Destroy(t.Context(), lockedVM))
	must(t, w.hv.Undefine(t.Context(), lockedVM))
	w.hv.SetSecret(secretID, nil, false)
	r := w.restore(backstay.VaultTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	must(t, define(t, w.testWorld, r))
	must(t, w.host.Abandon(t.Context(), r))
	if w.value(secretID) != "" {
		t.Error("the secret stayed")
	}
	// A restore that fails after it made the secret leaves none either.
	w.hv.Hook = func(call string) error {
		if call == "create" {
			return errors.New("the disk is broken")
		}
		return nil
	}
	if _, err := w.host.Stage(t.Context(), r, nil); err == nil {
		t.Fatal("staged on a broken disk")
	}
	if w.value(secretID) != "" {
		t.Error("a failed restore left its secret")
	}
}

// TestASecretOfAnotherValueIsNotOverwritten: a named error, before anything is
// written, from both tiers.
func TestASecretOfAnotherValueIsNotOverwritten(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		w := newLockedWorld(t)
		must(t, w.hv.Destroy(t.Context(), lockedVM))
		w.hv.SetSecret(secretID, []byte("of somebody else"), false)
		r := w.restore(tier)
		if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeSecretDiffers) {
			t.Errorf("%s: %v, want code secret-differs", tier, err)
		}
		if left := w.left(); len(left) != 0 {
			t.Errorf("%s: left %v", tier, left)
		}
		if w.value(secretID) != "of somebody else" {
			t.Errorf("%s: the secret was changed", tier)
		}
		states, err := w.host.SecretStates(t.Context(), mover.SecretsRequest{Point: pointID, Tier: tier, Vault: r.Vault})
		must(t, err)
		if len(states) != 1 || states[0].Problem == nil || states[0].Problem.Code != backstay.CodeSecretDiffers {
			t.Errorf("%s: the states do not say it: %+v", tier, states)
		}
	}
}

// TestAPointWithoutTheValueNeedsItOnTheHost, and can be given it.
func TestAPointWithoutTheValueNeedsItOnTheHost(t *testing.T) {
	w := newLockedWorld(t)
	must(t, w.hv.Destroy(t.Context(), lockedVM))
	must(t, w.hv.Undefine(t.Context(), lockedVM))
	r := w.restore(backstay.SnapshotTier)
	w.hv.SetSecret(secretID, nil, false)
	ask := mover.SecretsRequest{Point: pointID, Tier: r.Plan.Tier}
	give := func(uuid, value string) error {
		return w.host.GiveSecrets(t.Context(), mover.GiveRequest{SecretsRequest: ask, Secrets: []mover.GivenSecret{{UUID: uuid, Value: backstay.NewSecret([]byte(value))}}})
	}
	if err := give(secretID, "guessed"); !backstay.IsCode(err, backstay.CodeSecretDiffers) || w.value(secretID) != "" {
		t.Errorf("a value that opens nothing: %v, and the host has %q", err, w.value(secretID))
	}
	if err := give("5ec2e700-0000-4000-8000-00000000ffff", passValue); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("a secret of no disk: %v", err)
	}
	must(t, give(secretID, passValue))
	must(t, give(secretID, passValue))
	if err := give(secretID, "guessed"); !backstay.IsCode(err, backstay.CodeSecretDiffers) || w.value(secretID) != passValue {
		t.Errorf("over one that is there: %v", err)
	}
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
}

// TestReplacedDisksAreEncryptedAsThePointSays, and a secret that was lost is made
// first: from the snapshot tier as a layer, from the vault as a whole file.
func TestReplacedDisksAreEncryptedAsThePointSays(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		w := newLockedWorld(t)
		must(t, w.hv.Destroy(t.Context(), lockedVM))
		w.hv.SetSecret(secretID, nil, false)
		domain, err := w.hv.Domain(t.Context(), lockedVM)
		must(t, err)
		r := w.restore(tier)
		r.Plan.Kind, r.Plan.UUID, r.Plan.Name = backstay.ReplaceDisks, lockedVM, "safe"
		for i := range r.Plan.Disks {
			d := &r.Plan.Disks[i]
			d.Action, d.Old, d.Path = backstay.DiskReplaced, sourceOf(&domain, d.Target), w.path("vms/new-"+string(d.Target))
		}
		_, err = w.host.StageReplace(t.Context(), r, nil)
		must(t, err)
		if w.value(secretID) != passValue {
			t.Errorf("%s: the secret is %q", tier, w.value(secretID))
		}
		_, err = w.host.SwitchDisks(t.Context(), r)
		must(t, err)
		domain, err = w.hv.Domain(t.Context(), lockedVM)
		must(t, err)
		for _, d := range r.Plan.Disks {
			info, err := w.hv.Info(t.Context(), d.Path)
			if err != nil || !info.Encrypted && info.Format != "luks" {
				t.Errorf("%s: %s is plain (%+v, %v)", tier, d.Path, info, err)
			}
			if domain.VM.SecretOf(d.Target) != secretID {
				t.Errorf("%s: the VM's disk %s names no secret", tier, d.Target)
			}
		}
		must(t, w.hv.Start(t.Context(), lockedVM))
	}
}
