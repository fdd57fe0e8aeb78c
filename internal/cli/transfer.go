package cli

import (
	"fmt"
	"time"
)

// transfer shows how a download goes on, on a terminal.
type transfer struct {
	a       *app
	on      bool
	total   int64 // bytes; -1 if not known
	before  int64 // bytes of the streams before
	started time.Time
	shown   time.Time
	line    bool // there is a line that is to be cleared
}

func (a *app) newTransfer(total int64) *transfer {
	return &transfer{a: a, on: a.IsTerminal(a.Stderr), total: total, started: time.Now()}
}

// at is told how many items and bytes of the present stream there were.
func (t *transfer) at(items, bytes int64) {
	now := time.Now()
	if !t.on || now.Sub(t.shown) < 200*time.Millisecond {
		return
	}
	t.shown, t.line = now, true
	fmt.Fprintf(t.a.Stderr, "\r\x1b[K%s", t.text(items, t.before+bytes, now.Sub(t.started)))
}

// text is the line: items, bytes, rate, and the time left where the size is known.
func (t *transfer) text(items, bytes int64, took time.Duration) string {
	text := fmt.Sprintf("%d items, %s", items, size(bytes))
	if t.total > 0 {
		text += " of " + size(t.total)
	}
	rate := float64(bytes) / max(took.Seconds(), 0.001)
	if took < time.Second || rate < 1 {
		return text
	}
	text += fmt.Sprintf(", %s/s", size(int64(rate)))
	if left := t.total - bytes; t.total > 0 && left > 0 {
		text += ", " + span(time.Duration(float64(left)/rate*float64(time.Second))) + " left"
	}
	return text
}

// base is told that a stream has ended, and how many bytes there were in all.
func (t *transfer) base(bytes int64) { t.before = bytes }

// clear makes room for something else on the terminal.
func (t *transfer) clear() {
	if t.line {
		fmt.Fprint(t.a.Stderr, "\r\x1b[K")
		t.line = false
	}
}

func (t *transfer) end() { t.clear() }
