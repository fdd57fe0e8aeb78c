package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// allPeers are what backstay is compared with.
var allPeers = []string{"restic", "kopia", "borg", "qemu", "virtnbd"}

// peers measure themselves in a folder of their own, which is empty but for "in".
var peers = map[string]func(ctx context.Context, b *bench, dir string) error{
	"restic": resticPeer, "kopia": kopiaPeer, "borg": borgPeer, "qemu": qemuPeer, "virtnbd": virtnbdPeer,
}

// filePeer is a tool that backs a file up into a repository of its own.
type filePeer struct {
	name string
	repo string // the folder whose size counts
	env  []string
	dir  string // where its commands run
	// prepare commands are not measured.
	prepare                [][]string
	first, second, restore []string
	restored               string // the file that restore makes
	into                   string // the folder that restore runs in, if another
}

func (b *bench) filePeer(ctx context.Context, p filePeer) error {
	in := filepath.Join(p.dir, "in", "disk.raw")
	if err := link(b.path("base.raw"), in); err != nil {
		return err
	}
	for _, args := range p.prepare {
		if _, _, err := timed(ctx, b.o.dir, command{dir: p.dir, env: p.env, args: args}); err != nil {
			return err
		}
	}
	size, err := b.backup(ctx, p, "first", p.first, 0)
	if err != nil || !b.want("second", "restore") {
		return err
	}
	if err := errors.Join(link(b.path("changed.raw"), in), warm(ctx, in)); err != nil {
		return err
	}
	if _, err = b.backup(ctx, p, "second", p.second, size); err != nil || !b.want("restore") {
		return err
	}
	into := filepath.Join(p.dir, p.into)
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	f, _, err := timed(ctx, b.o.dir, command{dir: into, env: p.env, args: p.restore})
	if err != nil {
		return err
	}
	if err := b.record(p.name+"/restore", f); err != nil {
		return err
	}
	return b.check(ctx, b.path("changed.raw"), filepath.Join(p.dir, p.restored))
}

// backup measures one backup and returns the repository's size after it.
func (b *bench) backup(ctx context.Context, p filePeer, step string, args []string, before int64) (int64, error) {
	if before == 0 {
		var err error
		if before, err = treeSize(p.repo); err != nil {
			return 0, err
		}
	}
	f, _, err := timed(ctx, b.o.dir, command{dir: p.dir, env: p.env, args: args})
	if err != nil {
		return 0, err
	}
	if f.Stored, err = treeSize(p.repo); err != nil {
		return 0, err
	}
	f.Added = f.Stored - before
	return f.Stored, b.record(p.name+"/"+step, f)
}

func resticPeer(ctx context.Context, b *bench, dir string) error {
	bin, repo := filepath.Join(b.o.bin, "restic"), filepath.Join(dir, "repo")
	backup := []string{bin, "backup", "--quiet", "in/disk.raw"}
	return b.filePeer(ctx, filePeer{name: "restic", repo: repo, dir: dir, restored: "out/in/disk.raw",
		env:     []string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + repo, "RESTIC_CACHE_DIR=" + filepath.Join(dir, "cache")},
		prepare: [][]string{{bin, "init", "--quiet"}}, first: backup, second: backup,
		restore: []string{bin, "restore", "latest:" + "/", "--quiet", "--sparse", "--target", "out"}})
}

func kopiaPeer(ctx context.Context, b *bench, dir string) error {
	bin, repo := filepath.Join(b.o.bin, "kopia"), filepath.Join(dir, "repo")
	if err := os.MkdirAll(repo, 0o755); err != nil {
		return err
	}
	backup := []string{bin, "snapshot", "create", "--no-progress", filepath.Join(dir, "in")}
	return b.filePeer(ctx, filePeer{name: "kopia", repo: repo, dir: dir, restored: "out/disk.raw",
		env: []string{"KOPIA_PASSWORD=bench", "KOPIA_CONFIG_PATH=" + filepath.Join(dir, "config"), "KOPIA_CACHE_DIRECTORY=" + filepath.Join(dir, "cache"),
			"KOPIA_LOG_DIR=" + filepath.Join(dir, "log"), "KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_PERSIST_CREDENTIALS_ON_CONNECT=true", "KOPIA_USE_KEYRING=false"},
		prepare: [][]string{{bin, "repository", "create", "filesystem", "--path=" + repo, "--object-splitter=FIXED-1M"},
			{bin, "policy", "set", "--global", "--compression=zstd-fastest"}},
		first: backup, second: backup,
		restore: []string{bin, "snapshot", "restore", "--no-progress", "--write-sparse-files", "--snapshot-time=latest", filepath.Join(dir, "in"), filepath.Join(dir, "out")}})
}

func borgPeer(ctx context.Context, b *bench, dir string) error {
	repo := filepath.Join(dir, "repo")
	create := func(name string) []string {
		return []string{"borg", "create", "--sparse", "--chunker-params", "fixed,1048576", "--compression", "zstd,1", "::" + name, "in/disk.raw"}
	}
	return b.filePeer(ctx, filePeer{name: "borg", repo: repo, dir: dir, into: "out", restored: "out/in/disk.raw",
		env:     []string{"BORG_PASSPHRASE=bench", "BORG_BASE_DIR=" + filepath.Join(dir, "base"), "BORG_REPO=" + repo},
		prepare: [][]string{{"borg", "init", "--encryption", "repokey-blake2"}},
		first:   create("first"), second: create("second"),
		restore: []string{"borg", "extract", "--sparse", "::second"}})
}

// qemuPeer measures what copies an image and knows no increments: compressed and
// plain, by qemu-img and by cp.
func qemuPeer(ctx context.Context, b *bench, dir string) error {
	changed, packed, plain := b.path("changed.raw"), filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
	convert := []string{"qemu-img", "convert", "-W", "-f"}
	if b.want("first") {
		for _, kind := range []string{"zstd", "zlib"} {
			f, _, err := timed(ctx, b.o.dir, command{args: append(convert, "raw", "-O", "qcow2", "-c", "-o", "compression_type="+kind, b.path("base.raw"), packed)})
			if err != nil {
				return err
			}
			if f.Stored, err = treeSize(dir); err != nil {
				return err
			}
			f.Added = f.Stored
			if err := errors.Join(b.record("qemu-"+kind+"/first", f), os.Remove(packed)); err != nil {
				return err
			}
		}
	}
	if !b.want("restore") {
		return nil
	}
	// What it restores from is not measured; of the two compressions the one that
	// is read faster.
	if err := tool(ctx, "qemu-img", "convert", "-W", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", changed, packed); err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"qemu-zstd/restore", append(convert, "qcow2", "-O", "raw", packed, plain)},
		{"qemu-convert/restore", append(convert, "raw", "-O", "raw", changed, plain)},
		{"cp/restore", []string{"cp", "--sparse=always", changed, plain}},
	} {
		if err := warm(ctx, changed, packed); err != nil {
			return err
		}
		f, _, err := timed(ctx, b.o.dir, command{args: c.args})
		if err != nil {
			return err
		}
		if err := errors.Join(b.record(c.name, f), b.check(ctx, changed, plain)); err != nil {
			return err
		}
	}
	return nil
}

// versions are what the peers say of themselves.
func versions(ctx context.Context, o options) map[string]string {
	said := map[string]string{}
	for name, args := range map[string][]string{
		"restic":        {filepath.Join(o.bin, "restic"), "version"},
		"borg":          {"borg", "--version"},
		"qemu-img":      {"qemu-img", "--version"},
		"virtnbdbackup": {"virtnbdbackup", "-V"},
	} {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		if err == nil {
			first, _, _ := bytes.Cut(out, []byte("\n"))
			said[name] = strings.TrimSpace(string(first))
		}
	}
	said["kopia"] = moduleVersion(ctx, filepath.Join(o.bin, "kopia"), "github.com/kopia/kopia")
	return said
}

// moduleVersion reads from a program of which version of a module it was built.
func moduleVersion(ctx context.Context, program, module string) string {
	out, err := exec.CommandContext(ctx, "go", "version", "-m", program).Output()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) >= 3 && (f[0] == "dep" || f[0] == "mod") && f[1] == module {
			return fmt.Sprintf("kopia %s", f[2])
		}
	}
	return ""
}
