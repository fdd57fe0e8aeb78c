package fake

import "context"

// CheckCPU returns what the test says.
func (h *Host) CheckCPU(ctx context.Context, _ string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.CPUProblem
}
