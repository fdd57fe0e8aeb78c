package quiesce

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
)

const vmID = backstay.VMID("11111111-1111-4111-8111-111111111111")

const configText = `{"version":1,"pre":{"path":"/opt/pre"},"post":{"path":"/opt/post"}}`

// world is one VM with a guest that a test scripts.
type world struct {
	t      *testing.T
	hv     *fake.Host
	guest  fake.Guest
	guards *Inside
	ran    []string // the hooks that ran, in order
	debts  []Debt   // as they were journalled
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, hv: fake.New(t.TempDir())}
	disk := t.TempDir() + "/disk"
	must(t, w.hv.Create(t.Context(), disk, "raw", 4096))
	_, err := w.hv.Define(t.Context(), fake.XML("db01", vmID, backstay.Disk{Target: "vda", Source: disk, Format: "raw"}))
	must(t, err)
	must(t, w.hv.Start(t.Context(), vmID))
	w.guards = Within(w.hv.Elsewhere(), nil)
	w.guest = fake.Guest{Files: map[string]fake.GuestFile{
		HooksFile:   {Mode: 0o100600, Content: configText},
		"/opt/pre":  {Mode: 0o100700},
		"/opt/post": {Mode: 0o100700},
	}}
	w.guest.Run = func(path string, _ []string) fake.Ran {
		w.ran = append(w.ran, path)
		return fake.Ran{}
	}
	return w
}

// run takes the VM through a session, and returns what was reached.
func (w *world) run(change func(*Request)) (Outcome, error) {
	w.t.Helper()
	w.hv.SetGuest(vmID, w.guest)
	d, err := w.hv.Domain(w.t.Context(), vmID)
	must(w.t, err)
	r := Request{
		VM: d.VM, Wish: backstay.ApplicationConsistent,
		Guard:   func(ctx context.Context) (Guard, error) { return w.guards.Start(ctx, vmID) },
		Journal: func(d Debt) error { w.debts = append(w.debts, d); return nil },
	}
	if change != nil {
		change(&r)
	}
	s, err := Begin(w.t.Context(), w.hv, r)
	if err != nil {
		return Outcome{}, err
	}
	if err := s.Hold(w.t.Context(), false); err != nil {
		return Outcome{}, err
	}
	if w.hv.Frozen(vmID) != s.Held() {
		w.t.Errorf("frozen %v, held %v", w.hv.Frozen(vmID), s.Held())
	}
	w.ran = append(w.ran, "switch")
	s.Switched()
	s.LetGo(w.t.Context())
	return s.Finish(w.t.Context())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hook changes what one of the hooks does.
func (w *world) hook(path string, does ...fake.Ran) {
	n := 0
	w.guest.Run = func(p string, _ []string) fake.Ran {
		w.ran = append(w.ran, p)
		if p != path {
			return fake.Ran{}
		}
		n++
		return does[min(n, len(does))-1]
	}
}

func (w *world) config(text string) {
	w.guest.Files[HooksFile] = fake.GuestFile{Mode: 0o100600, Content: text}
}

// TestWhatAPointMayBeCalled holds each consistency to what it means, and each
// failure to its name.
func TestWhatAPointMayBeCalled(t *testing.T) {
	all := []string{"/opt/pre", "switch", "/opt/post"}
	none := []string{"switch"}
	for name, c := range map[string]struct {
		arrange func(w *world)
		want    backstay.Consistency
		reason  string
		ran     []string
	}{
		"both hooks succeed": {nil, backstay.ApplicationConsistent, "hooks ran", all},
		"no configuration":   {func(w *world) { delete(w.guest.Files, HooksFile) }, backstay.FileSystemConsistent, "hook-config-incorrect", none},
		"not JSON":           {func(w *world) { w.config("{") }, backstay.FileSystemConsistent, "hook-config-incorrect", none},
		"a misspelt key":     {func(w *world) { w.config(`{"version":1,"prehook":{}}`) }, backstay.FileSystemConsistent, "prehook", none},
		"no post hook":       {func(w *world) { w.config(`{"version":1,"pre":{"path":"/opt/pre"}}`) }, backstay.FileSystemConsistent, "post names no path", none},
		"a relative path":    {func(w *world) { w.config(strings.Replace(configText, "/opt/pre", "pre", 1)) }, backstay.FileSystemConsistent, "not a plain absolute", none},
		"a path with dots":   {func(w *world) { w.config(strings.Replace(configText, "/opt/pre", "/opt/../pre", 1)) }, backstay.FileSystemConsistent, "not a plain absolute", none},
		"endless retries": {func(w *world) {
			w.config(strings.Replace(configText, `"/opt/pre"`, `"/opt/pre","timeoutSeconds":900,"retries":2`, 1))
		}, backstay.FileSystemConsistent, "1800", none},
		"config of another user": {func(w *world) {
			w.guest.Files[HooksFile] = fake.GuestFile{UID: 1000, Mode: 0o100600, Content: configText}
		}, backstay.FileSystemConsistent, "hook-permission", none},
		"config that all read":    {func(w *world) { w.guest.Files[HooksFile] = fake.GuestFile{Mode: 0o100644, Content: configText} }, backstay.FileSystemConsistent, "mode 644", none},
		"config is a link":        {func(w *world) { w.guest.Files[HooksFile] = fake.GuestFile{Mode: 0o120777} }, backstay.FileSystemConsistent, "symbolic link", none},
		"script of another user":  {func(w *world) { w.guest.Files["/opt/pre"] = fake.GuestFile{UID: 33, Mode: 0o100700} }, backstay.FileSystemConsistent, "hook-permission", none},
		"script others may write": {func(w *world) { w.guest.Files["/opt/post"] = fake.GuestFile{Mode: 0o100722} }, backstay.FileSystemConsistent, "hook-permission: the post hook", none},
		"folder others may write": {func(w *world) { w.guest.Files["/opt"] = fake.GuestFile{Mode: 0o041777} }, backstay.FileSystemConsistent, "/opt has mode", none},
		"no script":               {func(w *world) { delete(w.guest.Files, "/opt/post") }, backstay.FileSystemConsistent, "hook-not-found: the post hook", none},
		"forbidden":               {func(w *world) { w.guest.Forbidden = []string{"guest-exec"} }, backstay.FileSystemConsistent, "hook-exec-forbidden", none},
		"pre fails": {func(w *world) { w.hook("/opt/pre", fake.Ran{Code: 3, Output: "a\nno room"}) },
			backstay.FileSystemConsistent, "hook-failed: the pre hook /opt/pre failed: it ended with code 3, and said: no room", all},
		"post fails": {func(w *world) { w.hook("/opt/post", fake.Ran{Code: 1}) }, backstay.FileSystemConsistent, "hook-failed: the post hook", all},
		"pre succeeds when tried again": {func(w *world) {
			w.config(strings.Replace(configText, `"/opt/pre"`, `"/opt/pre","retries":2`, 1))
			w.hook("/opt/pre", fake.Ran{Code: 1}, fake.Ran{Code: 1}, fake.Ran{})
		}, backstay.ApplicationConsistent, "hooks ran", []string{"/opt/pre", "/opt/pre", "/opt/pre", "switch", "/opt/post"}},
		"pre hangs": {func(w *world) {
			w.config(strings.Replace(configText, `"/opt/pre"`, `"/opt/pre","timeoutSeconds":1`, 1))
			w.hook("/opt/pre", fake.Ran{Endless: true})
		}, backstay.FileSystemConsistent, "hook-timed-out: the pre hook", all},
		"no freeze wanted": {func(w *world) { w.config(configText[:len(configText)-1] + `,"freeze":false}`) },
			backstay.ApplicationConsistent, "wants no file systems frozen", all},
		"the freeze fails": {func(w *world) { w.hv.FailQuiesce(vmID, errors.New("no")) }, backstay.CrashConsistent, "could not be frozen: no", all},
		"Windows":          {func(w *world) { w.guest.OS = "mswindows" }, backstay.ApplicationConsistent, "VSS", none},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.arrange != nil {
				c.arrange(w)
			}
			o, err := w.run(nil)
			must(t, err)
			if o.Consistency != c.want || !strings.Contains(o.Reason, c.reason) {
				t.Errorf("point is %s because %q, want %s because %q", o.Consistency, o.Reason, c.want, c.reason)
			}
			if !slices.Equal(w.ran, c.ran) {
				t.Errorf("ran %v, want %v", w.ran, c.ran)
			}
			if w.hv.Frozen(vmID) {
				t.Error("the guest was left frozen")
			}
		})
	}
}

// TestNothingIsTakenThatTheFallbackForbids: the guest is left as it was.
func TestNothingIsTakenThatTheFallbackForbids(t *testing.T) {
	for name, c := range map[string]struct {
		arrange  func(w *world)
		fallback []backstay.Consistency
		code     backstay.Code // "" if the point may be taken
		ran      []string
	}{
		"pre fails, nothing weaker":          {func(w *world) { w.hook("/opt/pre", fake.Ran{Code: 1}) }, []backstay.Consistency{}, backstay.CodeInconsistent, []string{"/opt/pre", "/opt/post"}},
		"freeze fails, file-system is least": {func(w *world) { w.hv.FailQuiesce(vmID, errors.New("no")) }, []backstay.Consistency{backstay.FileSystemConsistent}, backstay.CodeInconsistent, []string{"/opt/pre", "/opt/post"}},
		"post fails, nothing weaker":         {func(w *world) { w.hook("/opt/post", fake.Ran{Code: 1}) }, []backstay.Consistency{}, backstay.CodeInconsistent, []string{"/opt/pre", "switch", "/opt/post"}},
		"pre fails, crash is allowed":        {func(w *world) { w.hook("/opt/pre", fake.Ran{Code: 1}) }, []backstay.Consistency{backstay.CrashConsistent}, "", []string{"/opt/pre", "switch", "/opt/post"}},
		"the guest forbids to go on": {func(w *world) {
			w.config(configText[:len(configText)-1] + `,"continueOnFailure":false}`)
			w.hook("/opt/pre", fake.Ran{Code: 1})
		}, nil, backstay.CodeHookFailed, []string{"/opt/pre", "/opt/post"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.arrange(w)
			_, err := w.run(func(r *Request) { r.Fallback = c.fallback })
			if (c.code == "") != (err == nil) || err != nil && !backstay.IsCode(err, c.code) {
				t.Errorf("error is %v", err)
			}
			if !slices.Equal(w.ran, c.ran) || w.hv.Frozen(vmID) {
				t.Errorf("ran %v, frozen %v", w.ran, w.hv.Frozen(vmID))
			}
		})
	}
}

// TestWhatIsOwedIsWrittenDownFirst (I9).
func TestWhatIsOwedIsWrittenDownFirst(t *testing.T) {
	w := newWorld(t)
	w.guest.Run = func(path string, _ []string) fake.Ran {
		if len(w.debts) == 0 || w.debts[len(w.debts)-1].Post == nil {
			t.Errorf("%s runs before anybody knows that the post hook is owed", path)
		}
		return fake.Ran{}
	}
	w.hv.Hook = func(call string) error {
		if call == "freeze" && !w.debts[len(w.debts)-1].Asked {
			t.Error("the guest is frozen before anybody knows that it is owed a thaw")
		}
		return nil
	}
	_, err := w.run(nil)
	must(t, err)
}

func TestSkippedMountPointsAreNotFrozen(t *testing.T) {
	w := newWorld(t)
	w.guest.Mounts = []string{"/", "/data", "/scratch"}
	o, err := w.run(func(r *Request) {
		r.Wish, r.Rules.SkipMounts = backstay.FileSystemConsistent, []string{"/scratch", "/nowhere"}
	})
	must(t, err)
	if o.Consistency != backstay.FileSystemConsistent || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "/nowhere") {
		t.Errorf("outcome is %+v", o)
	}
	o, err = w.run(func(r *Request) {
		r.Wish, r.Rules.SkipMounts = backstay.FileSystemConsistent, w.guest.Mounts
	})
	must(t, err)
	if o.Consistency != backstay.CrashConsistent || !strings.Contains(o.Reason, "every mount point") {
		t.Errorf("outcome is %+v", o)
	}
}

// TestAGuestThatWasThawedTooEarlyMakesNoConsistentPoint, whoever thawed it.
func TestAGuestThatWasThawedTooEarlyMakesNoConsistentPoint(t *testing.T) {
	for name, thaw := range map[string]func(w *world){
		"the guard":     func(w *world) { w.guards.Die() },
		"somebody else": func(w *world) { w.hv.SetFrozen(vmID, false) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d, err := w.hv.Domain(t.Context(), vmID)
			must(t, err)
			s, err := Begin(t.Context(), w.hv, Request{
				VM: d.VM, Guard: func(ctx context.Context) (Guard, error) { return w.guards.Start(ctx, vmID) },
			})
			must(t, err)
			must(t, s.Hold(t.Context(), false))
			thaw(w)
			s.Switched()
			s.LetGo(t.Context())
			o, err := s.Finish(t.Context())
			must(t, err)
			if o.Consistency != backstay.CrashConsistent || s.Lost() == "" {
				t.Errorf("point is %s because %q", o.Consistency, o.Reason)
			}
		})
	}
}

func TestWithoutAGuardNothingIsFrozen(t *testing.T) {
	w := newWorld(t)
	o, err := w.run(func(r *Request) {
		r.Wish = backstay.FileSystemConsistent
		r.Guard = func(context.Context) (Guard, error) { return nil, errors.New("no process") }
	})
	must(t, err)
	if o.Consistency != backstay.CrashConsistent || !strings.Contains(o.Reason, "no process") {
		t.Errorf("point is %s because %q", o.Consistency, o.Reason)
	}
}

// TestAHeldVMIsPausedWhereNothingIsFrozen and runs on when it is let go.
func TestAHeldVMIsPausedWhereNothingIsFrozen(t *testing.T) {
	for _, dies := range []bool{false, true} {
		w := newWorld(t)
		d, err := w.hv.Domain(t.Context(), vmID)
		must(t, err)
		s, err := Begin(t.Context(), w.hv, Request{
			VM: d.VM, Wish: backstay.CrashConsistent,
			Guard: func(ctx context.Context) (Guard, error) { return w.guards.Start(ctx, vmID) },
		})
		must(t, err)
		must(t, s.Hold(t.Context(), true))
		if !w.hv.Paused(vmID) {
			t.Error("the VM runs on")
		}
		if dies {
			w.guards.Die()
		} else {
			s.LetGo(t.Context())
		}
		if w.hv.Paused(vmID) {
			t.Errorf("dies %v: the VM was left paused", dies)
		}
	}
}

func TestSecretsInWhatAHookSaysAreNotShown(t *testing.T) {
	for in, want := range map[string]string{
		"x\nlogin failed: password=hunter2 for root":      "login failed: password=*** for root",
		"mysqldump -phunter2 failed":                      "mysqldump -p*** failed",
		"cannot reach postgres://app:hunter2@db/x":        "cannot reach postgres://app:***@db/x",
		`{"token": "abc.def"} refused`:                    `{"token": *** refused`,
		"no such table: keys\x1b[0m":                      "no such table: keys [0m",
		"Authorization: Bearer abcdef expired":            "Authorization: Bearer *** expired",
		"the non-permitted path stays as it is: /opt/pre": "the non-permitted path stays as it is: /opt/pre",
	} {
		if got := lastWords(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
	if got := lastWords(strings.Repeat("ä", 1000)); len(got) > mostWords+4 {
		t.Errorf("%d bytes are shown", len(got))
	}
}

// TestAGuardProcessLetsGo in each of the ways in which it learns that it must.
func TestAGuardProcessLetsGo(t *testing.T) {
	for name, must := range map[string]func(orders *io.PipeWriter, cancel func()){
		"the orders end":        func(orders *io.PipeWriter, _ func()) { _ = orders.Close() },
		"it is told to end":     func(_ *io.PipeWriter, cancel func()) { cancel() },
		"it is told to let go":  func(o *io.PipeWriter, _ func()) { _, _ = io.WriteString(o, `{"do":"fire"}`+"\n"); _ = o.Close() },
		"the budget has passed": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.hv.SetFrozen(vmID, true)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			orders, in := io.Pipe()
			answers, out := io.Pipe()
			served := make(chan error, 1)
			open := func(context.Context, string) (hypervisor.Guests, func() error, error) {
				return w.hv.Elsewhere(), func() error { return nil }, nil
			}
			go func() { served <- Serve(ctx, orders, out, open, nil) }()
			said := make([]byte, 100)
			send := func(line string) {
				_, _ = io.WriteString(in, line+"\n")
				n, err := answers.Read(said)
				if err != nil || !strings.Contains(string(said[:n]), `"ok":true`) {
					t.Fatalf("%s: answered %q, %v", line, said[:n], err)
				}
			}
			send(`{"libvirt":"x","vm":"` + string(vmID) + `"}`)
			if must == nil {
				send(`{"do":"arm","budgetMs":1}`)
				for w.hv.Frozen(vmID) {
					time.Sleep(time.Millisecond)
				}
				send(`{"do":"disarm"}`)
				if !strings.Contains(string(said), "fired") {
					t.Error("the guard does not tell that it let go")
				}
			} else {
				send(`{"do":"arm","budgetMs":3600000}`)
				must(in, cancel)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
			if w.hv.Frozen(vmID) {
				t.Error("the guest is still frozen")
			}
		})
	}
}

// TestAGuardTriesUntilLibvirtAnswers (I9).
func TestAGuardTriesUntilLibvirtAnswers(t *testing.T) {
	w := newWorld(t)
	w.hv.SetFrozen(vmID, true)
	w.hv.SetAway(true)
	g, err := w.guards.Start(t.Context(), vmID)
	must(t, err)
	must(t, g.Arm(time.Hour, false))
	g.Fire()
	w.hv.SetAway(false)
	w.guards.Die() // waits for it
	if w.hv.Frozen(vmID) {
		t.Error("the guest is still frozen")
	}
}

// TestWhatSomebodyElseFrozeStaysFrozen: another tool copies the disks meanwhile.
func TestWhatSomebodyElseFrozeStaysFrozen(t *testing.T) {
	w := newWorld(t)
	d, err := w.hv.Domain(t.Context(), vmID)
	must(t, err)
	s, err := Begin(t.Context(), w.hv, Request{
		VM: d.VM, Guard: func(ctx context.Context) (Guard, error) { return w.guards.Start(ctx, vmID) },
	})
	must(t, err)
	w.hv.SetFrozen(vmID, true)
	must(t, s.Hold(t.Context(), false))
	s.Switched()
	s.LetGo(t.Context())
	o, err := s.Finish(t.Context())
	must(t, err)
	w.guards.Die()
	if !w.hv.Frozen(vmID) {
		t.Error("it was thawed")
	}
	if o.Consistency != backstay.CrashConsistent || !strings.Contains(o.Reason, "somebody else") || s.Debt().Owed() {
		t.Errorf("the point is %s because %q, and owed is %+v", o.Consistency, o.Reason, s.Debt())
	}
}
