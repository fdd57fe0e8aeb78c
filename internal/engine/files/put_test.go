package files_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/mover"
)

// putRun is a put job without a queue.
type putRun struct {
	backstay.Run
	job backstay.Job
}

func (r *putRun) Job() backstay.Job { return r.job }
func (r *putRun) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fn(ctx)
}
func (r *putRun) Progress(int64, int64) {}
func (r *putRun) Warn(w string) error {
	r.job.Warnings = append(r.job.Warnings, w)
	return nil
}
func (r *putRun) Update(change func(*backstay.Job)) error {
	change(&r.job)
	return nil
}

// source takes what a test says, and guest puts it.
type source struct {
	*host
	take func(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error
}

func (s *source) TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error {
	return s.take(ctx, r, w)
}

type guest struct {
	got      string
	fail     error
	left     bool // by an earlier life
	complete bool
	ended    int
}

func (g *guest) PutFiles(ctx context.Context, _ mover.PutRequest, content io.ReadCloser, progress mover.Progress) (mover.PutReport, error) {
	defer func() { _ = content.Close() }()
	if g.fail != nil {
		return mover.PutReport{}, g.fail
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return mover.PutReport{}, err
	}
	g.got = string(data)
	progress(mover.Report{Phase: "put", Done: 3, Total: 3})
	return mover.PutReport{Files: 2, Bytes: 3, Warnings: []string{"one has not got its time again"}}, nil
}

func (g *guest) EndPut(context.Context, backstay.JobID) (mover.PutReport, bool, error) {
	g.ended++
	complete := g.left && g.complete
	g.left = false
	return mover.PutReport{Files: 7}, complete, nil
}

// putting is a session of a point on one host, and a guest on another.
func putting(t *testing.T, take func(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error) (*files.Putter, *guest, *putRun, backstay.PutParams) {
	t.Helper()
	s := files.New(files.Options{
		Hosts: newRegion(t), Services: func() []mover.KeyService { return nil }, Now: func() time.Time { return time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC) },
		NewID: func() backstay.FileSessionID { return "S01" },
		Mover: func(backstay.HostName) (mover.Files, error) { return &source{&host{}, take}, nil },
		Vault: func(_ context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: name}, nil
		},
	})
	t.Cleanup(func() { s.Close(context.Background()) })
	_, _, err := s.Open(t.Context(), browse(point(backstay.SnapshotTier)))
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{}
	p := &files.Putter{Sessions: func() *files.Sessions { return s }, Mover: func(backstay.HostName) (mover.Puts, error) { return g, nil }}
	return p, g, &putRun{job: backstay.Job{ID: "01JOB"}}, backstay.PutParams{Session: "S01", Volume: "vda1", Paths: []backstay.FilePath{"/etc"}, To: "/", Strip: "/"}
}

// TestWhatIsPutGoesFromTheSessionsHostToTheGuests, and the job says what was put.
func TestWhatIsPutGoesFromTheSessionsHostToTheGuests(t *testing.T) {
	var asked mover.FileTakeRequest
	p, g, run, params := putting(t, func(_ context.Context, r mover.FileTakeRequest, w io.Writer) error {
		asked = r
		_, err := io.WriteString(w, "the items")
		return err
	})
	if err := p.Run(t.Context(), run, params); err != nil {
		t.Fatal(err)
	}
	if g.got != "the items" || asked.Strip != "/" || asked.Paths[0] != "/etc" || run.job.Result.Put.Files != 2 || len(run.job.Warnings) != 1 || g.ended != 2 {
		t.Errorf("got %q, asked %+v, %+v, ended %d times", g.got, asked, run.job, g.ended)
	}
}

// TestAPutSaysWhatReallyFailed: the reading, or the writing.
func TestAPutSaysWhatReallyFailed(t *testing.T) {
	p, _, run, params := putting(t, func(_ context.Context, _ mover.FileTakeRequest, w io.Writer) error {
		_, _ = io.WriteString(w, "some")
		return backstay.Errorf(backstay.CodeMachineFailed, "the small machine ended")
	})
	if err := p.Run(t.Context(), run, params); !backstay.IsCode(err, backstay.CodeMachineFailed) {
		t.Error(err)
	}
	p, g, run, params := putting(t, func(_ context.Context, _ mover.FileTakeRequest, w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("x", 1<<20))
		return err
	})
	if g.fail = backstay.Errorf(backstay.CodePutFailed, "no room"); !backstay.IsCode(p.Run(t.Context(), run, params), backstay.CodePutFailed) {
		t.Error("it is not said that the guest has no room")
	}
}

// TestALaterLifeOfAPutEndsItAndPutsNothing: it is done if all was there, and failed if
// its session is gone.
func TestALaterLifeOfAPutEndsItAndPutsNothing(t *testing.T) {
	none := func(context.Context, mover.FileTakeRequest, io.Writer) error { return errors.New("it read") }
	p, g, run, params := putting(t, none)
	g.left, g.complete = true, true
	if err := p.Run(t.Context(), run, params); err != nil || run.job.Result.Put.Files != 7 {
		t.Errorf("%v %+v", err, run.job.Result.Put)
	}
	p, g, run, params = putting(t, none)
	g.left, params.Session = true, "S99"
	if err := p.Run(t.Context(), run, params); !backstay.IsCode(err, backstay.CodeUnknownSession) || g.ended == 0 {
		t.Errorf("%v, ended %d times", err, g.ended)
	}
	p, g, run, params = putting(t, none)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(backstay.ErrCancelled)
	if err := p.Run(ctx, run, params); !errors.Is(err, backstay.ErrCancelled) || g.ended != 1 {
		t.Errorf("%v, ended %d times", err, g.ended)
	}
}
