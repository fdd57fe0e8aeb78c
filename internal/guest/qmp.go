package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// monitor speaks QMP, one command at a time, with a QEMU that hostile data may have
// taken over: lengths and times are bounded.
type monitor struct {
	mu   sync.Mutex // held during a command
	conn *net.UnixConn
	in   *bufio.Reader
}

const (
	monitorLine  = 1 << 20 // bytes of one message
	monitorLimit = time.Minute
)

// newMonitor greets.
func newMonitor(ctx context.Context, conn *net.UnixConn) (*monitor, error) {
	m := &monitor{conn: conn, in: bufio.NewReaderSize(conn, monitorLine)}
	if err := m.conn.SetDeadline(deadline(ctx)); err != nil {
		return nil, err
	}
	if _, err := m.line(); err != nil {
		return nil, fmt.Errorf("read QEMU's greeting: %w", err)
	}
	return m, m.run(ctx, "qmp_capabilities", nil, nil)
}

func deadline(ctx context.Context) time.Time {
	at := time.Now().Add(monitorLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(at) {
		return d
	}
	return at
}

func (m *monitor) line() ([]byte, error) {
	line, err := m.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, errors.New("a message is too long")
	}
	return line, err
}

// run runs a command, hands a file over with it if there is one, and puts what it
// returns into result unless that is nil.
func (m *monitor) run(ctx context.Context, command string, args, result any) error {
	return m.runWith(ctx, nil, command, args, result)
}

func (m *monitor) runWith(ctx context.Context, file *os.File, command string, args, result any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.conn.SetDeadline(deadline(ctx)); err != nil {
		return err
	}
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	if _, _, err := m.conn.WriteMsgUnix(append(text, '\n'), rights, nil); err != nil {
		return fmt.Errorf("tell QEMU to %s: %w", command, err)
	}
	for {
		line, err := m.line()
		if err != nil {
			return fmt.Errorf("wait for QEMU to %s: %w", command, err)
		}
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
			Event  string
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return fmt.Errorf("read QEMU's answer: %w", err)
		}
		switch {
		case answer.Event != "":
			continue
		case answer.Error != nil:
			return fmt.Errorf("tell QEMU to %s: %s", command, answer.Error.Desc)
		case result != nil:
			return json.Unmarshal(answer.Return, result)
		default:
			return nil
		}
	}
}
