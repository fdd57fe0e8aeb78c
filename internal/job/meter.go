package job

import (
	"math"
	"time"

	backstay "github.com/backstay/backstay"
)

const (
	// window is the time over which the rate is taken.
	window = 5 * time.Second
	// sampling is the least time between two samples, since progress may be told
	// for every block.
	sampling = 100 * time.Millisecond
	// settled is how long progress must have been seen before an estimate of the
	// time that is left is worth anything.
	settled = 3 * time.Second
)

// meter turns bytes done into percent, rate and time left. It reads no clock.
type meter struct {
	done, total int64
	taskBase    int64 // done when the running task began
	first       time.Time
	samples     []sample // oldest first: those in the window and one before it
	weights     map[string]int
}

type sample struct {
	at   time.Time
	done int64
}

// resume starts from what an earlier life had reached, without a rate.
func (m *meter) resume(done, total int64) { m.done, m.total, m.taskBase = done, total, done }

// beginTask makes the next task's percent count from here.
func (m *meter) beginTask() { m.taskBase = m.done }

// add tells that done of total bytes are done. Fewer than before means that a
// stage began anew: the rate starts over.
func (m *meter) add(now time.Time, done, total int64) {
	last := len(m.samples) - 1
	if done < m.done || last < 0 || now.Before(m.samples[last].at) {
		m.samples, m.first = []sample{{now, done}}, now
		m.taskBase = min(m.taskBase, done)
	} else if now.Sub(m.samples[last].at) >= sampling {
		m.samples = append(m.samples, sample{now, done})
	}
	m.done, m.total = done, total
	for len(m.samples) > 1 && now.Sub(m.samples[1].at) >= window {
		m.samples = m.samples[1:]
	}
}

// rate is in bytes per second, over the window until now; 0 when unknown. It
// falls while nothing is added.
func (m *meter) rate(now time.Time) int64 {
	if len(m.samples) == 0 {
		return 0
	}
	base := m.samples[0]
	for _, s := range m.samples[1:] {
		if now.Sub(s.at) >= window {
			base = s
		}
	}
	elapsed := min(now.Sub(base.at), window)
	if elapsed < sampling {
		return 0
	}
	return int64(float64(m.done-base.done) / elapsed.Seconds())
}

// left is the seconds that are left, or nil while no honest estimate exists: the
// total is unknown, nothing moves, or it has not moved for long enough.
func (m *meter) left(now time.Time) *int64 {
	rate := m.rate(now)
	if rate <= 0 || m.total <= 0 || m.done >= m.total || now.Sub(m.first) < settled {
		return nil
	}
	seconds := int64(math.Ceil(float64(m.total-m.done) / float64(rate)))
	return &seconds
}

// leftOf is left with the tasks that are still to come: each by its weight, as the
// running task goes. Without it the time left would begin anew with each task.
func (m *meter) leftOf(tasks []backstay.Task, now time.Time) *int64 {
	left := m.left(now)
	if left == nil {
		return nil
	}
	var running, pending int
	for _, t := range tasks {
		switch t.State {
		case backstay.TaskRunning:
			running += max(1, m.weights[t.Name])
		case backstay.TaskPending:
			pending += max(1, m.weights[t.Name])
		}
	}
	if running == 0 || pending == 0 || m.weights == nil {
		return left
	}
	whole := float64(m.total-m.taskBase) / float64(m.rate(now)) // the running task, from its begin
	*left += int64(math.Ceil(whole * float64(pending) / float64(running)))
	return left
}

// show writes the figures into a job that has not ended.
func (m *meter) show(job *backstay.Job, now time.Time) {
	if job.State.Ended() {
		return
	}
	job.BytesDone, job.BytesTotal = m.done, m.total
	job.BytesPerSecond, job.EtaSeconds = m.rate(now), m.leftOf(job.Tasks, now)
	for i := range job.Tasks {
		if t := &job.Tasks[i]; t.State == backstay.TaskRunning && m.done > m.taskBase {
			t.Percent = percent(m.done-m.taskBase, m.total-m.taskBase)
		}
	}
	job.Percent = max(job.Percent, m.percent(job.Tasks))
}

// percent is by tasks, each with its weight, and within a task by its bytes.
// Bytes alone would not do: each task counts its own from nothing. Only a job
// that has ended well is at 100.
func (m *meter) percent(tasks []backstay.Task) float64 {
	if len(tasks) == 0 {
		return min(percent(m.done, m.total), 99)
	}
	var over, all float64
	for _, t := range tasks {
		weight := float64(max(1, m.weights[t.Name]))
		all += weight
		switch t.State {
		case backstay.TaskPending:
		case backstay.TaskRunning:
			over += weight * t.Percent / 100
		default:
			over += weight
		}
	}
	return min(math.Floor(over/all*1000)/10, 99)
}

// percent is part of whole in percent, with one decimal, rounded down.
func percent(part, whole int64) float64 {
	if whole <= 0 || part <= 0 {
		return 0
	}
	return min(math.Floor(float64(part)/float64(whole)*1000)/10, 100)
}
