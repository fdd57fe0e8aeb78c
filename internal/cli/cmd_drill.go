package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/drillreport"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const probesLong = "Probes, all of which must pass: agent (the guest agent answers), tcp:PORT[=TEXT] (a port\naccepts, and says a text), http:PORT/PATH[=TEXT] and https:…, command:COMMAND (a command in\nthe guest ends with 0), file:/PATH=SHA256, console:TEXT. Ports are tried from the host, by\nthe drill's own network. Without one the guest agent is probed."

func (a *app) drillCommands() *cobra.Command {
	return a.group("drill", "Prove that recovery points restore", "  backstay drill run web01\n  backstay drill list\n  backstay drill show 01K9ZQ4T5V0000000000000000 --report html >report.html",
		a.drillRun(), a.drillList(), a.drillShow(), a.drillSchedule(), a.drillPlanCommands())
}

func (a *app) drillRun() *cobra.Command {
	var r api.StartDrillRequest
	var probes []string
	var timeout duration
	var memory byteSize
	c := &cobra.Command{
		Use: "run POINT|VM|PLAN", Short: "Restore VMs into an isolated network, probe them, record it and take them down",
		Long: "Restore a point, the newest point of a VM, or the VMs of a plan in their order into an\nisolated network; probe them; keep a record with the times that it took, what each probe\nfound and a picture of each console; and take everything down again, whatever happens.\nThe VMs boot from the vault at once, and see each other and nothing else.\n\n" + probesLong,
		Example: "  backstay drill run web01\n" +
			"  backstay drill run web01 --probe agent --probe http:80/ --max-cpus 1 --max-memory 512M\n" +
			"  backstay drill run plan:shop --point random --no-wait\n" +
			"  backstay drill run web01@latest --from replica --dry-run -o json",
		Args: exactly("POINT|VM|PLAN"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			var err error
			if r.Probes, err = parseProbes(probes); err != nil {
				return err
			}
			r.Of, r.Timeout, r.MaxMemory = args[0], backstay.Duration(timeout), int64(memory)
			out, err := to.StartDrill(ctx, r)
			if err != nil {
				return err
			}
			if out.Job == nil {
				return a.emit(out.Drill, func(w io.Writer) { drillParamsTable(w, out.Drill) })
			}
			return a.started(ctx, to, *out.Job)
		}),
	}
	f := c.Flags()
	wishFlags(f, &r.DrillWish, &memory)
	f.StringArrayVar(&probes, "probe", nil, "what must pass, for a VM or a point; may be given more than once")
	f.Var(&timeout, "timeout", "how long the VM may take to be healthy; 10m unless told otherwise")
	f.BoolVar(&r.DryRun, "dry-run", false, "print what would be restored and do nothing")
	return a.noWaitFlag(c)
}

func wishFlags(f *pflag.FlagSet, w *api.DrillWish, memory *byteSize) {
	f.Var(oneOf(&w.Point, backstay.DrillNewest, backstay.DrillOldest, backstay.DrillRandom), "point", "which point of each VM")
	f.Var(oneOf(&w.From, backstay.FromVault, backstay.FromSnapshot, backstay.FromReplica), "from", "what to restore from")
	f.StringVar((*string)(&w.Host), "host", "", "the `host` that runs the VMs; that of the first point unless told otherwise")
	f.StringVar(&w.Pool, "pool", "", "a `pool` or folder of the host for what the VMs write")
	f.StringVar(&w.Subnet, "subnet", "", "the isolated network with the host's `address` in it, for VMs that have addresses of their own: 10.0.0.1/24")
	f.IntVar(&w.MaxCPUs, "max-cpus", 0, "the most processors that each VM gets")
	f.Var(memory, "max-memory", "the most memory that each VM gets: 512M, 2G")
}

func parseProbes(texts []string) (probes []backstay.DrillProbe, err error) {
	for _, text := range texts {
		p, err := backstay.ParseDrillProbe(text)
		if err != nil {
			return nil, err
		}
		probes = append(probes, p)
	}
	return probes, nil
}

func drillParamsTable(w io.Writer, p backstay.DrillParams) {
	row(w, "host", p.Host)
	row(w, "network", p.Network)
	for _, n := range p.Notes {
		row(w, "note", n)
	}
	row(w, "")
	row(w, "VM", "POINT", "OF", "FROM", "PROBES")
	for i, vm := range p.VMs {
		from := string(vm.Tier)
		if vm.Vault != "" {
			from = "vault " + string(vm.Vault)
		}
		row(w, vm.Source.Name, vm.Point, vm.PointTime.UTC().Format(time.RFC3339), from, probeTexts(p.Plan.VMs[i].Probes))
	}
}

func probeTexts(probes []backstay.DrillProbe) string {
	if len(probes) == 0 {
		return string(backstay.DrillAgent)
	}
	var texts []string
	for _, p := range probes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

func (a *app) drillList() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List what drills found, newest first, and check that the records are as they were written",
		Example: "  backstay drill list\n  backstay drill list --limit 10 -o json", Args: exactly(),
		RunE: a.call(func(ctx context.Context, to *client.Client, _ []string) error {
			list, err := to.Drills(ctx, limit)
			if err != nil {
				return err
			}
			if err := a.emit(list, func(w io.Writer) {
				row(w, "DRILL", "OF", "BEGAN", "VERDICT", "RTO", "RPO", "WHY")
				for _, r := range list.Drills {
					row(w, r.ID, drillOf(r), a.when(r.Started), r.Verdict, figure(r.RTOSeconds), figure(r.RPOSeconds), drillWhy(r))
				}
			}); err != nil {
				return err
			}
			if !list.Chain.Whole {
				return backstay.Errorf(backstay.CodeDamaged, "the records of drills are not as they were written").
					Becausef("record %d: %s", list.Chain.BrokenAt, list.Chain.How).Do("compare with a copy of the catalogue from before")
			}
			return nil
		}),
	}
	c.Flags().IntVar(&limit, "limit", 0, "the most records; 100 unless told otherwise")
	return c
}

func drillOf(r backstay.DrillRecord) string {
	if r.Plan.Name != "" {
		return string(r.Plan.Name)
	}
	var names []string
	for _, vm := range r.VMs {
		names = append(names, vm.Source.Name)
	}
	return strings.Join(names, ", ")
}

func drillWhy(r backstay.DrillRecord) string {
	switch {
	case !r.Cleaned:
		return "left behind: " + oneLine(r.Left)
	case r.Cause != nil:
		return oneLine(because(r.Cause.Message, r.Cause.Cause))
	}
	return ""
}

func figure(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	return span(time.Duration(*seconds * float64(time.Second)))
}

func (a *app) drillShow() *cobra.Command {
	var report string
	c := &cobra.Command{
		Use: "show ID|PLAN", Short: "Show what a drill found; the report is one HTML page that needs nothing else",
		Example: "  backstay drill show 01K9ZQ4T5V0000000000000000\n" +
			"  backstay drill show shop --report html >shop.html\n" +
			"  backstay drill show shop --report json >shop.json",
		Args: exactly("ID|PLAN"),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			r, err := to.Drill(ctx, args[0])
			if err != nil {
				return err
			}
			switch report {
			case "html":
				return drillreport.Write(a.Stdout, r)
			case "json":
				data, err := encode(r, "json")
				if err != nil {
					return err
				}
				_, err = a.Stdout.Write(data)
				return err
			}
			return a.emit(r, func(w io.Writer) { a.drillTable(w, r) })
		}),
	}
	c.Flags().Var(oneOf(&report, "html", "json"), "report", "write the whole report, with pictures, in this form")
	return c
}

func (a *app) drillTable(w io.Writer, r backstay.DrillRecord) {
	row(w, "drill", r.ID)
	row(w, "of", drillOf(r))
	row(w, "verdict", because(string(r.Verdict), drillWhy(r)))
	row(w, "began", a.when(r.Started)+", by "+r.User)
	row(w, "host", r.Host)
	row(w, "network", r.Network)
	row(w, "RTO reached", figure(r.RTOSeconds))
	row(w, "RPO reached", figure(r.RPOSeconds))
	for _, n := range r.Notes {
		row(w, "note", n)
	}
	row(w, "hash", r.Hash)
	row(w, "")
	row(w, "VM", "POINT", "BOOT", "HEALTHY", "WHY NOT")
	for _, vm := range r.VMs {
		why := ""
		if vm.Error != nil {
			why = oneLine(because(vm.Error.Message, vm.Error.Cause))
		}
		row(w, vm.Source.Name, vm.Point, figure(vm.BootSeconds), figure(vm.HealthySeconds), why)
	}
	row(w, "")
	row(w, "VM", "PROBE", "PASSED", "AFTER", "SEEN")
	for _, vm := range r.VMs {
		for _, p := range vm.Probes {
			passed := "no"
			if p.OK {
				passed = "yes"
			}
			row(w, vm.Source.Name, p.Probe, passed, figure(&p.Seconds), p.Detail)
		}
	}
}

func (a *app) drillSchedule() *cobra.Command {
	var every duration
	var off bool
	var c *cobra.Command
	c = &cobra.Command{
		Use: "schedule [PLAN]", Short: "Run a plan of drills by itself, or list what is scheduled",
		Example: "  backstay drill schedule\n  backstay drill schedule shop --every 7d\n  backstay drill schedule shop --off", Args: atMostOne,
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			if len(args) == 0 {
				if off || every != 0 {
					return usageError(c, fmt.Errorf("the plan is missing that --every or --off is of"))
				}
				return a.drillPlans(ctx, to, func(p api.DrillPlanDetail) bool { return p.Next != nil })
			}
			if off == (every != 0) {
				return usageError(c, fmt.Errorf("it takes either --every or --off"))
			}
			p, err := to.ScheduleDrill(ctx, args[0], backstay.Duration(every))
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) { a.planTable(w, p) })
		}),
	}
	c.Flags().Var(&every, "every", "the time between two runs: 24h, 7d")
	c.Flags().BoolVar(&off, "off", false, "do not run it by itself any more")
	return c
}

func (a *app) drillPlanCommands() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the plans of drills, and what came of each last", Example: "  backstay drill plan list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, to *client.Client, _ []string) error {
			return a.drillPlans(ctx, to, func(api.DrillPlanDetail) bool { return true })
		}),
	}
	show := &cobra.Command{
		Use: "show PLAN", Short: "Show one plan of drills", Example: "  backstay drill plan show shop -o json", Args: exactly("PLAN"),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			p, err := to.DrillPlan(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) { a.planTable(w, p) })
		}),
	}
	remove := &cobra.Command{
		Use: "delete PLAN", Short: "Forget a plan of drills; its records stay", Example: "  backstay drill plan delete shop --yes", Args: exactly("PLAN"),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			if err := a.confirm("delete the plan %s of drills", args[0]); err != nil {
				return err
			}
			if err := to.DeleteDrillPlan(ctx, args[0]); err != nil {
				return err
			}
			a.note("the plan %s of drills is deleted; what its drills found stays", args[0])
			return nil
		}),
	}
	return a.group("plan", "Plans of drills: several VMs in order", "  backstay drill plan create shop db01 web01 --probe db01=tcp:5432 --probe web01=http:80/",
		a.drillPlanCreate(), list, show, a.yesFlag(remove))
}

func (a *app) drillPlanCreate() *cobra.Command {
	var r api.CreateDrillPlanRequest
	var probes, delays, timeouts, noWait []string
	var memory byteSize
	var every duration
	c := &cobra.Command{
		Use: "create NAME VM…", Short: "Make a plan of drills: which VMs, in which order, and how to tell that they are well",
		Long: "Make a plan of drills. The VMs are started in the order in which they are named, each when\nthe one before it is healthy. What is said of one VM is said as VM=VALUE.\n\n" + probesLong,
		Example: "  backstay drill plan create shop db01 app01 web01 --probe db01=tcp:5432 --probe web01=http:80/ --every 7d\n" +
			"  backstay drill plan create web web01 --probe web01=agent --max-cpus 1 --max-memory 1G --point random",
		Args: atLeast(2, "NAME VM…"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, to *client.Client, args []string) error {
			r.Name, r.Every, r.MaxMemory = backstay.DrillName(args[0]), backstay.Duration(every), int64(memory)
			for _, vm := range args[1:] {
				r.VMs = append(r.VMs, api.NewDrillVM{VM: vm})
			}
			if err := sayOfVMs(r.VMs, probes, delays, timeouts, noWait); err != nil {
				return err
			}
			p, err := to.CreateDrillPlan(ctx, r)
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) { a.planTable(w, p) })
		}),
	}
	f := c.Flags()
	wishFlags(f, &r.DrillWish, &memory)
	f.StringArrayVar(&probes, "probe", nil, "what must pass, as `VM=PROBE`; may be given more than once")
	f.StringArrayVar(&delays, "delay", nil, "what to wait before a VM is started, as `VM=TIME`")
	f.StringArrayVar(&timeouts, "timeout", nil, "how long a VM may take to be healthy, as `VM=TIME`; 10m unless told otherwise")
	f.StringArrayVar(&noWait, "no-wait-for", nil, "start the next one without waiting until this `VM` is healthy")
	f.Var(&every, "every", "run it by itself, so often: 24h, 7d")
	return c
}

// sayOfVMs enters what was said of single VMs.
func sayOfVMs(vms []api.NewDrillVM, probes, delays, timeouts, noWait []string) error {
	each := func(option string, texts []string, set func(vm *api.NewDrillVM, value string) error) error {
		for _, text := range texts {
			name, value, _ := strings.Cut(text, "=")
			found := false
			for i := range vms {
				if vms[i].VM == name {
					found = true
					if err := set(&vms[i], value); err != nil {
						return err
					}
				}
			}
			if !found {
				return backstay.Errorf(backstay.CodeUsage, "%s %q is of no VM of the plan", option, text).
					Becausef("the plan has no VM %q", name).Do("say %s VM=VALUE with one of the VMs that are named", option)
			}
		}
		return nil
	}
	span := func(option string, to func(*api.NewDrillVM) *backstay.Duration) func(*api.NewDrillVM, string) error {
		return func(vm *api.NewDrillVM, value string) error {
			var d duration
			if err := d.Set(value); err != nil {
				return backstay.Errorf(backstay.CodeUsage, "%s %s=%s is not understood", option, vm.VM, value).Because(err).Do("say %s %s=30s", option, vm.VM)
			}
			*to(vm) = backstay.Duration(d)
			return nil
		}
	}
	err := each("--probe", probes, func(vm *api.NewDrillVM, value string) error {
		p, err := backstay.ParseDrillProbe(value)
		vm.Probes = append(vm.Probes, p)
		return err
	})
	if err == nil {
		err = each("--delay", delays, span("--delay", func(vm *api.NewDrillVM) *backstay.Duration { return &vm.Delay }))
	}
	if err == nil {
		err = each("--timeout", timeouts, span("--timeout", func(vm *api.NewDrillVM) *backstay.Duration { return &vm.Timeout }))
	}
	if err == nil {
		err = each("--no-wait-for", noWait, func(vm *api.NewDrillVM, _ string) error { vm.NoWait = true; return nil })
	}
	return err
}

func (a *app) drillPlans(ctx context.Context, to *client.Client, wanted func(api.DrillPlanDetail) bool) error {
	all, err := to.DrillPlans(ctx)
	if err != nil {
		return err
	}
	plans := []api.DrillPlanDetail{}
	for _, p := range all {
		if wanted(p) {
			plans = append(plans, p)
		}
	}
	return a.emit(plans, func(w io.Writer) {
		row(w, "PLAN", "VMS", "EVERY", "NEXT", "LAST", "VERDICT")
		for _, p := range plans {
			last, verdict := "", ""
			if p.Last != nil {
				last, verdict = a.when(p.Last.Started), string(p.Last.Verdict)
			}
			row(w, p.Name, drillVMs(p.VMs), everyText(p.Every), a.next(p), last, verdict)
		}
	})
}

func everyText(every backstay.Duration) string {
	if every == 0 {
		return ""
	}
	return span(time.Duration(every))
}

func (a *app) next(p api.DrillPlanDetail) string {
	if p.Next == nil {
		return ""
	}
	return p.Next.Local().Format("2006-01-02 15:04")
}

func drillVMs(vms []backstay.DrillVM) string {
	var names []string
	for _, vm := range vms {
		names = append(names, vm.VM)
	}
	return strings.Join(names, ", ")
}

func (a *app) planTable(w io.Writer, p api.DrillPlanDetail) {
	row(w, "plan", p.Name)
	row(w, "point", first(string(p.Point), string(backstay.DrillNewest)))
	row(w, "every", everyText(p.Every))
	row(w, "next", a.next(p))
	if p.MaxCPUs > 0 {
		row(w, "most CPUs", p.MaxCPUs)
	}
	if p.MaxMemory > 0 {
		row(w, "most memory", size(p.MaxMemory))
	}
	row(w, "")
	row(w, "VM", "AFTER", "PROBES")
	for i, vm := range p.VMs {
		after := "the begin"
		switch {
		case i > 0 && p.VMs[i-1].NoWait:
			after = p.VMs[i-1].VM + " was started"
		case i > 0:
			after = p.VMs[i-1].VM + " is healthy"
		}
		if vm.Delay > 0 {
			after += " and " + span(time.Duration(vm.Delay))
		}
		row(w, vm.VM, after, probeTexts(vm.Probes))
	}
}
