package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) filesCommands() *cobra.Command {
	return a.group("files", "Files and folders out of recovery points",
		"  backstay files ls web01\n  backstay files ls web01 /etc\n  backstay files get web01 /etc/nginx --to .",
		a.filesListCommand(), a.filesGetCommand(), a.filesFindCommand(), a.filesSessionsCommand(),
		a.filesPutCommand(), a.filesMountCommand(), a.filesUnmountCommand(), a.filesNBDCommand(), a.filesServeCommand(), a.filesGuardCommand())
}

// opening is what every command that looks into a point is told of it.
type opening struct {
	tier backstay.Tier
	keys volumeKeys
}

// openingFlags adds the flags of a command that opens a point.
func (o *opening) flags(c *cobra.Command) *cobra.Command {
	c.Flags().Var(tierFlag(&o.tier), "tier", "the tier to read; the nearest one unless told otherwise")
	return o.keys.flags(c, "`[VOLUME=]FILE` with the passphrase of an encrypted volume; - is standard input; repeat it for more")
}

// open opens a point, or goes on in the session that an earlier command opened, and
// unlocks what there are keys for.
func (a *app) open(ctx context.Context, c *client.Client, point string, o opening) (backstay.FileSession, error) {
	opened, err := c.OpenFiles(ctx, api.OpenFilesRequest{Point: point, Tier: o.tier, Reuse: true})
	if err != nil {
		return backstay.FileSession{}, err
	}
	return a.unlock(ctx, remote{c, opened.Session.ID}, opened.Session, o.keys)
}

func (a *app) filesListCommand() *cobra.Command {
	var o opening
	all := false
	c := &cobra.Command{
		Use: "ls POINT [PATH]", Short: "List the volumes of a recovery point, or a folder in it",
		Long: "List the volumes of a recovery point, or a folder in it.\n\n" +
			"POINT is an id, VM@latest, VM@TIME, or VM for its newest point. PATH is VOLUME:/path, or\n" +
			"the guest's own path where its fstab says which volume that is. What is no printable\n" +
			"character in a name is written \\xNN, and a backslash \\\\; so it can be given back.",
		Example: "  backstay files ls web01\n  backstay files ls web01@latest /etc -o json\n  backstay files ls 01K9ZQ vg0/data:/srv --tier vault\n" +
			"  backstay files ls web01 vda3:/ --passphrase-file vda3=secret.txt",
		ValidArgsFunction: a.completePointsOrVMs(),
		Args:              pointAndPath,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			session, err := a.open(ctx, c, args[0], o)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.emit(session, func(w io.Writer) { a.volumesTable(w, session, all) })
			}
			return a.listPath(ctx, remote{c, session.ID}, session, args[1])
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "show swap and empty volumes, too")
	return o.flags(c)
}

// pointAndPath are the arguments of a command that lists.
func pointAndPath(cmd *cobra.Command, args []string) error {
	if len(args) == 1 || len(args) == 2 {
		return nil
	}
	return usageError(cmd, fmt.Errorf("it takes POINT and PATH at most, and got %d arguments", len(args)))
}

// volumesTable shows what there is to look into.
func (a *app) volumesTable(w io.Writer, session backstay.FileSession, all bool) {
	row(w, "VOLUME", "FILE SYSTEM", "LABEL", "SIZE", "USED", "MOUNT POINT", "STATE")
	hidden := 0
	for _, v := range session.Volumes {
		if !all && (v.Kind == backstay.VolumeSwap || v.Kind == backstay.VolumeEmpty) {
			hidden++
			continue
		}
		used := ""
		if v.Used > 0 {
			used = size(v.Used)
		}
		row(w, v.ID, v.FileSystem, printable(v.Label), size(v.Size), used, printable(v.MountPoint), volumeState(v))
	}
	if hidden > 0 {
		a.note("%d volume(s) of swap or with nothing in them are not shown; --all shows them", hidden)
	}
	if session.Holds != "" {
		a.note("while this session is open, %s", session.Holds)
	}
}

// volumeState says whether a volume can be read, and if not, why.
func volumeState(v backstay.Volume) string {
	switch v.Kind {
	case backstay.VolumeFiles:
		return because("readable", printable(v.Reason))
	case backstay.VolumeLocked:
		var keys []string
		for _, k := range v.Keys {
			keys = append(keys, string(k))
		}
		reason := strings.Join(keys, " or ") + " opens it"
		if len(keys) == 0 {
			reason = "it is encrypted"
		}
		return because("locked", first(printable(v.Reason), reason))
	}
	return because(string(v.Kind), printable(v.Reason))
}

// printable keeps what a guest wrote from steering the terminal.
func printable(s string) string { return backstay.FilePath(s).String() }

// argPath reads a path as it is typed.
func argPath(text string) (backstay.FilePath, error) {
	path, err := backstay.ParseFilePath(text)
	if err != nil {
		return "", backstay.Errorf(backstay.CodeUsage, "the path %q cannot be read", text).Because(err).
			Do("write a backslash twice, and other bytes as \\xNN, as `backstay files ls` shows them")
	}
	return path, nil
}

// listed is what `files ls` prints of a path as JSON.
type listed struct {
	Session backstay.FileSessionID `json:"session,omitempty"`
	backstay.FileLocation
	Entries []backstay.FileEntry `json:"entries"`
}

func (a *app) listPath(ctx context.Context, at sight, session backstay.FileSession, text string) error {
	path, err := argPath(text)
	if err != nil {
		return err
	}
	out := listed{Session: session.ID, Entries: []backstay.FileEntry{}}
	err = a.withKeys(ctx, at, &session, func() error {
		page, err := at.Folder(ctx, path, "")
		if backstay.IsCode(err, backstay.CodeFileUnfit) || backstay.IsCode(err, backstay.CodeUnknownFile) {
			// No folder, or a link that leads nowhere: then it is itself what there is to show.
			entry, entryErr := at.Entry(ctx, path)
			if entryErr != nil || entry.Entry.Type == backstay.TypeFolder {
				return err
			}
			out.FileLocation, out.Entries = entry.FileLocation, append(out.Entries, entry.Entry)
			return nil
		}
		for err == nil {
			out.FileLocation, out.Entries = page.FileLocation, append(out.Entries, page.Entries...)
			if page.Next == "" {
				return nil
			}
			page, err = at.Folder(ctx, backstay.FilePath(string(page.Volume)+":"+string(page.Path)), page.Next)
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.emit(out, func(w io.Writer) { a.entriesTable(w, session, out) })
}

// entriesTable is like the output of ls -l.
func (a *app) entriesTable(w io.Writer, session backstay.FileSession, l listed) {
	for _, e := range l.Entries {
		name := e.Name.String()
		if e.Type == backstay.TypeLink {
			name += " -> " + e.Target.String()
		}
		row(w, modeText(e), e.Links, fmt.Sprintf("%d:%d", e.UID, e.GID), size(e.Size), e.ModTime.Local().Format("2006-01-02 15:04"), name)
	}
	if len(l.Entries) == 0 {
		a.note("%s is empty", l.FileLocation)
	}
	for _, v := range session.Volumes {
		for _, e := range l.Entries {
			if e.Type == backstay.TypeFolder && v.ID != l.Volume && v.MountPoint != "" && v.MountPoint == guestPath(session, l.FileLocation, e.Name) {
				a.note("what the guest has in %s is volume %s: list it by that path", printable(v.MountPoint), v.ID)
			}
		}
	}
}

// mountedBelow are the other volumes that the guest has in a folder, or below it.
func mountedBelow(session backstay.FileSession, folder backstay.FileLocation) []backstay.Volume {
	root := backstay.FileLocation{Volume: folder.Volume, Path: "/"}
	at := guestPath(session, root, backstay.FilePath(strings.Trim(string(folder.Path), "/")))
	return slices.DeleteFunc(slices.Clone(session.Volumes), func(v backstay.Volume) bool {
		return v.ID == folder.Volume || at == "" || !strings.HasPrefix(v.MountPoint, strings.TrimSuffix(at, "/")+"/")
	})
}

// guestPath is where the guest has an entry of a folder; "" if that is not known.
func guestPath(session backstay.FileSession, folder backstay.FileLocation, name backstay.FilePath) string {
	for _, v := range session.Volumes {
		if v.ID == folder.Volume && v.MountPoint != "" {
			return strings.TrimSuffix(strings.TrimSuffix(v.MountPoint, "/")+string(folder.Path), "/") + "/" + string(name)
		}
	}
	return ""
}

// modeText writes type and mode as ls does.
func modeText(e backstay.FileEntry) string {
	letters := map[backstay.FileType]byte{
		backstay.TypeFile: '-', backstay.TypeFolder: 'd', backstay.TypeLink: 'l', backstay.TypeBlock: 'b', backstay.TypeChar: 'c',
		backstay.TypeFIFO: 'p', backstay.TypeSocket: 's',
	}
	text := []byte("?rwxrwxrwx")
	if letter, ok := letters[e.Type]; ok {
		text[0] = letter
	}
	for i := range 9 {
		if e.Mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	for _, special := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if e.Mode&special.bit == 0 {
			continue
		}
		if text[special.at] == '-' {
			text[special.at] = special.letter - 'a' + 'A'
		} else {
			text[special.at] = special.letter
		}
	}
	return string(text)
}

func (a *app) filesSessionsCommand() *cobra.Command {
	end := ""
	c := &cobra.Command{
		Use: "sessions", Short: "List the open sessions, or end them",
		Long: "List the open sessions of yours, or all with an owner's token. --end ends one at once,\n" +
			"or all that are listed: what is mounted or exported through it fails from then on.",
		Example: "  backstay files sessions\n  backstay files sessions --end 01K9ZQ4T5V0000000000000001\n  backstay files sessions --end all",
		Args:    exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if end != "" {
				return a.endSessions(ctx, c, end)
			}
			sessions, err := c.FileSessions(ctx)
			if err != nil {
				return err
			}
			return a.emit(sessions, func(w io.Writer) {
				row(w, "SESSION", "KIND", "POINT", "VM", "TIER", "HOST", "USER", "USED", "EXPIRES", "HOLDS")
				for _, s := range sessions {
					row(w, s.ID, s.Kind, s.Point, vmLabel(s.VM), s.Tier, s.Host, s.User, a.when(s.Used), a.when(s.Expires), s.Holds)
				}
			})
		}),
	}
	c.Flags().StringVar(&end, "end", "", "end the session of this `ID`, or all")
	return c
}

func (a *app) endSessions(ctx context.Context, c *client.Client, which string) error {
	ids := []backstay.FileSessionID{backstay.FileSessionID(strings.ToUpper(which))}
	if which == "all" {
		ids = nil
		sessions, err := c.FileSessions(ctx)
		if err != nil {
			return err
		}
		for _, s := range sessions {
			ids = append(ids, s.ID)
		}
	}
	for _, id := range ids {
		err := c.EndFileSession(ctx, id)
		ended := backstay.IsCode(err, backstay.CodeSessionEnded) || backstay.IsCode(err, backstay.CodeUnknownSession)
		if err != nil && !(which == "all" && ended) {
			return err
		}
		a.note("session %s has ended", id)
	}
	return a.emit(map[string]any{"ended": ids}, func(io.Writer) {})
}

// completePointsOrVMs offers VMs, whose name means their newest point, and points.
func (a *app) completePointsOrVMs() cobra.CompletionFunc {
	vms, points := a.completeVMs(), a.completePoints()
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		some, directive := vms(cmd, args, typed)
		more, _ := points(cmd, args, typed)
		return append(some, more...), directive
	}
}
