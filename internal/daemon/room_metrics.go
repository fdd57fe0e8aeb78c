package daemon

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	roomFree   = prometheus.NewDesc("backstay_room_free_bytes", "What is left on a file system with layers.", []string{"host", "folder"}, nil)
	roomFloor  = prometheus.NewDesc("backstay_room_floor_bytes", "What must stay free there, or points leave the snapshot tier before their time.", []string{"host", "folder"}, nil)
	roomStuck  = prometheus.NewDesc("backstay_room_stuck", "1 if the floor is not held and no point can go.", []string{"host", "folder"}, nil)
	chainDepth = prometheus.NewDesc("backstay_chain_points", "Points in the deepest chain of a VM's disks.", []string{"host", "vm"}, nil)
	layerBytes = prometheus.NewDesc("backstay_layer_bytes", "What the overlays of a VM's disks take.", []string{"host", "vm"}, nil)
)

// Describe implements prometheus.Collector.
func (w *rooms) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{roomFree, roomFloor, roomStuck, chainDepth, layerBytes} {
		to <- d
	}
}

// Collect implements prometheus.Collector: it tells what was last seen.
func (w *rooms) Collect(to chan<- prometheus.Metric) {
	for host := range w.hosts.movers {
		depths, bytes := map[string]int{}, map[string]int64{}
		for _, room := range w.Rooms(host) {
			stuck := 0.0
			if room.Warning != "" {
				stuck = 1
			}
			gauge(to, roomFree, float64(room.Free), string(host), room.Folder)
			gauge(to, roomFloor, float64(room.Floor), string(host), room.Folder)
			gauge(to, roomStuck, stuck, string(host), room.Folder)
			for _, vm := range room.VMs {
				// A VM may have layers in several places, and Prometheus wants each
				// label once.
				depths[vm.VM.Name] = max(depths[vm.VM.Name], vm.Depth)
				bytes[vm.VM.Name] += vm.Active + vm.Frozen
			}
		}
		for name, depth := range depths {
			gauge(to, chainDepth, float64(depth), string(host), name)
			gauge(to, layerBytes, float64(bytes[name]), string(host), name)
		}
	}
}
