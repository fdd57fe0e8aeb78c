//go:build integration

package luks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// disk is an image file as a tier's image.
type disk struct {
	*os.File
	size int64
}

func (d disk) Size() int64 { return d.size }
func (d disk) Extents(offset, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, nil
}

func tool(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func open(t *testing.T, path string) disk {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return disk{f, info.Size()}
}

// sealByQEMU makes a LUKS volume of a file. QEMU measures how fast this thread
// derives keys by a clock that stands still for milliseconds on some machines,
// and gives up where it saw no time pass: one in four runs where this was seen.
func sealByQEMU(t *testing.T, plain, sealed, key string) {
	t.Helper()
	var out []byte
	for range 50 {
		var err error
		out, err = exec.Command("qemu-img", "convert", "-f", "raw", "-O", "luks", "--object", "secret,id=k,file="+key,
			"-o", "key-secret=k,iter-time=200,cipher-mode=xts,ivgen-alg=plain64", plain, sealed).CombinedOutput()
		if err == nil {
			return
		}
		if !strings.Contains(string(out), "accurate CPU usage") {
			break
		}
	}
	t.Fatalf("make a LUKS volume: %s", out)
}

// QEMU has a LUKS of its own: what it writes is what we must read.
func TestAVolumeIsReadAsSomebodyElseWroteIt(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	plain, sealed, key := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed"), filepath.Join(dir, "key")
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	for path, data := range map[string][]byte{plain: content, key: []byte("open sesame")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sealByQEMU(t, plain, sealed, key)
	image := open(t, sealed)
	v, err := Read(ctx, image, 0, image.size)
	if err != nil {
		t.Fatal(err)
	}
	if v.Version != 1 || v.Cipher != "aes-xts-plain64" {
		t.Errorf("it is read as version %d with %s", v.Version, v.Cipher)
	}
	if _, err := v.Unlock(ctx, backstay.NewSecret([]byte("open sesam"))); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a wrong key: %v", err)
	}
	volumeKey, err := v.Unlock(ctx, backstay.NewSecret([]byte("open sesame")))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := v.Open(image, 0, volumeKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(opened, 0, opened.Size()))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the content differs (%d bytes, %v)", len(got), err)
	}
	for range 50 {
		from := rand.IntN(len(content))
		n := rand.IntN(min(9000, len(content)-from) + 1)
		piece := make([]byte, n)
		if _, err := opened.ReadAt(piece, int64(from)); err != nil || !bytes.Equal(piece, content[from:from+n]) {
			t.Fatalf("%d bytes at %d differ (%v)", n, from, err)
		}
	}
}

func format(t *testing.T, size string, args ...string) disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "luks")
	tool(t, "", "truncate", "-s", size, path)
	tool(t, "secret\n\x00", append(append([]string{"cryptsetup", "luksFormat", "--batch-mode", "--key-file", "-"}, args...), path)...)
	return open(t, path)
}

func TestAKeyFileMayHoldAnyByte(t *testing.T) {
	ctx := context.Background()
	image := format(t, "64M", "--type", "luks2", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4", "--sector-size", "4096")
	v, err := Read(ctx, image, 0, image.size)
	if err != nil {
		t.Fatal(err)
	}
	if v.Version != 2 || v.Memory != 64<<20 || v.segment.sector != 4096 || v.segment.offset != 16<<20 {
		t.Errorf("it is read as %+v", v.segment)
	}
	if _, err := v.Unlock(ctx, backstay.NewSecret([]byte("secret\n"))); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a part of the key: %v", err)
	}
	if key, err := v.Unlock(ctx, backstay.NewSecret([]byte("secret\n\x00"))); err != nil || len(key.Reveal()) != 64 {
		t.Errorf("the key: %v", err)
	}
}

func TestWhatOnlyTheKernelDecryptsIsSaidToBe(t *testing.T) {
	image := format(t, "64M", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--cipher", "aes-cbc-essiv:sha256")
	v, err := Read(context.Background(), image, 0, image.size)
	if err != nil {
		t.Fatal(err)
	}
	key, err := v.Unlock(context.Background(), backstay.NewSecret([]byte("secret\n\x00")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Open(image, 0, key); !errors.Is(err, ErrElsewhere) {
		t.Errorf("opened: %v", err)
	}
}

// A key slot that wants more memory than any that cryptsetup makes is one that was
// made to harm whoever opens it.
func TestAHeaderCannotTakeMoreMemoryThanItSays(t *testing.T) {
	image := format(t, "64M", "--type", "luks2", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4")
	v, err := Read(context.Background(), image, 0, image.size)
	if err != nil {
		t.Fatal(err)
	}
	v.Memory = -floorMemory + 48<<20 // the limit that counts is below what the slot needs
	if _, err := v.Unlock(context.Background(), backstay.NewSecret([]byte("secret\n\x00"))); err == nil {
		t.Error("cryptsetup had more memory than it was given")
	}
}

func TestADamagedHeaderIsNamed(t *testing.T) {
	image := format(t, "64M", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	header := make([]byte, 1<<20)
	if _, err := image.ReadAt(header, 0); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]byte){
		"no magic":        func(h []byte) { h[0] = 'x' },
		"another version": func(h []byte) { h[7] = 9 },
		"both copies": func(h []byte) {
			clear(h[4096:16384])
			clear(h[16384+4096 : 32768])
		},
	} {
		damaged := bytes.Clone(header)
		spoil(damaged)
		if _, err := Parse(context.Background(), damaged, image.size); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// Its header may take cryptsetup over: what it starts ends with it, and it is no user
// whose other processes it could look into, or they into it.
func TestCryptsetupRunsAlone(t *testing.T) {
	cmd := exec.Command("sh", "-c", "id -u; echo $$; cat /proc/self/oom_score_adj")
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.SysProcAttr = attributes(unix.CLONE_NEWPID)
	if err := alone(cmd); err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(out.String())
	if uid, err := strconv.Atoi(said[0]); err != nil || uid < firstUser || uid > lastUser {
		t.Errorf("it is user %s", said[0])
	}
	if said[1] != "1" || len(said) < 3 || said[2] != "1000" {
		t.Errorf("process %v", said[1:])
	}
}
