package backstay_test

import (
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

func TestAPlanIsDueOnItsGridAndMissedRunsAreMadeUpForByOne(t *testing.T) {
	began := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	plan := backstay.DrillPlan{Every: backstay.Duration(24 * time.Hour), Since: began}
	at := func(d time.Duration) *time.Time { t := began.Add(d); return &t }
	for _, c := range []struct {
		last *time.Time
		now  time.Duration
		due  bool
		next time.Duration
	}{
		{nil, 23 * time.Hour, false, 24 * time.Hour},
		{nil, 24 * time.Hour, true, 24 * time.Hour},
		{at(25 * time.Hour), 26 * time.Hour, false, 48 * time.Hour},
		{at(25 * time.Hour), 100 * time.Hour, true, 48 * time.Hour},
		{at(100 * time.Hour), 101 * time.Hour, false, 120 * time.Hour},
		{at(-time.Hour), time.Hour, false, 24 * time.Hour},
		{at(1000 * time.Hour), time.Hour, false, 24 * time.Hour}, // the clock was set back
	} {
		if due, next := plan.Due(c.last, began.Add(c.now)); due != c.due || !next.Equal(began.Add(c.next)) {
			t.Errorf("last %v, now +%v: %v, next +%v", c.last, c.now, due, next.Sub(began))
		}
	}
	plan.Every = 0
	if due, _ := plan.Due(nil, began.Add(time.Hour)); due {
		t.Error("a plan without a schedule is due")
	}
}

func TestAProbeIsReadAsItIsTyped(t *testing.T) {
	sum := strings.Repeat("a1", 32)
	for _, text := range []string{"agent", "tcp:22", "tcp:22=SSH-2.0", "http:80/", "http:8080/health?x=1=ok", "https:443/", "command:systemctl is-active nginx", "file:/etc/a=b=" + sum, "console:login:"} {
		p, err := backstay.ParseDrillProbe(text)
		if err != nil || p.String() != text {
			t.Errorf("%q is %q, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "ping", "agent:x=y:", "tcp:", "tcp:0", "tcp:70000", "http:80x/", "command:", "file:relative=" + sum, "file:/etc/a=12", "console:"} {
		if p, err := backstay.ParseDrillProbe(text); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%q was taken as %+v, %v", text, p, err)
		}
	}
}

func TestAPlanThatMakesNoSenseIsRefused(t *testing.T) {
	vm := backstay.DrillVM{VM: "web01"}
	good := backstay.DrillPlan{VMs: []backstay.DrillVM{vm}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, p := range map[string]backstay.DrillPlan{
		"no VM": {}, "twice": {VMs: []backstay.DrillVM{vm, vm}}, "point": {VMs: good.VMs, Point: "first"}, "from": {VMs: good.VMs, From: "tape"},
		"cap": {VMs: good.VMs, MaxCPUs: -1}, "memory": {VMs: good.VMs, MaxMemory: 1 << 20}, "every": {VMs: good.VMs, Every: backstay.Duration(time.Second)},
		"nameless": {VMs: []backstay.DrillVM{{}}}, "probe": {VMs: []backstay.DrillVM{{VM: "a", Probes: []backstay.DrillProbe{{Kind: "ping"}}}}},
		"many": {VMs: make([]backstay.DrillVM, backstay.MaxDrillVMs+1)},
	} {
		if err := p.Check(); !backstay.IsCode(err, backstay.CodeUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
