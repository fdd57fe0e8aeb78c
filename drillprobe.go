package backstay

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// DrillProbeKind is one way to tell that a VM of a drill is well.
type DrillProbeKind string

// The kinds of probe.
const (
	DrillAgent   DrillProbeKind = "agent"   // the guest agent answers a ping
	DrillTCP     DrillProbeKind = "tcp"     // a TCP port of the guest accepts a connection
	DrillHTTP    DrillProbeKind = "http"    // a web server in the guest answers
	DrillCommand DrillProbeKind = "command" // a command in the guest ends well
	DrillFile    DrillProbeKind = "file"    // a file in the guest has the expected hash
	DrillConsole DrillProbeKind = "console" // the serial console shows a text
)

// DrillProbe is one thing that must be so for a VM to be healthy. It is tried until
// it is, or the VM's time is over.
type DrillProbe struct {
	Kind DrillProbeKind `json:"kind"`
	// Port is that of a tcp or http probe.
	Port int `json:"port,omitempty"`
	// TLS asks by https; the server's certificate is not checked, since the VM is not
	// where it belongs. Path is what is asked for; Status is what must be answered, 0
	// meaning anything from 200 to 399 (http).
	TLS    bool   `json:"tls,omitempty"`
	Path   string `json:"path,omitempty"`
	Status int    `json:"status,omitempty"`
	// Text must be in what is read: an http answer, a command's output, the console,
	// or what a tcp port says by itself. Empty asks for none.
	Text string `json:"text,omitempty"`
	// Command is run in the guest, without a shell, and must end with 0.
	Command []string `json:"command,omitempty"`
	// File is an absolute path in the guest, SHA256 that of its content, in hex.
	File   string `json:"file,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// DrillProbeResult is what a probe found.
type DrillProbeResult struct {
	Probe string `json:"probe"` // as it is typed
	OK    bool   `json:"ok"`
	// Seconds is the time from the VM's start until it passed, or was given up.
	Seconds float64 `json:"seconds"`
	// Detail is what was seen, or why it did not pass.
	Detail string    `json:"detail"`
	At     time.Time `json:"at"`
}

// ParseDrillProbe reads a probe as it is typed: agent, tcp:22, tcp:22=SSH-2.0,
// http:80/health, http:80/=TEXT, https:443/, command:systemctl is-active nginx,
// file:/etc/hostname=SHA256, console:login:.
func ParseDrillProbe(text string) (DrillProbe, error) {
	kind, rest, _ := strings.Cut(text, ":")
	p := DrillProbe{Kind: DrillProbeKind(kind)}
	switch p.Kind {
	case DrillAgent:
		p.Text = rest // which it does not take
	case DrillTCP:
		rest, p.Text, _ = strings.Cut(rest, "=")
		p.Port, _ = strconv.Atoi(rest)
	case DrillHTTP, "https":
		p.Kind, p.TLS = DrillHTTP, kind == "https"
		port, where, _ := strings.Cut(rest, "/")
		p.Port, _ = strconv.Atoi(port)
		where, p.Text, _ = strings.Cut(where, "=")
		p.Path = "/" + where
	case DrillCommand:
		p.Command = strings.Fields(rest)
	case DrillFile:
		at := strings.LastIndex(rest, "=")
		if at < 0 {
			at = len(rest)
		}
		p.File, p.SHA256 = rest[:at], strings.ToLower(strings.TrimPrefix(rest[at:], "="))
	case DrillConsole:
		p.Text = rest
	}
	return p, p.Check()
}

// String is the probe as it is typed.
func (p DrillProbe) String() string {
	equals := ""
	if p.Text != "" {
		equals = "=" + p.Text
	}
	switch p.Kind {
	case DrillTCP:
		return fmt.Sprintf("tcp:%d%s", p.Port, equals)
	case DrillHTTP:
		scheme := "http"
		if p.TLS {
			scheme = "https"
		}
		return fmt.Sprintf("%s:%d%s%s", scheme, p.Port, p.Path, equals)
	case DrillCommand:
		return "command:" + strings.Join(p.Command, " ")
	case DrillFile:
		return "file:" + p.File + "=" + p.SHA256
	case DrillConsole:
		return "console:" + p.Text
	}
	return string(p.Kind)
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Check says what is wrong with a probe; nil if nothing is.
func (p DrillProbe) Check() error {
	bad := func(why string, args ...any) error {
		return Errorf(CodeUsage, "%q is not a probe", p.String()).Becausef(why, args...).
			Do("say agent, tcp:PORT[=TEXT], http:PORT/PATH[=TEXT], https:PORT/PATH[=TEXT], command:COMMAND, file:/PATH=SHA256 or console:TEXT")
	}
	switch p.Kind {
	case DrillAgent:
		if p.Text != "" {
			return bad("the agent is asked for a sign of life, and for no text")
		}
	case DrillTCP, DrillHTTP:
		if p.Port < 1 || p.Port > 65535 {
			return bad("it needs a port from 1 to 65535")
		}
		if _, err := url.Parse(p.Path); err != nil || p.Path != "" && p.Path[0] != '/' {
			return bad("%q is not a path", p.Path)
		}
		if p.Status != 0 && (p.Status < 100 || p.Status > 599) {
			return bad("%d is not a status", p.Status)
		}
	case DrillCommand:
		if len(p.Command) == 0 {
			return bad("it names no command")
		}
	case DrillFile:
		if !path.IsAbs(p.File) || !sha256Hex.MatchString(p.SHA256) {
			return bad("it needs the absolute path of a file and the SHA-256 of its content in hex")
		}
	case DrillConsole:
		if p.Text == "" {
			return bad("it names no text")
		}
	default:
		return bad("there is no such kind")
	}
	return nil
}
