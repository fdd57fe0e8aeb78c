package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Request says what is wished for of one VM.
type Request struct {
	VM   backstay.VM // as it is now
	Wish backstay.Consistency
	// Fallback are the weaker ones that may be had instead; nil allows all.
	Fallback []backstay.Consistency
	Rules    backstay.GuestRules
	// Silent says why the guest agent need not be asked, "" if it answered.
	Silent string
	// Budget is the longest that the VM is held; 0 means that of Rules.
	Budget time.Duration
	// Guard returns a guard of the VM that has not been used.
	Guard func(context.Context) (Guard, error)
	// Journal makes durable what must be undone in the guest should this process
	// end; it is called before each such thing is done. Nil keeps no journal.
	Journal func(Debt) error
	Log     *slog.Logger
}

// Debt is what is owed to a guest: what has been done to it and must be undone
// whatever happens (I9).
type Debt struct {
	// Asked: the guest was asked to freeze, or was about to be.
	Asked bool `json:"asked,omitempty"`
	// Paused: the VM was paused, or was about to be.
	Paused bool `json:"paused,omitempty"`
	// Post is the hook that must run, since the one before it was begun.
	Post *Hook `json:"post,omitempty"`
}

// Owed tells whether there is anything to undo.
func (d Debt) Owed() bool { return d.Asked || d.Paused || d.Post != nil }

// Outcome is which consistency was reached, and why no other.
type Outcome struct {
	Consistency backstay.Consistency
	Reason      string
	// Notes are warnings that people should see.
	Notes []string
	// FreezeMs is for how long the guest was frozen, or paused, measured from the
	// call that did it to the end of the one that undid it.
	FreezeMs int64
}

// Session brings one VM's guest into a consistent state once and out of it
// again: Begin, Hold, Switched, LetGo, Finish. One goroutine at a time uses it.
type Session struct {
	Request
	guests hypervisor.Guests
	agent  agent
	log    *slog.Logger

	rungs  []backstay.Consistency // that may still be reached, strongest first
	failed []failure
	notes  []string
	why    string // why the first of rungs holds
	debt   Debt

	config *Config // of the hooks, once read
	mounts []string
	freeze bool // whether the first of rungs needs frozen file systems

	guard    Guard
	held     bool
	froze    int // file systems
	began    Moment
	switched Moment
	freezeMs int64
	lost     string // why what was held was not held until the end
}

// failure is why a consistency could not be had.
type failure struct {
	consistency backstay.Consistency
	err         error
}

var strength = []backstay.Consistency{backstay.ApplicationConsistent, backstay.FileSystemConsistent, backstay.CrashConsistent}

// ladder lists what may be had, strongest first. An empty wish means file-system.
func ladder(wish backstay.Consistency, fallback []backstay.Consistency) []backstay.Consistency {
	if wish == "" {
		wish = backstay.FileSystemConsistent
	}
	rungs := []backstay.Consistency{wish}
	for _, weaker := range strength[slices.Index(strength, wish)+1:] {
		if fallback == nil || slices.Contains(fallback, weaker) {
			rungs = append(rungs, weaker)
		}
	}
	return rungs
}

// Begin does what is slow and comes before the instant: it finds out what can be
// had, and runs the application's pre hook. With an error nothing is owed to the
// guest: CodeInconsistent if nothing that is allowed can be had, or the hook's
// own code if its configuration forbids to go on without it.
func Begin(ctx context.Context, guests hypervisor.Guests, r Request) (*Session, error) {
	s := &Session{Request: r, guests: guests, agent: agent{guestagent.Agent{Guests: guests, VM: r.VM.ID}}, log: r.Log, rungs: ladder(r.Wish, r.Fallback)}
	if s.Journal == nil {
		s.Journal = func(Debt) error { return nil }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.Budget <= 0 {
		s.Budget = time.Duration(r.Rules.FreezeBudget)
	}
	if s.Budget <= 0 {
		s.Budget = time.Duration(backstay.DefaultFreezeBudget)
	}
	for len(s.rungs) > 0 {
		err := s.ready(ctx)
		if err == nil {
			return s, nil
		}
		if s.stops(err) {
			return nil, errors.Join(err, s.undo(ctx))
		}
		s.step(err)
	}
	return nil, errors.Join(s.inconsistent(), s.undo(ctx))
}

// errJournal: what was to be done could not be written down first.
var errJournal = errors.New("the journal cannot be written")

// stops tells whether a failure forbids to try anything weaker.
func (s *Session) stops(err error) bool {
	if errors.Is(err, errJournal) || errors.Is(err, hypervisor.ErrAway) || errors.Is(err, hypervisor.ErrNoVM) {
		return true
	}
	return s.config != nil && s.debt.Post != nil && !s.config.goesOn()
}

// step goes one rung down.
func (s *Session) step(err error) {
	s.failed = append(s.failed, failure{s.rungs[0], err})
	s.rungs = s.rungs[1:]
}

func (s *Session) inconsistent() error {
	return backstay.Errorf(backstay.CodeInconsistent, "%s cannot be backed up as consistently as its policy demands", s.VM.Name).
		Becausef("%s", s.failures())
}

// ready makes what the first rung needs.
func (s *Session) ready(ctx context.Context) error {
	s.freeze, s.why = false, ""
	if s.rungs[0] == backstay.CrashConsistent {
		s.why = s.crashReason()
		return nil
	}
	if why := s.unreachable(); why != "" {
		return errors.New(why)
	}
	if s.rungs[0] == backstay.ApplicationConsistent {
		return s.readyApplication(ctx)
	}
	s.freeze, s.why = true, "the guest's file systems were frozen"
	return s.choose(ctx)
}

// unreachable says why nothing can be asked of the guest.
func (s *Session) unreachable() string {
	switch {
	case s.VM.State == backstay.VMShutOff:
		return "the VM was shut off; nothing was being written"
	case s.VM.State != backstay.VMRunning:
		return "the VM was not running (" + string(s.VM.State) + ")"
	case s.VM.Agent == backstay.AgentNone:
		return "the VM has no guest agent channel"
	case s.VM.Agent != backstay.AgentConnected:
		return "the guest agent is not running in the guest"
	case s.Silent != "":
		return notFrozen + s.Silent
	}
	return ""
}

// notFrozen begins the reason of a point whose guest could not be frozen.
const notFrozen = "the guest's file systems could not be frozen: "

func (s *Session) crashReason() string {
	if len(s.failed) > 0 {
		return ""
	}
	if why := s.unreachable(); s.VM.State != backstay.VMRunning {
		return why
	}
	return "nothing more was wished for"
}

// readyApplication makes ready what the application needs: hooks of ours, the
// agent's own, or the VSS of Windows.
func (s *Session) readyApplication(ctx context.Context) error {
	s.freeze = true
	windows, err := s.agent.Windows(ctx)
	switch {
	case err != nil:
		return err
	case windows:
		s.why = "the guest agent froze Windows with VSS"
		return s.choose(ctx)
	case s.Rules.Hooks == backstay.HooksByAgent:
		s.why = "the guest agent froze the file systems, with its own fsfreeze-hook around that"
		return s.choose(ctx)
	}
	config, err := s.agent.readConfig(ctx)
	if err != nil {
		return err
	}
	if s.freeze = config.freezes(); s.freeze {
		if err := s.choose(ctx); err != nil {
			return err
		}
	}
	s.config = config
	if err := s.owe(func(d *Debt) { d.Post = &config.Post }); err != nil {
		return err
	}
	if err := s.agent.runHook(ctx, "pre", config.Pre, config.poll(), longestHook); err != nil {
		return err
	}
	s.why = "the guest's hooks ran, and its file systems were frozen between them"
	if !s.freeze {
		s.why = "the guest's hooks ran; its configuration wants no file systems frozen between them"
	}
	return nil
}

// owe writes a debt down before it is made.
func (s *Session) owe(change func(*Debt)) error {
	change(&s.debt)
	if err := s.Journal(s.debt); err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	return nil
}

// choose finds the mount points to freeze: all, or all but those that the rules
// skip.
func (s *Session) choose(ctx context.Context) error {
	s.mounts = nil
	if len(s.Rules.SkipMounts) == 0 {
		return nil
	}
	have, err := s.agent.Mounts(ctx)
	if err != nil {
		return fmt.Errorf("%sthe mount points cannot be listed: %w", notFrozen, err)
	}
	for _, skip := range s.Rules.SkipMounts {
		if note := fmt.Sprintf("mount point %s, which is not to be frozen, is not in the guest", skip); !slices.Contains(have, skip) && !slices.Contains(s.notes, note) {
			s.notes = append(s.notes, note)
		}
	}
	for _, m := range have {
		if !slices.Contains(s.Rules.SkipMounts, m) {
			s.mounts = append(s.mounts, m)
		}
	}
	if len(s.mounts) == 0 {
		return errors.New(notFrozen + "every mount point is to be skipped")
	}
	return nil
}

// Hold freezes the guest, if that is needed for what can be had. With pause it
// makes a VM stand still that nothing is frozen in: the disks of a group must be
// of one instant. An error as of Begin; nothing is held then.
func (s *Session) Hold(ctx context.Context, pause bool) error {
	for {
		var err error
		if s.freeze {
			err = s.tryFreeze(ctx)
		}
		if err == nil {
			break
		}
		if s.stops(err) {
			return errors.Join(err, s.undo(ctx))
		}
		// What the hooks did is of no use without the freeze, and a freeze that did
		// not work is not tried again.
		for len(s.rungs) > 0 && s.rungs[0] != backstay.CrashConsistent {
			s.step(err)
		}
		if len(s.rungs) == 0 {
			return errors.Join(s.inconsistent(), s.undo(ctx))
		}
		s.freeze, s.why = false, ""
	}
	if pause && !s.held && s.VM.State == backstay.VMRunning {
		if err := s.pause(ctx); err != nil {
			return errors.Join(err, s.undo(ctx))
		}
	}
	return nil
}

// arm takes a guard and lets it watch.
func (s *Session) arm(ctx context.Context, paused bool) error {
	if s.Guard == nil {
		return errors.New("there is no guard")
	}
	g, err := s.Guard(ctx)
	if err != nil {
		return err
	}
	if err := g.Arm(s.Budget, paused); err != nil {
		_, _ = g.Disarm()
		return err
	}
	s.guard = g
	return nil
}

func (s *Session) tryFreeze(ctx context.Context) error {
	// What somebody else froze would be thawed with what could not be frozen: the
	// other's copy of the disks would be torn.
	switch was, err := frozen(ctx, s.guests, s.VM.ID); {
	case errors.Is(err, hypervisor.ErrAgentSilent):
		return fmt.Errorf("%s%s", notFrozen, plain(err))
	case was:
		return errors.New(notFrozen + "somebody else has frozen them")
	}
	if err := s.owe(func(d *Debt) { d.Asked = true }); err != nil {
		return err
	}
	if err := s.arm(ctx, false); err != nil {
		return fmt.Errorf("%s%w", notFrozen, err)
	}
	s.began = now()
	n, err := s.guests.Freeze(ctx, s.VM.ID, s.mounts, s.Budget)
	if err == nil && n == 0 {
		err = errors.New("the guest agent found none that can be")
	}
	if err != nil {
		// It may be frozen, or become so when the agent wakes up: the guard sees to it.
		s.guard.Fire()
		s.guard, s.debt.Asked = nil, false
		return fmt.Errorf("%s%s", notFrozen, guestagent.Shown(plain(err), guestagent.MostOfError))
	}
	s.held, s.froze = true, n
	return nil
}

// plain takes from an error what only programs need of it.
func plain(err error) string {
	words := err.Error()
	if _, cause, ok := strings.Cut(words, hypervisor.ErrAgentSilent.Error()+": "); ok {
		words = cause
	} else if _, cause, ok := strings.Cut(words, "freeze VM "); ok {
		_, words, _ = strings.Cut(cause, ": ")
	}
	return words
}

func (s *Session) pause(ctx context.Context) error {
	if err := s.owe(func(d *Debt) { d.Paused = true }); err != nil {
		return err
	}
	if err := s.arm(ctx, true); err != nil {
		return fmt.Errorf("hold VM %s: %w", s.VM.Name, err)
	}
	s.began = now()
	if err := s.guests.Pause(ctx, s.VM.ID); err != nil {
		s.guard.Fire()
		s.guard, s.debt.Paused = nil, false
		return fmt.Errorf("hold VM %s: %w", s.VM.Name, err)
	}
	s.held = true
	return nil
}

// WillFreeze tells whether Hold will freeze the guest.
func (s *Session) WillFreeze() bool { return s.freeze }

// Allowed lists the consistencies that the point may have.
func (s *Session) Allowed() []backstay.Consistency { return ladder(s.Wish, s.Fallback) }

// Debt is what is owed to the guest now.
func (s *Session) Debt() Debt { return s.debt }

// Held tells whether the VM is frozen or paused.
func (s *Session) Held() bool { return s.held }

// Switched notes that the disks are switched now.
func (s *Session) Switched() { s.switched = now() }

// LetGo thaws or resumes. If somebody did before the disks were switched, the
// point is not what it was to be. What cannot be undone now the guard goes on
// with; the session goes on as if it were.
func (s *Session) LetGo(ctx context.Context) {
	if !s.held {
		return
	}
	// From here on the guard owes the rest, if there is any.
	s.held, s.debt.Asked, s.debt.Paused = false, false, false
	paused := s.froze == 0
	n, err := LetGo(ctx, s.guests, s.VM.ID, paused)
	ended := now()
	s.freezeMs = ended.since(s.began).Milliseconds()
	if err != nil {
		s.log.Warn("the guest could not be let go; its guard goes on trying", "vm", s.VM.Name, "error", err)
		s.guard.Fire()
		return
	}
	fired, _ := s.guard.Disarm() // a guard that is gone has let nothing go, or thaws nothing now
	switch {
	case fired != 0 && (s.switched == 0 || fired <= s.switched):
		s.lost = fmt.Sprintf("the guest had to be let go before the disks were switched: it was held for the %v that it may be", s.Budget)
	case fired == 0 && !paused && n == 0:
		s.lost = "somebody thawed the guest before the disks were switched"
	}
}

// Lost says why the guest was not held until its disks were switched, "" if it was.
func (s *Session) Lost() string { return s.lost }

// Provisional is what holds before the post hook has run.
func (s *Session) Provisional() Outcome {
	o := Outcome{Consistency: s.rungs[0], Reason: s.reason(), Notes: s.notes, FreezeMs: s.freezeMs}
	switch {
	case s.lost != "":
		o.Consistency, o.Reason = backstay.CrashConsistent, s.lost
	case o.Consistency == backstay.ApplicationConsistent && s.debt.Post != nil:
		o.Consistency, o.Reason = s.withoutHooks(), s.withoutReason()+"; the post hook of the application has not run yet"
	}
	return o
}

// withoutHooks is what a point is whose hooks did not both succeed.
func (s *Session) withoutHooks() backstay.Consistency {
	if s.freeze {
		return backstay.FileSystemConsistent
	}
	return backstay.CrashConsistent
}

func (s *Session) withoutReason() string {
	if s.freeze {
		return "the guest's file systems were frozen"
	}
	return "no file systems were frozen"
}

// Finish runs the post hook if the pre hook was begun, and tells what holds in
// the end. An outcome that the request does not allow is CodeInconsistent.
func (s *Session) Finish(ctx context.Context) (Outcome, error) {
	post := s.debt.Post
	o := s.Provisional()
	if post != nil {
		err := s.agent.runHook(ctx, "post", *post, s.config.poll(), longestHook)
		s.debt.Post = nil
		o = s.Provisional()
		if err != nil {
			s.log.Warn("the post hook of a guest failed", "vm", s.VM.Name, "error", err)
			o.Notes = append(slices.Clone(o.Notes), words(err))
			if o.Consistency == backstay.ApplicationConsistent {
				o.Consistency, o.Reason = s.withoutHooks(), s.withoutReason()+"; not application-consistent: "+words(err)
			}
		}
	}
	if !slices.Contains(ladder(s.Wish, s.Fallback), o.Consistency) {
		return o, backstay.Errorf(backstay.CodeInconsistent, "%s cannot be backed up as consistently as its policy demands", s.VM.Name).Becausef("%s", o.Reason)
	}
	return o, nil
}

// Abandon undoes everything: no disk was switched.
func (s *Session) Abandon(ctx context.Context) error {
	s.LetGo(ctx)
	return s.undo(ctx)
}

// undo runs the post hook of a session that leads to nothing.
func (s *Session) undo(ctx context.Context) error {
	if s.debt.Post == nil {
		return nil
	}
	post := *s.debt.Post
	s.debt.Post = nil
	return s.agent.runHook(context.WithoutCancel(ctx), "post", post, s.config.poll(), longestHook)
}
