package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/recover"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// recovery is what all of recover's commands are told.
type recovery struct {
	a              *app
	units          []string
	key            string
	passphraseFile string
	passphraseUsed bool // it was read
	replica        bool
}

func (a *app) recoverCommands() *cobra.Command {
	r := &recovery{a: a}
	const with = " --unit /mnt/a/backstay --unit s3://bucket/vault --key key.txt"
	c := a.group("recover", "Read a vault with its storage units and a key alone: no server, no catalogue",
		"  backstay recover points"+with+"\n"+
			"  backstay recover restore web01@latest --to ./web01"+with+"\n"+
			"  backstay recover files get web01@latest /etc/nginx --to ."+with+"\n"+
			"  backstay recover verify"+with,
		r.pointsCommand(with), r.showCommand(with), r.restoreCommand(with), r.filesCommand(with), r.verifyCommand(with), r.serveCommand(with), r.escrowCommand(with))
	c.Long = "Read a vault with its storage units and a key alone: no server, no catalogue, no configuration.\n\n" +
		"Any of the copies are enough; what is missing or damaged is said. Nothing is ever written to a\n" +
		"storage unit. Without --key the passphrase is asked for on a terminal."
	f := c.PersistentFlags()
	f.StringArrayVar(&r.units, "unit", nil, "a storage unit that holds a copy, as a folder or `URL`; once for each")
	f.BoolVar(&r.replica, "replica", false, "the units hold a replica that another region held: what was dropped at home may be there yet")
	f.StringVar(&r.key, "key", "", "`FILE` with the recovery key or another age identity; - for stdin")
	f.StringVar(&r.passphraseFile, "passphrase-file", "", "`FILE` with the passphrase of the vault, or of the key file")
	return c
}

// offline wraps a command's code: the vault is opened, and what is wrong with it
// is said on stderr.
func (r *recovery) offline(fn func(ctx context.Context, v *recover.Vault, args []string) error) func(*cobra.Command, []string) error {
	return r.a.run(func(ctx context.Context, args []string) error {
		return r.open(ctx, func(v *recover.Vault) error { return fn(ctx, v, args) })
	})
}

func (r *recovery) open(ctx context.Context, fn func(v *recover.Vault) error) (err error) {
	key, err := r.readKey()
	if err != nil {
		return err
	}
	v, err := r.openVault(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	for _, w := range v.Warnings(ctx) {
		r.a.note("warning: %s", oneLine(w))
	}
	return fn(v)
}

// openVault opens the vault in the units that were named; a path is one as seen
// from here.
func (r *recovery) openVault(ctx context.Context, key backstay.Secret) (*recover.Vault, error) {
	var urls []string
	for _, u := range r.units {
		at, err := unitURL(u)
		if err != nil {
			return nil, err
		}
		urls = append(urls, at)
	}
	if r.replica {
		return recover.OpenURLs(ctx, urls, key, recover.AsReplica())
	}
	return recover.OpenURLs(ctx, urls, key)
}

// readKey reads the key file, or takes the passphrase for the key.
func (r *recovery) readKey() (backstay.Secret, error) {
	if len(r.units) == 0 {
		return backstay.Secret{}, backstay.Errorf(backstay.CodeUsage, "no storage unit is named").
			Becausef("without a server only you know where the copies are").Do("say --unit URL, once for each copy that is left")
	}
	if r.key == "" {
		passphrase, err := r.passphrase("the vault")
		return recover.Passphrase(passphrase), err
	}
	in := r.a.Stdin
	if r.key != "-" {
		f, err := r.a.openSecret(r.key)
		if err != nil {
			return backstay.Secret{}, backstay.Errorf(backstay.CodeUsage, "the key file cannot be read").Because(err).
				Do("name the file that holds the recovery key")
		}
		defer f.Close()
		in = f
	}
	return recover.ReadKey(in, func() (backstay.Secret, error) { return r.passphrase("the key file") })
}

// passphrase reads a passphrase from its file, or asks for it. It is never an
// argument: those can be seen by every user of the machine (I10).
func (r *recovery) passphrase(of string) (backstay.Secret, error) {
	if r.passphraseFile != "" {
		// The same line of it counts as when the recipient was made.
		r.passphraseUsed = true
		line, err := r.a.readPassphrase(r.passphraseFile)
		return backstay.NewSecret([]byte(line)), err
	}
	in, ok := r.a.Stdin.(*os.File)
	if !ok || !r.a.IsTerminal(r.a.Stdin) {
		return backstay.Secret{}, backstay.Errorf(backstay.CodeUsage, "the passphrase of %s is not given", of).
			Becausef("nobody can be asked: stdin is not a terminal").Do("say --key FILE or --passphrase-file FILE")
	}
	fmt.Fprintf(r.a.Stderr, "Passphrase of %s: ", of)
	text, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(r.a.Stderr)
	if err != nil {
		return backstay.Secret{}, backstay.Errorf(backstay.CodeCancelled, "no passphrase was given").Because(err)
	}
	return backstay.NewSecret(text), nil
}

func (r *recovery) pointsCommand(with string) *cobra.Command {
	var vm string
	c := &cobra.Command{
		Use: "points", Short: "List the recovery points in the storage units, newest first",
		Example: "  backstay recover points" + with + "\n  backstay recover points --vm web01 -o json" + with,
		Args:    exactly(),
		RunE: r.offline(func(ctx context.Context, v *recover.Vault, _ []string) error {
			points, err := v.Points(ctx, vm)
			if err != nil {
				return err
			}
			return r.a.emit(points, func(w io.Writer) {
				row(w, "POINT", "VM", "TIME", "DISKS", "SIZE", "CONSISTENCY", "COPIES", "PROBLEM")
				for _, p := range points {
					copies := fmt.Sprintf("%d of %d", p.CopiesSound, p.CopiesWanted)
					if problem := pointProblem(p); len(p.Disks) == 0 {
						row(w, p.ID, "", "", "", "", "", copies, problem)
					} else {
						row(w, p.ID, vmLabel(p.VM), r.a.when(p.Time), len(p.Disks), size(p.Size), p.Consistency, copies, problem)
					}
				}
			})
		}),
	}
	c.Flags().StringVar(&vm, "vm", "", "only the points of this VM, by `NAME`, HOST/NAME or UUID")
	return c
}

func pointProblem(p recover.Point) string {
	switch {
	case p.Damage != "":
		return "damaged: " + oneLine(p.Damage)
	case p.Unreadable != "":
		return "cannot be read: " + oneLine(p.Unreadable)
	case p.Unchained != "":
		return "may have been dropped: " + oneLine(p.Unchained)
	}
	return ""
}

// find finds a point and says what is odd about the choice.
func (r *recovery) find(ctx context.Context, v *recover.Vault, text string) (recover.Point, error) {
	p, err := v.Find(ctx, text)
	if err != nil {
		return p, err
	}
	for _, id := range p.Newer {
		r.a.note("warning: %s is the newest point that can be read; %s cannot, and may be a newer one of the same VM", p.ID, id)
	}
	if problem := pointProblem(p); problem != "" {
		r.a.note("warning: %s", problem)
	}
	return p, nil
}

func (r *recovery) showCommand(with string) *cobra.Command {
	return &cobra.Command{
		Use: "show POINT", Short: "Show one recovery point",
		Example: "  backstay recover show web01@latest" + with,
		Args:    exactly("POINT"),
		RunE: r.offline(func(ctx context.Context, v *recover.Vault, args []string) error {
			p, err := r.find(ctx, v, args[0])
			if err != nil {
				return err
			}
			return r.a.emit(p, func(w io.Writer) { r.a.recoveredPoint(w, p) })
		}),
	}
}

func (a *app) recoveredPoint(w io.Writer, p recover.Point) {
	row(w, "point", p.ID)
	row(w, "VM", fmt.Sprintf("%s (%s)", vmLabel(p.VM), p.VM.UUID))
	row(w, "time", a.when(p.Time))
	row(w, "consistency", because(string(p.Consistency), p.ConsistencyReason))
	row(w, "vault", p.Vault)
	row(w, "copies", fmt.Sprintf("%d sound of %d", p.CopiesSound, p.CopiesWanted))
	row(w, "expires", a.whenPtr(p.Expires))
	row(w, "firmware", p.Firmware)
	row(w, "vTPM", yesNo(p.TPM))
	row(w, "problem", pointProblem(p))
	row(w, "")
	row(w, "DISK", "SIZE", "FORMAT", "SHA-256")
	for _, d := range p.Disks {
		sum := ""
		if d.SHA256 != nil {
			sum = *d.SHA256
		}
		row(w, d.Target, size(d.Size), d.Format, sum)
	}
}

func (r *recovery) restoreCommand(with string) *cobra.Command {
	o := recover.RestoreOptions{Format: recover.Raw}
	var disks []string
	c := &cobra.Command{
		Use: "restore POINT", Short: "Write the disks of a point, and what makes a VM of them, into a folder",
		Long: "Write the disks of a point, and what makes a VM of them, into a folder.\n\n" +
			"Beside the disks come the VM's definition, its firmware variables and TPM state, and a README that\n" +
			"says how to run the VM. Nothing is replaced. A disk has its name when it is whole: one that is being\n" +
			"written ends with .partial. The same command goes on with a restore that was interrupted.",
		Example: "  backstay recover restore web01@latest --to ./web01" + with + "\n" +
			"  backstay recover restore web01@2026-11-22T10:00:00Z --to ./web01 --disk vda --format qcow2 --verify" + with,
		Args: exactly("POINT"),
		RunE: r.offline(func(ctx context.Context, v *recover.Vault, args []string) error {
			for _, d := range disks {
				o.Disks = append(o.Disks, backstay.DiskTarget(d))
			}
			p, err := r.find(ctx, v, args[0])
			if err != nil {
				return err
			}
			m := r.a.meter(ctx, backstay.JobRestore, p.VM.Name)
			o.Progress = m.advance
			out, err := v.Restore(ctx, p, o)
			m.end(err)
			if err != nil && ctx.Err() != nil {
				r.a.note("stopped; the same command goes on with the disks that are missing")
			}
			if err != nil {
				return err
			}
			for _, w := range out.Warnings {
				r.a.note("warning: %s", oneLine(w))
			}
			return r.a.emit(out, func(w io.Writer) { restoredTable(w, out) })
		}),
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "to", "", "`DIR` to write into; made if it is not there")
	f.StringArrayVar(&disks, "disk", nil, "only this disk, by its `TARGET` in the guest; once for each")
	f.Var(oneOf(&o.Format, recover.Raw, recover.Qcow2), "format", "format of the disks")
	f.BoolVar(&o.Plain, "plain", false, "write also disks that were encrypted on their host, in the clear")
	f.BoolVar(&o.Verify, "verify", false, "read back what was written, and compare")
	_ = c.MarkFlagRequired("to")
	return c
}

func restoredTable(w io.Writer, out recover.Restored) {
	row(w, "DISK", "SIZE", "DATA", "FILE")
	for _, d := range out.Disks {
		data := size(d.Bytes)
		if d.Resumed {
			data = "was there"
		}
		if d.Verified {
			data += ", verified"
		}
		row(w, d.Target, size(d.Size), data, d.Path)
	}
	row(w, "")
	row(w, "how to run the VM:", out.Dir+"/README.txt")
}

func (r *recovery) verifyCommand(with string) *cobra.Command {
	return &cobra.Command{
		Use: "verify [POINT...]", Short: "Read everything in every copy through the decoder, and say what is damaged where",
		Example: "  backstay recover verify" + with + "\n  backstay recover verify web01@latest -o json" + with,
		Args:    cobra.ArbitraryArgs,
		RunE: r.offline(func(ctx context.Context, v *recover.Vault, args []string) error {
			var points []recover.Point
			for _, text := range args {
				p, err := r.find(ctx, v, text)
				if err != nil {
					return err
				}
				points = append(points, p)
			}
			m := r.a.meter(ctx, backstay.JobVerify, string(v.Name()))
			out, err := v.Verify(ctx, points, m.advance)
			m.end(err)
			if err != nil {
				return err
			}
			if err := r.a.emit(out, func(w io.Writer) { verifiedTable(w, out) }); err != nil {
				return err
			}
			return verdict(v, out)
		}),
	}
}

// verdict is the error of a verify that found something wrong. Not having been
// able to read is another thing than damage (I5).
func verdict(v *recover.Vault, out recover.Verified) error {
	lost := 0
	for _, p := range out.Points {
		if p.Verdict == recover.PointDamaged {
			lost++
		}
	}
	switch {
	case lost > 0:
		return backstay.Errorf(backstay.CodeDamaged, "%d of %d points of the vault %s cannot be restored whole", lost, len(out.Points), v.Name()).
			Becausef("%d objects are missing or damaged in a copy", len(out.Damages)).
			Do("give the storage units that are missing, or restore other points")
	case out.Damaged():
		return backstay.Errorf(backstay.CodeDamaged, "copies in the vault %s are damaged", v.Name()).
			Becausef("%d objects are missing or damaged in a copy; each has a sound one", len(out.Damages)).
			Do("restore what is needed, and run `backstay vault repair` on the server of the vault")
	case out.Unread():
		return backstay.Errorf(backstay.CodeVaultAway, "not everything in the vault %s could be read", v.Name()).
			Becausef("%d objects could not be read in any copy; this says nothing of them", out.Unproved).
			Do("mend the storage unit that is named, and verify again")
	}
	return nil
}

func verifiedTable(w io.Writer, out recover.Verified) {
	row(w, "STORAGE UNIT", "OBJECTS", "SIZE", "MISSING", "DAMAGED", "UNREADABLE")
	for _, u := range out.Units {
		row(w, u.URL, u.Objects, size(u.Bytes), u.Missing, u.Damaged, u.Unreadable)
	}
	row(w, "")
	row(w, "POINT", "VM", "VERDICT")
	for _, p := range out.Points {
		row(w, p.ID, vmLabel(p.VM), because(p.Verdict, oneLine(p.Why)))
	}
	for i, d := range out.Damages {
		if i == 0 {
			row(w, "")
		}
		fmt.Fprintln(w, oneLine(d.String()))
	}
}

// served says where a disk can be read.
type served struct {
	URL    string              `json:"url"`
	Socket string              `json:"socket"`
	Point  backstay.PointID    `json:"point"`
	Disk   backstay.DiskTarget `json:"disk"`
}

func (r *recovery) serveCommand(with string) *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use: "serve POINT DISK", Short: "Offer a disk of a point, read-only, as a block device over NBD, until Ctrl-C",
		Example: "  backstay recover serve web01@latest vda --socket /run/vda.sock" + with + "\n" +
			"  qemu-img convert -f raw -O vmdk 'nbd+unix:///vda?socket=/run/vda.sock' web01.vmdk",
		Args: exactly("POINT", "DISK"),
		RunE: r.offline(func(ctx context.Context, v *recover.Vault, args []string) error {
			p, err := r.find(ctx, v, args[0])
			if err != nil {
				return err
			}
			s := served{URL: fmt.Sprintf("nbd+unix:///%s?socket=%s", args[1], socket), Socket: socket, Point: p.ID, Disk: backstay.DiskTarget(args[1])}
			return v.Serve(ctx, p.ID, s.Disk, recover.ServeOptions{
				Socket: socket,
				Ready:  func() error { return r.a.emit(s, func(w io.Writer) { fmt.Fprintln(w, s.URL) }) },
				Failed: func(err error) { r.a.note("warning: %s", oneLine(err.Error())) },
			})
		}),
	}
	c.Flags().StringVar(&socket, "socket", "", "`PATH` of the unix socket; only this user can connect to it")
	_ = c.MarkFlagRequired("socket")
	return c
}

func (r *recovery) escrowCommand(with string) *cobra.Command {
	return &cobra.Command{
		Use: "escrow-check", Short: "Prove that a key opens the vault: its keys, a point and a pack",
		Example: "  backstay recover escrow-check" + with,
		Args:    exactly(),
		RunE: r.a.run(func(ctx context.Context, _ []string) error {
			key, err := r.readKey()
			if err != nil {
				return err
			}
			v, err := r.openVault(ctx, key)
			if err != nil {
				return err
			}
			defer v.Close()
			out, err := v.EscrowCheck(ctx, key)
			if err != nil {
				return err
			}
			for _, problem := range append(v.Warnings(ctx), out.Problems...) {
				r.a.note("warning: %s", oneLine(problem))
			}
			return r.a.emit(out, func(w io.Writer) {
				row(w, "vault", out.Vault)
				row(w, "key", because(string(out.Recipient.Kind), out.Recipient.Recipient))
				row(w, "opens it", yesNo(out.OK))
				row(w, "copies of the wrapped key", fmt.Sprintf("%d of %d", out.Copies, out.Want))
				row(w, "decoded as proof", strings.Join(out.Checked, " "))
			})
		}),
	}
}

// meter shows how an offline command goes on, as if it were a job.
type meter struct {
	a     *app
	shown progress
	job   backstay.Job
	begun time.Time // of the phase
}

func (a *app) meter(ctx context.Context, kind backstay.JobKind, target string) *meter {
	return &meter{a: a, shown: a.progress(ctx), job: backstay.Job{Kind: kind, Target: target, State: backstay.JobRunning}}
}

// advance takes the progress of one phase. It is called from one goroutine at a time.
func (m *meter) advance(p recover.Progress) {
	now := m.a.Now()
	if len(m.job.Tasks) == 0 || m.job.Tasks[0].Name != p.Phase {
		m.job.Tasks = []backstay.Task{{Name: p.Phase, State: backstay.TaskRunning}}
		m.begun = now
	}
	m.job.BytesDone, m.job.BytesTotal, m.job.Percent = p.Done, p.Total, 100
	m.job.BytesPerSecond, m.job.EtaSeconds = 0, nil
	if p.Total > 0 {
		m.job.Percent = float64(p.Done) * 100 / float64(p.Total)
	}
	if spent := now.Sub(m.begun).Seconds(); spent >= 1 && p.Done > 0 {
		m.job.BytesPerSecond = int64(float64(p.Done) / spent)
		left := int64(float64(p.Total-p.Done) * spent / float64(p.Done))
		m.job.EtaSeconds = &left
	}
	m.shown.show(m.job)
}

func (m *meter) end(err error) {
	if err == nil && len(m.job.Tasks) > 0 {
		m.job.State, m.job.Percent = backstay.JobSucceeded, 100
		m.shown.show(m.job)
	}
	m.shown.end()
}
