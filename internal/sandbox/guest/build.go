package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/internal/debian"
)

const busybox = "/bin/busybox"

// build makes the image in a work folder and returns its path.
func build(ctx context.Context, in inputs, work string) (string, error) {
	initrd, err := initramfs(in)
	if err != nil {
		return "", fmt.Errorf("make initramfs: %w", err)
	}
	initrdPath := filepath.Join(work, "initrd.gz")
	if err := os.WriteFile(initrdPath, initrd, 0o644); err != nil {
		return "", err
	}
	root := filepath.Join(work, "root")
	if err := rootFolder(ctx, in, root); err != nil {
		return "", fmt.Errorf("make root: %w", err)
	}
	ticker, err := compileTicker(ctx, work)
	if err != nil {
		return "", err
	}
	if err := copyFile(ticker, filepath.Join(root, "usr/bin/ticker"), 0o755); err != nil {
		return "", err
	}
	esp := filepath.Join(work, "esp")
	if err := bootPartition(ctx, in, esp, initrdPath); err != nil {
		return "", fmt.Errorf("make boot partition: %w", err)
	}
	ext4 := filepath.Join(work, "ext4")
	if err := makeExt4(ctx, ext4, ext4Options{Label: RootLabel, Size: rootMiB << 20, From: root}); err != nil {
		return "", fmt.Errorf("make root file system: %w", err)
	}
	image := filepath.Join(work, "image.raw")
	return image, assemble(image, esp, ext4)
}

// initramfs packs busybox, the drivers in load order, and our init.
func initramfs(in inputs) ([]byte, error) {
	modules, err := debian.ModuleFiles(in.modules, drivers)
	if err != nil {
		return nil, err
	}
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	init, err := sources.ReadFile("files/init")
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	c := debian.NewArchive(zip)
	for _, dir := range []string{"bin", "lib", "lib/mod", "proc", "sys", "dev", "newroot"} {
		c.Folder(dir)
	}
	c.Program("bin/busybox", shell)
	for _, applet := range strings.Fields("sh mount switch_root insmod findfs sleep echo") {
		c.Link("bin/"+applet, "busybox")
	}
	for i, path := range modules {
		module, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		c.Program(fmt.Sprintf("lib/mod/%03d-%s", i, filepath.Base(path)), module)
	}
	c.Program("init", init)
	if err := c.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

// rootFolder lays out the guest's root file system in a folder.
func rootFolder(ctx context.Context, in inputs, root string) error {
	for _, dir := range strings.Fields("bin sbin usr/bin usr/sbin etc/init.d proc sys dev run tmp root var/log srv/www data mnt lib lib64") {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(root, "var/run")); err != nil {
		return err
	}
	if err := installBusybox(ctx, root); err != nil {
		return err
	}
	if err := installAgent(in, root); err != nil {
		return err
	}
	files := map[string]os.FileMode{"inittab": 0o644, "udhcpc.sh": 0o755, "rcS": 0o755}
	for name, mode := range files {
		text, err := sources.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		path := filepath.Join(root, "etc", name)
		if name == "rcS" {
			path = filepath.Join(root, "etc/init.d", name)
		}
		if err := os.WriteFile(path, text, mode); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/hostname": "guest\n", "etc/passwd": "root::0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// installBusybox copies busybox and links all its names to it.
func installBusybox(ctx context.Context, root string) error {
	if err := copyFile(busybox, filepath.Join(root, "bin/busybox"), 0o755); err != nil {
		return err
	}
	names, err := debian.Run(ctx, busybox, "--list-full")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(names) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/bin/busybox", path); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// installAgent copies the guest agent with the libraries of this machine.
func installAgent(in inputs, root string) error {
	agent := filepath.Join(in.agent, "usr/sbin/qemu-ga")
	if err := copyFile(agent, filepath.Join(root, "usr/sbin/qemu-ga"), 0o755); err != nil {
		return err
	}
	libs, err := debian.Libraries(agent, "/")
	if err != nil {
		return err
	}
	for inGuest, here := range libs {
		if err := copyFile(here, filepath.Join(root, inGuest), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// compileTicker builds the static ticker from its embedded source.
func compileTicker(ctx context.Context, work string) (string, error) {
	dir := filepath.Join(work, "ticker")
	texts := map[string]string{"go.mod": "module ticker\n\ngo 1.22\n"}
	for _, name := range []string{"main.go", "work.go"} {
		source, err := sources.ReadFile("ticker/" + name)
		if err != nil {
			return "", err
		}
		texts[name] = string(source)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	out := filepath.Join(work, "ticker.bin")
	_, err := debian.Run(ctx, "env", "-u", "GOFLAGS", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOWORK=off",
		"go", "build", "-C", dir, "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", out, ".")
	if err != nil {
		return "", fmt.Errorf("compile ticker: %w", err)
	}
	return out, nil
}

// copyFile copies a file's content, following links, and makes its folder.
func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
