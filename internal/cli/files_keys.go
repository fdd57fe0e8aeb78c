package cli

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/spf13/cobra"
)

// volumeKeys are the files with keys that a command was given, each [VOLUME=]FILE.
type volumeKeys struct{ passphrases, keyFiles, recoveryKeys []string }

// volumeKeyFile is one of them.
type volumeKeyFile struct {
	volume backstay.VolumeID // "" for any
	kind   backstay.VolumeKey
	path   string
}

// files reads what was given, as far as it goes without the volumes.
func (k volumeKeys) files() []volumeKeyFile {
	var all []volumeKeyFile
	for _, of := range []struct {
		kind  backstay.VolumeKey
		given []string
	}{{backstay.KeyPassphrase, k.passphrases}, {backstay.KeyFile, k.keyFiles}, {backstay.KeyRecovery, k.recoveryKeys}} {
		for _, text := range of.given {
			f := volumeKeyFile{kind: of.kind, path: text}
			if volume, path, ok := strings.Cut(text, "="); ok {
				f.volume, f.path = backstay.VolumeID(volume), path
			}
			all = append(all, f)
		}
	}
	return all
}

// flags adds the flags that name them; passphrases says what that of a passphrase is.
func (k *volumeKeys) flags(c *cobra.Command, passphrases string) *cobra.Command {
	c.Flags().StringArrayVar(&k.passphrases, "passphrase-file", nil, passphrases)
	c.Flags().StringArrayVar(&k.keyFiles, "key-file", nil, "`[VOLUME=]FILE` that opens an encrypted volume")
	c.Flags().StringArrayVar(&k.recoveryKeys, "recovery-key-file", nil, "`[VOLUME=]FILE` with the 48 digits that open a BitLocker volume")
	return c
}

// unlock opens the locked volumes that there are keys for. A key without a volume is
// tried on all locked volumes that take its kind; if it opens none, that is an error.
func (a *app) unlock(ctx context.Context, at sight, session backstay.FileSession, keys volumeKeys) (backstay.FileSession, error) {
	for _, f := range keys.files() {
		text, err := a.readSecret(f.path)
		if err != nil {
			return session, err
		}
		if f.kind != backstay.KeyFile { // whose every byte counts
			text = strings.TrimRight(text, "\r\n")
		}
		if session, err = tryKey(ctx, at, session, f, text); err != nil {
			return session, err
		}
	}
	return session, nil
}

// tryKey tries one key on the volumes that it may be for.
func tryKey(ctx context.Context, at sight, session backstay.FileSession, f volumeKeyFile, key string) (backstay.FileSession, error) {
	var failed error
	opened, named := false, false
	for _, v := range session.Volumes {
		if f.volume != "" && v.ID != f.volume {
			continue
		}
		named = true
		if v.Kind != backstay.VolumeLocked || f.volume == "" && len(v.Keys) > 0 && !takes(v, f.kind) {
			continue
		}
		now, err := at.Unlock(ctx, v.ID, f.kind, []byte(key))
		switch {
		case err == nil:
			session.Volumes, opened = now, true
		case f.volume == "" && backstay.IsCode(err, backstay.CodeVolumeKey):
			failed = err // it may be for another one
		default:
			return session, err
		}
	}
	if f.volume != "" && !named {
		return session, backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %s", f.volume).Becausef("a key was given for it")
	}
	if opened {
		return session, nil
	}
	return session, failed // nil if there is nothing that is locked (any more)
}

func takes(v backstay.Volume, kind backstay.VolumeKey) bool {
	for _, k := range v.Keys {
		if k == kind {
			return true
		}
	}
	return false
}

// withKeys runs fn, and where that fails on a locked volume asks for the key, if there
// is somebody to ask.
func (a *app) withKeys(ctx context.Context, at sight, session *backstay.FileSession, fn func() error) error {
	for {
		err := fn()
		if !backstay.IsCode(err, backstay.CodeVolumeLocked) || !a.IsTerminal(a.Stdin) {
			return err
		}
		volume, ok := lockedOne(*session, err)
		if !ok {
			return err
		}
		f := volumeKeyFile{volume: volume.ID, kind: backstay.KeyPassphrase}
		prompt := "Passphrase of volume " + printable(string(volume.ID)) + ": "
		if len(volume.Keys) > 0 && !takes(volume, backstay.KeyPassphrase) && takes(volume, backstay.KeyRecovery) {
			f.kind, prompt = backstay.KeyRecovery, "Recovery key of volume "+printable(string(volume.ID))+": "
		}
		text, askErr := a.askSecret(prompt)
		if askErr != nil {
			return askErr
		}
		now, keyErr := tryKey(ctx, at, *session, f, text)
		if backstay.IsCode(keyErr, backstay.CodeVolumeKey) {
			a.note("%s", oneLine(backstay.AsError(keyErr).Message))
			continue
		}
		if keyErr != nil {
			return keyErr
		}
		*session = now
	}
}

// lockedOne is the volume that an error is about: the one that it names, or the only one.
func lockedOne(session backstay.FileSession, err error) (backstay.Volume, bool) {
	var locked []backstay.Volume
	for _, v := range session.Volumes {
		if v.Kind != backstay.VolumeLocked {
			continue
		}
		if strings.Contains(backstay.AsError(err).Message+" ", " "+string(v.ID)+" ") {
			return v, true
		}
		locked = append(locked, v)
	}
	if len(locked) == 1 {
		return locked[0], true
	}
	return backstay.Volume{}, false
}
