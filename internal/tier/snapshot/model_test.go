package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

// modelDepth is the bound of points in a chain in the model.
const modelDepth = 5

// model is what the tier should hold, kept in the simplest way: the whole content
// of everything.
type model struct {
	*world
	rand *rand.Rand
	log  []string
	// points is the content of each point that was taken and not dropped.
	points map[backstay.PointID]disks
	// maybe are points of which a crash leaves open whether they are there.
	maybe  map[backstay.PointID]bool
	pinned map[backstay.PointID]bool
	// forks are the VMs that were restored on a point, with their overlays.
	forks   map[backstay.VMID][]backstay.Disk
	vaulted backstay.PointID // newest in the vault, "" for none
	atVault disks            // its content
	serial  int
	// replaced are the replacements of the VM's disks that can be undone, oldest first.
	replaced []replacement
	// before is what each VM must have after a step.
	before map[backstay.VMID]disks
}

type disks map[backstay.DiskTarget][]byte

func (d disks) same(o disks) bool {
	for target := range d {
		if !bytes.Equal(d[target], o[target]) {
			return false
		}
	}
	return len(d) == len(o)
}

// TestAnyOrderOfThingsKeepsEveryContent takes points, forks, pins, transfers,
// expires, resizes and releases in random order, with crashes in between, against
// a model that keeps whole contents. After each step every point that is offered
// reads as it did, every VM has what it had, no chain is deeper than its bound,
// and what lies below the files that the VM had is as it was (I15).
func TestAnyOrderOfThingsKeepsEveryContent(t *testing.T) {
	for seed := range int64(modelSeeds) {
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) { runModel(t, seed, modelSteps) })
	}
}

func runModel(t *testing.T, seed int64, steps int) {
	r := rand.New(rand.NewSource(seed))
	m := &model{
		world: newWorld(t, r.Intn(2) == 0), rand: r,
		points: map[backstay.PointID]disks{}, maybe: map[backstay.PointID]bool{},
		pinned: map[backstay.PointID]bool{}, forks: map[backstay.VMID][]backstay.Disk{},
	}
	template := m.onTemplate()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(m.log, "\n"))
		}
	}()
	below := fileSum(t, template)
	for range steps {
		m.step()
		m.check()
		if fileSum(t, template) != below {
			t.Error("what lies below the VM's own file changed")
		}
		if t.Failed() {
			return
		}
	}
	m.end()
}

// onTemplate puts the VM on an overlay of its owner's making, so that something
// lies below the file that it uses when its protection begins.
func (m *model) onTemplate() string {
	ctx := context.Background()
	running := m.running()
	if running {
		must(m.t, m.hv.Destroy(ctx, vmID))
	}
	template, own := m.disk("vdb.qcow2"), m.disk("own.qcow2")
	must(m.t, m.hv.CreateOverlay(ctx, hypervisor.Overlay{Path: own, Backing: hypervisor.Plain(template, "qcow2")}))
	must(m.t, m.hv.Retarget(ctx, vmID, "vdb", hypervisor.Source{Image: hypervisor.Plain(own, "qcow2")}))
	if running {
		must(m.t, m.hv.Start(ctx, vmID))
	}
	return template
}

func fileSum(t *testing.T, path string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return sha256.Sum256(data)
}

func (m *model) running() bool {
	m.t.Helper()
	d, err := m.hv.Domain(context.Background(), vmID)
	must(m.t, err)
	return d.VM.State == backstay.VMRunning
}

// read is the content of all disks of a VM, each up to its size.
func (m *model) read(vm backstay.VMID) disks {
	m.t.Helper()
	d, err := m.hv.Domain(context.Background(), vm)
	all := disks{}
	if errors.Is(err, hypervisor.ErrNoVM) {
		for _, disk := range m.forks[vm] {
			all[disk.Target] = make([]byte, disk.Size)
			must(m.t, m.readFile(disk.Source, disk.Format, all[disk.Target]))
		}
		return all
	}
	must(m.t, err)
	for _, disk := range d.VM.Disks {
		all[disk.Target] = make([]byte, disk.Size)
		must(m.t, m.hv.ReadGuest(vm, disk.Target, 0, all[disk.Target]))
	}
	return all
}

// readPoint is the content of a point, read through the tier.
func (m *model) readPoint(id backstay.PointID) disks {
	m.t.Helper()
	p, err := m.tier.Open(background, id)
	must(m.t, err)
	all := disks{}
	for _, d := range p.Disks {
		all[d.Target] = make([]byte, d.Size)
		img, err := m.tier.openLayer(background, d)
		must(m.t, err)
		img.leave = func() error { return nil }
		_, err = img.ReadAt(all[d.Target], 0)
		must(m.t, err)
		must(m.t, img.Close())
	}
	return all
}

// step does one thing. All VMs must have afterwards what they had before.
func (m *model) step() {
	m.t.Helper()
	before := map[backstay.VMID]disks{vmID: m.read(vmID)}
	m.before = before
	for vm := range m.forks {
		before[vm] = m.read(vm)
	}
	steps := []struct {
		name   string
		weight int
		do     func() error
	}{
		{"take", 8, func() error { return m.takeOne(before[vmID]) }},
		{"drop", 4, m.dropOne},
		{"vault", 4, m.vaultOne},
		{"keep map", 2, m.keepMapOne},
		{"fork", 2, m.forkOne},
		{"end fork", 1, m.endForkOne},
		{"pin", 2, m.pinOne},
		{"replace", 3, m.replaceOne},
		{"undo", 2, m.undoOne},
		{"end of an undo", 1, m.endUndoOne},
		{"release", 1, m.releaseAll},
		{"sweep", 1, func() error { _, err := m.tier.Sweep(background, SweepOptions{}); return err }},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := m.rand.Intn(total)
	crash := -1
	for _, s := range steps {
		if at -= s.weight; at >= 0 {
			continue
		}
		if s.name != "fork" && s.name != "end fork" && m.rand.Intn(3) == 0 {
			crash = m.rand.Intn(40)
			m.crashAt(crash)
		}
		err := s.do()
		m.log = append(m.log, fmt.Sprintf("%s (crash at %d: %v): %v", s.name, crash, m.crashed, err))
		if err != nil && !m.crashed {
			m.t.Errorf("%s: %v", s.name, err)
		}
		break
	}
	crashed := m.crashed
	m.restart()
	for vm, had := range before {
		if _, ok := m.forks[vm]; vm != vmID && !ok {
			continue // it was ended
		}
		if !m.read(vm).same(had) {
			m.t.Errorf("what VM %s has changed", vm)
		}
	}
	m.settleReplaced()
	m.outside()
	if crashed {
		seen := m.read(vmID)
		_, err := m.tier.Sweep(background, SweepOptions{})
		must(m.t, err)
		if !m.read(vmID).same(seen) {
			m.t.Error("the sweep changed what the VM has")
		}
	}
}

// outside is what others do: the guest writes, the owner starts and stops the VM
// and makes its disks larger.
func (m *model) outside() {
	m.t.Helper()
	for range m.rand.Intn(3) {
		m.write()
	}
	switch m.rand.Intn(8) {
	case 0:
		if m.running() {
			must(m.t, m.hv.Destroy(background, vmID))
		} else {
			must(m.t, m.hv.Start(background, vmID))
		}
		m.log = append(m.log, fmt.Sprintf("running: %v", m.running()))
	case 1:
		if now := m.read(vmID); len(now["vda"]) < 1<<20 {
			must(m.t, m.hv.GrowGuest(vmID, "vda", int64(len(now["vda"]))+64<<10))
			m.log = append(m.log, "vda grew")
		}
	}
}

// refused tells whether an error is a refusal that the rules allow.
func refused(err error) bool {
	return backstay.IsCode(err, backstay.CodeLayerInUse) || halfDropped(err)
}

func (m *model) takeOne(now disks) error {
	id := m.nextPoint()
	r := m.request(id)
	r.Depth = modelDepth
	_, err := m.tier.Prepare(background, r)
	if backstay.IsCode(err, backstay.CodeTooDeep) {
		return m.dropOldest()
	}
	if err == nil {
		_, err = m.tier.Take(background, m.takeRequest(id))
	}
	m.points[id] = now
	if err != nil {
		m.maybe[id] = true
	}
	return err
}

// any returns one of the points, or "".
func (m *model) any() backstay.PointID {
	ids := m.ids()
	if len(ids) == 0 {
		return ""
	}
	return ids[m.rand.Intn(len(ids))]
}

func (m *model) ids() []backstay.PointID {
	var ids []backstay.PointID
	for id := range m.points {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *model) dropOldest() error {
	for _, id := range m.ids() {
		if err := m.drop(id); !refused(err) {
			return err
		}
	}
	return nil
}

func (m *model) dropOne() error {
	if id := m.any(); id != "" {
		return m.drop(id)
	}
	return nil
}

func (m *model) drop(id backstay.PointID) error {
	err := m.tier.Drop(background, id, nil)
	switch {
	case backstay.IsCode(err, backstay.CodeLayerInUse):
		return nil
	case halfDropped(err):
		delete(m.points, id)
		return nil
	case err == nil || backstay.IsCode(err, backstay.CodeUnknownPoint):
		if m.pinned[id] {
			m.t.Errorf("the pinned point %s was dropped", id)
		}
		delete(m.points, id)
		return nil
	}
	m.maybe[id] = true
	return err
}

// vaultOne carries the newest point to the vault: what its change map does not
// name must be as it was at the point before.
func (m *model) vaultOne() error {
	ids := m.ids()
	if len(ids) == 0 || ids[len(ids)-1] <= m.vaulted || m.maybe[ids[len(ids)-1]] {
		return nil
	}
	id := ids[len(ids)-1]
	for target, after := range m.points[id] {
		ranges, ok, _, err := m.tier.Changes(background, id, m.vaulted, target)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		for at := int64(0); at < int64(len(after)); at += 4096 {
			named := slices.ContainsFunc(ranges, func(r backstay.Range) bool { return r.Offset <= at && at < r.End() })
			if !named && !bytes.Equal(m.atVault[target][at:at+4096], after[at:at+4096]) {
				m.t.Errorf("disk %s: the change at %d from %s to %s is not named", target, at, m.vaulted, id)
			}
		}
		m.log = append(m.log, fmt.Sprintf("change map of %s from %s to %s: %d bytes", target, m.vaulted, id, backstay.TotalLength(ranges)))
	}
	m.vaulted, m.atVault = id, m.points[id]
	return m.tier.Vaulted(background, id)
}

func (m *model) keepMapOne() error {
	if _, there := m.points[m.vaulted]; !there || m.pinned[m.vaulted] {
		return nil
	}
	err := m.tier.KeepMap(background, m.vaulted, nil)
	if err == nil {
		delete(m.points, m.vaulted)
	} else {
		m.maybe[m.vaulted] = true
	}
	return err
}

func (m *model) forkOne() error {
	id := m.any()
	if id == "" || m.maybe[id] || len(m.forks) >= 3 {
		return nil
	}
	m.serial++
	vm := backstay.VMID(fmt.Sprintf("%08d-2222-4222-8222-222222222222", m.serial))
	p, err := m.tier.Open(background, id)
	if err != nil {
		return err
	}
	var forked []backstay.Disk
	for _, d := range p.Disks {
		overlay := m.disk(fmt.Sprintf("fork%d-%s.qcow2", m.serial, d.Target))
		if err := m.tier.AddUser(id, d.Target, User{Kind: UserVM, ID: string(vm), Overlay: overlay}); err != nil {
			return err
		}
		must(m.t, m.hv.CreateOverlay(background, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(d.Path, d.Format)}))
		forked = append(forked, backstay.Disk{Target: d.Target, Source: overlay, Format: "qcow2", Size: d.Size})
	}
	_, err = m.hv.Define(background, fake.XML(fmt.Sprintf("fork%d", m.serial), vm, forked...))
	must(m.t, err)
	m.forks[vm] = forked
	switch m.rand.Intn(3) {
	case 0:
		must(m.t, m.hv.Start(background, vm))
		must(m.t, m.hv.WriteGuest(vm, "vda", 8192, bytes.Repeat([]byte{0xee}, 4096)))
	case 1: // only its files are left, and who knows when they will be needed
		must(m.t, m.hv.Undefine(background, vm))
	}
	return nil
}

func (m *model) endForkOne() error {
	for vm := range m.forks {
		m.endOf(vm)
		return m.tier.ForgetVMs(background, func() ([]backstay.JobID, error) { return nil, nil })
	}
	return nil
}

// endOf removes a forked VM with its overlays.
func (m *model) endOf(vm backstay.VMID) {
	m.t.Helper()
	must(m.t, m.hv.Destroy(background, vm))
	must(m.t, m.hv.Undefine(background, vm))
	for _, d := range m.forks[vm] {
		must(m.t, os.Remove(d.Source))
	}
	delete(m.forks, vm)
}

func (m *model) pinOne() error {
	id := m.any()
	if id == "" || m.maybe[id] {
		return nil
	}
	pinned := !m.pinned[id]
	if err := m.tier.Pin(background, id, pinned); err != nil {
		m.restart() // whether it was written is not known: do it again
		must(m.t, m.tier.Pin(background, id, pinned))
	}
	m.pinned[id] = pinned
	return nil
}

func (m *model) releaseAll() error {
	for len(m.replaced) > 0 {
		if err := m.endUndoOne(); err != nil {
			return err
		}
	}
	_, err := m.tier.Release(background, vmID, nil)
	if refused(err) {
		for id := range m.points {
			m.maybe[id] = true
		}
		return nil
	}
	for id := range m.points {
		if m.pinned[id] && err == nil {
			m.t.Errorf("the pinned point %s was released", id)
		}
		m.maybe[id] = true
	}
	if err == nil {
		if len(m.offered()) > 0 {
			m.t.Error("points are left after the release")
		}
		clear(m.points)
		clear(m.maybe)
	}
	return err
}

func (m *model) offered() []PointRecord {
	points, err := m.tier.Points(background)
	must(m.t, err)
	return points
}

// check sees that the tier holds what the model says.
func (m *model) check() {
	m.t.Helper()
	offered := map[backstay.PointID]bool{}
	for _, p := range m.offered() {
		offered[p.ID] = true
		want, known := m.points[p.ID]
		if !known {
			m.t.Errorf("point %s is offered and was dropped", p.ID)
			continue
		}
		if !m.readPoint(p.ID).same(want) {
			m.t.Errorf("point %s is not what it was", p.ID)
		}
	}
	for id := range m.points {
		if !offered[id] && !m.maybe[id] {
			m.t.Errorf("point %s is gone", id)
		}
		if !offered[id] {
			delete(m.points, id)
		}
		delete(m.maybe, id)
	}
	m.depth()
}

// depth sees that no chain is deeper than its bound.
func (m *model) depth() {
	m.t.Helper()
	b, err := m.tier.load()
	must(m.t, err)
	d, err := m.hv.Domain(background, vmID)
	must(m.t, err)
	for target, chain := range d.Chains {
		if n := len(b.pointsIn(chain)); n > modelDepth {
			m.t.Errorf("disk %s has %d points in its chain", target, n)
		}
	}
}

// end takes everything away again.
func (m *model) end() {
	m.t.Helper()
	m.restart()
	for vm := range m.forks {
		m.endOf(vm)
	}
	must(m.t, m.tier.ForgetVMs(background, func() ([]backstay.JobID, error) { return nil, nil }))
	for id := range m.pinned {
		_ = m.tier.Pin(background, id, false)
	}
	for len(m.replaced) > 0 {
		must(m.t, m.endUndoOne())
	}
	seen := m.read(vmID)
	m.release()
	if !m.read(vmID).same(seen) {
		m.t.Error("the last release changed what the VM has")
	}
	m.sweep()
	b, err := m.tier.load()
	must(m.t, err)
	for _, l := range b.Layers {
		m.t.Errorf("the record of %s is left", l.File)
	}
}
