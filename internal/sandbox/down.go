package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Down ends the world in a folder and removes all of it, also if the process
// that made it died in the middle: every process of it, its guests too, then the
// folder. The mounts go with the last process. It returns an error if anything is
// left, and is safe to repeat.
func Down(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil
	}
	if err := looksLikeAWorld(dir); err != nil {
		return err
	}
	if err := downRegions(ctx, dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if w, err := Open(dir); err == nil {
		w.endGently(ctx)
	}
	for _, mount := range []string{"slow", "slow.disk"} { // a test that died left them
		if err := detach(filepath.Join(dir, mount)); err != nil {
			return err
		}
	}
	var killed []process
	if err := poll(ctx, 20*time.Millisecond, func() error { return killAll(dir, &killed) }); err != nil {
		return fmt.Errorf("end the processes of %s: %w", dir, err)
	}
	if err := noMounts(dir); err != nil {
		return err
	}
	if err := errors.Join(removeRuns(dir), os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("remove the world's folder: %w", err)
	}
	return nil
}

// downRegions ends the worlds in the folder of two regions; what is of neither is
// left to its caller.
func downRegions(ctx context.Context, dir string) error {
	worlds, err := filepath.Glob(filepath.Join(dir, "*", worldFile))
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, regionsFile)); err != nil {
		return nil //nolint:nilerr // one world
	}
	for _, w := range worlds {
		err = errors.Join(err, Down(ctx, filepath.Dir(w)))
	}
	return err
}

// looksLikeAWorld keeps a mistyped folder from being removed.
func looksLikeAWorld(dir string) error {
	for _, name := range []string{worldFile, regionsFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return nil
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the world's folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is no world of the sandbox: it has no world.json", dir)
	}
	return nil
}

// endGently lets server and movers end as a service manager would. What does not
// is killed with the rest, so errors do not matter here.
func (w *World) endGently(ctx context.Context) {
	if w.Region != nil {
		_ = w.Region.Server.end(ctx, 3*time.Second)
	}
	for _, h := range w.Hosts {
		_ = h.mover.end(ctx, 2*time.Second)
		// First libvirtd, so that it does not tend to guests that we end.
		_ = h.libvirtd.kill(ctx)
	}
}

// killAll kills what is left and returns an error as long as there was something.
// One that is being torn down tells no more whose it is, so those that were killed
// are remembered.
func killAll(dir string, killed *[]process) error {
	all, err := processesOf(dir)
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := p.signal(unix.SIGKILL); err != nil {
			return err
		}
	}
	*killed = append(*killed, all...)
	if len(all) > 0 {
		return fmt.Errorf("%d processes are left, the first is %d", len(all), all[0].PID)
	}
	for _, p := range *killed {
		if p.alive() {
			return fmt.Errorf("process %d still runs", p.PID)
		}
	}
	return nil
}

// noMounts makes sure that no mount of this namespace is below the folder:
// removing it would remove what is mounted there.
func noMounts(dir string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4]+"/", dir+"/") {
			return fmt.Errorf("%s is still mounted", fields[4])
		}
	}
	return lines.Err()
}
