package backstay_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// imports is who may import whom. A package that matches no line fails the
// test; changing a line is a decision record. Tests may import more: only
// non-test files are held to the table. "->" lists what is allowed below this
// module; "x/*" means every package below x, and a line's own folder and its
// subfolders are not implied.
const imports = `
.                        ->
api                      -> .
client                   -> . api
internal/blob            -> .
internal/blob/*          -> . internal/blob
internal/blob/file       -> . internal/blob internal/direct internal/durable
internal/blob/s3         -> . internal/blob internal/blob/idle
internal/blob/azure      -> . internal/blob internal/blob/idle
internal/blob/blobtest   -> internal/blob internal/blob/conform
internal/blob/blobserver -> internal/blob internal/blob/retry
internal/blob/unit       -> . internal/blob internal/blob/*
internal/catalog         -> .
internal/catalog/*       -> . internal/catalog
internal/hypervisor      -> .
internal/hypervisor/*    -> . internal/hypervisor
internal/keyring         -> .
internal/keyring/*       -> . internal/keyring internal/durable
internal/nbd             ->
internal/pace            -> . internal/hypervisor
internal/deploy          -> .
internal/undo            ->
internal/screen          ->
internal/tier            -> .
internal/direct          ->
internal/durable         ->
internal/debian          ->
internal/tier/raw        -> . internal/tier internal/direct
internal/tier/content    -> . internal/tier
internal/tier/tripwire   -> . internal/tier
internal/tier/pull       -> . internal/tier internal/hypervisor internal/nbd internal/quiesce internal/tier/snapshot/record
internal/items           -> .
internal/fileindex       -> . internal/guest/wire
internal/guest           -> . internal/guest/wire internal/items internal/nbd
internal/guest/wire      -> .
internal/guest/inside    -> . internal/guest/wire internal/items internal/guest/inside/*
internal/guest/inside/*  -> . internal/guest/wire internal/guest/inside/*
internal/guest/image     -> internal/debian
internal/guest/volumes   -> . internal/guest internal/guest/wire internal/tier internal/tier/luks
internal/guest/guesttest -> . internal/guest internal/guest/wire internal/guest/image internal/guest/guesttest/* internal/debian internal/items internal/nbd
internal/guest/guesttest/* -> internal/guest/guesttest/*
internal/tier/luks       -> . internal/tier
internal/filemount       -> . api client internal/items internal/nbd
internal/live            -> . internal/mover internal/nbd internal/tier
internal/guestagent      -> . internal/hypervisor
internal/quiesce         -> . internal/hypervisor internal/guestagent
internal/tier/snapshot   -> . internal/tier internal/hypervisor internal/quiesce internal/nbd internal/keyring internal/tier/snapshot/*
internal/tier/snapshot/* -> .
internal/tier/vault      -> . internal/tier internal/blob internal/tier/vault/*
internal/tier/vault/*    -> . internal/blob internal/tier/vault/*
internal/mover           -> .
internal/mover/rpc       -> . internal/mover
internal/mover/host      -> . internal/durable internal/mover internal/guest internal/guest/wire internal/guest/volumes internal/guestagent internal/items internal/fileindex internal/deploy internal/live internal/quiesce internal/pace internal/tier internal/tier/* internal/hypervisor internal/blob internal/keyring internal/nbd internal/undo internal/screen
internal/mover/movertest -> . internal/mover internal/items
internal/pair            -> .
internal/pair/*          -> . internal/pair
internal/engine/*        -> . internal/mover internal/catalog
internal/engine/replicate -> . internal/catalog internal/pair
internal/engine/hold     -> . internal/catalog internal/pair
internal/job             -> . internal/catalog
internal/server          -> . api internal/items internal/job internal/catalog internal/mover
internal/server/servertest -> . api internal/server internal/engine/files internal/engine/index internal/mover internal/mover/movertest internal/catalog internal/catalog/sqlite
internal/recover         -> . internal/durable internal/tier internal/tier/vault internal/tier/content internal/tier/raw internal/blob internal/blob/* internal/nbd internal/guest internal/guest/wire internal/guest/volumes
internal/recover/recovertest -> . internal/tier internal/tier/vault internal/blob internal/blob/replica
internal/config          -> .
internal/codespage       -> .
internal/drillreport     -> .
internal/cli             -> . api client internal/items internal/filemount internal/config internal/recover internal/drillreport internal/blob/unit internal/blob/conform
internal/daemon          -> . api client internal/*
internal/sandbox         -> . internal/config internal/blob internal/sandbox/*
internal/sandbox/*       -> . internal/sandbox/* internal/debian
cmd/backstay             -> internal/cli internal/daemon
cmd/small-machine        -> internal/guest/image
cmd/small-machine-init   -> internal/guest/inside
cmd/sandbox              -> internal/sandbox internal/cli internal/daemon
`

const module = "github.com/backstay/backstay"

// TestImportsFollowTheTable is the architecture as a test.
func TestImportsFollowTheTable(t *testing.T) {
	table := parseTable(t)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "test" || d.Name() == "tools") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		checkFile(t, table, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func parseTable(t *testing.T) map[string][]string {
	table := map[string][]string{}
	for line := range strings.Lines(imports) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		pkg, allowed, ok := strings.Cut(line, "->")
		if !ok {
			t.Fatalf("no arrow in %q", line)
		}
		table[strings.TrimSpace(pkg)] = strings.Fields(allowed)
	}
	return table
}

func checkFile(t *testing.T, table map[string][]string, path string) {
	t.Helper()
	pkg := filepath.ToSlash(filepath.Dir(path))
	rule, allowed := ruleFor(table, pkg)
	if rule == "" {
		t.Errorf("%s: package %s is not in the table", path, pkg)
		return
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if name != module && !strings.HasPrefix(name, module+"/") {
			if pkg == "." && strings.Contains(strings.Split(name, "/")[0], ".") {
				t.Errorf("%s: the words import the standard library only, not %s", path, name)
			}
			continue
		}
		target := strings.TrimPrefix(strings.TrimPrefix(name, module), "/")
		if target == "" {
			target = "."
		}
		if !matches(allowed, target) {
			t.Errorf("%s: %s may not import %s (rule %q)", path, pkg, target, rule)
		}
	}
}

// ruleFor returns the most specific rule for a package.
func ruleFor(table map[string][]string, pkg string) (string, []string) {
	if allowed, ok := table[pkg]; ok {
		return pkg, allowed
	}
	for dir := filepath.ToSlash(filepath.Dir(pkg)); dir != "."; dir = filepath.ToSlash(filepath.Dir(dir)) {
		if allowed, ok := table[dir+"/*"]; ok {
			return dir + "/*", allowed
		}
	}
	return "", nil
}

func matches(allowed []string, target string) bool {
	for _, a := range allowed {
		if a == target {
			return true
		}
		if prefix, ok := strings.CutSuffix(a, "/*"); ok && strings.HasPrefix(target, prefix+"/") {
			return true
		}
	}
	return false
}
