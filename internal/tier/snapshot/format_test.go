package snapshot

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// TestReleasedRecordsStayReadable reads the golden records of each version of
// docs/formats/snapshot.md (I14). They are never written again.
func TestReleasedRecordsStayReadable(t *testing.T) {
	var l Layer
	golden(t, "layer.json", &l)
	if !l.Bottom || l.File != "/vms/web01.raw" || len(l.Points) != 1 || l.Users[0].Kind != UserVM || l.Stamp.ModTime.Nanosecond() != 123456789 {
		t.Errorf("layer reads as %+v", l)
	}
	var p PointRecord
	golden(t, "point.json", &p)
	if p.State != record.PointAvailable || p.LayerOf("vda") != l.ID || p.Shape.Name != "web01" || p.Consistency != backstay.FileSystemConsistent {
		t.Errorf("point reads as %+v", p)
	}
	d, err := unseal(bytes.Repeat([]byte{7}, 32), p.ID, p.Sealed)
	if err != nil || d.InactiveXML != "<domain/>" || !bytes.Equal(d.NVRAM, []byte{1, 2, 3}) {
		t.Errorf("definition reads as %+v, %v", d, err)
	}
	var in intent
	golden(t, "intent.json", &in)
	if in.Stage != record.StageSwitching || !in.Quiesce || in.Disks[0].Layer != l.ID || in.Shape.ID != vmID {
		t.Errorf("intent reads as %+v", in)
	}
	var m mergeIntent
	golden(t, "merge.json", &m)
	if m.Into != l.ID || !m.Live || !m.Active || m.Committed.Bytes != 196624 {
		t.Errorf("merge reads as %+v", m)
	}
}

// golden reads a record and sees that no field of it goes unread. What is
// written may have more, that came later.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	path := filepath.Join("testdata", "v1", name)
	must(t, record.ReadJSON(path, v))
	want, err := os.ReadFile(path)
	must(t, err)
	again := filepath.Join(t.TempDir(), name)
	must(t, record.WriteJSON(again, v))
	got, err := os.ReadFile(again)
	must(t, err)
	var was, is any
	must(t, json.Unmarshal(want, &was))
	must(t, json.Unmarshal(got, &is))
	if !holds(is, was) {
		t.Errorf("%s reads and writes as\n%s", name, got)
	}
}

// holds tells whether a JSON value has all that another has.
func holds(is, was any) bool {
	switch was := was.(type) {
	case map[string]any:
		now, ok := is.(map[string]any)
		for name, v := range was {
			ok = ok && holds(now[name], v)
		}
		return ok
	case []any:
		now, ok := is.([]any)
		if ok = ok && len(now) == len(was); !ok {
			return false
		}
		for i := range was {
			ok = ok && holds(now[i], was[i])
		}
		return ok
	}
	return reflect.DeepEqual(is, was)
}
