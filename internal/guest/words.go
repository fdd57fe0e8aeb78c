package guest

import (
	"io"
	"net"
	"regexp"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/guest/wire"
)

// lastWords is the end of what was printed, once it has all arrived.
func (p *process) lastWords() string {
	select {
	case <-p.ended:
	case <-time.After(time.Second):
	}
	return p.console.String()
}

// words keeps the end of what is written to it.
type words struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const mostWords = 4 << 10

func (w *words) from(conn net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{w}, conn)
	conn.Close()
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(p) >= mostWords {
		w.text = append(w.text[:0], p[len(p)-mostWords:]...)
		return len(p), nil
	}
	w.text = append(w.text, p...)
	if over := len(w.text) - mostWords; over > 0 {
		w.text = append(w.text[:0], w.text[over:]...)
	}
	return len(p), nil
}

// escapes are what firmware tells a terminal to do.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|[a-z])`)

// String returns the text in one line, without control characters.
func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return wire.Clean(escapes.ReplaceAllString(string(w.text), " "))
}
