package host

import (
	"fmt"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/volumes"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

// TestKeysThatAPointHoldsAreKnown: what the host hands to the guest through its
// firmware, and the secrets of its disks; no more of them than are worth a try.
func TestKeysThatAPointHoldsAreKnown(t *testing.T) {
	w := newTestWorld(t)
	s := newFileSession(w.host, w.opening(backstay.SnapshotTier))
	defer s.timer.Stop()
	s.keys(t.Context(), tier.Definition{
		Files: map[string]tier.HostFile{"/etc/keys/web01": {Content: []byte("from a file\n")}},
		InactiveXML: `<domain><sysinfo type='fwcfg'><entry name='opt/key'>from fw_cfg</entry><entry name='opt/other' file='/etc/keys/web01'/></sysinfo>
			<sysinfo type='smbios'><system><entry name='serial'>no key</entry></system><oemStrings>
			<entry>io.systemd.credential:cryptsetup.passphrase=from a credential</entry>
			<entry>io.systemd.credential.binary:cryptsetup.passphrase=ZnJvbSBiYXNlNjQ=</entry>
			<entry>anything else</entry></oemStrings></sysinfo></domain>`,
		Secrets: []tier.Secret{
			{UUID: "a", Scheme: backstay.SecretInPoint, Value: []byte("from a disk")},
			{UUID: "b", Scheme: backstay.SecretAbsent},
		},
	})
	var got []string
	for _, key := range s.own {
		got = append(got, string(key.Reveal()))
	}
	want := "from a file\n|from a file|from fw_cfg|from a credential|from base64|from a disk"
	if strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
	if said := fmt.Sprintf("%v %+v", s.own, s.own) + w.logs.String(); strings.Contains(said, "from a") {
		t.Errorf("a key is printed: %s", said)
	}

	many := map[string]tier.HostFile{}
	for i := range 50 {
		many[fmt.Sprint(i)] = tier.HostFile{Content: []byte(fmt.Sprint("key ", i))}
	}
	s.keys(t.Context(), tier.Definition{Files: many})
	if len(s.own) > volumes.MostKeys {
		t.Errorf("%d keys would be tried", len(s.own))
	}
}

// TestAKeyOfTheUsersIsGivenToTheMachine where this process opens nothing, and a volume
// is told apart that takes no such key.
func TestAKeyOfTheUsersIsGivenToTheMachine(t *testing.T) {
	w := newTestWorld(t)
	machine := w.withMachines()
	w.backup(backstay.VaultTier)
	w.open(backstay.VaultTier)
	m := machine()
	m.mu.Lock()
	m.locked, m.takes = []wire.Lock{{Volume: "vda", Disk: "vda"}}, []backstay.VolumeKey{backstay.KeyRecovery, backstay.KeyPassphrase}
	m.mu.Unlock()
	s, err := w.host.files.find(sessionID)
	must(t, err)
	must(t, s.scan(t.Context(), func(mover.Report) {}))
	unlock := mover.UnlockRequest{Session: sessionID, Volume: "vda", Kind: backstay.KeyFile, Key: backstay.NewSecret([]byte("123456"))}
	if _, err := w.host.UnlockVolume(t.Context(), unlock); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("a key of a kind that the volume does not take: %v", err)
	}
	unlock.Volume = "vdq"
	if _, err := w.host.UnlockVolume(t.Context(), unlock); !backstay.IsCode(err, backstay.CodeUnknownVolume) {
		t.Errorf("a volume that is not there: %v", err)
	}
	unlock.Volume, unlock.Kind = "vda", backstay.KeyRecovery
	now, err := w.host.UnlockVolume(t.Context(), unlock)
	must(t, err)
	if len(m.keys) != 1 || string(m.keys[0].RecoveryKey) != "123456" || m.keys[0].Passphrase != nil {
		t.Errorf("the machine was given %d keys", len(m.keys))
	}
	for _, v := range now {
		if v.Kind != backstay.VolumeFiles {
			t.Errorf("%s is %s", v.ID, v.Kind)
		}
	}
}
