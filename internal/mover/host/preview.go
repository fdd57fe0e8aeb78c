package host

import (
	"context"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
)

// Preview compares the definition that a restore would make with the point's. It
// changes nothing.
func (h *Host) Preview(ctx context.Context, r mover.StageRequest) (mover.Preview, error) {
	old, d, err := h.previewDefinition(ctx, r)
	if err != nil {
		return mover.Preview{}, previewError(ctx, r.Plan, err)
	}
	differences, err := diffXML(old, d.XML)
	if err != nil {
		return mover.Preview{}, previewError(ctx, r.Plan, err)
	}
	p := mover.Preview{Differences: differences, Warnings: d.Warnings}
	if c, known := h.cpuCheck(ctx, r.Plan, d.XML); known {
		p.Checks = append(p.Checks, c)
	}
	return p, nil
}

// cpuCheck asks for the CPU what a start would ask. known is false where the host
// cannot tell now. A VM that stays shut off can be made, and its CPU changed.
func (h *Host) cpuCheck(ctx context.Context, plan backstay.RestorePlan, xml string) (c backstay.Check, known bool) {
	c = backstay.Check{Name: "cpu"}
	err := h.hv.CheckCPU(ctx, xml)
	switch {
	case err == nil:
		c.OK, c.Detail = true, "the host offers what the definition demands"
		return c, true
	case errors.Is(err, hypervisor.ErrCPUMode):
		c.Code = backstay.CodeCPUMode
	case errors.Is(err, hypervisor.ErrCPUFeature):
		c.Code = backstay.CodeCPUFeature
	default:
		return c, false
	}
	if !plan.Start {
		return backstay.Check{Name: "cpu", OK: true, Detail: "warning: it will not start on this host as it is: " + err.Error()}, true
	}
	c.Detail, c.Action = err.Error(), backstay.Errorf(c.Code, "").Action
	return c, true
}

// previewDefinition is the point's definition, and the one that the plan's kind
// would make of it.
func (h *Host) previewDefinition(ctx context.Context, r mover.StageRequest) (old string, d newDefinition, err error) {
	held, err := h.heldOf(ctx, r)
	if err != nil {
		return "", newDefinition{}, err
	}
	point := held.definition
	if r.Plan.Kind == backstay.ReplaceDisks {
		return h.previewReplace(ctx, r.Plan, point)
	}
	old = point.InactiveXML
	if old == "" {
		old = point.LiveXML
	}
	// The generation id is made anew for the VM itself; here it shows that it changes.
	d, err = newVMDefinition(point, r.Plan, definitionOptions{GenID: "(made anew)", FolderExists: folderExists, Below: below(held.layers)})
	return old, d, err
}

// previewError keeps a code that says what is away; anything else is a
// definition that cannot be used.
func previewError(ctx context.Context, plan backstay.RestorePlan, err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) || ctx.Err() != nil {
		return err
	}
	return backstay.Errorf(backstay.CodeNotRestorable, "the definition of point %s cannot be used", plan.Point).Because(err)
}
