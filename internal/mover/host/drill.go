package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

// drillJournal is what a drill made on the host beside its VMs, written before it
// is made. The VMs are in the journals of their restores, which name the drill.
type drillJournal struct {
	Job     backstay.JobID     `json:"job"`
	Network hypervisor.Network `json:"network"`
	Note    string             `json:"note,omitempty"`

	path string
}

func (h *Host) drillPath(job backstay.JobID) (string, error) {
	if job == "" || strings.ContainsAny(string(job), "/\x00") || strings.HasPrefix(string(job), ".") {
		return "", backstay.Errorf(backstay.CodeInternal, "%q cannot be the id of a job", string(job))
	}
	return filepath.Join(h.state, "drills", string(job)+".json"), nil
}

// loadDrill reads a drill's journal; nil if it has none.
func (h *Host) loadDrill(job backstay.JobID) (*drillJournal, error) {
	path, err := h.drillPath(job)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	j := &drillJournal{path: path}
	if err == nil {
		err = json.Unmarshal(data, j)
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of drill %s: %w", job, err)
	}
	return j, nil
}

func (j *drillJournal) write() error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the journal of a drill: %w", err)
	}
	folder := filepath.Dir(j.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the folder of drills: %w", err)
	}
	if err := durable.WriteFile(j.path, append(data, '\n')); err != nil {
		return fmt.Errorf("write the journal of a drill: %w", err)
	}
	return durable.Sync(filepath.Dir(folder))
}

// OpenDrill journals the network and makes it.
func (h *Host) OpenDrill(ctx context.Context, r mover.DrillRequest) (mover.DrillNetwork, error) {
	unlock, err := h.vms.lock(ctx, "drills")
	if err != nil {
		return mover.DrillNetwork{}, err
	}
	defer unlock()
	j, err := h.loadDrill(r.Job)
	if err == nil && j == nil {
		j, err = h.newDrill(r)
	}
	if err == nil {
		err = h.makeNetwork(ctx, j)
	}
	if err != nil {
		return mover.DrillNetwork{}, h.hostError(err, "the isolated network of a drill could not be made")
	}
	return mover.DrillNetwork{Name: j.Network.Name, Subnet: j.Network.Address, Note: j.Note}, nil
}

// newDrill decides what the network is.
func (h *Host) newDrill(r mover.DrillRequest) (*drillJournal, error) {
	path, err := h.drillPath(r.Job)
	if err != nil {
		return nil, err
	}
	address, err := subnet(r)
	if err != nil {
		return nil, err
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(r.Job))
	return &drillJournal{
		Job: r.Job, path: path,
		Network: hypervisor.Network{Name: r.Network, Bridge: fmt.Sprintf("bsd%010x", hash.Sum64()&(1<<40-1)), Address: address},
	}, nil
}

// makeNetwork makes it as the journal says. Where the host cannot be kept safe from
// what is in it, or has nobody who gives out addresses, the host stays out of it.
func (h *Host) makeNetwork(ctx context.Context, j *drillJournal) error {
	if err := j.write(); err != nil {
		return err
	}
	err := h.hv.MakeNetwork(ctx, j.Network)
	if err == nil || j.Network.Address == "" || errors.Is(err, hypervisor.ErrAway) || ctx.Err() != nil {
		return err
	}
	h.log.Warn("the network of a drill is made without the host", "job", j.Job, "error", err)
	if err := h.hv.RemoveNetwork(ctx, j.Network); err != nil {
		return err
	}
	j.Network.Address, j.Note = "", "the host is not in the network, so that ports cannot be tried from it: "+err.Error()
	if err := j.write(); err != nil {
		return err
	}
	return h.hv.MakeNetwork(ctx, j.Network)
}

// subnet is the wished one, or one that nothing on this host is in.
func subnet(r mover.DrillRequest) (string, error) {
	var own []netip.Prefix
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Masked())
		}
	}
	free := func(p netip.Prefix) bool { return !slices.ContainsFunc(own, p.Overlaps) }
	if r.Subnet != "" {
		p, err := netip.ParsePrefix(r.Subnet)
		if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 || p.Addr() == p.Masked().Addr() {
			return "", backstay.Errorf(backstay.CodeUsage, "%q cannot be the network of a drill", r.Subnet).
				Becausef("it must be an IPv4 address of the host in a network of /8 to /29").Do("say --subnet 10.0.0.1/24")
		}
		if !free(p.Masked()) {
			return "", backstay.Errorf(backstay.CodeConflict, "the network of the drill cannot be %s", r.Subnet).
				Becausef("the host is in it already, and would not know which of the two is meant").Do("choose another --subnet, or run the drill on another host")
		}
		return p.String(), nil
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(r.Job))
	for i := range uint32(256) {
		n := hash.Sum32() + i*7919
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200 + byte(n>>8)%50, byte(n), 1}), 24)
		if free(p.Masked()) {
			return p.String(), nil
		}
	}
	return "", backstay.Errorf(backstay.CodeConflict, "no network is free for a drill").Becausef("the host is in all that were tried").Do("choose one with --subnet")
}

// CloseDrill removes the network, then the journal.
func (h *Host) CloseDrill(ctx context.Context, job backstay.JobID) error {
	unlock, err := h.vms.lock(ctx, "drills")
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadDrill(job)
	if err != nil || j == nil {
		return err
	}
	if err := h.hv.RemoveNetwork(ctx, j.Network); err != nil {
		return h.hostError(err, "the isolated network of a drill could not be removed")
	}
	return durable.Remove(j.path)
}

// sweepDrills removes the networks of drills whose jobs do not go on. Their VMs went
// before, by the sweep of restores.
func (h *Host) sweepDrills(ctx context.Context, live []backstay.JobID) (removed []string, err error) {
	paths, err := filepath.Glob(filepath.Join(h.state, "drills", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list the journals of drills: %w", err)
	}
	var failed []error
	for _, path := range paths {
		job := backstay.JobID(strings.TrimSuffix(filepath.Base(path), ".json"))
		if slices.Contains(live, job) {
			continue
		}
		if err := h.CloseDrill(ctx, job); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, "network of drill "+string(job))
	}
	return removed, errors.Join(failed...)
}
