//go:build integration

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// binaries is the folder of the freshly built programs; versitygw is the S3 server
// that stories start.
var binaries, versitygw string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "backstay-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "../cmd/...")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build backstay and sandbox:", err)
		return 1
	}
	machine := exec.Command(filepath.Join(dir, "small-machine"), "build", filepath.Join(dir, "machine"))
	machine.Dir, machine.Stdout, machine.Stderr = "..", os.Stderr, os.Stderr
	if err := machine.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build what small machines start from:", err)
		return 1
	}
	servers := exec.Command("../scripts/test-servers")
	servers.Stderr = os.Stderr
	out, err := servers.Output()
	if err != nil || len(strings.Fields(string(out))) == 0 {
		fmt.Fprintln(os.Stderr, "install the test servers:", err)
		return 1
	}
	versitygw = strings.Fields(string(out))[0]
	return m.Run()
}

func TestStories(t *testing.T) {
	stories, err := filepath.Glob("scripts/*.txtar")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	t.Cleanup(func() {
		for _, err := range leftovers.all() {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:                "scripts",
		RequireUniqueNames: true,
		Cmds:               commands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("VERSITYGW", versitygw)
			env.Values[storyKey{}] = &story{}
			return nil
		},
	})
}
