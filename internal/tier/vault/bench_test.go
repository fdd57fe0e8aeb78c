package vault_test

import (
	"runtime"
	"testing"

	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// BenchmarkFirstCopy carries a disk of text into a vault with one copy.
func BenchmarkFirstCopy(b *testing.B) {
	data := make([]byte, 64<<20)
	x := uint32(1)
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = "etaoin shrdlucmfwypvbgkjqxz.,0123456789"[x>>27]
	}
	b.SetBytes(int64(len(data)))
	for range b.N {
		w := newWorld(b)
		one := mem.New()
		for _, name := range w.objects("") {
			one.Replace(name, w.get(0, name))
		}
		v := w.open(replica.New(one))
		if _, err := backup(b.Context(), v, vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: data}}); err != nil {
			b.Fatal(err)
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys>>20), "MiB-sys")
}
