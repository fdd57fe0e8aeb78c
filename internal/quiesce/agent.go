package quiesce

import (
	"github.com/backstay/backstay/internal/guestagent"
)

// agentPatience bounds each question to a guest agent.
const agentPatience = guestagent.Patience

// agent asks one guest's agent, and runs the guest's hooks.
type agent struct{ guestagent.Agent }

// ended is how a program in the guest ended.
type ended = guestagent.Ended

// errStillRuns: the program had not ended when its time was over.
var errStillRuns = guestagent.ErrStillRuns
