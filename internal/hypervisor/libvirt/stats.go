package libvirt

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// IOStats asks for the block statistics of all disks at once. libvirt does not
// wait for a VM that another call is changing; it leaves them out then.
func (h *Host) IOStats(ctx context.Context, id backstay.VMID) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
	stats, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
		d, err := lookup(l, id)
		if err != nil {
			return nil, err
		}
		records, err := l.ConnectGetAllDomainStats([]libvirt.Domain{d}, uint32(libvirt.DomainStatsBlock), uint32(libvirt.ConnectGetAllDomainsStatsNowait))
		if err != nil || len(records) == 0 {
			return nil, err
		}
		return blockStats(records[0].Params), nil
	})
	if err != nil {
		return nil, fmt.Errorf("read I/O statistics of VM %s: %w", id, err)
	}
	return stats, nil
}

// blockStats reads libvirt's list of block.N.WHAT. A disk of which it tells no
// request has none: it is shut off, or could not be asked.
func blockStats(params []libvirt.TypedParam) map[backstay.DiskTarget]hypervisor.IOStats {
	values := make(map[string]any, len(params))
	for _, p := range params {
		values[p.Field] = p.Value.I
	}
	stats := map[backstay.DiskTarget]hypervisor.IOStats{}
	for n := range number(values["block.count"]) {
		prefix := "block." + strconv.FormatInt(n, 10) + "."
		target, _ := values[prefix+"name"].(string)
		if _, told := values[prefix+"rd.reqs"]; target == "" || !told {
			continue
		}
		count := func(kind string) hypervisor.IOCount {
			return hypervisor.IOCount{
				Requests: number(values[prefix+kind+".reqs"]), Total: time.Duration(number(values[prefix+kind+".times"])),
			}
		}
		stats[backstay.DiskTarget(target)] = hypervisor.IOStats{Reads: count("rd"), Writes: count("wr"), Flushes: count("fl")}
	}
	return stats
}

// number is a parameter of any of libvirt's types of numbers; 0 if it is none.
func number(v any) int64 {
	switch n := v.(type) {
	case int32:
		return int64(n)
	case uint32:
		return int64(n)
	case int64:
		return n
	case uint64:
		return int64(min(n, math.MaxInt64))
	}
	return 0
}
