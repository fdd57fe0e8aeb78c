package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/backstay/backstay/internal/sandbox"
)

// demoExit is the environment variable that makes the demo take its world down.
const demoExit = "DEMO_EXIT"

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Show the main job on a real VM: back up, and restore from both tiers",
		Long: "Show the main job on a real VM: back up, and restore from both tiers as new VMs\n" +
			"that boot. The world stays up afterwards, unless " + demoExit + "=1 is set.",
		Example: "  sandbox demo\n  " + demoExit + "=1 sandbox demo",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d := &demo{out: c.OutOrStdout(), err: c.ErrOrStderr(), stay: os.Getenv(demoExit) != "1"}
			err := d.show(c)
			if err != nil {
				fmt.Fprintf(d.out, "demo: FAILED: %v\n", err)
				os.Exit(1)
			}
			fmt.Fprintln(d.out, "demo: ok")
			return nil
		},
	}
}

// demo is one run of the demo.
type demo struct {
	out, err io.Writer
	stay     bool
	world    *sandbox.World
	host     *sandbox.Host
	rows     []row
}

// show runs the demo in a world, and ends the world unless it is to stay. A world
// in which the demo failed never stays: its folder has no further use.
func (d *demo) show(c *cobra.Command) (err error) {
	o := sandbox.Options{Log: newLogger(d.err)}
	if _, err := os.Stat(defaultDir); d.stay && os.IsNotExist(err) {
		o.Dir = defaultDir
	}
	begin := time.Now()
	if d.world, err = up(c, o); err != nil {
		return err
	}
	defer func() {
		if err != nil || !d.stay {
			down := d.world.Down(context.WithoutCancel(c.Context()))
			if err == nil {
				err = down
			}
		}
	}()
	d.host = d.world.Hosts[0]
	d.took("sandbox up: libvirt, mover, server, vault", begin)
	if err := d.steps(c.Context()); err != nil {
		return err
	}
	d.table()
	if d.stay {
		fmt.Fprintln(d.out)
		describe(d.out, d.world)
	}
	return nil
}

// say tells what comes next.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n== "+format+"\n", args...)
}

// backstay runs a command of backstay and decodes its JSON into answer; progress
// and errors go where a user would see them.
func (d *demo) backstay(ctx context.Context, answer any, args ...string) error {
	fmt.Fprintf(d.out, "$ backstay %s\n", strings.Join(args, " "))
	return d.quietly(ctx, answer, d.err, args...)
}

func (d *demo) quietly(ctx context.Context, answer any, stderr io.Writer, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"backstay", "-o", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "BACKSTAY_CONFIG="+d.world.Region.Client, "BACKSTAY_SERVER=", "BACKSTAY_TOKEN=")
	cmd.Stderr = stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("backstay %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return fmt.Errorf("backstay %s: read its JSON: %w", strings.Join(args, " "), err)
	}
	return nil
}

// guest runs a command in a guest.
func (d *demo) guest(ctx context.Context, vm, command string) (string, error) {
	out, err := d.world.Guest(ctx, "", vm, command)
	return strings.TrimSpace(out), err
}

// row is one line of the table; a negative number is left blank.
type row struct {
	step         string
	seconds      float64
	read, stored int64
	freezeMs     int64
	note         string
}

// took adds a step that only has a duration.
func (d *demo) took(step string, begin time.Time) *row {
	return d.add(row{step: step, seconds: time.Since(begin).Seconds(), read: -1, stored: -1, freezeMs: -1})
}

func (d *demo) add(r row) *row {
	d.rows = append(d.rows, r)
	return &d.rows[len(d.rows)-1]
}

// table prints what was done and what it cost.
func (d *demo) table() {
	fmt.Fprintf(d.out, "\n%-48s %8s %10s %10s %9s  %s\n", "step", "seconds", "read", "stored", "freeze", "")
	for _, r := range d.rows {
		fmt.Fprintf(d.out, "%-48s %8s %10s %10s %9s  %s\n", r.step, number(r.seconds >= 0, "%.2f", r.seconds),
			mebibytes(r.read), mebibytes(r.stored), number(r.freezeMs >= 0, "%d ms", r.freezeMs), r.note)
	}
}

func number(known bool, format string, v any) string {
	if !known {
		return ""
	}
	return fmt.Sprintf(format, v)
}

func mebibytes(n int64) string {
	return number(n >= 0, "%.1f MiB", float64(n)/(1<<20))
}
