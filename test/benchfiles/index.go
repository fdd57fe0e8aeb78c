package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/sandbox"
)

// indexed is the VM that has the image as its second disk.
const indexed = "indexed"

// Between two points so many of the small files get other content, are removed, and
// come anew.
const changedFiles = 50

// indexes measures the list of files of a point and of those that follow it, and how
// long it takes to find a file in the first and in all of them. It takes the image
// for the VM, so it comes last.
func (b *bench) indexes(ctx context.Context) error {
	if err := errors.Join(b.end(ctx), b.listFiles(ctx), b.indexedVM(ctx)); err != nil {
		return err
	}
	for n := range b.o.points {
		if n > 0 {
			if err := b.change(ctx, n); err != nil {
				return err
			}
		}
		seconds, err := b.indexedPoint(ctx)
		if err != nil {
			return err
		}
		switch n {
		case 0:
			err = errors.Join(b.record("index/first", seconds), b.search(ctx, "index/search-one"))
		default:
			err = b.record("index/next", seconds)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(b.search(ctx, "index/search-all"), b.record("index/points", float64(b.o.points)))
}

var indexLine = regexp.MustCompile(`(?m)^  index: .*$`)

// listFiles lets the region list the files of each point, which worlds do not.
func (b *bench) listFiles(ctx context.Context) error {
	text, err := os.ReadFile(b.world.Region.Config)
	if err != nil {
		return err
	}
	text = indexLine.ReplaceAll(text, []byte("  index: on"))
	return errors.Join(
		b.world.Region.StopServer(ctx), os.WriteFile(b.world.Region.Config, text, 0o600),
		b.world.Region.StartServer(ctx), b.connected(ctx))
}

func (b *bench) indexedVM(ctx context.Context) error {
	if err := b.world.AddVM(ctx, sandbox.VMSpec{Name: indexed, Off: true, Disks: []sandbox.DiskSpec{{}, {Raw: true, Size: b.o.size, Blank: true}}}); err != nil {
		return err
	}
	disk := b.host.Outside(sandbox.Images + "/" + indexed + "-vdb.img")
	if err := errors.Join(os.Rename(b.image, disk), b.host.Start(ctx, indexed), b.world.WaitAgent(ctx, "", indexed)); err != nil {
		return err
	}
	// A file system whose files were all made within one instant is one that nobody uses:
	// the times of none of them would prove that it did not change since.
	if _, err := b.world.Guest(ctx, "", indexed, "mkdir -p /mnt && mount -t ext4 /dev/vdb1 /mnt && sleep 5 && touch /mnt/later && sync"); err != nil {
		return err
	}
	if _, err := b.client.CreatePolicy(ctx, backstay.Policy{
		Name: "bench", Consistency: backstay.FileSystemConsistent,
		Snapshot: backstay.SnapshotKeep{Days: 1, Count: 2, Depth: backstay.DefaultDepth}, Vault: backstay.VaultKeep{Last: 1000},
	}); err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) {
		_, err := b.client.VM(ctx, indexed)
		if backstay.IsCode(err, backstay.CodeUnknownVM) {
			return false, nil
		}
		return err == nil, err
	}); err != nil {
		return err
	}
	_, err := b.client.Protect(ctx, indexed, api.ProtectRequest{Policy: "bench", Vault: backstay.VaultName(b.world.Region.Vault), ExcludeDisks: []backstay.DiskTarget{"vda"}})
	return err
}

// change writes, removes and makes files in the guest.
func (b *bench) change(ctx context.Context, n int) error {
	var script strings.Builder
	script.WriteString("cd /mnt\n")
	for i := range changedFiles {
		name := "." + smallFile((n*7919+i*b.o.many/changedFiles)%b.o.many)
		fmt.Fprintf(&script, "echo %d-%d >%s\n", n, i, name)
		if i%10 == 0 {
			fmt.Fprintf(&script, "rm %s; echo new >%s.%d\n", name, name, n)
		}
	}
	script.WriteString("sync\n")
	_, err := b.world.Guest(ctx, "", indexed, script.String())
	return err
}

// indexedPoint takes a point and returns how long the list of its files took, from
// the beginning of its job to the end.
func (b *bench) indexedPoint(ctx context.Context) (float64, error) {
	started, err := b.client.StartBackup(ctx, api.BackupRequest{VM: indexed, Tier: backstay.VaultTier})
	if err != nil {
		return 0, err
	}
	job, err := b.client.Wait(ctx, started.Job.ID)
	if err == nil && job.Error != nil {
		err = job.Error
	}
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	var took time.Duration
	err = until(ctx, func() (bool, error) {
		jobs, err := b.client.Jobs(ctx, 20)
		if err != nil {
			return false, err
		}
		for _, j := range jobs {
			if j.Kind != backstay.JobIndex || j.Point != job.Point || !j.State.Ended() {
				continue
			}
			if j.State != backstay.JobSucceeded || j.Started == nil || j.Ended == nil {
				return false, fmt.Errorf("the list of files ended as %s: %v %v", j.State, j.Error, j.Warnings)
			}
			took = j.Ended.Sub(*j.Started)
			return true, nil
		}
		return false, nil
	})
	return took.Seconds(), err
}

// search finds a file by a part of its name.
func (b *bench) search(ctx context.Context, name string) error {
	var found struct {
		Files   []backstay.FoundFile
		Without []backstay.PointID
	}
	for range b.o.rounds {
		if err := b.measured(name, func() error {
			return b.backstay(ctx, &found, "files", "find", indexed, fmt.Sprintf("%06d", b.o.many/2))
		}); err != nil {
			return err
		}
		if len(found.Files) == 0 || len(found.Without) > 0 {
			return fmt.Errorf("%d files are found, and %d points have no list", len(found.Files), len(found.Without))
		}
	}
	return nil
}
