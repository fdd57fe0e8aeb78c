//go:build integration

package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/guest/image"
	"github.com/backstay/backstay/internal/sandbox"
)

// patience bounds each command of a story; on a loaded machine a guest boots in
// half a minute.
const patience = 3 * time.Minute

// worlds bounds how many stories have guests at a time: the machine has few
// cores, and a guest without KVM takes one.
var worlds = make(chan struct{}, 2)

// leftovers are the worlds that left something behind; they fail the tests.
var leftovers errorList

type errorList struct {
	mu   sync.Mutex
	list []error // guarded by mu
}

func (e *errorList) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, err)
}

func (e *errorList) all() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.list
}

// story is what the commands of one story share.
type story struct {
	world   *sandbox.World
	regions *sandbox.Regions // of a story with two regions; world is then the one it is in
}

type storyKey struct{}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are those of a story besides testscript's own.
var commands = map[string]command{
	"world":      bringUp,
	"vm":         positive(1, addVM),
	"backstay":   program("backstay"),
	"exits":      exits,
	"eventually": eventually,
	"object":     object,
	"damage":     damage,
	"expect":     expect,
	"remember":   remember,
	"guest": either(2, func(c call) error {
		out, err := c.world.Guest(c.ctx, c.hostOf(c.args[0]), c.vm(0), strings.Join(c.args[1:], " "))
		return c.print(out, err)
	}),
	"sha256": positive(2, func(c call) error {
		sum, err := c.host(0).VMSHA256(c.ctx, c.vm(0), c.args[1])
		return c.print(sum+"\n", err)
	}),
	"power": positive(1, func(c call) error {
		state, err := c.host(0).State(c.ctx, c.vm(0))
		return c.print(string(state)+"\n", err)
	}),
	"destroy":  positive(1, func(c call) error { return c.host(0).Destroy(c.ctx, c.vm(0)) }),
	"start":    positive(1, func(c call) error { return c.host(0).Start(c.ctx, c.vm(0)) }),
	"undefine": positive(1, func(c call) error { return c.host(0).Undefine(c.ctx, c.vm(0)) }),
	"on": either(2, func(c call) error {
		h, err := c.world.Host(c.args[0])
		if err != nil {
			return err
		}
		out, err := h.Command(c.ctx, c.args[1], c.args[2:]...).CombinedOutput()
		return c.print(string(out), err)
	}),
	"kill9":   positive(1, func(c call) error { return c.world.Kill(c.ctx, c.args[0], c.optional(1)) }),
	"restart": positive(1, func(c call) error { return c.world.Start(c.ctx, c.args[0], c.optional(1)) }),
	"hold":    positive(1, func(c call) error { return c.world.PlanFault("hold-" + c.args[0]) }),
	"await":   positive(1, func(c call) error { return c.world.AwaitFault(c.ctx, "hold-"+c.args[0]) }),
	"release": positive(1, func(c call) error { return c.world.LiftFault("hold-" + c.args[0]) }),
	"fault":   positive(1, func(c call) error { return c.world.PlanFault(c.args[0]) }),
	"hit":     positive(1, func(c call) error { return c.world.AwaitFault(c.ctx, c.args[0]) }),
	"lift":    positive(1, func(c call) error { return c.world.LiftFault(c.args[0]) }),
	"tidy":    positive(0, tidy),
}

// tidy sees that nothing half done is left. A job that goes on by itself, such as
// an expiry on schedule, has something half done while it runs: it may end first.
func tidy(c call) error {
	region := client.New(c.world.Region.URL, c.world.Region.Token)
	for {
		jobs, err := region.Jobs(c.ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
		if err != nil || len(jobs) == 0 {
			return c.world.Tidy(c.ctx) // a server that was ended has no jobs either
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.ctx.Done():
			return fmt.Errorf("job %s (%s) does not end: %w", jobs[0].ID, jobs[0].Kind, c.ctx.Err())
		}
	}
}

// call is one command of a story while it runs.
type call struct {
	ctx   context.Context
	ts    *testscript.TestScript
	world *sandbox.World
	args  []string
}

// either is a command of a world with at least n arguments, which a story may
// expect to fail.
func either(n int, do func(call) error) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		w := ts.Value(storyKey{}).(*story).world
		if w == nil {
			ts.Fatalf("the story has no world yet")
		}
		if len(args) < n {
			ts.Fatalf("%d arguments are too few", len(args))
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		check(ts, neg, do(call{ctx, ts, w, args}))
	}
}

// positive is a command that must succeed.
func positive(n int, do func(call) error) command {
	run := either(n, do)
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be expected to fail")
		}
		run(ts, false, args)
	}
}

func check(ts *testscript.TestScript, neg bool, err error) {
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("it succeeded unexpectedly")
	case err != nil:
		ts.Logf("[%v]", err)
	}
}

func (c call) print(out string, err error) error {
	fmt.Fprint(c.ts.Stdout(), out)
	return err
}

func (c call) optional(i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

// hostOf and vm take HOST/NAME apart; NAME alone is on the first host.
func (c call) hostOf(word string) string {
	host, _, found := strings.Cut(word, "/")
	if !found {
		return ""
	}
	return host
}

func (c call) vm(i int) string { return c.args[i][strings.Index(c.args[i], "/")+1:] }

func (c call) host(i int) *sandbox.Host {
	h, err := c.world.Host(c.hostOf(c.args[i]))
	c.ts.Check(err)
	return h
}

// bringUp is the command `world`.
func bringUp(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(storyKey{}).(*story)
	if neg || s.world != nil {
		ts.Fatalf("a story has one world")
	}
	program := filepath.Join(binaries, "sandbox")
	o := sandbox.Options{Hosts: []string{"host1"}, Binary: []string{program, "backstay"}, LinkBinary: []string{program, "carry"}}
	var regions []string
	for _, arg := range args {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "hosts":
			n, err := strconv.Atoi(value)
			ts.Check(err)
			for i := 2; i <= n; i++ {
				o.Hosts = append(o.Hosts, fmt.Sprintf("host%d", i))
			}
		case "files": // small machines, for item-level restore
			machine, err := image.Ensure(context.Background(), "")
			ts.Check(err)
			o.Machine = machine
		case "qemu":
			o.QEMU = sandbox.QEMU(value)
		case "regions":
			regions = strings.Split(value, ",")
		default:
			ts.Fatalf("what is %q?", arg)
		}
	}
	worlds <- struct{}{}
	ts.Defer(func() { <-worlds })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ts.Setenv("BIN", binaries)
	ts.Setenv("IMAGES", sandbox.Images)
	if regions != nil {
		s.bringUpRegions(ctx, ts, o, regions)
		return
	}
	w, err := sandbox.Up(ctx, o)
	ts.Check(err)
	ts.Defer(func() { takeDown(ts, w.Down) })
	s.enter(ts, w)
}

func takeDown(ts *testscript.TestScript, down func(context.Context) error) {
	if err := down(context.Background()); err != nil {
		leftovers.add(fmt.Errorf("take the world of %s down: %w", ts.Name(), err))
	}
}

// enter makes a world the one that the next commands are about.
func (s *story) enter(ts *testscript.TestScript, w *sandbox.World) {
	s.world = w
	ts.Setenv("BACKSTAY_CONFIG", w.Region.Client)
	ts.Setenv("URL", w.Region.URL)
	ts.Setenv("TOKEN", w.Region.Token)
	key := ts.MkAbs("recovery" + w.Region.Name() + ".key")
	ts.Setenv("KEYFILE", key)
	ts.Check(os.WriteFile(key, []byte(w.Region.RecoveryKey+"\n"), 0o600))
	ts.Setenv("SERVERLOG", w.Region.ServerLog())
	ts.Setenv("WORLD", w.Dir)
	for i, unit := range w.Region.Units {
		ts.Setenv(fmt.Sprintf("UNIT%d", i+1), strings.TrimPrefix(unit, "file://"))
	}
}

// addVM is the command `vm`.
func addVM(c call) error {
	spec := sandbox.VMSpec{Name: c.args[0]}
	var disks []string
	for _, arg := range c.args[1:] {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "host":
			spec.Host = value
		case "disk":
			disks = append(disks, value)
		case "uefi":
			spec.UEFI = true
		case "tpm":
			spec.TPM = true
		case "noagent":
			spec.NoAgent = true
		case "off":
			spec.Off = true
		case "network":
			spec.Network = value
		default:
			return fmt.Errorf("what is %q?", arg)
		}
	}
	var err error
	if spec.Disks, err = sandbox.ParseDisks(disks); err != nil {
		return err
	}
	if err := c.world.AddVM(c.ctx, spec); err != nil {
		return err
	}
	switch {
	case spec.Off:
	case spec.NoAgent:
		err = c.world.WaitConsole(c.ctx, spec.Host, spec.Name)
	default:
		err = c.world.WaitAgent(c.ctx, spec.Host, spec.Name)
	}
	if err != nil {
		return err
	}
	return c.discovered(spec)
}

// discovered waits until the server has heard of a VM.
func (c call) discovered(spec sandbox.VMSpec) error {
	h, err := c.world.Host(spec.Host)
	if err != nil {
		return err
	}
	region := client.New(c.world.Region.URL, c.world.Region.Token)
	defer region.Close()
	for {
		_, err := region.VM(c.ctx, h.Name+"/"+spec.Name)
		if err == nil || !backstay.IsCode(err, backstay.CodeUnknownVM) {
			return err
		}
		select {
		case <-c.ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// program is a command that runs a freshly built program.
func program(name string) command {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		check(ts, neg, ts.Exec(filepath.Join(binaries, name), args...))
	}
}

// exits is the command `exits`.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGUMENTS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("it ended with code %d, not %s", code, args[0])
	}
}

// eventually is the command `eventually`: it repeats a program until what it
// prints matches, and fails after the story's patience. Only the last output is
// kept, or the log would have each of hundreds.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN COMMAND ARGUMENTS...")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	program := args[1]
	if program == "backstay" {
		program = filepath.Join(binaries, program)
	}
	for begin := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		cmd := exec.Command(program, args[2:]...)
		cmd.Dir = ts.MkAbs(".")
		for _, name := range []string{"PATH", "HOME", "BACKSTAY_CONFIG"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		matches := err == nil && pattern.Match(out)
		if !matches && time.Since(begin) < patience {
			continue
		}
		fmt.Fprint(ts.Stdout(), string(out))
		fmt.Fprint(ts.Stderr(), stderr.String())
		if !matches {
			ts.Fatalf("it never printed %q; in the end: %v", args[0], err)
		}
		return
	}
}
