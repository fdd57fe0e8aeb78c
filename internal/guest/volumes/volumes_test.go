package volumes

import (
	"context"
	"log/slog"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/tier"
)

// askedMachine has one locked volume, which every key opens.
type askedMachine struct {
	lock wire.Lock
	keys []wire.UnlockRequest
}

func (m *askedMachine) Scan(context.Context) (wire.Scanned, error) {
	v := backstay.Volume{ID: "vda1", Kind: backstay.VolumeLocked, Keys: []backstay.VolumeKey{backstay.KeyPassphrase}}
	if len(m.keys) > 0 {
		v.Kind = backstay.VolumeFiles
	}
	return wire.Scanned{Volumes: []backstay.Volume{v}, Locks: []wire.Lock{m.lock}}, nil
}

func (m *askedMachine) Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
	m.keys = append(m.keys, q)
	return m.Scan(ctx)
}

func scan(t *testing.T, m *askedMachine) *Set {
	t.Helper()
	s, err := Scan(t.Context(), Options{
		Point: "01P", Machine: m, Log: slog.New(slog.DiscardHandler),
		Disk: func(target backstay.DiskTarget) tier.Image {
			if target != "vda" {
				return nil
			}
			return &notedImage{size: 1 << 20}
		},
		Turn: func(context.Context) (func(), error) { return func() {}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhatAMachineSaysOfAPlaceIsNotBelieved: nothing is read that is not of the disk.
func TestWhatAMachineSaysOfAPlaceIsNotBelieved(t *testing.T) {
	key := backstay.NewSecret([]byte("secret"))
	for _, lie := range []wire.Lock{
		{Volume: "vda1", Disk: "vdq", Length: 1}, {Volume: "vda1", Disk: "vda", Offset: 1 << 20, Length: 4096},
		{Volume: "vda1", Disk: "vda", Offset: -1, Length: 4096}, {Volume: "vda1", Disk: "vda", Offset: 4096, Length: 1 << 62},
	} {
		m := &askedMachine{lock: lie}
		err := scan(t, m).Unlock(t.Context(), "vda1", backstay.KeyPassphrase, key)
		if !backstay.IsCode(err, backstay.CodeVolumeUnread) || len(m.keys) > 0 {
			t.Errorf("believed: %+v (%v)", lie, err)
		}
	}
}

// What a machine cannot show a header of is BitLocker, or a lie: the host's secrets of
// the VM, which its guest never had, do not go into it.
func TestThePointsKeysDoNotGoIntoAMachineThatShowsNoHeader(t *testing.T) {
	m := &askedMachine{lock: wire.Lock{Volume: "vda1", Disk: "vda"}}
	s := scan(t, m)
	own := Keys(tier.Definition{Files: map[string]tier.HostFile{"/key": {Content: []byte("of the host")}}}, nil)
	if err := s.OpenOwn(t.Context(), own, func() {}); err != nil || len(m.keys) > 0 {
		t.Errorf("it got %d keys (%v)", len(m.keys), err)
	}
}
