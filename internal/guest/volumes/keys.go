package volumes

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

const (
	// MostKeys is how many keys of a point are tried by themselves. Each costs a
	// derivation, which is made to be dear.
	MostKeys = 8
	// mostVolumes is how many volumes they are tried on: one that is opened may show
	// another, without end if the machine lies.
	mostVolumes = 64
	// longestKey is how long a file may be that is taken for a key, in bytes.
	longestKey = 64 << 10
)

// Keys returns what of a point's definition may open its volumes: files and texts that
// the host hands to the guest through its firmware, and the secrets of its disks as far
// as value tells them. There are at most MostKeys, none of them twice.
func Keys(definition tier.Definition, value func(tier.Secret) (backstay.Secret, error)) []backstay.Secret {
	var keys []backstay.Secret
	add := func(key []byte) {
		known := slices.ContainsFunc(keys, func(k backstay.Secret) bool { return bytes.Equal(k.Reveal(), key) })
		if len(key) > 0 && len(key) <= longestKey && len(keys) < MostKeys && !known {
			keys = append(keys, backstay.NewSecret(bytes.Clone(key)))
		}
	}
	for _, file := range definition.Files {
		add(file.Content)
		add(bytes.TrimRight(file.Content, "\r\n"))
	}
	for _, key := range handedKeys(definition.InactiveXML + definition.LiveXML) {
		add(key)
	}
	for _, secret := range definition.Secrets {
		if value, err := value(secret); err == nil {
			add(value.Reveal())
		}
	}
	return keys
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
