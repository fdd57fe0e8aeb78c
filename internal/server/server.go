package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are what the server is made of. Catalog, Jobs, Planner, Vaults, Keys,
// Secrets and Layers are required; the zero value of the others is right.
type Options struct {
	Catalog *catalog.Catalog
	Jobs    JobQueue
	Planner Planner
	Vaults  Vaults
	Units   Units
	// Keys changes who can open a vault.
	Keys VaultKeys
	// Secrets is what points need of the secrets of hosts.
	Secrets PointSecrets
	// Layers is what is asked of the snapshot tier of hosts outside of jobs.
	Layers Layers
	// Lives is what is asked of live restores while they run; required.
	Lives Lives
	// Files are the sessions of item-level restore; required.
	Files FileSessions
	// Lists are the lists of the files of VMs; required.
	Lists FileLists
	// Drills plans drills; required.
	Drills Drills
	// Regions are those with which this one is paired; required.
	Regions Regions
	// Region is the region's name.
	Region string
	// Replications are those to other regions; required.
	Replications Replications
	// Version is the program's version, for people.
	Version string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log gets the details that users are not shown; nil means slog.Default.
	Log *slog.Logger
	// Metrics is served at /metrics; the server adds its own. nil makes one.
	Metrics *prometheus.Registry
	// Heartbeat is the time between two comments on a stream of events; 0 means
	// 15 seconds.
	Heartbeat time.Duration
}

// server holds what every request needs. Nothing in it changes after New, but
// for the limiter, which guards itself.
type server struct {
	Options
	mux       *http.ServeMux
	huma      huma.API
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	anonymous limiter
	openapi   []byte
	reads     readLog
}

// requestLimit bounds how long a request may take; streams are exempt.
const requestLimit = 2 * time.Minute

// bodyLimit is the largest request body, in bytes.
const bodyLimit = 1 << 20

// New makes the handler of the whole API. It panics if an operation is not in
// the table of routes, or the other way round: both are mistakes in the code.
func New(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 15 * time.Second
	}
	s := &server{Options: o, mux: http.NewServeMux(), anonymous: limiter{every: time.Second, burst: 60}}
	s.measure()
	s.huma = humago.New(guarded{s}, s.humaConfig())
	s.registerPlain()
	s.registerInventory()
	s.registerProtection()
	s.registerGroups()
	s.registerVaults()
	s.registerUnits()
	s.registerRedundancy()
	s.registerKeys()
	s.registerVaultJobs()
	s.registerPolicies()
	s.registerPoints()
	s.registerSecrets()
	s.registerStarts()
	s.registerDeploys()
	s.registerLives()
	s.registerFiles()
	s.registerDrills()
	s.registerJobs()
	s.registerRegions()
	s.registerReplications()
	s.registerAccess()
	s.finishOpenAPI()
	s.mux.Handle("/", s.guard(route{id: "unknown", need: backstay.Reader, plain: true}, http.HandlerFunc(s.unknown)))
	return s.mux
}

func (s *server) measure() {
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstay_http_requests_total", Help: "Requests by operation and status.",
	}, []string{"operation", "status"})
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "backstay_http_request_seconds", Help: "How long requests took, without streams.",
		Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60},
	}, []string{"operation"})
	s.Metrics.MustRegister(s.requests, s.seconds)
}

// guarded is the mux as huma sees it: every handler is wrapped in the guard of
// its row in the table, and one without a row is a panic.
type guarded struct{ s *server }

func (g guarded) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	for _, r := range routes {
		if r.pattern() == pattern {
			g.s.mux.Handle(pattern, g.s.guard(r, http.HandlerFunc(handler)))
			return
		}
	}
	panic("route " + pattern + " is not in the table of routes")
}

func (g guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.s.mux.ServeHTTP(w, r) }

// registerPlain serves what is not part of the OpenAPI document.
func (s *server) registerPlain() {
	plain := func(id string, h http.Handler) {
		r := routeByID(id)
		s.mux.Handle(r.pattern(), s.guard(r, h))
	}
	plain("health", http.HandlerFunc(s.health))
	plain("metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	plain("openapi", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(s.openapi) // a client that went away needs no answer
	}))
	add(s, "whoAmI", func(ctx context.Context, _ *struct{}) (*answer[api.Identity], error) {
		callOf(ctx).within = true
		who := callOf(ctx).who
		return &answer[api.Identity]{Body: api.Identity{Name: who.Name, Role: who.Role, Files: who.Files, Point: who.Point, Expires: who.Expires, Region: s.Region, Version: s.Version}}, nil
	})
}

// answer is a response that has a body and nothing else.
type answer[T any] struct{ Body T }

// add registers an operation that the table knows: what it returns is made
// ready for the wire, and what it fails with is coded, logged and audited.
func add[I, O any](s *server, id string, h func(context.Context, *I) (*O, error)) {
	r := routeByID(id)
	huma.Register(s.huma, operation(r), func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err == nil {
			err = outside(ctx)
		}
		if err != nil {
			return nil, s.failure(ctx, err)
		}
		s.audit(ctx, "ok")
		if out != nil {
			fillSlices(out)
		}
		return out, nil
	})
}

func operation(r route) huma.Operation {
	return huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Summary: r.says,
		Description:   needs(r),
		DefaultStatus: r.status, MaxBodyBytes: bodyLimit,
		Security: []map[string][]string{{"token": {}}},
		Metadata: map[string]any{"need": r.need},
	}
}

// needs says in the document which rights a route needs.
func needs(r route) string {
	text := "Needs the right of: " + string(r.need)
	if r.files {
		text += ", and the right to files"
	}
	if r.owners {
		text += " (an owner needs none)"
	}
	if r.ticket {
		text += "; or the session's ticket"
	}
	if r.scoped {
		text += "; a token of one point can be used for what is that point's"
	}
	return text + "."
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, err := s.Catalog.Hosts.ListHosts(ctx); err != nil {
		s.Log.Error("catalogue does not answer", "error", err)
		s.writeError(w, &wireError{status: http.StatusServiceUnavailable, Body: *backstay.Errorf(backstay.CodeInternal, "the catalogue does not answer")})
		return
	}
	writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

func (s *server) unknown(w http.ResponseWriter, r *http.Request) {
	s.writeError(w, &wireError{status: http.StatusNotFound, Body: *backstay.Errorf(backstay.CodeUsage, "there is no %s %s", r.Method, r.URL.Path).
		Becausef("the API has no such route").Do("see %s for what there is", api.PathOpenAPI)})
}
