package server_test

import (
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/server/servertest"
)

func TestADrillIsOfAPlanAPointOrAVM(t *testing.T) {
	w := start(t)
	as[api.DrillPlanDetail](t, w, backstay.Operator, "POST", "/v1/drill-plans", `{"name":"shop","vms":[{"vm":"web01","probes":[{"kind":"tcp","port":80}]}],"maxCPUs":2,"every":86400}`)
	for of, target := range map[string]string{"shop": "plan:shop", "plan:shop": "plan:shop", "web01": "local/web01", string(servertest.PointBoth): string(servertest.PointBoth)} {
		before := w.Queue.Count()
		planned := as[api.StartDrillResponse](t, w, backstay.Operator, "POST", "/v1/drills", `{"of":"`+of+`","dryRun":true}`)
		if planned.Job != nil || w.Queue.Count() != before || len(planned.Drill.VMs) != 1 {
			t.Errorf("%s: a dry run did something: %+v", of, planned)
		}
		got := as[api.StartDrillResponse](t, w, backstay.Operator, "POST", "/v1/drills", `{"of":"`+of+`","maxMemory":67108864}`)
		r, _ := w.Queue.Request(got.Job.ID)
		params, ok := r.Params.(backstay.DrillParams)
		if !ok || r.Kind != backstay.JobDrill || !strings.HasPrefix(r.Target, target) || r.Host != "local" || r.Vault == "" || len(r.VMs) != 1 {
			t.Errorf("%s: %+v", of, r)
		}
		if wants := params.Plan; wants.MaxMemory != 64<<20 || (wants.MaxCPUs == 2) != (target == "plan:shop") || wants.VMs[0].UUID != servertest.Web {
			t.Errorf("%s: %+v", of, wants)
		}
	}
	refused(t, w, "POST", "/v1/drills", `{"of":"nobody"}`, 404, backstay.CodeUnknownDrill)
	refused(t, w, "POST", "/v1/drills", `{"of":"plan:nobody"}`, 404, backstay.CodeUnknownDrill)
	refused(t, w, "POST", "/v1/drills", `{"of":"shop","timeout":60}`, 422, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/drills", `{"of":"web01","probes":[{"kind":"tcp"}]}`, 422, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/drill-plans", `{"name":"shop","vms":[{"vm":"web01"}]}`, 409, backstay.CodeExists)
	refused(t, w, "POST", "/v1/drill-plans", `{"name":"twice","vms":[{"vm":"web01"},{"vm":"local/web01"}]}`, 422, backstay.CodeUsage)
	refused(t, w, "POST", "/v1/drill-plans", `{"name":"lost","vms":[{"vm":"nobody"}]}`, 404, backstay.CodeUnknownVM)
	as[api.DrillPlanDetail](t, w, backstay.Operator, "POST", "/v1/drill-plans", `{"name":"web01","vms":[{"vm":"web01"}]}`)
	refused(t, w, "POST", "/v1/drills", `{"of":"web01"}`, 422, backstay.CodeAmbiguousVM)
}

func TestACommandInAGuestIsRunForThoseWhoMaySeeItsFiles(t *testing.T) {
	w := start(t)
	plain, err := w.PlainToken(t.Context(), backstay.Operator)
	if err != nil {
		t.Fatal(err)
	}
	const probe = `[{"kind":"command","command":["cat","/etc/shadow"]}]`
	for path, body := range map[string]string{
		"/v1/drills": `{"of":"web01","probes":` + probe + `}`, "/v1/drill-plans": `{"name":"p","vms":[{"vm":"web01","probes":` + probe + `}]}`,
	} {
		if status, text := ask(t, w, plain, "POST", path, body); status != 403 {
			t.Errorf("%s without the right to files: %d %s", path, status, text)
		}
	}
	as[api.DrillPlanDetail](t, w, backstay.Operator, "POST", "/v1/drill-plans", `{"name":"p","vms":[{"vm":"web01","probes":`+probe+`}]}`)
	if status, text := ask(t, w, plain, "POST", "/v1/drills", `{"of":"plan:p"}`); status != 403 {
		t.Errorf("a plan of somebody else's: %d %s", status, text)
	}
}

func TestListsOfDrillsHaveNoPicturesAndSayWhetherTheRecordsAreSound(t *testing.T) {
	w := start(t)
	as[api.DrillPlanDetail](t, w, backstay.Operator, "POST", "/v1/drill-plans", `{"name":"shop","vms":[{"vm":"web01"}]}`)
	for _, id := range []backstay.DrillID{"01A", "01B"} {
		_, err := w.Catalog.Drills.AppendDrill(t.Context(), backstay.DrillRecord{ID: id, Plan: backstay.DrillPlan{Name: "shop"}, Verdict: backstay.DrillPassed, Started: servertest.Now,
			VMs: []backstay.DrilledVM{{Name: "x", Screenshot: &backstay.DrillScreenshot{PNG: []byte("\x89PNG"), SHA256: "ab"}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	list := as[api.DrillList](t, w, backstay.Reader, "GET", "/v1/drills?limit=1", "")
	if len(list.Drills) != 1 || list.Drills[0].ID != "01B" || list.Drills[0].VMs[0].Screenshot.PNG != nil || !list.Chain.Whole || list.Chain.Records != 2 || list.Chain.Head != list.Drills[0].Hash {
		t.Errorf("%+v", list)
	}
	for _, name := range []string{"01b", "shop"} {
		if r := as[backstay.DrillRecord](t, w, backstay.Reader, "GET", "/v1/drills/"+name, ""); r.ID != "01B" || r.VMs[0].Screenshot.PNG == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	plan := as[api.DrillPlanDetail](t, w, backstay.Operator, "PUT", "/v1/drill-plans/shop/schedule", `{"every":3600}`)
	if plan.Every == 0 || plan.Next == nil || !plan.Next.After(servertest.Now) || plan.Last == nil || plan.Last.ID != "01B" {
		t.Errorf("%+v", plan)
	}
	refused(t, w, "PUT", "/v1/drill-plans/shop/schedule", `{"every":5}`, 422, backstay.CodeUsage)
	if plan = as[api.DrillPlanDetail](t, w, backstay.Operator, "PUT", "/v1/drill-plans/shop/schedule", `{"every":0}`); plan.Next != nil {
		t.Errorf("%+v", plan)
	}
	if status, text := ask(t, w, w.Tokens[backstay.Operator], "DELETE", "/v1/drill-plans/shop", ""); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	if list := as[api.DrillList](t, w, backstay.Reader, "GET", "/v1/drills", ""); len(list.Drills) != 2 {
		t.Error("the records went with their plan")
	}
}
