package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/recover/recovertest"
	"github.com/backstay/backstay/internal/server/servertest"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be `backstay` in the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"backstay": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(cli.Main(ctx, os.Args[1:], cli.Env{Now: func() time.Time { return servertest.Now }}, daemons()))
	}})
}

// daemons say with what they were called.
func daemons() cli.Daemons {
	return cli.Daemons{
		Server: func(_ context.Context, path string) error {
			_, err := config.Load(path)
			return err
		},
		Agent: func(_ context.Context, o config.AgentOptions) error {
			fmt.Printf("agent %+v\n", o)
			return nil
		},
		Init: func(_ context.Context, o config.InitOptions) (config.InitResult, error) {
			if o.Dir == "taken" {
				return config.InitResult{}, backstay.Errorf(backstay.CodeExists, "there is a configuration already").Becausef("it is at taken")
			}
			return config.InitResult{
				ConfigPath: o.Dir + "/backstay.yaml", ClientConfigPath: o.Dir + "/client.yaml", DataDir: o.Dir + "/data",
				Region: "home", VaultName: o.Vault, Units: o.Units, RecoveryKey: servertest.RecoveryKey,
			}, nil
		},
	}
}

var plays = map[string]servertest.Play{
	"succeed": servertest.Succeed, "warn": servertest.Warn, "fail": servertest.Fail, "hang": servertest.Hang, "queued": servertest.Queued,
}

// TestScripts runs the stories of testdata, each in a world of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			w, err := servertest.Start(nil)
			if err != nil {
				return err
			}
			e.Defer(func() {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
			e.Values["world"] = w
			e.Setenv("BACKSTAY_SERVER", w.URL)
			e.Setenv("BACKSTAY_TOKEN", w.Tokens[backstay.Owner])
			e.Setenv("READER", w.Tokens[backstay.Reader])
			e.Setenv("TZ", "UTC")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// play says how the next jobs go: succeed, warn, fail, hang, queued.
			"play": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value("world").(*servertest.World).Queue.Play(plays[args[0]])
			},
			// exits runs backstay and wants an exit code: exits 3 vm show nobody
			"exits": func(ts *testscript.TestScript, _ bool, args []string) { exits(ts, args[0], args[1:]) },
			// interrupt waits until a job runs, and sends Ctrl-C to a background command.
			"interrupt": interrupt,
			// vault makes a vault in the units a, b and c of a folder, key files, and
			// what its newest point's disks hold.
			"vault": func(ts *testscript.TestScript, _ bool, args []string) { makeVault(ts, args[0]) },
			// damage changes the newest manifest of a unit.
			"damage": func(ts *testscript.TestScript, _ bool, args []string) { damage(ts, args[0]) },
			// region writes the world's server and the owner's token into a client configuration.
			"region": func(ts *testscript.TestScript, _ bool, args []string) {
				w := ts.Value("world").(*servertest.World)
				text := strings.NewReplacer("SERVER", w.URL, "TOKEN", w.Tokens[backstay.Owner]).Replace(ts.ReadFile(args[0]))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
			},
			// secret takes the secret of a token that was made into SECRET.
			"secret": func(ts *testscript.TestScript, _ bool, args []string) {
				var made api.CreateTokenResponse
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &made))
				ts.Setenv("SECRET", made.Secret)
			},
			// lines wants a file to have so many lines.
			"lines": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := fmt.Sprint(strings.Count(ts.ReadFile(args[0]), "\n")); got != args[1] {
					ts.Fatalf("%s has %s lines, not %s:\n%s", args[0], got, args[1], ts.ReadFile(args[0]))
				}
			},
		},
	})
}

func makeVault(ts *testscript.TestScript, dir string) {
	ctx := context.Background()
	var units []blob.Store
	for _, name := range []string{"a", "b", "c"} {
		path := ts.MkAbs(filepath.Join(dir, name))
		ts.Check(file.Init(path))
		units = append(units, file.New(path))
	}
	w, err := recovertest.Make(ctx, 2, units...)
	ts.Check(err)
	other, _, err := vault.NewIdentity()
	ts.Check(err)
	files := map[string][]byte{"key.txt": append([]byte("# the recovery key\n"), w.Identity.Reveal()...), "other.txt": other.Reveal()}
	for target, content := range w.Disks[len(w.Disks)-1] {
		files[string(target)+".want"] = content
	}
	for name, content := range files {
		ts.Check(os.WriteFile(ts.MkAbs(name), content, 0o600))
	}
}

func damage(ts *testscript.TestScript, unit string) {
	entries, err := os.ReadDir(ts.MkAbs(filepath.Join(unit, "points")))
	ts.Check(err)
	path := ts.MkAbs(filepath.Join(unit, "points", entries[len(entries)-1].Name()))
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 0x10
	ts.Check(os.WriteFile(path, data, 0o600))
}

func exits(ts *testscript.TestScript, want string, args []string) {
	err := ts.Exec("backstay", args...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("run: %v", err)
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

func interrupt(ts *testscript.TestScript, _ bool, _ []string) {
	queue := ts.Value("world").(*servertest.World).Queue
	for range 500 {
		jobs, err := queue.List(context.Background(), 1, backstay.JobRunning)
		ts.Check(err)
		if len(jobs) == 1 && jobs[0].Percent == 75 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the client has seen it too
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(os.Interrupt))
	}
}
