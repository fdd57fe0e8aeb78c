package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

const drillJob backstay.JobID = "01JD0000000000000000000001"

// leadsOut is a definition with everything in it by which a guest could reach anything
// but the network of its drill, or say more of the host than a drill may use.
const leadsOut = `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>web01</name><uuid>5d3f6a60-0000-4000-8000-000000000001</uuid>
<memory unit='GiB'>8</memory><currentMemory unit='GiB'>8</currentMemory><maxMemory slots='2' unit='GiB'>16</maxMemory>
<vcpu placement='static' current='4' cpuset='0-3'>8</vcpu><cputune><vcpupin vcpu='0' cpuset='2'/></cputune>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<cpu mode='host-model'><topology sockets='1' cores='8' threads='1'/><numa><cell id='0' cpus='0-7' memory='8' unit='GiB'/></numa></cpu>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/vms/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><virtualport type='openvswitch'/><vlan><tag id='7'/></vlan><model type='virtio'/><filterref filter='clean-traffic'/></interface>
<interface type='user'><mac address='52:54:00:00:00:02'/><backend type='passt'/><model type='virtio'/></interface>
<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth0' mode='bridge'/><link state='down'/></interface>
<interface type='vhostuser'><mac address='52:54:00:00:00:04'/><source type='unix' path='/tmp/vhost' mode='server'/></interface>
<interface type='hostdev'><source><address type='pci' domain='0' bus='4' slot='0' function='0'/></source></interface>
<filesystem type='mount'><source dir='/srv/shared'/><target dir='shared'/></filesystem>
<shmem name='shared'/><vsock model='virtio'><cid auto='yes'/></vsock>
<redirdev bus='usb' type='tcp'><source mode='connect' host='10.1.1.1' service='4000'/></redirdev>
<serial type='tcp'><source mode='connect' host='10.1.1.1' service='4001'/><target port='0'/></serial>
<serial type='unix'><source mode='connect' path='/run/other.sock'/><target port='1'/></serial>
<console type='tcp'><source mode='connect' host='10.1.1.1' service='4001'/><target type='serial' port='0'/></console>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<channel type='unix'><source mode='connect' path='/run/other.sock'/><target type='virtio' name='com.example'/></channel>
<memory model='dimm'><target><size unit='GiB'>1</size></target></memory>
<rng model='virtio'><backend model='egd' type='udp'/></rng>
</devices>
<qemu:commandline><qemu:arg value='-nic'/><qemu:arg value='user'/></qemu:commandline>
</domain>`

func TestAVMOfADrillSeesItsNetworkAndNothingElse(t *testing.T) {
	plan := backstay.RestorePlan{
		Name: "web01-drill-x", UUID: "5d3f6a60-0000-4000-8000-00000000beef", Source: backstay.VMRef{Name: "web01"},
		Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/vms/x.qcow2", Format: "qcow2"}},
		Drill: &backstay.DrillSetting{Drill: drillJob, Network: "backstay-drill-x", MaxCPUs: 2, MaxMemory: 1 << 30},
	}
	for i := 1; i <= 5; i++ {
		plan.NICs = append(plan.NICs, backstay.PlannedNIC{MAC: fmt.Sprintf("52:54:00:00:00:%02d", i), Kind: "network"})
	}
	got, err := newVMDefinition(tier.Definition{InactiveXML: leadsOut}, plan, definitionOptions{FolderExists: func(string) bool { return true }})
	must(t, err)
	for _, gone := range []string{
		"br0", "openvswitch", "vlan", "filterref", "passt", "eth0", "vhost", "hostdev", "down", "type='user'", "filesystem", "shmem", "vsock", "redirdev", "10.1.1.1",
		"other.sock", "qemu:arg", "egd", "maxMemory", "cpuset", "topology", "numa", "dimm",
	} {
		if strings.Contains(got.XML, gone) {
			t.Errorf("%q is still in it", gone)
		}
	}
	if n := strings.Count(got.XML, "<source network='backstay-drill-x'/>"); n != 4 {
		t.Errorf("%d interfaces are in the drill's network: %s", n, got.XML)
	}
	for _, kept := range []string{
		"52:54:00:00:00:03", "org.qemu.guest_agent.0", ">2</vcpu>", "<memory unit='KiB'>1048576</memory>", "<currentMemory unit='KiB'>1048576</currentMemory>",
		"<source path='/var/log/libvirt/qemu/web01-drill-x-console.log'/>",
	} {
		if !strings.Contains(got.XML, kept) {
			t.Errorf("%q is missing in %s", kept, got.XML)
		}
	}
	if !slices.Contains(got.Outputs, "/var/log/libvirt/qemu/web01-drill-x-console.log") {
		t.Errorf("what it will write: %v", got.Outputs)
	}
	plan.Drill.MaxCPUs, plan.Drill.MaxMemory = 16, 1<<40
	got, err = newVMDefinition(tier.Definition{InactiveXML: leadsOut}, plan, definitionOptions{FolderExists: func(string) bool { return true }})
	must(t, err)
	if !strings.Contains(got.XML, ">8</vcpu>") || !strings.Contains(got.XML, "<memory unit='GiB'>8</memory>") || !strings.Contains(got.XML, "topology") {
		t.Error("a cap above what the VM has changed it")
	}
}

// TestAMoverThatWasKilledInADrillTakesItDownUnlessItsJobGoesOn: whatever had been made
// when the process ended, a sweep that knows of no such job leaves nothing of it.
func TestAMoverThatWasKilledInADrillTakesItDownUnlessItsJobGoesOn(t *testing.T) {
	for at := 1; ; at++ {
		w := newLiveWorld(t)
		w.r.Job = drillJob + "-1"
		w.r.Plan.Drill = &backstay.DrillSetting{Drill: drillJob, Network: "backstay-drill-x"}
		ctx, end := context.WithCancel(t.Context())
		n := 0
		w.hv.Hook = func(string) error {
			if n++; n == at {
				end()
			}
			if n >= at {
				return errLifeOver
			}
			return nil
		}
		var failed error
		for _, step := range []func() error{
			func() error {
				_, err := w.host.OpenDrill(ctx, mover.DrillRequest{Job: drillJob, Network: "backstay-drill-x"})
				return err
			},
			func() error { _, err := w.host.Stage(ctx, w.r, nil); return err },
			func() error { _, err := w.host.Define(ctx, w.r); return err },
			func() error { _, err := w.host.Start(ctx, w.r); return err },
		} {
			if failed = step(); failed != nil {
				break
			}
		}
		w.hv.Hook = nil
		if failed == nil {
			end()
			_, err := w.host.Sweep(t.Context(), []backstay.JobID{drillJob})
			must(t, err)
			if _, err := w.hv.Domain(t.Context(), copyVM); err != nil || len(w.hv.Networks()) != 1 {
				t.Errorf("a drill whose job goes on was taken down: %v, %v", err, w.hv.Networks())
			}
		}
		w.reborn()
		_, err := w.host.Sweep(t.Context(), nil)
		must(t, err)
		if _, err := w.hv.Domain(t.Context(), copyVM); !errors.Is(err, hypervisor.ErrNoVM) {
			t.Errorf("killed at change %d: the VM is there: %v", at, err)
		}
		if left, networks := w.left(), w.hv.Networks(); len(left)+len(networks) > 0 {
			t.Errorf("killed at change %d: left %v and networks %v", at, left, networks)
		}
		w.nothingServed()
		if failed == nil {
			if at < 5 {
				t.Errorf("a drill makes only %d changes", at)
			}
			return
		}
	}
}

func TestANetworkThatCannotKeepItsVMsFromTheHostIsMadeWithoutTheHost(t *testing.T) {
	w := newTestWorld(t)
	tries := 0
	w.hv.Hook = func(call string) error {
		if call == "make-network" {
			if tries++; tries == 1 {
				return errors.New("there is no iptables")
			}
		}
		return nil
	}
	n, err := w.host.OpenDrill(t.Context(), mover.DrillRequest{Job: drillJob, Network: "x"})
	must(t, err)
	if n.Subnet != "" || !strings.Contains(n.Note, "no iptables") {
		t.Errorf("%+v", n)
	}
	p, err := w.host.ProbeDrill(t.Context(), mover.DrillProbeRequest{Job: drillJob, VM: sourceVM, Probe: backstay.DrillProbe{Kind: backstay.DrillTCP, Port: 22}})
	if err != nil || p.OK || !strings.Contains(p.Detail, "not in the drill's network") {
		t.Errorf("%+v, %v", p, err)
	}
	must(t, w.host.CloseDrill(t.Context(), drillJob))
	if left := w.hv.Networks(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestTheNetworkOfADrillIsOneInWhichTheHostIsNot(t *testing.T) {
	for wish, code := range map[string]backstay.Code{
		"": "", "10.99.98.1/24": "", "127.0.0.9/24": backstay.CodeConflict, "10.0.0.0/24": backstay.CodeUsage, "fd00::1/64": backstay.CodeUsage, "10.0.0.1": backstay.CodeUsage,
	} {
		got, err := subnet(mover.DrillRequest{Job: drillJob, Subnet: wish})
		if code == "" && (err != nil || got == "" || wish != "" && got != wish) || code != "" && !backstay.IsCode(err, code) {
			t.Errorf("%q: %q, %v", wish, got, err)
		}
	}
}

// TestAGuestThatSaysThatItIsElsewhereIsNotAskedThere: what an agent says of its
// addresses must not lead a probe out of the drill's network.
func TestAGuestThatSaysThatItIsElsewhereIsNotAskedThere(t *testing.T) {
	agent := guestagent.Agent{Guests: sayerGuests{says: `{"return":[{"hardware-address":"52:54:00:00:00:01","ip-addresses":[{"ip-address":"192.168.1.7"}]}]}`}, VM: sourceVM}
	yes, no := func(string) bool { return true }, func(string) bool { return false }
	if a, err := agentAddress(t.Context(), agent, yes, no); err == nil || !strings.Contains(err.Error(), "192.168.1.7, which is not in") {
		t.Errorf("%q, %v", a, err)
	}
	if a, err := agentAddress(t.Context(), agent, yes, yes); a != "192.168.1.7" {
		t.Errorf("%q, %v", a, err)
	}
	if a, err := agentAddress(t.Context(), agent, no, yes); err == nil {
		t.Errorf("another interface's address %q was taken", a)
	}
}

// sayerGuests is an agent that answers everything with the same.
type sayerGuests struct {
	hypervisor.Guests
	says string
}

func (s sayerGuests) AgentCommand(context.Context, backstay.VMID, string, time.Duration) (string, error) {
	return s.says, nil
}

func TestAWebServerIsAskedAndFollowedNowhere(t *testing.T) {
	followed := false
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "It works") })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/real", http.StatusFound) })
	mux.HandleFunc("/real", func(http.ResponseWriter, *http.Request) { followed = true })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	for text, want := range map[string]string{"/ok": "", "/ok=works": "", "/ok=failed": "without", "/bad": "502", "/away": "", "/none": "404"} {
		p, err := backstay.ParseDrillProbe("http:" + port + text)
		must(t, err)
		_, err = answers(t.Context(), "127.0.0.1", p)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if followed {
		t.Error("a redirect was followed")
	}
	if _, err := accepts(t.Context(), "127.0.0.1", backstay.DrillProbe{Kind: backstay.DrillTCP, Port: n}); err != nil {
		t.Error(err)
	}
	must(t, s.Close())
	if _, err := accepts(t.Context(), "127.0.0.1", backstay.DrillProbe{Kind: backstay.DrillTCP, Port: n}); err == nil {
		t.Error("a closed port accepted")
	}
}

func TestAPictureIsOfTheDisplayOrOfTheConsole(t *testing.T) {
	w := newTestWorld(t)
	w.hv.SetScreen(sourceVM, append([]byte("P6\n2 1\n255\n"), 1, 2, 3, 4, 5, 6))
	p, err := w.host.Picture(t.Context(), sourceVM)
	if err != nil || p.Of != "display" || !strings.HasPrefix(string(p.PNG), "\x89PNG") {
		t.Errorf("%+v, %v", p, err)
	}
	w.hv.SetScreen(sourceVM, nil)
	if p, err := w.host.Picture(t.Context(), sourceVM); !backstay.IsCode(err, backstay.CodeNotUp) {
		t.Errorf("%+v, %v", p, err)
	}
	console := w.path("console.log")
	must(t, os.WriteFile(console, []byte("\x1b[1mlogin:\x1b[0m "), 0o600))
	if text, err := consoleText(console); err != nil || text != "login: " {
		t.Errorf("%q, %v", text, err)
	}
	must(t, os.Symlink(console, w.path("link")))
	if _, err := consoleText(w.path("link")); err == nil {
		t.Error("a link was followed")
	}
}
