//go:build integration

package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// object is the command `object`.
func object(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: object UNIT KIND")
	}
	var largest string
	var size int64
	err := filepath.WalkDir(filepath.Join(args[0], args[1]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	ts.Check(err)
	if largest == "" {
		ts.Fatalf("the unit %s has no %s", args[0], args[1])
	}
	name, err := filepath.Rel(args[0], largest)
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), name)
}

// damage is the command `damage`.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage flip|cut|remove FILE")
	}
	data, err := os.ReadFile(args[1])
	ts.Check(err)
	switch args[0] {
	case "flip":
		data[len(data)/3] ^= 0x04
	case "cut":
		data = data[:len(data)/4]
	case "remove":
		ts.Check(os.Remove(args[1]))
		return
	default:
		ts.Fatalf("what is %q?", args[0])
	}
	ts.Check(os.WriteFile(args[1], data, 0o600))
}
