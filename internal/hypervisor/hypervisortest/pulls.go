package hypervisortest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// served is an export of a pull.
type served struct{ socket, name string }

func (s served) Socket() string { return s.socket }
func (s served) Name() string   { return s.name }
func (s served) Close() error   { return nil }

// begin begins a pull of both disks with fresh scratch images, vda since a checkpoint.
func (w *world) begin(t *testing.T, checkpoint, since string) (socket string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pull") // short: a socket's path is limited
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := hypervisor.PullRequest{Socket: filepath.Join(dir, "s"), Checkpoint: checkpoint}
	for i, d := range w.disks {
		p := hypervisor.PullDisk{Target: d.Target, Scratch: filepath.Join(dir, string(d.Target)+".scratch")}
		if i == 0 {
			p.Since, p.Mark = since, checkpoint != ""
		}
		must(t, w.Images.Create(testContext(t), p.Scratch, "qcow2", 4*mib))
		r.Disks = append(r.Disks, p)
	}
	return r.Socket, w.Host.BeginPull(testContext(t), w.id, r)
}

func (w *world) wantCheckpoints(t *testing.T, want ...string) {
	t.Helper()
	all, err := w.Host.Checkpoints(testContext(t), w.id)
	must(t, err)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
		if !slices.Equal(c.Disks, []backstay.DiskTarget{"vda"}) {
			t.Errorf("checkpoint %s names %v, not vda alone", c.Name, c.Disks)
		}
	}
	if !slices.Equal(names, want) || !slices.Equal(w.domain(t).VM.Checkpoints, want) {
		t.Errorf("checkpoints %q, of the VM %q, want %q", names, w.domain(t).VM.Checkpoints, want)
	}
}

func (s HostSuite) pullServes(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	socket, err := w.begin(t, "backstay-one", "")
	must(t, err)
	for i, d := range w.disks {
		dev, err := s.Connect(testContext(t), served{socket, string(d.Target)})
		must(t, err)
		expectDevice(t, dev, 0, pattern(byte(i+1), 2*mib))
		must(t, dev.Close())
	}
	must(t, s.Host.EndPull(testContext(t), w.id, socket))
	must(t, s.Host.EndPull(testContext(t), w.id, socket))
	if _, runs, err := s.Host.Pulling(testContext(t), w.id); err != nil || runs {
		t.Errorf("a job that was ended runs: %v, %v", runs, err)
	}
	w.wantCheckpoints(t, "backstay-one")
	socket, err = w.begin(t, "backstay-two", "backstay-one")
	must(t, err)
	must(t, s.Host.EndPull(testContext(t), w.id, socket))
	w.wantCheckpoints(t, "backstay-one", "backstay-two")
	must(t, s.Host.DropCheckpoint(testContext(t), w.id, "backstay-one", false))
	must(t, s.Host.DropCheckpoint(testContext(t), w.id, "backstay-one", false))
	w.wantCheckpoints(t, "backstay-two")
}

func (s HostSuite) pullForeign(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	socket, err := w.begin(t, "", "")
	must(t, err)
	wantError(t, s.Host.EndPull(testContext(t), w.id, socket+"2"), hypervisor.ErrBusy)
	_, err = w.begin(t, "", "")
	wantError(t, err, hypervisor.ErrBusy)
	job, runs, err := s.Host.Pulling(testContext(t), w.id)
	if err != nil || !runs || job.Socket != socket || job.What == "" {
		t.Errorf("the job is %+v, %v, %v", job, runs, err)
	}
	w.stop(t)
	must(t, s.Host.EndPull(testContext(t), w.id, socket))
}

func (s HostSuite) pullRefused(t *testing.T) {
	w := s.vm(t)
	_, err := w.begin(t, "backstay-one", "")
	wantError(t, err, hypervisor.ErrNotRunning)
	w.start(t)
	_, err = w.begin(t, "backstay-two", "backstay-none")
	wantError(t, err, hypervisor.ErrCheckpoint)
	if _, runs, err := s.Host.Pulling(testContext(t), w.id); err != nil || runs {
		t.Errorf("a job that was refused runs: %v, %v", runs, err)
	}
}

func (s HostSuite) pullSources(t *testing.T) {
	for _, source := range s.Sources {
		t.Run(source.Name, func(t *testing.T) {
			w := s.source(t, source)
			w.start(t)
			dir, err := os.MkdirTemp("", "pull") // short: a socket's path is limited
			must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			p := hypervisor.PullDisk{Target: "vda", Scratch: filepath.Join(dir, "scratch"), Secret: w.image.Secret}
			must(t, s.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: p.Scratch, Backing: w.image}))
			info, err := s.Images.Info(testContext(t), p.Scratch)
			if err != nil || info.Encrypted != (w.image.Secret != "") {
				t.Errorf("the scratch image is %+v, %v", info, err)
			}
			socket := filepath.Join(dir, "s")
			must(t, s.Host.BeginPull(testContext(t), w.id, hypervisor.PullRequest{Socket: socket, Disks: []hypervisor.PullDisk{p}}))
			dev, err := s.Connect(testContext(t), served{socket, "vda"})
			must(t, err)
			expectDevice(t, dev, 0, w.want)
			must(t, dev.Close())
			must(t, s.Host.EndPull(testContext(t), w.id, socket))
		})
	}
}
