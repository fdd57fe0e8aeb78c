package show

import (
	"fmt"
	"math"
)

// Goal is one thing that the project wants of itself.
type Goal struct {
	Name  string
	Value string
	Want  string
	Holds bool
	// Unmeasured: the figures it needs are not there.
	Unmeasured bool
}

// String is the line that every bench target of the project ends with.
func (g Goal) String() string {
	switch {
	case g.Unmeasured:
		return fmt.Sprintf("goal: %s = not measured (want %s): short", g.Name, g.Want)
	case g.Holds:
		return fmt.Sprintf("goal: %s = %s (want %s): holds", g.Name, g.Value, g.Want)
	default:
		return fmt.Sprintf("goal: %s = %s (want %s): short", g.Name, g.Value, g.Want)
	}
}

// Bound is a goal's measure: at least or at most a limit.
type Bound struct {
	name    string
	atLeast bool
	limit   float64
	format  string
}

// Least and Most make a bound; format renders the limit and the value.
func Least(name string, limit float64, format string) Bound { return Bound{name, true, limit, format} }

// Most makes a bound from above; see Least.
func Most(name string, limit float64, format string) Bound { return Bound{name, false, limit, format} }

// Of makes the goal of a value; NaN is one that was not measured.
func (b Bound) Of(value float64) Goal {
	sign := "<="
	if b.atLeast {
		sign = ">="
	}
	g := Goal{Name: b.name, Want: sign + " " + fmt.Sprintf(b.format, b.limit), Unmeasured: math.IsNaN(value)}
	g.Value = fmt.Sprintf(b.format, value)
	g.Holds = !g.Unmeasured && (b.atLeast && value >= b.limit || !b.atLeast && value <= b.limit)
	return g
}

// GoalTable is a table of goals.
func GoalTable(goals []Goal) Table {
	t := Table{{"goal", "value", "want", ""}}
	for _, g := range goals {
		word := map[bool]string{true: "holds", false: "short"}[g.Holds]
		if g.Unmeasured {
			g.Value = "not measured"
		}
		t = append(t, []string{g.Name, g.Value, g.Want, word})
	}
	return t
}
