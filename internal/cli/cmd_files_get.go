package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/items"
	"github.com/spf13/cobra"
)

// getting is what `files get` is told.
type getting struct {
	opening
	to, tar, zip string
	conflict     backstay.Conflict
	devices      bool
}

func (a *app) filesGetCommand() *cobra.Command {
	var g getting
	c := &cobra.Command{
		Use: "get POINT PATH... --to DIR|--tar FILE|--zip FILE", Short: "Take files and folders out of a recovery point",
		Long: "Take files and folders, with all that is in them, out of a recovery point.\n\n" +
			"--to writes them into a folder, each under its own name, with contents, mode, times, ACLs,\n" +
			"extended attributes, holes, symbolic and hard links, and as root with their owners. --tar and\n" +
			"--zip make one file; - is standard output. PATH is as for `backstay files ls`.\n\n" +
			"What is there already is asked about on a terminal. Elsewhere it is skipped, and the command\n" +
			"fails in the end unless --on-conflict said what shall become of it.",
		Example: "  backstay files get web01 /etc/nginx /var/www --to ./back\n  backstay files get web01@latest /home --tar home.tar\n" +
			"  backstay files get 01K9ZQ vda2:/srv --tar - | tar -t\n  backstay files get web01 /etc/fstab --to / --on-conflict overwrite",
		Args: atLeast(2, "POINT and at least one PATH"), ValidArgsFunction: a.completePointsOrVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			paths, err := argPaths(args[1:])
			if err != nil {
				return err
			}
			session, err := a.open(ctx, c, args[0], g.opening)
			if err != nil {
				return err
			}
			return a.getFiles(ctx, remote{c, session.ID}, session, paths, g)
		}),
	}
	return g.opening.flags(g.flags(c))
}

// flags adds the flags that say where to and how.
func (g *getting) flags(c *cobra.Command) *cobra.Command {
	f := c.Flags()
	f.StringVar(&g.to, "to", "", "write into this `DIR`, which is made if it is not there")
	f.StringVar(&g.tar, "tar", "", "write a tar `FILE`; - is standard output")
	f.StringVar(&g.zip, "zip", "", "write a zip `FILE`; - is standard output")
	f.Var(oneOf(&g.conflict, backstay.ConflictSkip, backstay.ConflictRename, backstay.ConflictOverwrite, backstay.ConflictAsk), "on-conflict",
		"what becomes of what is there already")
	f.BoolVar(&g.devices, "devices", false, "make device nodes and FIFOs, too; root can")
	c.MarkFlagsOneRequired("to", "tar", "zip")
	c.MarkFlagsMutuallyExclusive("to", "tar", "zip")
	return c
}

// got is what `files get` prints as JSON.
type got struct {
	Session backstay.FileSessionID `json:"session,omitempty"`
	To      string                 `json:"to"`
	items.Report
}

// argPaths reads paths as they are typed.
func argPaths(texts []string) ([]backstay.FilePath, error) {
	var paths []backstay.FilePath
	for _, text := range texts {
		path, err := argPath(text)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func (a *app) getFiles(ctx context.Context, at sight, session backstay.FileSession, paths []backstay.FilePath, g getting) error {
	var s source
	err := a.withKeys(ctx, at, &session, func() (err error) {
		s, err = findSource(ctx, at, session, paths)
		return err
	})
	if err != nil {
		return err
	}
	show := a.newTransfer(s.size)
	out := got{Session: session.ID, To: first(g.to, g.tar, g.zip)}
	if g.to != "" {
		out.Report, err = a.getIntoFolder(ctx, s, g, show)
	} else {
		out.Report, err = a.getArchive(ctx, s, g, show)
	}
	show.end()
	if ctx.Err() != nil && err != nil {
		a.note("interrupted: %s", leftBehind(g))
	}
	if err != nil {
		return at.Explain(ctx, err)
	}
	for _, note := range s.elsewhere {
		a.note("%s", note)
	}
	return a.reportGot(out, g)
}

// leftBehind says what there is after a `files get` that was interrupted.
func leftBehind(g getting) string {
	switch {
	case g.to != "":
		return "what is in " + g.to + " is whole, and not all that was asked for"
	case first(g.tar, g.zip) == "-":
		return "the archive is not whole"
	}
	return first(g.tar, g.zip) + " was not written"
}

// source is what is to be taken: of each volume one stream.
type source struct {
	at      sight
	volumes []backstay.VolumeID
	paths   map[backstay.VolumeID][]backstay.FileLocation
	size    int64 // bytes of content; -1 if only reading tells
	// elsewhere says of which other volumes the guest has something in a folder that is taken.
	elsewhere []string
}

// findSource finds what the paths mean, before anything is written.
func findSource(ctx context.Context, at sight, session backstay.FileSession, paths []backstay.FilePath) (source, error) {
	s := source{at: at, paths: map[backstay.VolumeID][]backstay.FileLocation{}}
	names := map[string]string{}
	for _, path := range paths {
		found, err := at.Entry(ctx, path)
		if err != nil {
			return s, err
		}
		name := filepath.Base(string(found.Path))
		if other, ok := names[name]; ok || len(paths) > 1 && name == "/" {
			return s, backstay.Errorf(backstay.CodeUsage, "%s cannot be taken together with the others", found.FileLocation).
				Becausef("it would lie where %s lies", first(other, "something else")).Do("take them one after the other, into two folders")
		}
		names[name] = found.FileLocation.String()
		if s.paths[found.Volume] == nil {
			s.volumes = append(s.volumes, found.Volume)
		}
		s.paths[found.Volume] = append(s.paths[found.Volume], found.FileLocation)
		switch {
		case found.Entry.Type == backstay.TypeFolder:
			s.size = -1
			for _, v := range mountedBelow(session, found.FileLocation) {
				s.elsewhere = append(s.elsewhere, fmt.Sprintf("what the guest has in %s is volume %s, and not in %s: take it by that path", printable(v.MountPoint), v.ID, found.FileLocation))
			}
		case found.Entry.Type == backstay.TypeFile && s.size >= 0:
			s.size += found.Entry.Size
		}
	}
	return s, nil
}

// each runs fn with the stream of each volume.
func (s source) each(ctx context.Context, fn func(stream *items.Reader) error) error {
	for _, volume := range s.volumes {
		body, err := s.at.Take(ctx, s.paths[volume])
		if err != nil {
			return err
		}
		if err := errors.Join(fn(items.NewReader(body).Only(items.Asked(pathsOf(s.paths[volume]), ""))), body.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) getIntoFolder(ctx context.Context, s source, g getting, show *transfer) (items.Report, error) {
	var total items.Report
	if err := os.MkdirAll(g.to, 0o755); err != nil {
		return total, backstay.Errorf(backstay.CodeFolderMissing, "nothing can be written into %s", g.to).Because(err).Do("name another folder with --to")
	}
	o := items.FolderOptions{Conflict: a.onConflict(g), Ask: a.asker(show), Owner: os.Geteuid() == 0, Nodes: g.devices, Progress: show.at}
	err := s.each(ctx, func(stream *items.Reader) error {
		report, err := items.Folder(ctx, g.to, stream, o)
		total = together(total, report)
		show.base(total.Bytes)
		return err
	})
	return total, writeError(err, g.to)
}

// together is what two reports say.
func together(a, b items.Report) items.Report {
	a.Files, a.Folders, a.Others, a.Bytes = a.Files+b.Files, a.Folders+b.Folders, a.Others+b.Others, a.Bytes+b.Bytes
	a.Remarks = append(a.Remarks, b.Remarks...)
	for outcome, n := range b.Counts {
		if a.Counts == nil {
			a.Counts = map[items.Outcome]int64{}
		}
		a.Counts[outcome] += n
	}
	return a
}

// writeError is the error of writing to a place; those of the server stay as they are.
func writeError(err error, to string) error {
	var coded *backstay.Error
	if err == nil || errors.As(err, &coded) || errors.Is(err, context.Canceled) {
		return err
	}
	return backstay.Errorf(backstay.CodeTransferFailed, "what was taken could not be written to %s", to).Because(err).
		Do("run the command again: what is there already is asked about, or see --on-conflict")
}

func (a *app) onConflict(g getting) backstay.Conflict {
	switch {
	case g.conflict != "":
		return g.conflict
	case a.IsTerminal(a.Stdin):
		return backstay.ConflictAsk
	}
	return backstay.ConflictSkip
}

// asker asks what becomes of what is there. A capital letter is the answer for all
// that follow.
func (a *app) asker(show *transfer) func(items.Clash) (backstay.Conflict, error) {
	answers := map[string]backstay.Conflict{"s": backstay.ConflictSkip, "o": backstay.ConflictOverwrite, "r": backstay.ConflictRename}
	in, always := bufio.NewReader(a.Stdin), backstay.Conflict("")
	return func(c items.Clash) (backstay.Conflict, error) {
		if always != "" {
			return always, nil
		}
		show.clear()
		for {
			fmt.Fprintf(a.Stderr, "%s is there already (%s, %s). [s]kip, [o]verwrite or [r]ename? A capital letter answers for all: ", c.Path, c.There, size(c.Size))
			line, err := in.ReadString('\n')
			line = strings.TrimSpace(line)
			if answer, ok := answers[strings.ToLower(line)]; ok {
				if line != strings.ToLower(line) {
					always = answer
				}
				return answer, nil
			}
			if err != nil {
				return "", backstay.Errorf(backstay.CodeCancelled, "nobody said what shall become of %s", c.Path).Because(err).Do("say --on-conflict")
			}
		}
	}
}

// archive is a tar or a zip that is being written.
type archive interface {
	Add(ctx context.Context, stream *items.Reader) error
	Close() (items.Report, error)
}

func (a *app) getArchive(ctx context.Context, s source, g getting, show *transfer) (items.Report, error) {
	path := first(g.tar, g.zip)
	w, finish, err := a.archiveFile(path, g.conflict)
	if err != nil {
		return items.Report{}, err
	}
	o := items.ArchiveOptions{Progress: show.at}
	var to archive = items.NewTar(w, o)
	if g.zip != "" {
		to = items.NewZip(w, o)
	}
	err = s.each(ctx, func(stream *items.Reader) error { return to.Add(ctx, stream) })
	var report items.Report
	if err == nil {
		report, err = to.Close()
	}
	return report, writeError(finish(err), path)
}

// archiveFile opens a file beside the one that is wanted; finish puts it in place, or
// removes it if there was an error.
func (a *app) archiveFile(path string, conflict backstay.Conflict) (io.Writer, func(error) error, error) {
	if path == "-" {
		if a.IsTerminal(a.Stdout) {
			return nil, nil, backstay.Errorf(backstay.CodeUsage, "an archive is nothing for a terminal").Becausef("standard output is one").Do("redirect it, or name a file")
		}
		return a.Stdout, func(err error) error { return err }, nil
	}
	if _, err := os.Lstat(path); err == nil && conflict != backstay.ConflictOverwrite {
		return nil, nil, backstay.Errorf(backstay.CodeFileExists, "%s is there already", path).Becausef("nothing is overwritten unasked").
			Do("name another file, or say --on-conflict overwrite")
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".backstay-part-*")
	if err != nil {
		return nil, nil, backstay.Errorf(backstay.CodeFolderMissing, "%s cannot be written", path).Because(err).Do("name another file")
	}
	finish := func(err error) error {
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		return nil
	}
	return f, finish, nil
}

// mostRemarks is how many remarks are shown to people.
const mostRemarks = 20

func (a *app) reportGot(out got, g getting) error {
	for i, m := range out.Remarks {
		if i == mostRemarks && a.output == "table" {
			a.note("and %d more remarks; -o json has them", len(out.Remarks)-i)
			break
		}
		a.note("%s", oneLine(m.String()))
	}
	if out.To != "-" {
		if err := a.emit(out, func(w io.Writer) { fmt.Fprintln(w, gotLine(out)) }); err != nil {
			return err
		}
	} else {
		a.note("%s", gotLine(out))
	}
	n := out.Counts
	switch {
	case n[items.Unread] > 0:
		return backstay.Errorf(backstay.CodeDamaged, "%d files could not be read, or not whole", n[items.Unread]).Becausef("the file system of the point has errors there").
			Do("look for them in an earlier point, or in the other tier; everything else was taken")
	case n[items.Refused] > 0:
		return backstay.Errorf(backstay.CodeFileUnfit, "%d files could not be written", n[items.Refused]).Becausef("what is said of each of them tells why").
			Do("take them elsewhere, or as --tar; everything else was taken")
	case n[items.Skipped] > 0 && g.conflict == "" && !a.IsTerminal(a.Stdin):
		return backstay.Errorf(backstay.CodeFileExists, "%d files are there already and were skipped", n[items.Skipped]).Becausef("nobody could be asked, and --on-conflict says nothing").
			Do("say --on-conflict overwrite, rename or skip; everything else was taken")
	}
	return nil
}

// gotLine sums up what was taken.
func gotLine(out got) string {
	text := fmt.Sprintf("%d files, %d folders, %d others, %s in %s", out.Files, out.Folders, out.Others, size(out.Bytes), first(map[string]string{"-": "the archive"}[out.To], out.To))
	for _, outcome := range sortedKeys(out.Counts) {
		text += fmt.Sprintf("; %s: %d", outcome, out.Counts[outcome])
	}
	return text
}
