package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

// planTable draws what a restore would do.
func planTable(w io.Writer, p backstay.RestorePlan) {
	row(w, "restore", kindWords(p))
	row(w, "point", p.Point)
	if p.Kind != backstay.DeployPlan {
		row(w, "from", because(fmt.Sprintf("%s tier of %s", p.Tier, vmLabel(p.Source)), p.TierReason))
	}
	row(w, planSubject(p), fmt.Sprintf("%s/%s (%s)", p.Host, p.Name, p.UUID))
	if p.Machine != "" {
		row(w, "machine type", p.Machine)
	}
	if p.Folder != "" {
		row(w, "folder", p.Folder)
	}
	row(w, "writes at most", size(p.Bytes))
	row(w, "takes about", planTime(p))
	if p.Kind != backstay.RestoreDisks {
		row(w, "starts", yesNo(p.Start))
	}
	if p.Kind == backstay.ReplaceDisks {
		row(w, "shuts down first", yesNo(p.Stop))
		row(w, "safety point", planSafety(p))
		row(w, "undo for", span(time.Duration(p.KeepOld)))
	}
	row(w, "steps", strings.Join(p.Tasks, " → "))
	planDisks(w, p)
	planNICs(w, p)
	planDifferences(w, p)
	planChecks(w, p)
}

func kindWords(p backstay.RestorePlan) string {
	switch {
	case p.Kind == backstay.ReplaceDisks:
		return "replace the disks of the VM"
	case p.Kind == backstay.DeployPlan:
		return "create a VM of restored disks"
	case p.Kind == backstay.RestoreDisks:
		return "disks and a template, no VM"
	case p.Live:
		return "create a VM that starts from the vault at once"
	}
	return "create a VM"
}

func planSubject(p backstay.RestorePlan) string {
	if p.Kind == backstay.CreateVM || p.Kind == "" {
		return "new VM"
	}
	return "VM"
}

func planSafety(p backstay.RestorePlan) string {
	if p.SafetyPoint == "" {
		return "none"
	}
	return string(p.SafetyPoint)
}

func planTime(p backstay.RestorePlan) string {
	if p.Seconds == nil {
		return "not known: no restore like it was made here lately"
	}
	return span(time.Duration(*p.Seconds) * time.Second)
}

func planDisks(w io.Writer, p backstay.RestorePlan) {
	row(w, "")
	row(w, "DISK", "SIZE", "FORMAT", "WRITES", "FROM", "TO")
	for _, d := range p.Disks {
		to := d.Path
		if d.Action != backstay.DiskCreated {
			to = strings.TrimSpace(string(d.Action) + " " + d.Path)
		}
		row(w, d.Target, size(d.Size), d.Format, size(d.Bytes), d.From, to)
		if d.Old != "" {
			row(w, " ", " ", " ", " ", "kept for an undo", d.Old)
		}
	}
}

func planNICs(w io.Writer, p backstay.RestorePlan) {
	if len(p.NICs) == 0 {
		return
	}
	row(w, "")
	row(w, "NIC", "KIND", "NETWORK", "LINK")
	for _, n := range p.NICs {
		link := "up"
		if n.LinkDown {
			link = "down"
		}
		row(w, n.MAC, n.Kind, n.Network, link)
	}
}

func planDifferences(w io.Writer, p backstay.RestorePlan) {
	if len(p.Differences) == 0 {
		return
	}
	row(w, "")
	has := "THE POINT HAS"
	if p.Kind == backstay.ReplaceDisks { // the VM stays the one that it is
		has = "THE VM HAS"
	}
	row(w, "DIFFERS IN", has, "THE VM WILL HAVE")
	for _, d := range p.Differences {
		row(w, d.Path, d.From, d.To)
	}
}

// planChecks draws the list, with the way out below each line that refuses.
func planChecks(w io.Writer, p backstay.RestorePlan) {
	row(w, "")
	row(w, "CHECK", "RESULT", "DETAIL")
	for _, c := range p.Preflight {
		if c.OK {
			row(w, c.Name, "ok", c.Detail)
			continue
		}
		row(w, c.Name, "REFUSED", c.Detail)
		if c.Action != "" {
			row(w, "  "+string(c.Code), "  →", c.Action)
		}
	}
	if refused := len(p.Refused()); refused > 0 {
		row(w, "")
		row(w, fmt.Sprintf("%d of %d checks refuse: nothing would be started", refused, len(p.Preflight)))
	}
}
