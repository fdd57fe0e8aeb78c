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

func TestThePercentIsByTasksAndTheirBytesAndFullOnlyAtTheEnd(t *testing.T) {
	tasks := func(running, last backstay.TaskState) []backstay.Task {
		return []backstay.Task{{State: backstay.TaskSucceeded}, {Name: "long", State: running}, {State: last}}
	}
	for _, c := range []struct {
		done, total   int64
		running, last backstay.TaskState
		want          float64
	}{
		{0, 0, backstay.TaskRunning, backstay.TaskPending, 10},
		{0, 1000, backstay.TaskRunning, backstay.TaskPending, 10},
		{500, 1000, backstay.TaskRunning, backstay.TaskPending, 50},
		{1000, 1000, backstay.TaskRunning, backstay.TaskPending, 90},
		{0, 500, backstay.TaskSucceeded, backstay.TaskRunning, 90},
		{500, 500, backstay.TaskSucceeded, backstay.TaskRunning, 99},
	} {
		tasks := tasks(c.running, c.last)
		m := meter{done: c.done, total: c.total, weights: map[string]int{"long": 8}}
		job := backstay.Job{State: backstay.JobRunning, Tasks: tasks}
		m.show(&job, noon)
		if job.Percent != c.want {
			t.Errorf("%d of %d bytes: %v %%, want %v", c.done, c.total, job.Percent, c.want)
		}
	}
}

func TestThePercentOfAJobNeverFalls(t *testing.T) {
	m := meter{}
	job := backstay.Job{State: backstay.JobRunning, Tasks: []backstay.Task{{State: backstay.TaskRunning}, {State: backstay.TaskPending}}}
	last := 0.0
	look := func() {
		t.Helper()
		if m.show(&job, noon); job.Percent < last {
			t.Errorf("%v %% after %v %%", job.Percent, last)
		}
		last = job.Percent
	}
	m.add(noon, 900, 1000)
	look()
	m.add(noon, 100, 1000) // the stage began anew
	look()
	m.add(noon, 1000, 1000)
	look()
	job.Tasks[0].State, job.Tasks[1].State = backstay.TaskSucceeded, backstay.TaskRunning
	m.beginTask()
	look()
	m.add(noon, 1, 64) // the next task counts from nothing
	look()
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

// TestTheTimeLeftCountsTheTasksToCome: a disk that is written must be verified too.
func TestTheTimeLeftCountsTheTasksToCome(t *testing.T) {
	m := meter{weights: map[string]int{"stage": 12, "verify": 6}}
	job := backstay.Job{State: backstay.JobRunning, Tasks: []backstay.Task{
		{Name: "plan", State: backstay.TaskSucceeded}, {Name: "stage", State: backstay.TaskRunning}, {Name: "verify", State: backstay.TaskPending},
	}}
	at := feed(&m, noon, 1000, 100_000, 10*time.Second)
	m.show(&job, at)
	if job.EtaSeconds == nil || *job.EtaSeconds != 90+50 {
		t.Errorf("left %v", job.EtaSeconds)
	}
	job.Tasks[1].State, job.Tasks[2].State = backstay.TaskSucceeded, backstay.TaskRunning
	m.beginTask()
	at = feed(&m, at.Add(time.Second), 2000, 100_000, 100*time.Millisecond)
	m.add(at, 0, 100_000)
	at = feed(&m, at, 2000, 100_000, 10*time.Second)
	m.show(&job, at)
	if job.EtaSeconds == nil || *job.EtaSeconds != 40 {
		t.Errorf("left of the last task %v", *job.EtaSeconds)
	}
}
