package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Client is a mover.Mover at the other end of a socket. It connects when it is
// first used, anew for every call, so a host that comes back is found again. A
// host that cannot be reached, or goes away in the middle, is CodeHostAway. The
// zero value is not useful; see Dial. Every method may be called concurrently.
type Client struct {
	url  string // as given, for people
	base string // of the HTTP requests
	http *http.Client
	err  error // of the URL, reported by every call
	tm   timing

	// greeted says that the host was asked for its protocol since it was last
	// found away.
	greeted atomic.Bool
}

var _ mover.Mover = (*Client)(nil)

// Dial returns a client for a mover's URL: unix:///path/to/socket. It does not
// connect yet; a URL that it does not understand is reported by the first call.
func Dial(rawURL string) *Client { return dial(rawURL, defaultTiming()) }

func dial(rawURL string, tm timing) *Client {
	c := &Client{url: rawURL, base: "http://mover", tm: tm}
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "unix" || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		c.err = backstay.Errorf(backstay.CodeConfig, "%q is not the URL of a mover", rawURL).
			Becausef("it must look like unix:///run/backstay/mover.sock")
		return c
	}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		},
		// A call's request stream is open as long as the call: nothing is left
		// to be used again.
		DisableKeepAlives: true,
	}}
	return c
}

// Hello asks the host for its protocol and fails with words if it is not ours.
// Every method does so by itself before its first call.
func (c *Client) Hello(ctx context.Context) error {
	if c.err != nil {
		return c.err
	}
	ctx, cancel := context.WithTimeout(ctx, c.tm.silence)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+pathPrefix+"hello", nil)
	if err != nil {
		return fmt.Errorf("make hello: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.away(err)
	}
	defer func() { _ = res.Body.Close() }()
	var h hello
	if err := json.NewDecoder(res.Body).Decode(&h); err != nil || res.StatusCode != http.StatusOK {
		return c.away(fmt.Errorf("no mover answers there (HTTP status %d)", res.StatusCode))
	}
	if h.Protocol != Protocol {
		return mismatch(h.Protocol)
	}
	c.greeted.Store(true)
	return nil
}

func mismatch(theirs int) error {
	return backstay.Errorf(backstay.CodeHostAway, "the mover on the host speaks protocol %d, this server speaks %d", theirs, Protocol).
		Becausef("they are of different versions of backstay").Do("install the same version of backstay on the server and on the host")
}

// away is the error of a host that cannot be reached or went away.
func (c *Client) away(cause error) error {
	c.greeted.Store(false)
	var inner *url.Error // its text repeats the made-up address
	if errors.As(cause, &inner) {
		cause = inner.Err
	}
	return backstay.Errorf(backstay.CodeHostAway, "the mover at %s does not answer", c.url).Because(cause)
}

// Facts is mover.Inventory's.
func (c *Client) Facts(ctx context.Context) (r backstay.HostFacts, err error) {
	return call[backstay.HostFacts, none](ctx, c, "Facts", none{}, nil)
}

// VMs is mover.Inventory's.
func (c *Client) VMs(ctx context.Context) ([]backstay.VM, error) {
	return call[[]backstay.VM, none](ctx, c, "VMs", none{}, nil)
}

// Watch is mover.Inventory's.
func (c *Client) Watch(ctx context.Context, fn func(backstay.VMID)) error {
	_, err := call[none](ctx, c, "Watch", none{}, fn)
	return err
}

// Paths is mover.Inventory's.
func (c *Client) Paths(ctx context.Context, paths []string) ([]mover.PathInfo, error) {
	return call[[]mover.PathInfo, none](ctx, c, "Paths", paths, nil)
}

// Prepare is mover.Snapshots'.
func (c *Client) Prepare(ctx context.Context, r mover.PrepareRequest) (mover.Prepared, error) {
	return call[mover.Prepared, none](ctx, c, "Prepare", toPrepareWire(r), nil)
}

// Take is mover.Snapshots'.
func (c *Client) Take(ctx context.Context, r mover.TakeRequest) (mover.Taken, error) {
	return call[mover.Taken, none](ctx, c, "Take", r, nil)
}

// Settle is mover.Snapshots'.
func (c *Client) Settle(ctx context.Context, vm backstay.VMID, p backstay.PointID) (mover.Taken, bool, error) {
	r, err := call[settledWire, none](ctx, c, "Settle", settleWire{vm, p}, nil)
	return r.Taken, r.Found, err
}

// Points is mover.Snapshots'.
func (c *Client) Points(ctx context.Context) ([]mover.Taken, error) {
	return call[[]mover.Taken, none](ctx, c, "Points", none{}, nil)
}

// Lost is mover.Standings'.
func (c *Client) Lost(ctx context.Context, places []mover.PointPlace) (map[backstay.PointID]string, error) {
	return call[map[backstay.PointID]string, none](ctx, c, "Lost", places, nil)
}

// DropPoint is mover.Snapshots'.
func (c *Client) DropPoint(ctx context.Context, p backstay.PointID, progress mover.Progress) error {
	_, err := call[none](ctx, c, "DropPoint", p, progress)
	return err
}

// Sweep is mover.Snapshots'.
func (c *Client) Sweep(ctx context.Context, live []backstay.JobID) (mover.SweepReport, error) {
	return call[mover.SweepReport, none](ctx, c, "Sweep", live, nil)
}

// Release is mover.Snapshots'.
func (c *Client) Release(ctx context.Context, vm backstay.VMID, progress mover.Progress) (mover.Released, error) {
	return call[mover.Released](ctx, c, "Release", vm, progress)
}

// Pin is mover.Keeps'.
func (c *Client) Pin(ctx context.Context, p backstay.PointID, pinned bool) error {
	_, err := call[none, none](ctx, c, "Pin", pinWire{p, pinned}, nil)
	return err
}

// KeepMap is mover.Keeps'.
func (c *Client) KeepMap(ctx context.Context, p backstay.PointID, progress mover.Progress) error {
	_, err := call[none](ctx, c, "KeepMap", p, progress)
	return err
}

// Ready is mover.Holds'.
func (c *Client) Ready(ctx context.Context, r mover.HoldRequest) error {
	_, err := call[none, none](ctx, c, "Ready", r, nil)
	return err
}

// Hold is mover.Holds'.
func (c *Client) Hold(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	return call[mover.Held, none](ctx, c, "Hold", r, nil)
}

// LetGo is mover.Holds'.
func (c *Client) LetGo(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	return call[mover.Held, none](ctx, c, "LetGo", r, nil)
}

// Transfer is mover.Transfers'.
func (c *Client) Transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	return call[mover.Transferred](ctx, c, "Transfer", toTransferWire(r), progress)
}

// Pull is mover.Pulls'.
func (c *Client) Pull(ctx context.Context, r mover.PullRequest, progress mover.Progress) (mover.Pulled, error) {
	return call[mover.Pulled](ctx, c, "Pull", toPullWire(r), progress)
}

// EndPulls is mover.Pulls'.
func (c *Client) EndPulls(ctx context.Context, vm backstay.VMID) error {
	_, err := call[none, none](ctx, c, "EndPulls", vm, nil)
	return err
}

// Verify is mover.Transfers'.
func (c *Client) Verify(ctx context.Context, r mover.VerifyRequest, progress mover.Progress) (mover.Verified, error) {
	return call[mover.Verified](ctx, c, "Verify", toVerifyWire(r), progress)
}

// Stage is mover.Restores'.
func (c *Client) Stage(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	return call[mover.Staged](ctx, c, "Stage", toStageWire(r), progress)
}

// Define is mover.Restores'.
func (c *Client) Define(ctx context.Context, r mover.StageRequest) (mover.Defined, error) {
	return call[mover.Defined, none](ctx, c, "Define", toStageWire(r), nil)
}

// Start is mover.Restores'.
func (c *Client) Start(ctx context.Context, r mover.StageRequest) (mover.Up, error) {
	return call[mover.Up, none](ctx, c, "Start", toStageWire(r), nil)
}

// CopyBehind is mover.Lives'.
func (c *Client) CopyBehind(ctx context.Context, r mover.StageRequest, progress mover.Progress) error {
	_, err := call[none](ctx, c, "CopyBehind", toStageWire(r), progress)
	return err
}

// Hurry is mover.Lives'.
func (c *Client) Hurry(ctx context.Context, job backstay.JobID) error {
	_, err := call[none, none](ctx, c, "Hurry", job, nil)
	return err
}

// Abandon is mover.Restores'.
func (c *Client) Abandon(ctx context.Context, r mover.StageRequest) error {
	_, err := call[none, none](ctx, c, "Abandon", toStageWire(r), nil)
	return err
}

// Preview is mover.Previews'.
func (c *Client) Preview(ctx context.Context, r mover.StageRequest) (mover.Preview, error) {
	return call[mover.Preview, none](ctx, c, "Preview", toStageWire(r), nil)
}

// Room is mover.Rooms'.
func (c *Client) Room(ctx context.Context) ([]backstay.Room, error) {
	return call[[]backstay.Room, none](ctx, c, "Room", none{}, nil)
}

// Unstall is mover.Rooms'.
func (c *Client) Unstall(ctx context.Context, vm backstay.VMID) (bool, error) {
	return call[bool, none](ctx, c, "Unstall", vm, nil)
}

// SecretStates is mover.Secrets'.
func (c *Client) SecretStates(ctx context.Context, r mover.SecretsRequest) ([]mover.SecretState, error) {
	return call[[]mover.SecretState, none](ctx, c, "SecretStates", toSecretsWire(r), nil)
}

// GiveSecrets is mover.Secrets'.
func (c *Client) GiveSecrets(ctx context.Context, r mover.GiveRequest) error {
	_, err := call[none, none](ctx, c, "GiveSecrets", toGiveWire(r), nil)
	return err
}

// call makes one call: R is its result, P what is reported on the way.
func call[R, P any](ctx context.Context, c *Client, method string, request any, progress func(P)) (R, error) {
	var result R
	raw, err := c.exchange(ctx, method, request, heard{progress: func(raw json.RawMessage) error {
		var p P
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("decode progress: %w", err)
		}
		if progress != nil {
			progress(p)
		}
		return nil
	}})
	if err != nil {
		return result, err
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return result, fmt.Errorf("decode result of %s: %w", method, err)
	}
	return result, nil
}

func protocolNumber() string { return strconv.Itoa(Protocol) }

// Adopt is mover.Adopts'.
func (c *Client) Adopt(ctx context.Context, r mover.AdoptRequest) error {
	_, err := call[none, none](ctx, c, "Adopt", r, nil)
	return err
}

// Template is mover.Deploys'.
func (c *Client) Template(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Templated, error) {
	return call[mover.Templated](ctx, c, "Template", toStageWire(r), progress)
}

// Describe is mover.Deploys'.
func (c *Client) Describe(ctx context.Context, r mover.DeployRequest) (backstay.Deployment, error) {
	return call[backstay.Deployment, none](ctx, c, "Describe", r, nil)
}

// Deploy is mover.Deploys'.
func (c *Client) Deploy(ctx context.Context, r mover.DeployRequest) error {
	_, err := call[none, none](ctx, c, "Deploy", r, nil)
	return err
}
