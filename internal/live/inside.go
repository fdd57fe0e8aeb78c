package live

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
)

// Inside runs exports within this process, for tests of what lies above.
type Inside struct {
	Open Open

	mu   sync.Mutex
	ends map[string]func() // guarded by mu: by folder
}

// Start implements Exports.
func (i *Inside) Start(_ context.Context, o Order) error {
	order, err := encode(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	answers, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = Serve(ctx, bytes.NewReader(order), out, i.Open, slog.New(slog.DiscardHandler))
	}()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ends == nil {
		i.ends = map[string]func(){}
	}
	i.ends[o.Folder] = func() {
		cancel(errors.New("killed"))
		<-done
	}
	return answerOf(answers)
}

// Kill ends the export in a folder to which nobody is connected.
func (i *Inside) Kill(folder string) {
	i.mu.Lock()
	end := i.ends[folder]
	i.mu.Unlock()
	if end != nil {
		end()
	}
}

// Running implements Exports.
func (i *Inside) Running(folder string) bool { return locked(folder) }
