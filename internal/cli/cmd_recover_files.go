package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/recover"
	"github.com/spf13/cobra"
)

// recoverPassphrases says what --passphrase-file names where files are recovered.
const recoverPassphrases = "`[VOLUME=]FILE` with a passphrase: without VOLUME it serves the vault first, if --key does not open it alone, and else encrypted volumes; repeat it for more"

// recoveredFiles is what the commands for files of a point are told besides.
type recoveredFiles struct {
	*recovery
	keys volumeKeys
	o    recover.FilesOptions
}

func (r *recovery) filesCommand(with string) *cobra.Command {
	return r.a.group("files", "List and take files and folders of a point",
		"  backstay recover files ls web01@latest /etc"+with+"\n"+
			"  backstay recover files get web01@latest /etc/nginx --to ."+with,
		r.filesListCommand(with), r.filesGetCommand(with))
}

// filesNeed is what both say of what they need.
const filesNeed = "The point's file systems are read in a small machine, which is started on this computer and ends with the\n" +
	"command. It needs QEMU (Debian: qemu-system-x86), the folder machine that lies beside the program or comes\n" +
	"with the package, and for LUKS cryptsetup. Nothing else is asked: no server, no libvirt."

func (f *recoveredFiles) flags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&f.o.Parts, "machine-dir", "", "folder of what small machines start from (default: the one that was installed)")
	return f.keys.flags(c, recoverPassphrases)
}

func (r *recovery) filesListCommand(with string) *cobra.Command {
	f := &recoveredFiles{recovery: r}
	all := false
	c := &cobra.Command{
		Use: "ls POINT [PATH]", Short: "List the volumes of a point, or a folder in it",
		Long: "List the volumes of a point, or a folder in it. PATH is as for `backstay files ls`.\n\n" + filesNeed,
		Example: "  backstay recover files ls web01@latest" + with + "\n  backstay recover files ls web01@latest /etc -o json" + with + "\n" +
			"  backstay recover files ls web01@latest vda3:/ --passphrase-file vda3=secret.txt" + with,
		Args: pointAndPath,
		RunE: r.a.run(func(ctx context.Context, args []string) error {
			return f.open(ctx, args[0], func(at local, session backstay.FileSession) error {
				if len(args) == 1 {
					out := openedPoint{session.Point, session.VM, session.Volumes}
					return r.a.emit(out, func(w io.Writer) { r.a.volumesTable(w, session, all) })
				}
				return r.a.listPath(ctx, at, session, args[1])
			})
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "show swap and empty volumes, too")
	return f.flags(c)
}

// openedPoint is what `recover files ls` prints of a point as JSON.
type openedPoint struct {
	Point   backstay.PointID  `json:"point"`
	VM      backstay.VMRef    `json:"vm"`
	Volumes []backstay.Volume `json:"volumes"`
}

func (r *recovery) filesGetCommand(with string) *cobra.Command {
	f := &recoveredFiles{recovery: r}
	var g getting
	c := &cobra.Command{
		Use: "get POINT PATH... --to DIR|--tar FILE|--zip FILE", Short: "Take files and folders out of a point",
		Long: "Take files and folders, with all that is in them, out of a point, as `backstay files get` does.\n\n" + filesNeed,
		Example: "  backstay recover files get web01@latest /etc/nginx /var/www --to ./back" + with + "\n" +
			"  backstay recover files get web01@latest vda2:/srv --tar srv.tar" + with,
		Args: atLeast(2, "POINT and at least one PATH"),
		RunE: r.a.run(func(ctx context.Context, args []string) error {
			paths, err := argPaths(args[1:])
			if err != nil {
				return err
			}
			return f.open(ctx, args[0], func(at local, session backstay.FileSession) error {
				return r.a.getFiles(ctx, at, session, paths, g)
			})
		}),
	}
	return f.flags(g.flags(c))
}

// open opens a point as a session does, for as long as fn runs, and unlocks what there
// are keys for.
func (f *recoveredFiles) open(ctx context.Context, point string, fn func(at local, session backstay.FileSession) error) error {
	keys := f.keys
	plain := slices.IndexFunc(keys.passphrases, func(text string) bool { return !strings.Contains(text, "=") })
	if plain >= 0 {
		f.passphraseFile = keys.passphrases[plain]
	}
	return f.recovery.open(ctx, func(v *recover.Vault) (err error) {
		if f.passphraseUsed {
			keys.passphrases = slices.Delete(slices.Clone(keys.passphrases), plain, plain+1)
		}
		p, err := f.find(ctx, v, point)
		if err != nil {
			return err
		}
		f.a.note("opening point %s of %s in a small machine", p.ID, vmLabel(p.VM))
		files, err := v.OpenFiles(ctx, p, f.o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, files.Close()) }()
		at := local{files}
		session, err := f.a.unlock(ctx, at, backstay.FileSession{Point: p.ID, VM: p.VM, Tier: backstay.VaultTier, Volumes: files.Volumes()}, keys)
		if err != nil {
			return err
		}
		return fn(at, session)
	})
}
