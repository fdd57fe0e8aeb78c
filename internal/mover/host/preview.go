package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/beevik/etree"

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
	boots, err := bootChecks(d.XML)
	if err != nil {
		return mover.Preview{}, previewError(ctx, r.Plan, err)
	}
	p.Checks = append(p.Checks, boots...)
	if c, known := h.cpuCheck(ctx, r.Plan, d.XML); known {
		p.Checks = append(p.Checks, c)
	}
	return p, nil
}

// bootChecks look for the files of the host that a definition boots from by their
// paths: a firmware image, a kernel. A wish for UEFI without a path is libvirt's to
// fulfil.
func bootChecks(definition string) ([]backstay.Check, error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(definition); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	var checks []backstay.Check
	for tag, code := range map[string]backstay.Code{
		"loader": backstay.CodeFirmwareMissing, "kernel": backstay.CodeBootFileMissing, "initrd": backstay.CodeBootFileMissing, "dtb": backstay.CodeBootFileMissing,
	} {
		e := doc.FindElement("/domain/os/" + tag)
		if e == nil {
			continue
		}
		if path := strings.TrimSpace(e.Text()); filepath.IsAbs(path) && !exists(path) {
			refused := backstay.Errorf(code, "the VM boots from %s, which this host does not have", path)
			checks = append(checks, backstay.Check{Name: "firmware", Detail: refused.Message, Code: code, Action: refused.Action})
		}
	}
	return checks, nil
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
	d, err = newVMDefinition(point, r.Plan, definitionOptions{GenID: "(made anew)", FolderExists: folderExists, FileExists: exists, Below: below(held.layers)})
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
