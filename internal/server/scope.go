package server

import (
	"context"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

// A token that is bound to one recovery point is let through to the routes of the
// table that say so, and there to what is that point's. Each way in which a request
// can name something (a point, a job, a session) is narrowed here; what was not
// narrowed is not answered.

// foreign is what such a token gets for everything else. It does not tell whether
// that exists.
func foreign(who backstay.Token) error {
	return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
		Becausef("it opens the recovery point %s and what it made of that, and nothing else", who.Point).Do("use a token that is not bound to a point")
}

// outside refuses the answer to a request of such a token that was not narrowed.
func outside(ctx context.Context) error {
	if c := callOf(ctx); c.who.Point != "" && !c.within {
		return foreign(c.who)
	}
	return nil
}

// ownPoint finds a point for a token that is bound to one. Every name that does not
// mean that one is refused in the same words.
func (s *server) ownPoint(ctx context.Context, name string) (backstay.RecoveryPoint, error) {
	c := callOf(ctx)
	var p backstay.RecoveryPoint
	var err error
	if id := strings.ToUpper(name); id != "" && strings.HasPrefix(string(c.who.Point), id) {
		p, err = s.Catalog.Points.Point(ctx, c.who.Point)
		err = missing(err, backstay.CodeUnknownPoint, "point", c.who.Point)
	} else if p, err = s.findPoint(ctx, name); err != nil || p.ID != c.who.Point {
		c.target = name
		return backstay.RecoveryPoint{}, foreign(c.who)
	}
	c.within = err == nil
	return p, err
}

// ownPoints is the list of points of such a token.
func (s *server) ownPoints(ctx context.Context, points []backstay.RecoveryPoint) []backstay.RecoveryPoint {
	c := callOf(ctx)
	if c.who.Point == "" {
		return points
	}
	c.within = true
	var own []backstay.RecoveryPoint
	for _, p := range points {
		if p.ID == c.who.Point {
			own = append(own, p)
		}
	}
	return own
}

// job finds a job that the caller may see.
func (s *server) job(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	c := callOf(ctx)
	job, err := s.Jobs.Get(ctx, id)
	if c.who.Point == "" {
		return job, missing(err, backstay.CodeUnknownJob, "job", id)
	}
	if err != nil || !c.who.Started(job) {
		return backstay.Job{}, foreign(c.who)
	}
	c.within = true
	return job, nil
}

// listJobs lists the jobs that the caller may see.
func (s *server) listJobs(ctx context.Context, in *listJobsInput) (*answer[[]backstay.Job], error) {
	c := callOf(ctx)
	if c.who.Point == "" {
		jobs, err := s.Jobs.List(ctx, in.Limit, in.State...)
		return &answer[[]backstay.Job]{jobs}, err
	}
	c.within = true
	all, err := s.Jobs.List(ctx, 0, in.State...)
	if err != nil {
		return nil, err
	}
	var own []backstay.Job
	for _, job := range all {
		if c.who.Started(job) && len(own) < in.Limit {
			own = append(own, job)
		}
	}
	return &answer[[]backstay.Job]{own}, nil
}

// mayRestore keeps a token of one point to restores beside what is there.
func mayRestore(ctx context.Context, kind backstay.RestoreKind) error {
	who := callOf(ctx).who
	if who.Point == "" || kind == backstay.CreateVM || kind == backstay.RestoreDisks {
		return nil
	}
	return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
		Becausef("it is bound to a point, and restores it beside what is there: replacing disks needs more").Do("use create-vm or disks, or a token that is not bound to a point")
}

// lifeOf bounds the life of a session by that of the token that opens it: the
// session's ticket counts no longer.
func (s *server) lifeOf(who backstay.Token, asked time.Duration) time.Duration {
	if who.Expires == nil {
		return asked
	}
	if asked == 0 {
		asked = backstay.DefaultSessionLife
	}
	return max(time.Second, min(asked, who.Expires.Sub(s.Now())))
}
