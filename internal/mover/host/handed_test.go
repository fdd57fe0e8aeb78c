package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// TestAKeyFileThatIsHandedToTheGuestComesBack (row B4a): with its mode, where it is
// missing; one that is there is never written over. The journal's undo takes away
// what was made and nothing else.
func TestAKeyFileThatIsHandedToTheGuestComesBack(t *testing.T) {
	for _, there := range []string{"", "the guest's key, marker 4712", "another"} {
		w := newTestWorld(t)
		key := w.path("keys-of-guests/web01.key")
		must(t, os.MkdirAll(filepath.Dir(key), 0o700))
		must(t, os.WriteFile(key, []byte("the guest's key, marker 4712"), 0o640))
		w.domain = func(d *hypervisor.Domain) {
			info := "<sysinfo type='fwcfg'><entry name='opt/luks-key' file='" + key + "'/></sysinfo><devices>"
			d.LiveXML, d.InactiveXML = strings.Replace(d.LiveXML, "<devices>", info, 1), strings.Replace(d.InactiveXML, "<devices>", info, 1)
		}
		r := w.backup(backstay.VaultTier)
		must(t, os.Remove(key))
		if there != "" {
			must(t, os.WriteFile(key, []byte(there), 0o600))
		}
		_, err := w.host.Stage(t.Context(), r, nil)
		must(t, err)
		defined, err := w.host.Define(t.Context(), r)
		must(t, err)
		data, err := os.ReadFile(key)
		must(t, err)
		info, err := os.Stat(key)
		must(t, err)
		warned := strings.Contains(strings.Join(defined.Warnings, ";"), key)
		switch {
		case there == "another" && (string(data) != there || !warned):
			t.Errorf("a file that was there: %q, warned %v", data, warned)
		case there != "another" && (string(data) != "the guest's key, marker 4712" || warned):
			t.Errorf("the key file is %q, warned %v", data, warned)
		case there == "" && info.Mode().Perm() != 0o640:
			t.Errorf("it has mode %v", info.Mode())
		}
		must(t, w.host.Abandon(t.Context(), r))
		if exists(key) != (there != "") {
			t.Errorf("after the undo of a restore that found %q it is there: %v", there, exists(key))
		}
	}
}
