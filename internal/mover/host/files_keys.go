package host

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/luks"
)

const (
	// mostOwnKeys is how many keys of the point are tried by themselves. Each costs
	// a derivation, which is made to be dear.
	mostOwnKeys = 8
	// longestOwnKey is how long a file may be that is taken for a key, in bytes.
	longestOwnKey = 64 << 10
	// mostOwnVolumes is how many volumes the point's own keys are tried on: one that is
	// opened may show another, without end if the machine lies.
	mostOwnVolumes = 64
)

// errNoHeader: there is nothing that this process could open.
var errNoHeader = errors.New("it is opened in the small machine alone")

// UnlockVolume opens a locked volume with a key that a user gave.
func (h *Host) UnlockVolume(ctx context.Context, r mover.UnlockRequest) (volumes []backstay.Volume, err error) {
	s, err := h.files.find(r.Session)
	if err != nil {
		return nil, err
	}
	err = s.inMachine(ctx, func(ctx context.Context, _ Machine) error {
		volume, err := s.volume(r.Volume)
		if err != nil {
			return err
		}
		if volume.Kind != backstay.VolumeLocked {
			volumes = s.facts().Volumes
			return nil // somebody else opened it
		}
		if len(volume.Keys) > 0 && !slices.Contains(volume.Keys, r.Kind) {
			return backstay.Errorf(backstay.CodeUsage, "volume %s cannot be opened with a %s", r.Volume, r.Kind).Becausef("it takes %s", joined(volume.Keys))
		}
		volumes, err = s.unlock(ctx, volume, r.Kind, r.Key)
		if errors.Is(err, luks.ErrWrongKey) {
			return backstay.Errorf(backstay.CodeVolumeKey, "the %s does not open volume %s", r.Kind, r.Volume).
				Becausef("it fits none of the volume's key slots")
		}
		return err
	})
	return volumes, err
}

func joined[T ~string](all []T) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, string(one))
	}
	return strings.Join(texts, ", ")
}

// volume finds a volume that the last scan saw.
func (s *fileSession) volume(id backstay.VolumeID) (backstay.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.opened.Volumes {
		if v.ID == id {
			return v, nil
		}
	}
	return backstay.Volume{}, backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %s in point %s", id, s.request.Point)
}

func (s *fileSession) lock(id backstay.VolumeID) (wire.Lock, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.locks {
		if l.Volume == id {
			return l, true
		}
	}
	return wire.Lock{}, false
}

// unlock opens a volume: outside, where that can be done, and else in the machine. One
// volume is opened at a time on the host, since a key may cost a GiB of memory.
func (s *fileSession) unlock(ctx context.Context, v backstay.Volume, kind backstay.VolumeKey, key backstay.Secret) ([]backstay.Volume, error) {
	free, err := s.vms.lock(ctx, "volume keys")
	if err != nil {
		return nil, err
	}
	defer free()
	lock, ok := s.lock(v.ID)
	if !ok || kind == backstay.KeyRecovery {
		return s.unlockInside(ctx, v.ID, kind, key)
	}
	header, err := s.header(ctx, lock, v)
	if errors.Is(err, errNoHeader) {
		return s.unlockInside(ctx, v.ID, kind, key)
	}
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeVolumeUnread, "volume %s cannot be opened", v.ID).Because(err)
	}
	volumeKey, err := header.Unlock(ctx, key)
	if err != nil {
		return nil, err
	}
	if lock.Length > 0 {
		volumes, err := s.plugOpened(ctx, lock, header, volumeKey)
		if !errors.Is(err, luks.ErrElsewhere) {
			return volumes, err
		}
	}
	scanned, err := s.machine.Unlock(ctx, wire.UnlockRequest{Volume: v.ID, VolumeKey: volumeKey.Reveal()})
	if err != nil {
		return nil, err
	}
	return s.found(scanned), nil
}

// header reads the header of a locked volume.
func (s *fileSession) header(ctx context.Context, lock wire.Lock, v backstay.Volume) (*luks.Volume, error) {
	var header *luks.Volume
	var err error
	switch disk := s.disks[lock.Disk]; {
	case lock.Length > 0 && (disk == nil || lock.Offset < 0 || lock.Offset > disk.Size() || lock.Length > disk.Size()-lock.Offset):
		return nil, fmt.Errorf("the small machine says that it lies at %d of disk %s, which has no such place", lock.Offset, lock.Disk)
	case lock.Length > 0:
		header, err = luks.Read(ctx, disk, lock.Offset, lock.Length)
	case len(lock.Header) > 0:
		header, err = luks.Parse(ctx, lock.Header, v.Size)
	default:
		return nil, errNoHeader
	}
	if errors.Is(err, luks.ErrNotLUKS) {
		return nil, errNoHeader
	}
	return header, err
}

// plugOpened decrypts a volume here and plugs it in as one more disk.
func (s *fileSession) plugOpened(ctx context.Context, lock wire.Lock, header *luks.Volume, volumeKey backstay.Secret) ([]backstay.Volume, error) {
	image, err := header.Open(s.disks[lock.Disk], lock.Offset, volumeKey)
	if err != nil {
		return nil, err
	}
	if err := s.plug(ctx, image, guest.Disk{Target: lock.Disk, Opens: lock.Volume}); err != nil {
		return nil, err
	}
	scanned, err := s.machine.Scan(ctx)
	if err != nil {
		return nil, err
	}
	return s.found(scanned), nil
}

// unlockInside opens a volume in the machine, with what the user gave.
func (s *fileSession) unlockInside(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key backstay.Secret) ([]backstay.Volume, error) {
	q := wire.UnlockRequest{Volume: id}
	switch kind {
	case backstay.KeyPassphrase:
		q.Passphrase = key.Reveal()
	case backstay.KeyFile:
		q.KeyFile = key.Reveal()
	case backstay.KeyRecovery:
		q.RecoveryKey = key.Reveal()
	default:
		return nil, backstay.Errorf(backstay.CodeUsage, "there is no key of kind %q", kind)
	}
	scanned, err := s.machine.Unlock(ctx, q)
	if err != nil {
		return nil, err
	}
	return s.found(scanned), nil
}

// openOwn opens what the point's own keys open. What they do not open stays locked;
// a volume that is opened may hold others.
func (s *fileSession) openOwn(ctx context.Context, progress mover.Progress) error {
	tried := map[backstay.VolumeID]bool{}
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.opened.Volumes, func(v backstay.Volume) bool { return v.Kind == backstay.VolumeLocked && !tried[v.ID] })
		if i < 0 || len(s.own) == 0 || len(tried) >= mostOwnVolumes {
			s.mu.Unlock()
			return nil
		}
		v := s.opened.Volumes[i]
		s.mu.Unlock()
		tried[v.ID] = true
		lock, ok := s.lock(v.ID)
		if !ok {
			continue
		}
		if _, err := s.header(ctx, lock, v); errors.Is(err, errNoHeader) {
			// What this process cannot open would need the key in the machine. The host's own
			// secrets, which the guest never had, do not go there.
			continue
		}
		progress(mover.Report{Phase: "unlock"})
		for _, key := range s.own {
			_, err := s.unlock(ctx, v, backstay.KeyPassphrase, key)
			if err == nil {
				s.log.Info("a volume was opened with a key that its point holds", "session", s.request.Session, "volume", v.ID)
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !errors.Is(err, luks.ErrWrongKey) && !backstay.IsCode(err, backstay.CodeVolumeKey) {
				s.log.Info("a volume stays locked", "session", s.request.Session, "volume", v.ID, "error", err)
				break
			}
		}
	}
}

// keys remembers what of a point's definition may open its volumes: files and texts
// that the host hands to the guest through its firmware, and the secrets of its disks.
func (s *fileSession) keys(ctx context.Context, definition tier.Definition) {
	add := func(key []byte) {
		known := slices.ContainsFunc(s.own, func(k backstay.Secret) bool { return bytes.Equal(k.Reveal(), key) })
		if len(key) > 0 && len(key) <= longestOwnKey && len(s.own) < mostOwnKeys && !known {
			s.own = append(s.own, backstay.NewSecret(bytes.Clone(key)))
		}
	}
	for _, file := range definition.Files {
		add(file.Content)
		add(bytes.TrimRight(file.Content, "\r\n"))
	}
	for _, key := range handedKeys(definition.InactiveXML + definition.LiveXML) {
		add(key)
	}
	book := s.secretBook(s.request.Services, nil)
	for _, secret := range definition.Secrets {
		if value, err := book.valueOf(ctx, neededSecret{Secret: secret}); err == nil {
			add(value.Reveal())
		}
	}
}

// handedKeys are the texts that a definition hands to its guest through the firmware:
// entries of fw_cfg, and credentials of systemd among the OEM strings.
func handedKeys(definition string) [][]byte {
	var keys [][]byte
	decoder := xml.NewDecoder(strings.NewReader(definition))
	decoder.Strict = false
	var within, kind string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) || err != nil {
			return keys
		}
		switch t := token.(type) {
		case xml.StartElement:
			within = t.Name.Local
			for _, a := range t.Attr {
				if within == "sysinfo" && a.Name.Local == "type" {
					kind = a.Value
				}
			}
		case xml.EndElement:
			within = ""
		case xml.CharData:
			if within == "entry" && kind != "" {
				keys = append(keys, handedKey(kind, strings.TrimSpace(string(t)))...)
			}
		}
	}
}

func handedKey(kind, text string) [][]byte {
	if kind == "fwcfg" {
		return [][]byte{[]byte(text)}
	}
	if _, value, ok := strings.Cut(strings.TrimPrefix(text, "io.systemd.credential:"), "="); ok && strings.HasPrefix(text, "io.systemd.credential:") {
		return [][]byte{[]byte(value)}
	}
	if rest, ok := strings.CutPrefix(text, "io.systemd.credential.binary:"); ok {
		_, value, _ := strings.Cut(rest, "=")
		if key, err := base64.StdEncoding.DecodeString(value); err == nil {
			return [][]byte{key}
		}
	}
	return nil
}
