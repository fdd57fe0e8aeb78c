package job

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// feed adds so many bytes each tenth of a second for so long, and returns the end.
func feed(m *meter, from time.Time, perSecond int64, total int64, d time.Duration) time.Time {
	for at := from; ; at = at.Add(100 * time.Millisecond) {
		if at.Sub(from) > d {
			return from.Add(d)
		}
		done := m.done
		if at.After(from) {
			done += perSecond / 10
		}
		m.add(at, done, total)
	}
}

func TestTheRateIsThatOfTheLastSeconds(t *testing.T) {
	var m meter
	at := feed(&m, noon, 1000, 1_000_000, 20*time.Second)
	if rate := m.rate(at); rate != 1000 {
		t.Errorf("rate %d", rate)
	}
	at = feed(&m, at, 5000, 1_000_000, 5*time.Second)
	if rate := m.rate(at); rate != 5000 {
		t.Errorf("rate %d after it changed", rate)
	}
}

func TestAStalledJobHasNoRateAndNoTimeLeft(t *testing.T) {
	var m meter
	at := feed(&m, noon, 1000, 1_000_000, 20*time.Second)
	if rate := m.rate(at.Add(2500 * time.Millisecond)); rate != 500 {
		t.Errorf("rate %d half a window after the last byte", rate)
	}
	at = at.Add(time.Minute)
	if m.rate(at) != 0 || m.left(at) != nil {
		t.Errorf("rate %d, left %v", m.rate(at), m.left(at))
	}
}

func TestTheTimeLeftIsNilUntilItIsHonest(t *testing.T) {
	var m meter
	if m.left(noon) != nil {
		t.Error("before any progress")
	}
	at := feed(&m, noon, 1000, 100_000, 2*time.Second)
	if m.left(at) != nil {
		t.Error("after two seconds")
	}
	at = feed(&m, at, 1000, 100_000, 8*time.Second)
	if left := m.left(at); left == nil || *left != 90 {
		t.Errorf("left %v, want 90 s", left)
	}
	at = feed(&m, at, 1000, 0, time.Second)
	if m.left(at) != nil {
		t.Error("with an unknown total")
	}
}

func TestAResumedJobHasNoRateForWhatAnEarlierLifeDid(t *testing.T) {
	var m meter
	m.resume(90_000, 100_000)
	var job backstay.Job
	m.show(&job, noon)
	if job.Percent != 90 || job.BytesPerSecond != 0 {
		t.Errorf("%v %%, %d B/s", job.Percent, job.BytesPerSecond)
	}
	m.add(noon, 90_000, 100_000)
	m.add(noon.Add(time.Second), 91_000, 100_000)
	if rate := m.rate(noon.Add(time.Second)); rate != 1000 {
		t.Errorf("rate %d", rate)
	}
}

func TestAStageThatBeginsAnewStartsTheRateOver(t *testing.T) {
	var m meter
	at := feed(&m, noon, 1000, 100_000, 10*time.Second)
	m.add(at, 0, 100_000)
	if rate := m.rate(at.Add(time.Second)); rate != 0 {
		t.Errorf("rate %d", rate)
	}
}

func TestAClockSetBackMakesNoWildRate(t *testing.T) {
	var m meter
	at := feed(&m, noon, 1000, 100_000, 10*time.Second).Add(-time.Hour)
	m.add(at, m.done+1, 100_000)
	if rate := m.rate(at.Add(time.Second)); rate < 0 || rate > 1000 {
		t.Errorf("rate %d", rate)
	}
}

func TestThePercentIsByBytesElseByTasksAndFullOnlyAtTheEnd(t *testing.T) {
	tasks := []backstay.Task{{State: backstay.TaskSucceeded}, {State: backstay.TaskRunning}, {State: backstay.TaskPending}, {State: backstay.TaskPending}}
	for _, c := range []struct {
		done, total int64
		want        float64
	}{{0, 0, 25}, {0, 1000, 0}, {333, 1000, 33.3}, {1000, 1000, 99}} {
		m := meter{done: c.done, total: c.total}
		job := backstay.Job{State: backstay.JobRunning, Tasks: tasks}
		m.show(&job, noon)
		if job.Percent != c.want {
			t.Errorf("%d of %d bytes: %v %%, want %v", c.done, c.total, job.Percent, c.want)
		}
	}
}

func TestATasksPercentCountsFromWhereItBegan(t *testing.T) {
	m := meter{}
	m.add(noon, 400, 1000)
	m.beginTask()
	m.add(noon, 700, 1000)
	job := backstay.Job{State: backstay.JobRunning, Tasks: []backstay.Task{{State: backstay.TaskRunning}}}
	m.show(&job, noon)
	if job.Tasks[0].Percent != 50 {
		t.Errorf("%v %%", job.Tasks[0].Percent)
	}
}
