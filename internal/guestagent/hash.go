package guestagent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"
)

// mostRead is how much one answer carries out of a guest, in bytes.
const mostRead = 256 << 10

// SHA256 reads a whole file in the guest and returns its size in bytes and the
// SHA-256 of its content in hex. ctx bounds how long that may take.
func (a Agent) SHA256(ctx context.Context, path string) (size int64, sum string, err error) {
	if !utf8.ValidString(path) {
		return 0, "", errors.New("the guest agent takes no path that is not UTF-8")
	}
	f := &File{agent: a}
	err = a.ask(ctx, writePatience, "guest-file-open", question{map[string]any{"path": path, "mode": "r"}, &f.handle})
	if err != nil {
		return 0, "", fmt.Errorf("open a file in the guest: %w", err)
	}
	defer func() { _ = f.Close(ctx) }() // nothing was written
	hash := sha256.New()
	for {
		var read struct {
			Count int64  `json:"count"`
			Data  []byte `json:"buf-b64"`
			End   bool   `json:"eof"`
		}
		err := a.ask(ctx, writePatience, "guest-file-read", question{map[string]any{"handle": f.handle, "count": mostRead}, &read})
		if err != nil {
			return 0, "", fmt.Errorf("read a file in the guest: %w", err)
		}
		if int64(len(read.Data)) != read.Count || read.Count == 0 && !read.End {
			return 0, "", fmt.Errorf("read a file in the guest: its agent says that it read %d bytes, and sent %d", read.Count, len(read.Data))
		}
		hash.Write(read.Data)
		if size += read.Count; read.End || read.Count == 0 {
			return size, hex.EncodeToString(hash.Sum(nil)), nil
		}
	}
}
