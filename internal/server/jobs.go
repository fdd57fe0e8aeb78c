package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

type jobInput struct {
	Job string `path:"job"`
}

func (in *jobInput) id() backstay.JobID { return backstay.JobID(strings.ToUpper(in.Job)) }

type listJobsInput struct {
	State []backstay.JobState `query:"state" enum:"queued,running,cancelling,succeeded,warning,failed,cancelled" doc:"only jobs in one of these states"`
	Limit int                 `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) registerJobs() {
	add(s, "listJobs", s.listJobs)
	add(s, "getJob", func(ctx context.Context, in *jobInput) (*answer[backstay.Job], error) {
		job, err := s.job(ctx, in.id())
		return &answer[backstay.Job]{job}, err
	})
	add(s, "cancelJob", func(ctx context.Context, in *jobInput) (*answer[backstay.Job], error) {
		callOf(ctx).target, callOf(ctx).job = in.Job, in.id()
		job, err := s.job(ctx, in.id())
		if err == nil {
			err = refuseCancel(job)
		}
		if err == nil {
			job, err = s.Jobs.Cancel(ctx, in.id())
		}
		return &answer[backstay.Job]{job}, missing(err, backstay.CodeUnknownJob, "job", in.Job)
	})
	add(s, "retryJob", s.retryJob)
	add(s, "undoJob", s.undoJob)
	s.registerFollow()
}

// ownersJobs are what deletes in a vault, takes an older state of one as good, or
// may remove what a guest wrote.
var ownersJobs = []backstay.JobKind{backstay.JobExpire, backstay.JobReclaim, backstay.JobRebuild, backstay.JobRedundancy, backstay.JobUndo}

// retryJob queues a job again. What only an owner may start, only an owner may
// start again.
func (s *server) retryJob(ctx context.Context, in *jobInput) (*answer[backstay.Job], error) {
	c := callOf(ctx)
	c.target, c.job = in.Job, in.id()
	old, err := s.Jobs.Get(ctx, in.id())
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownJob, "job", in.Job)
	}
	if slices.Contains(ownersJobs, old.Kind) && !c.who.Role.Covers(backstay.Owner) {
		return nil, backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", c.who.Name).
			Becausef("its role is %s, and a %s needs %s", c.who.Role, old.Kind, backstay.Owner)
	}
	if !old.State.Ended() {
		return nil, backstay.Errorf(backstay.CodeConflict, "the job %s has not ended", old.ID).Becausef("it is %s", old.State).
			Do("wait for it, or cancel it: `backstay job cancel %s`", old.ID)
	}
	if old.Kind == backstay.JobPut { // its session was of whoever opened it, and may be gone
		return nil, backstay.Errorf(backstay.CodeConflict, "files are not put by a retry").Becausef("a put reads from a session, which ends").
			Do("put them again with `backstay files put`")
	}
	job, err := s.Jobs.Retry(ctx, old.ID, c.who.Name)
	if err == nil {
		c.job = job.ID
	}
	return &answer[backstay.Job]{job}, err
}

// registerFollow serves a job's changes as server-sent events. It is written by
// hand because a job that is not there must still be a 404.
func (s *server) registerFollow() {
	r := routeByID("followJob")
	op := operation(r)
	op.Responses = map[string]*huma.Response{"200": {
		Description: "One `job` event after each change; its data is the Job. The stream ends after the event in which the job ended.",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	huma.Register(s.huma, op, func(ctx context.Context, in *jobInput) (*huma.StreamResponse, error) {
		if _, err := s.job(ctx, in.id()); err != nil {
			return nil, s.failure(ctx, err)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			req, w := humago.Unwrap(c)
			s.follow(req.Context(), w, in.id())
		}}, nil
	})
}

// sendLimit bounds the writing of one event to a client that does not read.
const sendLimit = 30 * time.Second

// follow writes events until the job ended, the client left, or the server
// stops; in the last case the client comes back by itself.
func (s *server) follow(ctx context.Context, w http.ResponseWriter, id backstay.JobID) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs, err := s.Jobs.Follow(ctx, id)
	if err != nil {
		s.writeError(w, s.failure(ctx, missing(err, backstay.CodeUnknownJob, "job", id)))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	send := func(format string, args ...any) bool {
		control.SetWriteDeadline(time.Now().Add(sendLimit)) // not supported by a test's recorder: then there is none
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	beat := time.NewTicker(s.Heartbeat)
	defer beat.Stop()
	for ok := send(": following %s\n\n", id); ok; {
		select {
		case job, open := <-jobs:
			if !open {
				return
			}
			ok = s.sendJob(send, job) && !job.State.Ended()
		case <-beat.C:
			ok = send(": still there\n\n")
		case <-stopping(ctx):
			send(": the server is stopping\n\n")
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) sendJob(send func(string, ...any) bool, job backstay.Job) bool {
	fillSlices(&job)
	data, err := json.Marshal(job)
	if err != nil {
		s.Log.Error("job cannot be encoded", "job", job.ID, "error", err)
		return false
	}
	return send("event: %s\ndata: %s\n\n", api.JobEvent, data)
}
