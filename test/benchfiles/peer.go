package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
)

// guestfish runs libguestfs without KVM, as the small machines run here, and
// without libvirt. It keeps its appliance between runs.
func guestfish(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "guestfish", args...)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	return cmd
}

// onImage is a whole run of guestfish on the image: commands, separated by ":".
func (b *bench) onImage(ctx context.Context, commands ...string) error {
	args := append([]string{"--ro", "-a", b.image, "run", ":", "mount-ro", device, "/", ":"}, commands...)
	return output(guestfish(ctx, args...))
}

// peer is a guestfish that stays, with the file system mounted.
type peer struct{ pid string }

var listening = regexp.MustCompile(`GUESTFISH_PID=(\d+)`)

// listen starts it.
func (b *bench) listen(ctx context.Context) (*peer, error) {
	start := guestfish(ctx, "--listen", "--ro", "-a", b.image)
	var out bytes.Buffer
	start.Stdout, start.Stderr = &out, os.Stderr // it keeps the latter
	if err := start.Run(); err != nil {
		return nil, fmt.Errorf("start guestfish: %w", err)
	}
	pid := listening.FindStringSubmatch(out.String())
	if pid == nil {
		return nil, fmt.Errorf("guestfish --listen said %q", out.String())
	}
	p := &peer{pid[1]}
	for _, command := range [][]string{{"run"}, {"mount-ro", device, "/"}} {
		if err := p.do(ctx, command...); err != nil {
			p.exit(ctx)
			return nil, err
		}
	}
	return p, nil
}

// do runs a command in it; after one that failed it is gone.
func (p *peer) do(ctx context.Context, command ...string) error {
	return output(guestfish(ctx, append([]string{"--remote=" + p.pid}, command...)...))
}

func (p *peer) exit(ctx context.Context) {
	_ = p.do(context.WithoutCancel(ctx), "exit") // it may have ended already
}
