package guestagent

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// MostWritten is how much one question carries into a guest, in bytes. While it is
// answered the agent does nothing else, and a backup may want to freeze the guest; of
// questions of half a megabyte an agent was seen to lose the beginning.
const MostWritten = 48 << 10

// writePatience bounds one write to a file in the guest.
const writePatience = 30 * time.Second

// File is a file in the guest that is being written. It is for one goroutine.
type File struct {
	agent  Agent
	handle int64
	at     int64
}

// Create makes or empties a file in the guest. The path must be UTF-8, since the
// agent knows no other. Close it in any case.
func (a Agent) Create(ctx context.Context, path string) (*File, error) {
	if !utf8.ValidString(path) {
		return nil, errors.New("the guest agent takes no path that is not UTF-8")
	}
	f := &File{agent: a}
	err := a.ask(ctx, writePatience, "guest-file-open", question{map[string]any{"path": path, "mode": "w"}, &f.handle})
	if err != nil {
		return nil, fmt.Errorf("open a file in the guest: %w", err)
	}
	return f, nil
}

// WriteAt writes all of data at an offset; what is passed over becomes a hole.
func (f *File) WriteAt(ctx context.Context, offset int64, data []byte) error {
	if offset != f.at {
		var at struct {
			Position int64 `json:"position"`
		}
		err := f.agent.ask(ctx, writePatience, "guest-file-seek", question{map[string]any{"handle": f.handle, "offset": offset, "whence": "set"}, &at})
		if err == nil && at.Position != offset {
			err = fmt.Errorf("its agent is at byte %d instead of %d", at.Position, offset)
		}
		if err != nil {
			return fmt.Errorf("seek in a file in the guest: %w", err)
		}
		f.at = offset
	}
	for len(data) > 0 {
		var wrote struct {
			Count int `json:"count"`
		}
		piece := data[:min(len(data), MostWritten)]
		err := f.agent.ask(ctx, writePatience, "guest-file-write", question{map[string]any{"handle": f.handle, "buf-b64": piece}, &wrote})
		if err != nil {
			return fmt.Errorf("write a file in the guest: %w", err)
		}
		// The agent may take less than it is given.
		if wrote.Count <= 0 || wrote.Count > len(piece) {
			return fmt.Errorf("write a file in the guest: its agent says that it wrote %d of %d bytes", wrote.Count, len(piece))
		}
		data, f.at = data[wrote.Count:], f.at+int64(wrote.Count)
	}
	return nil
}

// Close closes the file, also when ctx has ended: a write that was cancelled leaves
// nothing open in the agent either.
func (f *File) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	if err := f.agent.ask(ctx, writePatience, "guest-file-close", question{arguments: map[string]any{"handle": f.handle}}); err != nil {
		return fmt.Errorf("close a file in the guest: %w", err)
	}
	return nil
}
