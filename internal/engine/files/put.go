package files

import (
	"context"
	"errors"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// PutTasks are the steps of a put job.
var PutTasks = []string{"put"}

// endPatience bounds how long a put waits for a guest in which something is to be
// taken back.
const endPatience = 10 * time.Minute

// Putter runs put jobs: it carries files out of a session, from the host that has its
// small machine to the host of the VM, into whose guest they go.
type Putter struct {
	Sessions func() *Sessions
	Mover    func(backstay.HostName) (mover.Puts, error)
}

// Run puts the files. In a later life of the job, after a crash, its session is gone:
// what had begun is taken back then, unless all of it was there.
func (p *Putter) Run(ctx context.Context, run backstay.Run, params backstay.PutParams) error {
	host, err := p.Mover(params.Host)
	if err != nil {
		return err
	}
	report, complete, err := p.end(ctx, host, run.Job().ID)
	if err != nil {
		return err
	}
	return run.Step(ctx, "put", func(ctx context.Context) error {
		if !complete {
			report, err = p.put(ctx, run, host, params)
			// Of a put that failed the host has taken everything back, if it could.
			if _, _, ended := p.end(ctx, host, run.Job().ID); ended != nil && err == nil {
				report.Warnings = append(report.Warnings, "files named .backstay-… may be left beside those that were put: "+ended.Error())
			}
		}
		if err != nil {
			return err
		}
		for _, w := range report.Warnings {
			if err := run.Warn(w); err != nil {
				return err
			}
		}
		return run.Update(func(j *backstay.Job) {
			j.Result.Put = &backstay.PutResult{To: params.To, Files: report.Files, Folders: report.Folders, Links: report.Links, Skipped: report.Skipped, Bytes: report.Bytes}
		})
	})
}

// end ends what an earlier life left, also when the job is to end.
func (p *Putter) end(ctx context.Context, host mover.Puts, job backstay.JobID) (mover.PutReport, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	return host.EndPut(ctx, job)
}

// put reads the files on one host and puts them on the other.
func (p *Putter) put(ctx context.Context, run backstay.Run, host mover.Puts, params backstay.PutParams) (mover.PutReport, error) {
	if err := ctx.Err(); err != nil {
		return mover.PutReport{}, context.Cause(ctx)
	}
	sessions := p.Sessions()
	if _, err := sessions.Get(params.Session); err != nil {
		return mover.PutReport{}, err
	}
	reading, stop := context.WithCancel(ctx)
	r, w := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := sessions.TakeFiles(reading, mover.FileTakeRequest{Session: params.Session, Volume: params.Volume, Paths: params.Paths, Strip: params.Strip}, w)
		_ = w.CloseWithError(err) // never fails
		taken <- err
	}()
	report, err := host.PutFiles(ctx, mover.PutRequest{
		Job: run.Job().ID, VM: params.VM, To: params.To, Conflict: params.Conflict, Paths: params.Paths, Strip: params.Strip,
	}, r, func(m mover.Report) { run.Progress(m.Done, m.Total) })
	_ = r.Close() // ends a take that nobody reads
	stop()
	takeErr := <-taken
	if err != nil && takeErr != nil && !errors.Is(takeErr, io.ErrClosedPipe) && !errors.Is(takeErr, context.Canceled) && ctx.Err() == nil {
		return report, takeErr // it says better what happened
	}
	return report, err
}
