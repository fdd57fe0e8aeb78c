package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/danielgtaylor/huma/v2"
)

// wireError is an error as it goes over the wire: api.ErrorResponse, with the
// status that goes with it.
type wireError struct {
	Body   backstay.Error `json:"error"`
	status int
}

// Error returns the coded error in one line.
func (e *wireError) Error() string { return e.Body.Error() }

// GetStatus returns the HTTP status (huma.StatusError).
func (e *wireError) GetStatus() int { return e.status }

func newWireError(e *backstay.Error) *wireError {
	status := e.Kind.HTTPStatus()
	if e.Code == backstay.CodeNotSignedIn {
		status = http.StatusUnauthorized
	}
	return &wireError{Body: *e, status: status}
}

// failure makes a handler's error ready for the wire and audits the request.
// Details of an uncoded error go to the log and nowhere else (I10).
func (s *server) failure(ctx context.Context, err error) *wireError {
	var coded *backstay.Error
	switch {
	case errors.As(err, &coded) && coded.Code != backstay.CodeInternal:
	case errors.Is(err, context.DeadlineExceeded):
		coded = backstay.Errorf(backstay.CodeHostAway, "the answer took too long").Becausef("it was given up after %s", requestLimit).
			Do("try again; `backstay doctor` on the host tells what is slow")
	default:
		c := callOf(ctx)
		s.Log.Error("request failed", "operation", c.route.id, "user", c.who.Name, "target", c.target, "error", err)
		coded = backstay.Errorf(backstay.CodeInternal, "something went wrong inside backstay").Becausef("the server's log has the details")
	}
	s.audit(ctx, string(coded.Code))
	return newWireError(coded)
}

func (s *server) writeError(w http.ResponseWriter, e *wireError) {
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="backstay"`)
	}
	writeJSON(w, e.status, e)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // a client that went away needs no answer
}

// setUpHuma replaces huma's own error body by ours, and lets it describe a list
// as never null, which fillSlices keeps. Both are global in huma.
var setUpHuma = sync.OnceFunc(func() {
	huma.DefaultArrayNullable = false
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return requestError(status, message, errs)
	}
})

// requestError is the error of a request that huma turned away before it
// reached a handler: a malformed body, a missing field.
func requestError(status int, message string, errs []error) *wireError {
	if status >= 500 {
		return &wireError{status: status, Body: *backstay.Errorf(backstay.CodeInternal, "something went wrong inside backstay")}
	}
	var causes []string
	for _, err := range errs {
		if err == nil {
			continue
		}
		var detail *huma.ErrorDetail
		if errors.As(err, &detail) && detail.Location != "" {
			causes = append(causes, detail.Location+": "+detail.Message)
		} else {
			causes = append(causes, err.Error())
		}
	}
	e := backstay.Errorf(backstay.CodeUsage, "the request is not as it should be: %s", message).
		Becausef("%s", strings.Join(causes, "; ")).Do("see /openapi.json for what the route takes")
	if e.Cause == "" {
		e.Cause = http.StatusText(status)
	}
	return &wireError{Body: *e, status: status}
}

func (s *server) humaConfig() huma.Config {
	setUpHuma()
	c := huma.DefaultConfig("backstay", s.Version)
	// The document is served by us, behind a token, with nulls put right.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.Info.Description = "Backup and restore of virtual machines on QEMU/KVM under libvirt. " +
		"Times are RFC 3339 in UTC, sizes are bytes, durations are seconds."
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "a token of backstay"},
	}
	c.RejectUnknownQueryParameters = true
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[backstay.Duration](), reflect.TypeFor[float64]())
	return c
}

// finishOpenAPI lets pointers to objects be null in the document, which huma
// cannot say by itself, and keeps the document.
func (s *server) finishOpenAPI() {
	doc := s.huma.OpenAPI()
	registry := doc.Components.Schemas
	for name, schema := range registry.Map() {
		t := registry.TypeFromRef("#/components/schemas/" + name)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for _, f := range reflect.VisibleFields(t) {
			key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			object := f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct && f.Type.Elem() != reflect.TypeFor[time.Time]()
			if p := schema.Properties[key]; object && p != nil && !strings.Contains(options, "omitempty") {
				schema.Properties[key] = &huma.Schema{AnyOf: []*huma.Schema{p, {Type: "null"}}}
			}
		}
	}
	for _, path := range []string{api.PathBackups, api.PathRestores} {
		answers := doc.Paths[path].Post.Responses // a dry run starts nothing, and so is no 202
		answers["200"] = &huma.Response{Description: "A dry run: the plan alone", Content: answers["202"].Content}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		panic("encode the OpenAPI document: " + err.Error())
	}
	s.openapi = body
}

// fillSlices replaces every nil slice in what v points to by an empty one, so
// that a list is never null on the wire and scripts can go over it unasked. A list
// that is left out when it is nil (omitzero) means something else when it is empty.
func fillSlices(v any) { fill(reflect.ValueOf(v)) }

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			_, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			leftOut := strings.Contains(options, "omitzero") && v.Field(i).IsZero()
			if v.Type().Field(i).IsExported() && !leftOut {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.IsNil() && v.CanSet() && v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fill(v.Index(i))
		}
	}
}
