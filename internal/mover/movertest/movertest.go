// Package movertest is the conformance suite of the mover port: what the
// engines rely on, whatever carries or does the work. It also has Fake, a mover
// without a host for tests of what lies above.
package movertest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"path"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Subject is a mover under test, fresh for each test, with what the suite must
// know of its world.
type Subject struct {
	Mover mover.Mover
	// VM has at least one disk that can be backed up.
	VM backstay.VMID
	// Vault can be written to; its Key is the real one.
	Vault mover.VaultAccess
	// Folder is an existing folder on the host for restored disks.
	Folder string
	// Logs returns all that was logged so far.
	Logs func() string
}

// Identifiers that the suite uses.
const (
	job      backstay.JobID   = "01JB0000000000000000000001"
	otherJob backstay.JobID   = "01JB0000000000000000000002"
	point    backstay.PointID = "01JP0000000000000000000001"
	nowhere  backstay.PointID = "01JP0000000000000000000009"
	newVM    backstay.VMID    = "5d3f6a60-0000-4000-8000-00000000beef"
	nobody   backstay.VMID    = "00000000-0000-4000-8000-000000000000"
)

var instant = time.Date(2025, 4, 1, 12, 0, 0, 0, time.UTC)

// Run runs the suite.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"AHostTellsItsVMs":                        testInventory,
		"APreparedPointThatWasNotTakenLeavesNone": testSettle,
		"APointGoesThroughBothTiersAndBack":       testRound,
		"ProgressComesPhaseByPhase":               testProgress,
		"WhatIsNotThereHasACode":                  testUnknown,
		"ACancelledCallEndsAndCanBeMadeAgain":     testCancel,
		"AFileThatWasThereStays":                  testExisting,
		"TheVaultsKeyIsInNoLogAndNoError":         testSecrets,
		"APointTakesRoomSomewhere":                testRoom,
		"PointsWithoutAListAreNamed":              testIndexes,
		"PlainDisksNeedNoSecret":                  testNoSecrets,
		"AdoptingNobodyChangesNothing":            testAdopt,
		"WhatIsPutIsReadToItsEnd":                 testPut,
		"APreviewNamesWhatWillDiffer":             testPreview,
		"APulledPointIsInTheVaultAlone":           testPull,
		"AStreamServesThePointsOfItsHost":         testStream,
		"AnImportedImageIsInTheVaultAlone":        testImport,
		"WatchEndsWithItsContext":                 testWatch,
		"APinnedPointStays":                       testKeeps,
		"ReplacedDisksComeBack":                   testReplace,
		"AVMIsMadeOfRestoredDisksAlone":           testDeploy,
		"AHeldVMIsTakenAndLetGo":                  testHold,
		"ARawSessionReadsTheDisks":                testRawSession,
		"ACancelledReadEndsAndTheSessionStays":    testCancelledRead,
		"ADrillsNetworkGoesWithoutATrace":         testDrill,
		"ALetGoOfNothingIsNoError":                testHoldNothing,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func machine(t *testing.T, s Subject) backstay.VM {
	t.Helper()
	vms, err := s.Mover.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range vms {
		if vm.ID == s.VM {
			return vm
		}
	}
	t.Fatalf("VM %s is not listed", s.VM)
	return backstay.VM{}
}

func prepare(t *testing.T, s Subject) mover.Prepared {
	t.Helper()
	vm := machine(t, s)
	var targets []backstay.DiskTarget
	for _, d := range vm.Possible() {
		targets = append(targets, d.Target)
	}
	prepared, err := s.Mover.Prepare(t.Context(), mover.PrepareRequest{Job: job, Point: point, VM: s.VM, Disks: targets})
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

func take(t *testing.T, s Subject) mover.Taken {
	t.Helper()
	prepared := prepare(t, s)
	taken, err := s.Mover.Take(t.Context(), mover.TakeRequest{
		Job: job, Point: point, VM: s.VM, Consistency: backstay.CrashConsistent, Time: instant,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(taken.Disks) < len(prepared.Disks) || len(prepared.Disks) == 0 {
		t.Fatalf("prepared %d disks, took %d", len(prepared.Disks), len(taken.Disks))
	}
	return taken
}

// Plan returns a restore of the suite's point in the given tier, as an engine
// would plan it.
func Plan(taken mover.Taken, tier backstay.Tier, folder string) backstay.RestorePlan {
	plan := backstay.RestorePlan{
		Point: taken.Point, Tier: tier, Name: "copy", UUID: newVM, Source: taken.Shape.Ref(),
		Firmware: taken.Shape.Firmware, Probe: backstay.Probe{Kind: backstay.ProbeNone}, Start: true,
	}
	for _, d := range taken.Disks {
		if !d.Included {
			continue
		}
		format := d.Format
		if tier == backstay.SnapshotTier {
			format = "qcow2"
		}
		plan.Disks = append(plan.Disks, backstay.PlannedDisk{
			Target: d.Target, Path: path.Join(folder, "copy-"+string(d.Target)+"."+format), Format: format, Size: d.Size,
		})
	}
	for i, nic := range taken.Shape.NICs {
		plan.NICs = append(plan.NICs, backstay.PlannedNIC{MAC: "52:54:00:00:00:0" + string(rune('1'+i)), Kind: nic.Kind, Network: nic.Network})
	}
	return plan
}

func testInventory(t *testing.T, s Subject) {
	vm := machine(t, s)
	if len(vm.Possible()) == 0 {
		t.Fatal("no disk can be backed up")
	}
	if _, err := s.Mover.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	used, free := vm.Possible()[0].Source, path.Join(s.Folder, "nothing-here")
	infos, err := s.Mover.Paths(t.Context(), []string{used, free})
	if err != nil || len(infos) != 2 {
		t.Fatalf("paths: %v %v", infos, err)
	}
	if infos[0].Path != used || !infos[0].Exists || len(infos[0].UsedBy) != 1 || infos[0].UsedBy[0] != vm.Name {
		t.Errorf("a disk of %s: %+v", vm.Name, infos[0])
	}
	if infos[1].Path != free || infos[1].Exists || !infos[1].Folder || infos[1].Available <= 0 || len(infos[1].UsedBy) != 0 {
		t.Errorf("a free path: %+v", infos[1])
	}
}

func testSettle(t *testing.T, s Subject) {
	prepare(t, s)
	for range 2 { // safe to repeat
		if _, found, err := s.Mover.Settle(t.Context(), s.VM, point); err != nil || found {
			t.Fatalf("settle: found %v, %v", found, err)
		}
	}
	points, err := s.Mover.Points(t.Context())
	if err != nil || len(points) != 0 {
		t.Fatalf("points: %v %v", points, err)
	}
	taken := take(t, s)
	again, found, err := s.Mover.Settle(t.Context(), s.VM, point)
	if err != nil || !found || again.Point != taken.Point || len(again.Disks) != len(taken.Disks) {
		t.Fatalf("settle of a taken point: %+v %v %v", again, found, err)
	}
}

func testRound(t *testing.T, s Subject) {
	ctx := t.Context()
	taken := take(t, s)
	points, err := s.Mover.Points(ctx)
	if err != nil || len(points) != 1 || points[0].Point != point || !points[0].Time.Equal(instant) {
		t.Fatalf("points: %+v %v", points, err)
	}
	if _, err := s.Mover.Transfer(ctx, mover.TransferRequest{Job: job, Point: point, Vault: s.Vault}, nil); err != nil {
		t.Fatal(err)
	}
	beside, err := s.Mover.Verify(ctx, mover.VerifyRequest{Job: job, Point: point, Tier: backstay.SnapshotTier}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := s.Mover.Verify(ctx, mover.VerifyRequest{Job: job, Point: point, Tier: backstay.VaultTier, Vault: &s.Vault}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range taken.Disks {
		if d.Included && (beside.SHA256[d.Target] == "" || beside.SHA256[d.Target] != stored.SHA256[d.Target]) {
			t.Errorf("disk %s: %q in the snapshot tier, %q in the vault", d.Target, beside.SHA256[d.Target], stored.SHA256[d.Target])
		}
	}
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		restoreAndAbandon(t, s, mover.StageRequest{Job: otherJob, Plan: Plan(taken, tier, s.Folder), Vault: &s.Vault})
	}
	if err := s.Mover.DropPoint(ctx, point, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mover.Sweep(ctx, nil); err != nil {
		t.Fatal(err)
	}
}

// restoreAndAbandon makes a VM and takes it away again: every step twice, since
// each is safe to repeat, and nothing may be left.
func restoreAndAbandon(t *testing.T, s Subject, r mover.StageRequest) {
	t.Helper()
	ctx := t.Context()
	for range 2 {
		staged, err := s.Mover.Stage(ctx, r, nil)
		if err != nil || len(staged.Paths) != len(r.Plan.Disks) {
			t.Fatalf("stage from the %s tier: %+v %v", r.Plan.Tier, staged, err)
		}
	}
	for range 2 {
		if _, err := s.Mover.Define(ctx, r); err != nil {
			t.Fatalf("define: %v", err)
		}
	}
	for range 2 {
		if _, err := s.Mover.Start(ctx, r); err != nil {
			t.Fatalf("start: %v", err)
		}
	}
	for range 2 {
		if err := s.Mover.Abandon(ctx, r); err != nil {
			t.Fatalf("abandon: %v", err)
		}
	}
	var paths []string
	for _, d := range r.Plan.Disks {
		paths = append(paths, d.Path)
	}
	infos, err := s.Mover.Paths(ctx, paths)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if info.Exists {
			t.Errorf("%s is left of an abandoned restore", info.Path)
		}
	}
	vms, err := s.Mover.VMs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range vms {
		if vm.ID == r.Plan.UUID {
			t.Errorf("VM %s is left of an abandoned restore", vm.Name)
		}
	}
}

func testProgress(t *testing.T, s Subject) {
	take(t, s)
	var reports []mover.Report
	_, err := s.Mover.Transfer(t.Context(), mover.TransferRequest{Job: job, Point: point, Vault: s.Vault},
		func(r mover.Report) { reports = append(reports, r) })
	if err != nil {
		t.Fatal(err)
	}
	order := map[string]int{"transfer": 1, "validate": 2}
	at, done := 0, int64(0)
	for _, r := range reports {
		phase := order[r.Phase]
		switch {
		case r.Phase == "" && r.Pack != "":
			continue // a pack before anything was counted
		case phase == 0:
			t.Errorf("unknown phase %q", r.Phase)
		case phase < at:
			t.Errorf("phase %q came again", r.Phase)
		case phase > at:
			at, done = phase, 0
		}
		if r.Done < done {
			t.Errorf("%s went back from %d to %d", r.Phase, done, r.Done)
		}
		done = r.Done
	}
	if at != 2 {
		t.Errorf("the last phase that was reported is number %d of 2: %+v", at, reports)
	}
}

func testUnknown(t *testing.T, s Subject) {
	ctx := t.Context()
	plan := backstay.RestorePlan{Point: nowhere, Tier: backstay.SnapshotTier, Name: "copy", UUID: newVM}
	_, prepareErr := s.Mover.Prepare(ctx, mover.PrepareRequest{Job: job, Point: point, VM: nobody, Disks: []backstay.DiskTarget{"vda"}})
	_, transferErr := s.Mover.Transfer(ctx, mover.TransferRequest{Job: job, Point: nowhere, Vault: s.Vault}, nil)
	_, verifyErr := s.Mover.Verify(ctx, mover.VerifyRequest{Job: job, Point: nowhere, Tier: backstay.SnapshotTier}, nil)
	_, previewErr := s.Mover.Preview(ctx, mover.StageRequest{Job: job, Plan: plan})
	_, stageErr := s.Mover.Stage(ctx, mover.StageRequest{Job: job, Plan: plan}, nil)
	for what, got := range map[string]struct {
		err  error
		code backstay.Code
	}{
		"prepare an unknown VM":     {prepareErr, backstay.CodeUnknownVM},
		"transfer an unknown point": {transferErr, backstay.CodeUnknownPoint},
		"verify an unknown point":   {verifyErr, backstay.CodeUnknownPoint},
		"stage an unknown point":    {stageErr, backstay.CodeUnknownPoint},
		"preview an unknown point":  {previewErr, backstay.CodeUnknownPoint},
	} {
		if !backstay.IsCode(got.err, got.code) {
			t.Errorf("%s: %v, want code %s", what, got.err, got.code)
		}
	}
}

func testCancel(t *testing.T, s Subject) {
	take(t, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := s.Mover.Transfer(ctx, mover.TransferRequest{Job: job, Point: point, Vault: s.Vault},
		func(mover.Report) { cancel(backstay.ErrCancelled) })
	// It may have been done before the host heard of the cancel.
	if err != nil && !cancelled(ctx, err) {
		t.Errorf("a cancelled transfer fails with %v", err)
	}
	before, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.Mover.Transfer(before, mover.TransferRequest{Job: job, Point: point, Vault: s.Vault}, nil); err == nil {
		t.Error("a transfer whose context had ended before succeeded")
	}
	// The same call goes on where it was cut off.
	if _, err := s.Mover.Transfer(t.Context(), mover.TransferRequest{Job: job, Point: point, Vault: s.Vault}, nil); err != nil {
		t.Errorf("transfer again: %v", err)
	}
}

// cancelled tells whether err says that ctx ended: by its error, by its cause,
// or, from afar, by code.
func cancelled(ctx context.Context, err error) bool {
	return errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)) || backstay.IsCode(err, backstay.CodeCancelled)
}

func testExisting(t *testing.T, s Subject) {
	ctx := t.Context()
	plan := Plan(take(t, s), backstay.SnapshotTier, s.Folder)
	if _, err := s.Mover.Stage(ctx, mover.StageRequest{Job: otherJob, Plan: plan}, nil); err != nil {
		t.Fatal(err)
	}
	intruder := mover.StageRequest{Job: job, Plan: plan}
	intruder.Plan.UUID = "5d3f6a60-0000-4000-8000-00000000dead"
	if _, err := s.Mover.Stage(ctx, intruder, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("stage over a file of another restore: %v, want code %s", err, backstay.CodePreflight)
	}
	if err := s.Mover.Abandon(ctx, intruder); err != nil {
		t.Fatal(err)
	}
	infos, err := s.Mover.Paths(ctx, []string{plan.Disks[0].Path})
	if err != nil || len(infos) != 1 || !infos[0].Exists {
		t.Errorf("the file of another restore is gone: %+v %v", infos, err)
	}
	if err := s.Mover.Abandon(ctx, mover.StageRequest{Job: otherJob, Plan: plan}); err != nil {
		t.Fatal(err)
	}
}

func testSecrets(t *testing.T, s Subject) {
	take(t, s)
	key := bytes.Clone(s.Vault.Key.Reveal())
	var errs []error
	_, err := s.Mover.Transfer(t.Context(), mover.TransferRequest{Job: job, Point: nowhere, Vault: s.Vault}, nil)
	errs = append(errs, err)
	wrong := s.Vault
	wrong.Key = backstay.NewSecret(bytes.Repeat([]byte("wrong-key"), 32)[:len(key)])
	_, err = s.Mover.Transfer(t.Context(), mover.TransferRequest{Job: job, Point: point, Vault: wrong}, nil)
	if err == nil {
		t.Error("a wrong key opened the vault")
	}
	errs = append(errs, err)
	_, err = s.Mover.Transfer(t.Context(), mover.TransferRequest{Job: job, Point: point, Vault: s.Vault}, nil)
	if err != nil {
		t.Errorf("the right key does not open the vault: %v", err)
	}
	said := s.Logs()
	for _, err := range errs {
		if err != nil {
			said += err.Error()
		}
	}
	for _, k := range [][]byte{key, wrong.Key.Reveal()} {
		for _, form := range []string{string(k), hex.EncodeToString(k), base64.StdEncoding.EncodeToString(k), base64.RawStdEncoding.EncodeToString(k)} {
			if strings.Contains(said, form) {
				t.Errorf("a vault's key is in the log or in an error: %s", said)
			}
		}
	}
}

func testWatch(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	seen := make(chan struct{}, 64)
	go func() {
		done <- s.Mover.Watch(ctx, func(backstay.VMID) {
			select {
			case seen <- struct{}{}:
			default:
			}
		})
	}()
	<-seen // whoever starts to watch is told to look at everything
	cancel()
	if err := <-done; err != nil && !cancelled(ctx, err) {
		t.Errorf("watch ended with %v", err)
	}
}
