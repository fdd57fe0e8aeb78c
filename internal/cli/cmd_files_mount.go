package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/filemount"
	"github.com/spf13/cobra"
)

func (a *app) filesMountCommand() *cobra.Command {
	var o opening
	life := duration(backstay.DefaultSessionLife)
	allowOther := false
	c := &cobra.Command{
		Use: "mount POINT DIR", Short: "Show the files of a recovery point in a folder of this machine, read-only",
		Long: "Show the files of a recovery point in a folder of this machine, read-only.\n\n" +
			"DIR is an empty folder. In it each volume is a folder, and `guest` has them as the guest's fstab\n" +
			"puts them together. A process in the background serves it until `files unmount DIR`, until\n" +
			"the session expires or is ended, or until the server is gone; nothing is left then.",
		Example: "  backstay files mount web01 /mnt/web01\n  grep -r listen /mnt/web01/guest/etc\n  backstay files unmount /mnt/web01\n" +
			"  backstay files mount web01@latest /mnt/p --expires 1h --passphrase-file vda3=secret.txt",
		ValidArgsFunction: a.completePointsOrVMs(),
		Args:              exactly("POINT", "DIR"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			dir, err := placeOf(args[1])
			if err != nil {
				return err
			}
			if err := filemount.CheckFolder(dir); err != nil {
				return err
			}
			s, err := a.openOwn(ctx, c, api.OpenFilesRequest{Point: args[0], Tier: o.tier, Kind: backstay.SessionMount, Life: backstay.Duration(life)}, o.keys)
			if err != nil {
				return err
			}
			started, err := a.show(ctx, c, s, filemount.Order{Dir: dir, AllowOther: allowOther})
			if err != nil {
				return err
			}
			for _, v := range s.Volumes {
				if v.Kind == backstay.VolumeLocked || v.Kind == backstay.VolumeUnread {
					a.note("volume %s is not shown: %s", printable(string(v.ID)), volumeState(v))
				}
			}
			return a.emit(map[string]any{"session": s.ID, "point": s.Point, "dir": dir, "expires": s.Expires, "pid": started.PID}, func(w io.Writer) {
				fmt.Fprintf(w, "point %s of %s is mounted on %s until %s\n", s.Point, vmLabel(s.VM), dir, a.when(s.Expires))
			})
		}),
	}
	c.Flags().BoolVar(&allowOther, "allow-other", false, "let other users of this machine see it, as far as the modes of the guest's files let them")
	c.Flags().Var(&life, "expires", "how long it lasts at most")
	return o.flags(c)
}

func (a *app) filesUnmountCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unmount DIR", Short: "End a mount of a recovery point, and its session",
		Long:    "End a mount of a recovery point, and its session: its ticket is worth nothing from then on.\nWithout the server it is unmounted all the same.",
		Example: "  backstay files unmount /mnt/web01",
		Args:    exactly("DIR"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			dir, err := placeOf(args[0])
			if err != nil {
				return err
			}
			id, mounted, err := filemount.MountedOn(dir)
			if err != nil {
				return err
			}
			if !mounted {
				return backstay.Errorf(backstay.CodeUnknownSession, "no recovery point is mounted on %s", dir).Do("see `backstay files sessions` for what is open")
			}
			revoked := c.EndFileSession(ctx, id)
			if backstay.IsCode(revoked, backstay.CodeSessionEnded) || backstay.IsCode(revoked, backstay.CodeUnknownSession) {
				revoked = nil
			}
			// Its process unmounts as well, when it sees that its session is gone.
			if err := filemount.Unmount(dir); err != nil && !backstay.IsCode(err, backstay.CodeUnknownSession) {
				return errors.Join(err, revoked)
			}
			if revoked != nil {
				// The process ends the session too, with its ticket.
				a.note("%s is unmounted; that session %s has ended could not be seen: %s", dir, id, oneLine(revoked.Error()))
			}
			return a.emit(map[string]any{"session": id, "dir": dir}, func(w io.Writer) { fmt.Fprintf(w, "%s is unmounted\n", dir) })
		}),
	}
}

func (a *app) filesNBDCommand() *cobra.Command {
	var tier backstay.Tier
	life := duration(backstay.DefaultSessionLife)
	c := &cobra.Command{
		Use: "nbd POINT DISK", Short: "Export a whole disk of a recovery point, read-only, and print the address once",
		Long: "Export a whole disk of a recovery point, read-only, at a socket that only you can reach.\n\n" +
			"The address is printed this once and never shown again. It serves until its session is ended\n" +
			"(`files sessions --end`) or expires, or until the server is gone. Whatever opens the disk reads\n" +
			"file systems that the guest's owner wrote: do not mount it on a machine that you care for.",
		Example: "  backstay files nbd web01 vda\n  qemu-img convert -O qcow2 \"$(backstay files nbd web01 vda)\" vda.qcow2\n" +
			"  backstay files sessions --end 01K9ZQ4T5V0000000000000001",
		ValidArgsFunction: a.completePointsOrVMs(),
		Args:              exactly("POINT", "DISK"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			disk := backstay.DiskTarget(args[1])
			s, err := a.openOwn(ctx, c, api.OpenFilesRequest{
				Point: args[0], Tier: tier, Kind: backstay.SessionNBD, Disks: []backstay.DiskTarget{disk}, Life: backstay.Duration(life),
			}, volumeKeys{})
			if err != nil {
				return err
			}
			bytes, err := c.DiskSize(ctx, s.ID, disk)
			if err != nil {
				return errors.Join(err, c.EndFileSession(ctx, s.ID))
			}
			started, err := a.show(ctx, c, s, filemount.Order{Disk: disk, Size: bytes, Parent: a.Getenv("XDG_RUNTIME_DIR")})
			if err != nil {
				return err
			}
			a.note("session %s serves it until %s", s.ID, a.when(s.Expires))
			return a.emit(map[string]any{"session": s.ID, "point": s.Point, "disk": disk, "size": bytes, "address": started.Address, "expires": s.Expires, "pid": started.PID},
				func(w io.Writer) { fmt.Fprintln(w, started.Address) })
		}),
	}
	c.Flags().Var(tierFlag(&tier), "tier", "the tier to read; the nearest one unless told otherwise")
	c.Flags().Var(&life, "expires", "how long it lasts at most")
	return c
}

// ownSession is a session with the ticket that a process of ours gets.
type ownSession struct {
	backstay.FileSession
	ticket backstay.Secret
}

// openOwn opens a session that is shared with no other command, and unlocks what there
// are keys for.
func (a *app) openOwn(ctx context.Context, c *client.Client, r api.OpenFilesRequest, keys volumeKeys) (ownSession, error) {
	opened, err := c.OpenFiles(ctx, r)
	if err != nil {
		return ownSession{}, err
	}
	session, err := a.unlock(ctx, remote{c, opened.Session.ID}, opened.Session, keys)
	if err != nil {
		return ownSession{}, errors.Join(err, c.EndFileSession(context.WithoutCancel(ctx), opened.Session.ID))
	}
	return ownSession{session, backstay.NewSecret([]byte(opened.Ticket))}, nil
}

// show starts the process that shows a session, which ends with it.
func (a *app) show(ctx context.Context, c *client.Client, s ownSession, o filemount.Order) (filemount.Started, error) {
	var started filemount.Started
	self, err := os.Executable()
	if err == nil {
		o.Kind, o.Session, o.Point, o.Server, o.Ticket = s.Kind, s.ID, s.Point, c.Server(), s.ticket
		started, err = filemount.Start(ctx, []string{self, "files", "serve"}, o)
	}
	if err == nil {
		return started, nil
	}
	end := c.EndFileSession(context.WithoutCancel(ctx), s.ID)
	if backstay.IsCode(end, backstay.CodeSessionEnded) || backstay.IsCode(end, backstay.CodeUnknownSession) {
		end = nil // the process did it
	}
	return filemount.Started{}, backstay.Errorf(backstay.CodeUnfit, "the point cannot be shown on this machine").Because(errors.Join(err, end)).
		Do("see that /dev/fuse is there and fuse3 is installed, or take the files with `backstay files get`")
}

// placeOf is the absolute path of a folder, without links on the way to it: so the
// kernel names it. The folder itself is not touched, since what is mounted there may
// not answer any more.
func placeOf(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", dir, err)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", backstay.Errorf(backstay.CodeUsage, "there is no folder %s", filepath.Dir(dir)).Because(err).Do("name an empty folder")
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// filesServeCommand and filesGuardCommand are hidden: files mount and files nbd start
// the one, and that the other.
func (a *app) filesServeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Show a session until it ends", Hidden: true,
		Example: "  backstay files serve    # started by files mount and files nbd, which say what to show",
		Args:    exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			s := filemount.Server{Connect: filemount.Connect, Guard: []string{self, "files", "clean-up"}}
			return s.Serve(ctx, a.Stdin, a.Stdout)
		}),
	}
}

func (a *app) filesGuardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "clean-up", Short: "Take away what a killed files serve left", Hidden: true,
		Example: "  backstay files clean-up    # started by files serve, whose end it waits for",
		Args:    exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error {
			return filemount.Server{Connect: filemount.Connect}.CleanUp(ctx, a.Stdin)
		}),
	}
}
