package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
)

// Region is the region of a world: one server whose hosts are the world's.
type Region struct {
	URL         string
	Token       string // the owner's
	RecoveryKey string
	Config      string   // path of the server's configuration
	Client      string   // path of the client's configuration
	Units       []string // the storage units of the default vault
	Vault       string   // its name
	Server      process
	// Of one of two regions: where it is on the link, what keeps its network, and what
	// lets clients outside in.
	Wire    *wire `json:",omitempty"`
	Network process
	Door    process

	world *World
}

// makeRegion runs `backstay init`, names the world's hosts in the configuration
// that it made, and starts the server.
func (w *World) makeRegion(ctx context.Context) error {
	r := &Region{world: w}
	dir := filepath.Join(w.Dir, "region")
	args := []string{"init", "--dir", dir, "-o", "json"}
	var door string // of one of two regions
	var err error
	if w.wire == nil {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		args = append(args, "--listen", address)
	} else {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the region's folder: %w", err)
		}
		if door, err = w.plug(ctx, r, dir); err != nil {
			return err
		}
		args = append(args, "--listen", fmt.Sprintf("127.0.0.1:%d", apiPort), "--region", w.wire.Name)
	}
	out, err := w.backstay(ctx, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("run backstay init: %w", err)
	}
	var made config.InitResult
	if err := json.Unmarshal(out, &made); err != nil {
		return fmt.Errorf("read what backstay init made: %w", err)
	}
	c, err := config.Load(made.ConfigPath)
	if err != nil {
		return err
	}
	c.Hosts = nil
	c.Files.Index = "off" // a small machine after each backup would make every story slow
	for _, h := range w.Hosts {
		c.Hosts = append(c.Hosts, config.Host{Name: backstay.HostName(h.Name), Mover: h.MoverAddress()})
	}
	if w.wire != nil {
		c.Pair.Listen = fmt.Sprintf("%s:%d", own(w.wire.Index), wirePort)
		c.Pair.Address = fmt.Sprintf("%s:%d", far(1-w.wire.Index), wirePort)
	}
	if err := os.WriteFile(made.ConfigPath, []byte(config.Sample(c)), 0o600); err != nil {
		return fmt.Errorf("name the hosts: %w", err)
	}
	client, err := config.LoadClient(made.ClientConfigPath)
	if err != nil {
		return err
	}
	if door != "" {
		client.Server = "http://" + door
		if err := config.WriteClient(made.ClientConfigPath, client); err != nil {
			return fmt.Errorf("name the door in the client's configuration: %w", err)
		}
	}
	r.URL, r.Token, r.RecoveryKey = client.Server, client.Token, made.RecoveryKey
	r.Config, r.Client, r.Units, r.Vault = made.ConfigPath, made.ClientConfigPath, made.Units, string(made.VaultName)
	w.Region = r
	return r.StartServer(ctx)
}

// backstay returns a command of the world's binary.
func (w *World) backstay(ctx context.Context, args ...string) *exec.Cmd {
	binary := w.options.Binary
	cmd := exec.CommandContext(ctx, binary[0], append(binary[1:len(binary):len(binary)], args...)...)
	cmd.Env = w.environment()
	return cmd
}

// ServerLog is the file of the server's log.
func (r *Region) ServerLog() string { return filepath.Join(r.world.Dir, "region/server.log") }

// StartServer starts the server, after a crash too, and waits until it is
// healthy.
func (r *Region) StartServer(ctx context.Context, env ...string) error {
	cmd := r.world.backstay(context.Background(), "server", "--config", r.Config)
	if r.Wire != nil {
		inside := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(r.Network.PID), "--net", "--"}, cmd.Args...)...)
		inside.Env, cmd = cmd.Env, inside
	}
	cmd.Env = append(cmd.Env, env...)
	var err error
	if r.Server, err = r.world.launch(cmd, r.ServerLog()); err != nil {
		return err
	}
	if err := r.world.save(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = poll(ctx, 20*time.Millisecond, func() error {
		if !r.Server.alive() {
			return permanent{errors.New("it ended: " + tail(r.ServerLog()))}
		}
		return r.healthy(ctx)
	})
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	return nil
}

func (r *Region) healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health is %s", answer.Status)
	}
	return nil
}

// KillServer ends the server as a crash does.
func (r *Region) KillServer(ctx context.Context) error { return r.Server.kill(ctx) }

// StopServer ends the server as a service manager does.
func (r *Region) StopServer(ctx context.Context) error { return r.Server.end(ctx, 20*time.Second) }

// ServerRuns tells whether the server's process is there.
func (r *Region) ServerRuns() bool { return r.Server.alive() }

// ServerPID is the process of the server, for looking at its memory.
func (r *Region) ServerPID() int { return r.Server.PID }

// freeAddress returns an address of this machine on which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
