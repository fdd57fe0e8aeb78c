package restore

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

const oneSecret = "5ec2e700-0000-4000-8000-000000000001"

// lockedFacts are those of a point whose disk vda is encrypted on the host.
func lockedFacts() Facts {
	f := facts()
	for i := range f.Point.Shape.Disks {
		if f.Point.Shape.Disks[i].Target == "vda" {
			f.Point.Shape.Disks[i].Secret = oneSecret
		}
	}
	f.Point.Encrypted = backstay.EncryptionOf(f.Point.Shape, f.Point.Disks, []backstay.PointSecret{{UUID: oneSecret, Scheme: backstay.SecretInPoint}})
	f.Secrets = []mover.SecretState{{PointSecret: f.Point.Encrypted.Secrets[0], Disks: []backstay.DiskTarget{"vda"}}}
	return f
}

// TestAPlanSaysWhatBecomesOfItsSecrets: each disk is planned with the secret that
// the point has for it, and the checks say where that comes from.
func TestAPlanSaysWhatBecomesOfItsSecrets(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*mover.SecretState)
		detail string
		code   backstay.Code
	}{
		"made anew":  {func(*mover.SecretState) {}, "made anew", ""},
		"by service": {func(s *mover.SecretState) { s.Scheme, s.Service = backstay.SecretInService, "corp" }, "key service corp unwrapped it", ""},
		"present":    {func(s *mover.SecretState) { s.Present = true }, "fits", ""},
		"unproved":   {func(s *mover.SecretState) { s.Present, s.Note = true, "could not be compared" }, "could not be compared", ""},
		"differs": {func(s *mover.SecretState) {
			s.Present, s.Problem = true, backstay.Errorf(backstay.CodeSecretDiffers, "another")
		}, "another", backstay.CodeSecretDiffers},
		"service away": {func(s *mover.SecretState) { s.Problem = backstay.Errorf(backstay.CodeKeyServiceAway, "away") }, "away", backstay.CodeKeyServiceAway},
	} {
		f := lockedFacts()
		c.change(&f.Secrets[0])
		plan, err := NewPlan(backstay.RestoreRequest{Kind: backstay.CreateVM, Point: f.Point.ID, Name: "copy"}, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range plan.Disks {
			if want := f.Point.Shape.SecretOf(d.Target); d.Secret != want {
				t.Errorf("%s: disk %s is planned with secret %q, want %q", name, d.Target, d.Secret, want)
			}
		}
		found := false
		for _, check := range plan.Preflight {
			if check.Name == "secret" {
				found = true
				if check.OK != (c.code == "") || check.Code != c.code || !strings.Contains(check.Detail, c.detail) {
					t.Errorf("%s: %+v", name, check)
				}
			}
		}
		if !found {
			t.Errorf("%s: no check says anything of the secret", name)
		}
	}
}

// TestAnEncryptedDiskIsNotWrittenToWhereItWouldBePlain.
func TestAnEncryptedDiskIsNotWrittenToWhereItWouldBePlain(t *testing.T) {
	for _, d := range []backstay.PlannedDisk{{Target: "vda", Secret: oneSecret, Format: "vmdk"}, {Target: "vda", Secret: oneSecret, Format: "raw", Device: true}} {
		if checks := checkForms(backstay.RestorePlan{Disks: []backstay.PlannedDisk{d}}); len(checks) != 1 || checks[0].OK || checks[0].Code != backstay.CodeEncrypted {
			t.Errorf("%+v: %+v", d, checks)
		}
	}
}

// TestALayerOfAnotherSchemeIsNotFilled (row B4d): a VM that was encrypted, or is no
// more, gets whole disks.
func TestALayerOfAnotherSchemeIsNotFilled(t *testing.T) {
	f := lockedFacts()
	now := f.Point.Shape
	now.ID = "11111111-1111-4111-8111-111111111111"
	now.Disks = append([]backstay.Disk(nil), now.Disks...)
	f.VMs = []backstay.VM{now}
	for _, same := range []bool{true, false} {
		if !same {
			for i := range f.VMs[0].Disks {
				f.VMs[0].Disks[i].Secret = ""
			}
		}
		plan := backstay.RestorePlan{UUID: now.ID, Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/x", Difference: true}}}
		fillSecrets(f, &plan)
		if d := plan.Disks[0]; d.Difference != same || d.Secret != oneSecret {
			t.Errorf("same scheme %v: %+v", same, d)
		}
	}
}
