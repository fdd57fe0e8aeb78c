package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Preview is what the host knows beforehand of a restore: it alone can open the
// definition that lies sealed in the point.
type Preview struct {
	// Differences are the fields in which the VM will differ from the point's
	// definition. No secret is in them.
	Differences []backstay.Difference `json:"differences"`
	// Warnings say what of the source cannot be kept, and why.
	Warnings []string `json:"warnings,omitempty"`
	// Checks are those that only the definition allows: whether the host has the
	// CPU that it names, for instance.
	Checks []backstay.Check `json:"checks,omitempty"`
}

// Previews looks at a restore before it begins.
type Previews interface {
	// Preview changes nothing. It fails where the point's definition cannot be read
	// now: CodeVaultAway, for instance.
	Preview(ctx context.Context, r StageRequest) (Preview, error)
}
