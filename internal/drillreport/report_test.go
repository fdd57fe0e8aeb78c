package drillreport_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/drillreport"
)

func record(t *testing.T) backstay.DrillRecord {
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	after := func(s int) time.Time { return at.Add(time.Duration(s) * time.Second) }
	rto, boot, rpo := 41.5, 7.25, 3700.0
	sum := strings.Repeat("ab", 32)
	r := backstay.DrillRecord{
		ID: "01J", Seq: 3, Plan: backstay.DrillPlan{Name: "shop"}, User: "ann", Region: "east", Host: "h1", Started: at, Ended: after(50),
		Verdict: backstay.DrillPassed, RTOSeconds: &rto, RPOSeconds: &rpo, Cleaned: true, Network: "backstay-drill-x 10.0.0.1/24", Previous: "cafe",
		VMs: []backstay.DrilledVM{{
			Source: backstay.VMRef{Name: "db01"}, Name: "db01-drill-x", Point: "01P", Tier: backstay.VaultTier, Vault: "main", BootSeconds: &boot, HealthySeconds: &rto,
			Disks:      []backstay.DrilledDisk{{Target: "vda", Size: 1 << 30, SHA256: &sum}, {Target: "vdb", Size: 1 << 20}},
			Probes:     []backstay.DrillProbeResult{{Probe: "http:80/", OK: true, Seconds: 3, Detail: `<script>alert("x")</script>`}},
			Screenshot: &backstay.DrillScreenshot{PNG: []byte("\x89PNG..."), Of: "console", SHA256: sum},
		}},
		Steps: []backstay.DrillStep{{Name: "network", Began: at, Ended: after(1), OK: true}, {VM: "db01-drill-x", Name: "probe", Began: after(2), Ended: after(40)}},
	}
	var err error
	if r.Hash, err = r.Digest(); err != nil {
		t.Fatal(err)
	}
	return r
}

func page(t *testing.T, r backstay.DrillRecord) string {
	t.Helper()
	var out bytes.Buffer
	if err := drillreport.Write(&out, r); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAReportIsOnePageThatNeedsNothingElse(t *testing.T) {
	text := page(t, record(t))
	for _, want := range []string{"Drill of shop", "passed", "41.5 s", "1 h 1 min", "db01-drill-x · probe", "data:image/png;base64,", "not computed", "fits the record", "10.0.0.1/24"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, bad := range []string{"<script", "src=\"http", "href=", "url(", "@import"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q is in it", bad)
		}
	}
}

func TestARecordThatWasChangedIsShownAsSuch(t *testing.T) {
	r := record(t)
	r.User = "bob"
	if text := page(t, r); !strings.Contains(text, "not as it was written") || strings.Contains(text, ">fits the record") {
		t.Error("a record that was changed looks sound")
	}
}

func TestADrillThatNeverBeganHasAReport(t *testing.T) {
	text := page(t, backstay.DrillRecord{ID: "01J", Verdict: backstay.DrillFailed, Cause: backstay.Errorf(backstay.CodeUnknownPoint, "VM db01 has no recovery point")})
	if !strings.Contains(text, "has no recovery point") || strings.Contains(text, "<svg") {
		t.Error(text)
	}
}
