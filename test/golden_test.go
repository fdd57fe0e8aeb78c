//go:build integration

package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/sandbox"
)

// goldenVM is a VM with much that a definition can have. It never runs, so that
// everything about it is known.
const goldenVM = `<domain type='qemu'>
 <name>golden</name><uuid>6a1d7f3e-95f2-4c0b-8e0a-41c5f36e0001</uuid><genid>11111111-1111-4111-8111-111111111111</genid>
 <title>point %[1]d</title><description>time travel &amp; more: ünïcode</description>
 <metadata><own:note xmlns:own="https://example.org/own" level="%[1]d">of the owner</own:note></metadata>
 <memory unit='MiB'>%[2]d</memory><vcpu>2</vcpu><iothreads>1</iothreads><cputune><shares>512</shares></cputune>
 <sysinfo type='smbios'><system><entry name='manufacturer'>Owner</entry><entry name='uuid'>6a1d7f3e-95f2-4c0b-8e0a-41c5f36e0001</entry></system></sysinfo>
 <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type><firmware><feature enabled='no' name='secure-boot'/><feature enabled='no' name='enrolled-keys'/></firmware><boot dev='hd'/><smbios mode='sysinfo'/></os>
 <features><acpi/><apic/></features><cpu mode='maximum'/><clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
 <devices>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap' cache='none'/><source file='/var/lib/libvirt/images/golden-vda.qcow2'/><target dev='vda' bus='virtio'/><serial>SERIAL-A</serial></disk>
  <disk type='file' device='disk'><driver name='qemu' type='raw' iothread='1'/><source file='/var/lib/libvirt/images/golden-vdb.img'/><target dev='vdb' bus='virtio'/></disk>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/golden-sda.qcow2'/><target dev='sda' bus='sata'/><serial>SERIAL-C</serial></disk>
  <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>
  <interface type='network'><mac address='52:54:00:10:00:01'/><source network='default'/><model type='virtio'/><link state='up'/></interface>
  <interface type='bridge'><mac address='52:54:00:10:00:02'/><source bridge='virbr1'/><model type='e1000e'/><mtu size='1400'/></interface>
  <interface type='user'><mac address='52:54:00:10:00:03'/><model type='virtio'/></interface>
  <serial type='file'><source path='/var/log/libvirt/qemu/golden-console.log'/></serial>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/golden.extra'/><target type='virtio' name='org.example.extra'/></channel>
  <graphics type='vnc' port='5999' autoport='no' passwd='geheim'/><video><model type='virtio'/></video>
  <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>
  <vsock model='virtio'><cid auto='no' address='77'/></vsock>
 </devices>
</domain>
`

const (
	goldenUUID  = "6a1d7f3e-95f2-4c0b-8e0a-41c5f36e0001"
	goldenNVRAM = "/var/lib/libvirt/qemu/nvram/%s_VARS.fd"
	goldenTPM   = "/var/lib/libvirt/swtpm/%s/tpm2/tpm2-00.permall"
)

// goldenDisk is a disk of which every byte is known. No size but vda's is of whole
// clusters or MiB.
type goldenDisk struct {
	target, path, format string
	content              []byte
}

// goldenPoint is what a point must give back.
type goldenPoint struct {
	id         backstay.PointID
	sums       map[string]string
	nvram, tpm []byte
	xml        string
}

// golden is one run.
type golden struct {
	t      *testing.T
	ctx    context.Context
	world  *sandbox.World
	host   *sandbox.Host
	client *client.Client
	rng    *rand.Rand
	disks  []*goldenDisk
}

// TestEveryPointComesBackByteForByte: points of a VM with three disks of odd sizes,
// UEFI, a vTPM and three interfaces, between which its disks, firmware variables,
// TPM and definition change. Each is restored from each tier: all disks have the
// SHA-256 that they had, firmware and TPM their bytes, and of the definition
// exactly those fields differ that the documentation names and the plan said.
func TestEveryPointComesBackByteForByte(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	worlds <- struct{}{}
	defer func() { <-worlds }()
	w, err := sandbox.Up(ctx, sandbox.Options{Binary: []string{filepath.Join(binaries, "sandbox"), "backstay"}})
	check0(t, err)
	defer func() { check0(t, w.Down(context.Background())) }()
	g := &golden{t: t, ctx: ctx, world: w, host: w.Hosts[0], client: client.New(w.Region.URL, w.Region.Token), rng: rand.New(rand.NewPCG(7, 11))}
	defer g.client.Close()
	g.make()
	var points []goldenPoint
	for i := range 4 {
		g.change(i)
		points = append(points, g.take())
	}
	restores := 0
	for i, p := range points {
		for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
			restores++
			t.Run(fmt.Sprintf("point %d from the %s tier", i+1, tier), func(t *testing.T) {
				g.t = t
				g.restored(p, tier, fmt.Sprintf("golden-%d", restores))
			})
		}
	}
	g.t = t
	check0(t, w.Tidy(ctx))
}

func check0(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *golden) on(name string, args ...string) {
	g.t.Helper()
	if out, err := g.host.Command(g.ctx, name, args...).CombinedOutput(); err != nil {
		g.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// put writes a file of the host.
func (g *golden) put(path string, data []byte) {
	g.t.Helper()
	outside := g.host.Outside(path)
	check0(g.t, os.MkdirAll(filepath.Dir(outside), 0o711))
	check0(g.t, os.WriteFile(outside, data, 0o600))
}

func (g *golden) random(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(g.rng.Uint32())
	}
	return data
}

// make makes the disks and a second network, and lets the VM be protected.
func (g *golden) make() {
	g.t.Helper()
	for _, d := range []goldenDisk{
		{target: "vda", path: "golden-vda.qcow2", format: "qcow2", content: make([]byte, 24<<20)},
		{target: "vdb", path: "golden-vdb.img", format: "raw", content: make([]byte, 9<<20+512*5)},
		{target: "sda", path: "golden-sda.qcow2", format: "qcow2", content: make([]byte, 17<<20+512)},
	} {
		d.path = sandbox.Images + "/" + d.path
		g.on("qemu-img", "create", "-q", "-f", d.format, d.path, fmt.Sprint(len(d.content)))
		g.disks = append(g.disks, &d)
	}
	network := filepath.Join(g.world.Dir, "lab.xml")
	check0(g.t, os.WriteFile(network, []byte(`<network><name>lab</name><bridge name='virbr9' stp='off'/></network>`), 0o600))
	g.on("virsh", "-q", "net-define", network)
	g.on("virsh", "-q", "net-start", "lab")
	g.define(0)
	_, err := g.client.CreatePolicy(g.ctx, backstay.Policy{
		Name: "golden", Consistency: backstay.FileSystemConsistent,
		Snapshot: backstay.SnapshotKeep{Days: 30, Depth: backstay.DefaultDepth}, Vault: backstay.VaultKeep{Last: 100},
	})
	check0(g.t, err)
	for {
		if _, err = g.client.VM(g.ctx, "golden"); !backstay.IsCode(err, backstay.CodeUnknownVM) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	check0(g.t, err)
	_, err = g.client.Protect(g.ctx, "golden", api.ProtectRequest{Policy: "golden", Vault: backstay.VaultName(g.world.Region.Vault)})
	check0(g.t, err)
}

// define makes the VM, or changes what its owner writes about it.
func (g *golden) define(generation int) {
	g.t.Helper()
	text := fmt.Sprintf(goldenVM, generation, 64+16*generation)
	if generation > 0 { // its disks are on the layers that they are on
		text = g.xml("golden")
		for old, fresh := range map[string]string{
			`<title>point \d</title>`: fmt.Sprintf("<title>point %d</title>", generation), `level="\d"`: fmt.Sprintf(`level="%d"`, generation),
			`level='\d'`: fmt.Sprintf(`level='%d'`, generation), `<shares>\d+</shares>`: fmt.Sprintf("<shares>%d</shares>", 512+generation),
		} {
			text = regexp.MustCompile(old).ReplaceAllString(text, fresh)
		}
	}
	path := filepath.Join(g.world.Dir, "golden.xml")
	check0(g.t, os.WriteFile(path, []byte(text), 0o600))
	g.on("virsh", "-q", "define", path)
}

func (g *golden) xml(name string) string {
	g.t.Helper()
	out, err := g.host.Command(g.ctx, "virsh", "-q", "dumpxml", "--inactive", "--security-info", name).Output()
	check0(g.t, err)
	return string(out)
}

// change lets time pass: the first time everything is written, the second time
// pages and zeros all over, then the definition changes and one disk alone, and at
// last nothing but firmware and TPM.
func (g *golden) change(i int) {
	g.t.Helper()
	for n, d := range g.disks {
		end := len(d.content)
		switch {
		case i == 0:
			g.write(d, 0, g.random(end/3))
			g.write(d, end-512, g.random(512)) // the last sector
		case i == 1:
			for range 12 {
				g.write(d, g.rng.IntN(end/512-64)*512, g.random(512*(1+g.rng.IntN(60))))
			}
			g.write(d, g.rng.IntN(end/1024)*512, make([]byte, 256<<10+512*n))
			g.write(d, end-1024, g.random(1024))
		case i == 2 && n == 1:
			g.write(d, 512, g.random(4096))
		}
	}
	if i == 2 {
		g.define(i)
	}
	g.put(fmt.Sprintf(goldenNVRAM, "golden"), g.random(540672))
	g.put(fmt.Sprintf(goldenTPM, goldenUUID), g.random(6000+i))
}

// write writes to the active layer of a disk of the VM, which is off. Zeros are
// written as such: a guest that discards does so.
func (g *golden) write(d *goldenDisk, at int, data []byte) {
	g.t.Helper()
	data = data[:min(len(data), len(d.content)-at)]
	copy(d.content[at:], data)
	disks, err := g.host.Disks(g.ctx, "golden")
	check0(g.t, err)
	active := disks[slices.IndexFunc(disks, func(f sandbox.DiskFile) bool { return f.Target == d.target })]
	command := fmt.Sprintf("write -q -z %d %d", at, len(data))
	if len(bytes.Trim(data, "\x00")) > 0 {
		from := filepath.Join(g.world.Dir, "bytes")
		check0(g.t, os.WriteFile(from, data, 0o600))
		command = fmt.Sprintf("write -q -s %s %d %d", from, at, len(data))
	}
	g.on("qemu-io", "-f", active.Format, "-c", command, active.Path)
}

func (g *golden) take() goldenPoint {
	g.t.Helper()
	p := goldenPoint{sums: map[string]string{}, xml: g.xml("golden")}
	for _, d := range g.disks {
		sum := sha256.Sum256(d.content)
		p.sums[d.target] = hex.EncodeToString(sum[:])
	}
	p.nvram, p.tpm = g.read(fmt.Sprintf(goldenNVRAM, "golden")), g.read(fmt.Sprintf(goldenTPM, goldenUUID))
	started, err := g.client.StartBackup(g.ctx, api.BackupRequest{VM: "golden", Tier: backstay.VaultTier})
	check0(g.t, err)
	p.id = g.ended(*started.Job).Point
	return p
}

func (g *golden) read(path string) []byte {
	g.t.Helper()
	data, err := os.ReadFile(g.host.Outside(path))
	check0(g.t, err)
	return data
}

func (g *golden) ended(job backstay.Job) backstay.Job {
	g.t.Helper()
	job, err := g.client.Wait(g.ctx, job.ID)
	check0(g.t, err)
	if job.State != backstay.JobSucceeded && job.State != backstay.JobWarning {
		g.t.Fatalf("job %s ended as %s: %v", job.Kind, job.State, job.Error)
	}
	return job
}

// restored restores a point, compares all of it, and takes the VM away again.
func (g *golden) restored(p goldenPoint, tier backstay.Tier, name string) {
	g.t.Helper()
	answer, err := g.client.StartRestore(g.ctx, backstay.RestoreRequest{
		Kind: backstay.CreateVM, Point: p.id, Tier: tier, Name: name, NoStart: true, Networks: map[string]string{"default": "lab"},
	})
	check0(g.t, err)
	g.ended(*answer.Job)
	plan := answer.Plan
	for target, want := range p.sums {
		got, err := g.host.VMSHA256(g.ctx, name, target)
		check0(g.t, err)
		if got != want {
			g.t.Errorf("disk %s has SHA-256 %s, and the point %s", target, got, want)
		}
	}
	if !bytes.Equal(g.read(fmt.Sprintf(goldenNVRAM, name)), p.nvram) {
		g.t.Error("the firmware variables are not the point's")
	}
	if !bytes.Equal(g.read(fmt.Sprintf(goldenTPM, plan.UUID)), p.tpm) {
		g.t.Error("the TPM's state is not the point's")
	}
	g.compare(plan, fields(g.t, p.xml), fields(g.t, g.xml(name)))
	files, err := g.host.Disks(g.ctx, name)
	check0(g.t, err)
	check0(g.t, g.host.Undefine(g.ctx, name))
	for _, f := range files {
		if f.Path != "" {
			g.on("rm", f.Path)
		}
	}
}

// fields takes a definition apart: the text of each element and each attribute, by
// its path. Disks are told by their target, controllers by what they are of, other elements of
// one name by their place.
func fields(t *testing.T, xml string) map[string]string {
	t.Helper()
	doc := etree.NewDocument()
	check0(t, doc.ReadFromString(xml))
	all := map[string]string{}
	var walk func(path string, e *etree.Element)
	walk = func(path string, e *etree.Element) {
		all[path] = strings.TrimSpace(e.Text())
		for _, a := range e.Attr {
			all[path+"/@"+a.FullKey()] = a.Value
		}
		count := map[string]int{}
		for _, c := range e.ChildElements() {
			count[c.FullTag()]++
			key := fmt.Sprint(count[c.FullTag()])
			if target := c.SelectElement("target"); c.Tag == "disk" && target != nil {
				key = target.SelectAttrValue("dev", "")
			} else if c.Tag == "controller" { // libvirt sorts them anew
				key = c.SelectAttrValue("type", "") + " " + c.SelectAttrValue("index", "")
			}
			walk(path+"/"+c.FullTag()+"["+key+"]", c)
		}
	}
	walk("", doc.Root())
	return all
}

// allowed are the fields that docs/restored-vm.md names, each with what it must be.
func allowed(plan backstay.RestorePlan, from map[string]string) map[string]string {
	devices := "/devices[1]/"
	want := map[string]string{
		"/name[1]": plan.Name, "/uuid[1]": string(plan.UUID), "/genid[1]": "?", "/sysinfo[1]/system[1]/entry[2]": string(plan.UUID),
		"/os[1]/nvram[1]": fmt.Sprintf(goldenNVRAM, plan.Name),
		devices + "interface[1]/source[1]/@network": "lab",
		devices + "serial[1]/source[1]/@path":       "/var/log/libvirt/qemu/" + plan.Name + "-console.log",
		devices + "console[1]/source[1]/@path":      "/var/log/libvirt/qemu/" + plan.Name + "-console.log",
		devices + "graphics[1]/@port":               "-1",
		devices + "graphics[1]/@autoport":           "yes",
		devices + "vsock[1]/cid[1]/@auto":           "yes",
		devices + "vsock[1]/cid[1]/@address":        "",
		devices + "channel[2]/source[1]":            "",
		devices + "channel[2]/source[1]/@mode":      "",
		devices + "channel[2]/source[1]/@path":      "",
	}
	for i, nic := range plan.NICs {
		want[fmt.Sprintf("%sinterface[%d]/mac[1]/@address", devices, i+1)] = nic.MAC
	}
	for _, d := range plan.Disks {
		at := fmt.Sprintf("%sdisk[%s]/", devices, d.Target)
		want[at+"source[1]/@file"], want[at+"driver[1]/@type"] = d.Path, d.Format
		for path := range from { // the chain that libvirt noted of the source
			if strings.HasPrefix(path, at+"backingStore") {
				want[path] = ""
			}
		}
	}
	return want
}

// compare sees that a restored definition differs from the point's in the fields
// that may, in the way that is documented, and that its plan said so.
func (g *golden) compare(plan backstay.RestorePlan, from, to map[string]string) {
	g.t.Helper()
	want := allowed(plan, from)
	macs := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(union(from, to))) {
		old, now := from[path], to[path]
		if old == now {
			continue
		}
		expected, known := want[path]
		if !known || expected != "?" && expected != now {
			g.t.Errorf("%s was %q and is %q, want %q", path, old, now, expected)
		}
		if !planned(plan, path, now) {
			g.t.Errorf("%s was %q and is %q, and the plan did not say so: %+v", path, old, now, plan.Differences)
		}
		if strings.HasSuffix(path, "mac[1]/@address") {
			if macs[now] || !strings.HasPrefix(now, "52:54:00:") {
				g.t.Errorf("%s is %s", path, now)
			}
			macs[now] = true
		}
	}
	if len(macs) != 3 || from["/genid[1]"] == to["/genid[1]"] {
		g.t.Errorf("of three interfaces %d have a fresh address, and the generation id is %s", len(macs), to["/genid[1]"])
	}
}

// places are what tells elements of one name apart in a path.
var places = regexp.MustCompile(`\[[^\]]*\]`)

// planned tells whether a plan named this difference: by its field, or by an
// element above it that goes or comes as a whole.
func planned(plan backstay.RestorePlan, path, now string) bool {
	path = "/domain" + places.ReplaceAllString(path, "")
	return slices.ContainsFunc(plan.Differences, func(d backstay.Difference) bool {
		of := places.ReplaceAllString(d.Path, "")
		return of == path && (d.To == now || d.To == "(made anew)" || d.From == "" && strings.Contains(d.To, now)) || strings.HasPrefix(path, of+"/") && (d.To == "" || d.From == "")
	})
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
