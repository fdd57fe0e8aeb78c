package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/screen"
)

const (
	drillDial    = 3 * time.Second  // of one try to connect
	drillAnswer  = 10 * time.Second // of one try over the network
	drillCommand = 30 * time.Second // of a command in the guest
	drillHash    = 5 * time.Minute  // of reading a file in the guest
	drillRead    = 1 << 20          // bytes of an answer, or of a console, that are read
	drillShown   = 200              // bytes of what a guest says that are kept
	pictureWidth = 1024
)

// LookDrill asks the agent, then the network.
func (h *Host) LookDrill(ctx context.Context, r mover.DrillProbeRequest) (mover.DrillSeen, error) {
	domain, err := h.hv.Domain(ctx, r.VM)
	switch {
	case errors.Is(err, hypervisor.ErrNoVM):
		return mover.DrillSeen{Stopped: "it was undefined meanwhile"}, nil
	case err != nil:
		return mover.DrillSeen{}, h.hostError(err, "a VM of a drill could not be looked at")
	case domain.VM.State == backstay.VMShutOff:
		return mover.DrillSeen{Stopped: "it stopped by itself after it was started"}, nil
	}
	var seen mover.DrillSeen
	if address, err := h.drillAddress(ctx, r, &domain); err == nil {
		seen.Address, seen.How = address, "it has the address "+address
	}
	if h.hv.PingAgent(ctx, r.VM, probeOnce) == nil {
		seen.How = "its guest agent answered"
	}
	return seen, nil
}

// ProbeDrill tries one probe once.
func (h *Host) ProbeDrill(ctx context.Context, r mover.DrillProbeRequest) (mover.DrillProbed, error) {
	if err := r.Probe.Check(); err != nil {
		return mover.DrillProbed{}, err
	}
	domain, err := h.hv.Domain(ctx, r.VM)
	if errors.Is(err, hypervisor.ErrAway) {
		return mover.DrillProbed{}, h.hostError(err, "a VM of a drill could not be looked at")
	}
	var probed mover.DrillProbed
	if err == nil {
		agent := guestagent.Agent{Guests: h.hv, VM: r.VM}
		switch r.Probe.Kind {
		case backstay.DrillAgent:
			if err = h.hv.PingAgent(ctx, r.VM, probeOnce); err == nil {
				probed.Detail = "the guest agent answered"
			}
		case backstay.DrillCommand:
			probed.Detail, err = runsWell(ctx, agent, r.Probe)
		case backstay.DrillFile:
			probed.Detail, err = hasHash(ctx, agent, r.Probe)
		case backstay.DrillConsole:
			probed.Detail, err = shows(domain.Console, r.Probe.Text)
		case backstay.DrillTCP, backstay.DrillHTTP:
			if probed.Address, err = h.drillAddress(ctx, r, &domain); err == nil && r.Probe.Kind == backstay.DrillTCP {
				probed.Detail, err = accepts(ctx, probed.Address, r.Probe)
			} else if err == nil {
				probed.Detail, err = answers(ctx, probed.Address, r.Probe)
			}
		}
	}
	if ctx.Err() != nil {
		return mover.DrillProbed{}, fmt.Errorf("try %s: %w", r.Probe, context.Cause(ctx))
	}
	if err != nil {
		probed.Detail = err.Error()
	}
	probed.OK, probed.Detail = err == nil, guestagent.Shown(probed.Detail, drillShown)
	return probed, nil
}

// drillAddress finds the VM's address in the drill's network: by what it was given
// there, else by what its agent says. One outside of the network is none: nothing is
// ever asked for there.
func (h *Host) drillAddress(ctx context.Context, r mover.DrillProbeRequest, domain *hypervisor.Domain) (string, error) {
	j, err := h.loadDrill(r.Job)
	if err != nil {
		return "", err
	}
	if j == nil || j.Network.Address == "" {
		return "", errors.New("the host is not in the drill's network")
	}
	network, err := netip.ParsePrefix(j.Network.Address)
	if err != nil {
		return "", err
	}
	inside := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && network.Masked().Contains(a) && a != network.Addr()
	}
	ours := func(mac string) bool {
		for _, nic := range domain.VM.NICs {
			if strings.EqualFold(nic.MAC, mac) {
				return true
			}
		}
		return false
	}
	leases, err := h.hv.Leases(ctx, j.Network.Name)
	if err != nil {
		return "", err
	}
	for _, l := range leases {
		if ours(l.MAC) && inside(l.Address) {
			return l.Address, nil
		}
	}
	return agentAddress(ctx, guestagent.Agent{Guests: h.hv, VM: r.VM}, ours, inside)
}

// agentAddress asks the guest for its addresses.
func agentAddress(ctx context.Context, agent guestagent.Agent, ours, inside func(string) bool) (string, error) {
	var all []struct {
		MAC       string `json:"hardware-address"`
		Addresses []struct {
			Address string `json:"ip-address"`
		} `json:"ip-addresses"`
	}
	none := errors.New("the VM got no address in the drill's network, and its guest agent tells of none")
	if agent.Ask(ctx, "guest-network-get-interfaces", nil, &all) != nil {
		return "", none
	}
	for _, nic := range all {
		for _, a := range nic.Addresses {
			switch {
			case !ours(nic.MAC):
			case inside(a.Address):
				return a.Address, nil
			case strings.Contains(a.Address, "."):
				none = fmt.Errorf("the VM has the address %s, which is not in the drill's network; a network of its own is chosen with --subnet", a.Address)
			}
		}
	}
	return "", none
}

func accepts(ctx context.Context, address string, p backstay.DrillProbe) (string, error) {
	where := net.JoinHostPort(address, strconv.Itoa(p.Port))
	d := net.Dialer{Timeout: drillDial}
	conn, err := d.DialContext(ctx, "tcp", where)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // nothing was sent
	if p.Text == "" {
		return where + " accepted a connection", nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(drillDial)); err != nil {
		return "", err
	}
	var said strings.Builder
	_, err = io.Copy(&said, io.LimitReader(conn, 4<<10))
	if strings.Contains(said.String(), p.Text) {
		return fmt.Sprintf("%s accepted a connection and said %q", where, p.Text), nil
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return "", err
	}
	return "", fmt.Errorf("%s accepted a connection and said %q", where, guestagent.Shown(said.String(), drillShown/2))
}

// answers asks a web server, and follows it nowhere: what it names lies outside of
// the network, or is the real one.
func answers(ctx context.Context, address string, p backstay.DrillProbe) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, drillAnswer)
	defer cancel()
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(address, strconv.Itoa(p.Port))}
	if p.TLS {
		u.Scheme = "https"
	}
	asked, err := url.Parse(p.Path)
	if err != nil {
		return "", err
	}
	u.Path, u.RawQuery = asked.Path, asked.RawQuery
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{
		DialContext:       (&net.Dialer{Timeout: drillDial}).DialContext,
		DisableKeepAlives: true,
		// The certificate is for a name that the VM does not have here.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // all that is wanted was read
	body, err := io.ReadAll(io.LimitReader(response.Body, drillRead))
	wanted := response.StatusCode >= 200 && response.StatusCode < 400
	if p.Status != 0 {
		wanted = response.StatusCode == p.Status
	}
	switch {
	case !wanted:
		return "", fmt.Errorf("%s answered %s", &u, response.Status)
	case err != nil:
		return "", err
	case !strings.Contains(string(body), p.Text):
		return "", fmt.Errorf("%s answered %s without %q: %s", &u, response.Status, p.Text, guestagent.Shown(string(body), drillShown/2))
	}
	return fmt.Sprintf("%s answered %s", &u, response.Status), nil
}

func runsWell(ctx context.Context, agent guestagent.Agent, p backstay.DrillProbe) (string, error) {
	pid, err := agent.Start(ctx, p.Command[0], p.Command[1:])
	if err != nil {
		return "", err
	}
	ended, err := agent.Wait(ctx, pid, drillCommand, time.Second)
	said := guestagent.Shown(strings.TrimSpace(ended.Out+" "+ended.Err), drillShown/2)
	switch {
	case err != nil:
		return "", err
	case ended.Code != 0 || ended.Signal != 0:
		return "", fmt.Errorf("it ended with %d: %s", max(ended.Code, ended.Signal), said)
	case !strings.Contains(ended.Out+ended.Err, p.Text):
		return "", fmt.Errorf("it did not say %q but %q", p.Text, said)
	}
	return "it ended with 0: " + said, nil
}

func hasHash(ctx context.Context, agent guestagent.Agent, p backstay.DrillProbe) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, drillHash)
	defer cancel()
	size, sum, err := agent.SHA256(ctx, p.File)
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("its %d bytes have the SHA-256 %s", size, sum)
	}
	return fmt.Sprintf("its %d bytes have that SHA-256", size), nil
}

func shows(console, text string) (string, error) {
	said, err := consoleText(console)
	if err != nil {
		return "", err
	}
	if !strings.Contains(said, text) {
		return "", fmt.Errorf("the console has not shown %q", text)
	}
	return "the console showed it", nil
}

// consoleText is the end of what a console said.
func consoleText(path string) (string, error) {
	if path == "" {
		return "", errors.New("the VM has no serial console that is written to a file")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, errors.New("the VM has no serial console that is written to a file"))
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-drillRead), drillRead))
	return screen.Plain(string(text)), err
}

// Picture draws what a VM shows.
func (h *Host) Picture(ctx context.Context, vm backstay.VMID) (mover.Picture, error) {
	picture, err := h.hv.Screenshot(ctx, vm)
	if err == nil {
		if picture, err = screen.PNG(picture, pictureWidth); err == nil {
			return mover.Picture{PNG: picture, Of: "display"}, nil
		}
	}
	if errors.Is(err, hypervisor.ErrAway) || errors.Is(err, hypervisor.ErrNoVM) || ctx.Err() != nil {
		return mover.Picture{}, h.hostError(err, "no picture of the VM could be taken")
	}
	domain, domainErr := h.hv.Domain(ctx, vm)
	text, textErr := consoleText(domain.Console)
	if domainErr == nil && textErr == nil {
		drawn, drawErr := screen.Text(text)
		if drawErr == nil {
			return mover.Picture{PNG: drawn, Of: "console"}, nil
		}
		textErr = drawErr
	}
	return mover.Picture{}, backstay.Errorf(backstay.CodeNotUp, "there is no picture of the VM").Because(errors.Join(err, domainErr, textErr)).
		Do("give the VM a display or a serial console")
}
