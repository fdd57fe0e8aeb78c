package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	backstay "github.com/backstay/backstay"
)

// FrameKind says what a frame is.
type FrameKind byte

// The kinds of frame. A call begins with Request frames, of which the last is
// Request itself, and ends with Answer, End or Error.
const (
	FrameRequest FrameKind = 'Q' // to the machine: a Request in JSON
	FrameCancel  FrameKind = 'C' // to the machine: end this call
	FrameCredit  FrameKind = 'W' // to the machine: so many more bytes of data may come (uint32)
	FrameAnswer  FrameKind = 'A' // from the machine: the last part of an answer in JSON
	FrameData    FrameKind = 'D' // from the machine: bytes of a stream, within its credit
	FrameEnd     FrameKind = 'E' // from the machine: the stream is complete
	FrameError   FrameKind = 'X' // from the machine: the call failed, an Error in JSON
	FrameLend    FrameKind = 'L' // to the machine: slots that it may fill (uint32 each)
	FrameFilled  FrameKind = 'F' // from the machine: a slot (uint32) holds so many bytes (uint32) of a stream
	FramePart    FrameKind = 'P' // both ways: a part of a long request or answer; more follows
	FrameReady   FrameKind = 'R' // from the machine, once: it is up, a Hello in JSON
)

// The bounds of what one side takes from the other, in bytes.
const (
	MaxFrame   = 1 << 20  // the body of one frame
	MaxRequest = 32 << 20 // the body of a request, in all its parts
	MaxAnswer  = 64 << 20 // the body of an answer, in all its parts
	Window     = 4 << 20  // how far a stream may be ahead of its reader
	MaxCalls   = 64       // calls at a time
)

// The memory that both sides see, for the bytes of streams: slots, each of which
// belongs to one side at a time. The client lends them to a call; the machine gives
// them back filled, or with the end of the call.
const (
	SlotSize   = 256 << 10             // bytes of a slot
	Slots      = 64                    // slots in all
	CallSlots  = 8                     // slots that one call has at most
	SharedSize = SlotSize * int(Slots) // bytes; a power of two, as PCI wants it
)

// Frame is what goes over the channel: the length of the body (uint32, big
// endian), the call (uint32), the kind, and the body.
type Frame struct {
	Call uint32
	Kind FrameKind
	Body []byte
}

const headerSize = 9

// Version is that of frames and messages: both sides are always of one build.
const Version = 1

// Hello is the body of FrameReady.
type Hello struct {
	Version int `json:"version"`
}

// Request is the body of a request.
type Request struct {
	Op   string          `json:"op"`
	Body json.RawMessage `json:"body"`
}

// Error is the body of FrameError.
type Error struct {
	Code    backstay.Code `json:"code"`
	Message string        `json:"message"`
	Cause   string        `json:"cause,omitempty"`
	Action  string        `json:"action,omitempty"`
}

// OpPing is answered at once, with nothing, by a machine that lives.
const OpPing = "ping"

// ErrorOf makes an error one that can be sent.
func ErrorOf(err error) Error {
	var coded *backstay.Error
	if !errors.As(err, &coded) {
		// Most likely it met a file system that is damaged.
		return Error{Code: backstay.CodeMachineFailed, Message: "the small machine could not read what was asked for", Cause: clip(err.Error())}
	}
	return Error{coded.Code, clip(coded.Message), clip(coded.Cause), clip(coded.Action)}
}

// Err makes an error of what a machine said. What it may quote of a disk is printed
// on terminals, so it has no control characters; a code that does not exist is not
// taken over.
func (e Error) Err() error {
	err := backstay.Errorf(e.Code, "%s", Clean(e.Message))
	if err.Kind == backstay.KindInternal && e.Code != backstay.CodeInternal {
		err = backstay.Errorf(backstay.CodeMachineFailed, "%s", Clean(e.Message))
	}
	if e.Cause != "" {
		err.Becausef("%s", Clean(e.Cause))
	}
	if e.Action != "" {
		err.Do("%s", Clean(e.Action))
	}
	return err
}

// Clean makes a text from a machine one line that can be printed.
func Clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(clip(s), "?"))
	return strings.Join(strings.Fields(s), " ")
}

// clip bounds a text that may quote what stands on a disk.
func clip(s string) string {
	const most = 4 << 10
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// WriteFrame writes one frame in one call of w.
func WriteFrame(w io.Writer, f Frame) error {
	if len(f.Body) > MaxFrame {
		return fmt.Errorf("write frame: %d bytes are more than %d", len(f.Body), MaxFrame)
	}
	b := make([]byte, headerSize, headerSize+len(f.Body))
	binary.BigEndian.PutUint32(b, uint32(len(f.Body)))
	binary.BigEndian.PutUint32(b[4:], f.Call)
	b[8] = byte(f.Kind)
	_, err := w.Write(append(b, f.Body...))
	return err
}

// ReadFrame reads one frame. io.EOF means that the channel was closed between two.
func ReadFrame(r *bufio.Reader) (Frame, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > MaxFrame {
		return Frame{}, fmt.Errorf("read frame: %d bytes are more than %d", n, MaxFrame)
	}
	f := Frame{Call: binary.BigEndian.Uint32(b[4:]), Kind: FrameKind(b[8]), Body: make([]byte, n)}
	if _, err := io.ReadFull(r, f.Body); err != nil {
		return Frame{}, fmt.Errorf("read frame: %w", noEOF(err))
	}
	return f, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Parts returns the frames of a long body, the last of the kind.
func Parts(call uint32, kind FrameKind, body []byte) []Frame {
	var frames []Frame
	for len(body) > MaxFrame {
		frames = append(frames, Frame{call, FramePart, body[:MaxFrame]})
		body = body[MaxFrame:]
	}
	return append(frames, Frame{call, kind, body})
}
