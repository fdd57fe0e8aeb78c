package hypervisor_test

import (
	"testing"

	"github.com/backstay/backstay/internal/hypervisor"
)

// One image has one name, whoever wrote it: else a merge would find a layer on
// another base than recorded.
func TestTheSameImageHasOneLocation(t *testing.T) {
	for want, names := range map[string][]string{
		"/a/b": {"/a/b", "/a//b", "/a/x/../b"},
		"nbd://10.0.0.1:10809/disk": {
			"nbd://10.0.0.1/disk", "nbd://10.0.0.1:10809/disk", "nbd+tcp://10.0.0.1:10809/disk",
			`json:{"driver":"nbd","export":"disk","server":{"type":"inet","host":"10.0.0.1","port":"10809"}}`,
			`json:{"driver":"raw","file":{"driver":"nbd","export":"disk","server":{"type":"inet","host":"10.0.0.1","port":"10809"}}}`,
		},
		"nbd://[::1]:7/": {"nbd://[::1]:7/", "nbd://[::1]:7"},
		"nbd+unix:///a%20b?socket=/run/s": {
			"nbd+unix:///a%20b?socket=%2Frun%2Fs",
			`json:{"file":{"driver":"nbd","export":"a b","server":{"type":"unix","path":"/run/s"}}}`,
			`json:{"server.type":"unix","driver":"nbd","export":"a b","server":{"type":"unix","path":"/run/s"}}`,
		},
		"rbd:pool/image": {"rbd:pool/image"},
		"json:{}":        {"json:{}"},
	} {
		for _, name := range names {
			if got := hypervisor.Location(name); got != want {
				t.Errorf("%s became %s, not %s", name, got, want)
			}
		}
	}
}
