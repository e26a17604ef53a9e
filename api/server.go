package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"time"
)

// DefaultListen is where the API listens unless told otherwise: this machine alone can reach it.
const DefaultListen = "127.0.0.1:7070"

// Options tunes a Server. The zero value is ready to use.
type Options struct {
	// Handlers are served beside the API under their patterns ("GET /healthz", "/metrics"), without its
	// checks. What a browser shall open belongs into Server.Guard first.
	Handlers map[string]http.Handler
	// Hosts are further names by which this server is called. An IP address, localhost and the machine's
	// own name always are right; a request for any other name is refused, for a foreign page may have bent its
	// own name to our address. "*" accepts all.
	Hosts []string
	// Authorize decides whether a request has a permission; an error refuses it. Nil allows all.
	Authorize func(r *http.Request, p Permission) error
	// MaxRequests is the most requests handled at a time; more are answered with "unavailable". Default 256.
	MaxRequests int
	// Log gets internal errors. Default: slog's default logger.
	Log *slog.Logger
}

// Server is the API over HTTP.
type Server struct {
	backend Backend
	opt     Options
	hosts   []string
	mux     *http.ServeMux
	slots   chan struct{}
}

// NewServer makes the server of a backend.
func NewServer(b Backend, opt Options) *Server {
	if opt.MaxRequests <= 0 {
		opt.MaxRequests = 256
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	s := &Server{backend: b, opt: opt, mux: http.NewServeMux(), slots: make(chan struct{}, opt.MaxRequests)}
	s.hosts = append([]string{"localhost"}, opt.Hosts...)
	if name, err := os.Hostname(); err == nil {
		s.hosts = append(s.hosts, name)
	}
	for _, route := range Routes() {
		s.mux.Handle(route.pattern(), s.Guard(s.serve(route)))
	}
	s.mux.Handle(catchAll, s.Guard(http.HandlerFunc(s.unknown)))
	s.mux.Handle(strings.TrimSuffix(catchAll, "/"), s.Guard(http.HandlerFunc(s.unknown)))
	for pattern, h := range opt.Handlers {
		s.mux.Handle(pattern, h)
	}
	return s
}

const catchAll = "/api/"

// ServeHTTP serves the API and Options.Handlers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers requests of l until ctx ends; then it lets those under way finish, for at most five seconds, and
// returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	hs := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      slow + time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- hs.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := hs.Shutdown(grace); err != nil {
		hs.Close() // cancels the requests that are left
	}
	<-ended
	return nil
}

// Guard refuses what a foreign web page sends through its visitor's browser: requests for a host name that
// is not ours, and requests from another origin.
func (s *Server) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.checkHost(r.Host); err != nil {
			s.refuse(w, r, err)
			return
		}
		if err := checkOrigin(r); err != nil {
			s.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) checkHost(hostport string) error {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return nil
	}
	for _, known := range s.hosts {
		if known == "*" || strings.EqualFold(host, known) {
			return nil
		}
	}
	return Errorf(ErrForbidden, "host %q is not a name of this server; use its IP address, or add the name to the server's hosts", host)
}

func checkOrigin(r *http.Request) error {
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none":
	default:
		return Errorf(ErrForbidden, "a browser's request from another site (%s) is refused", site)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return nil
	}
	return Errorf(ErrForbidden, "a browser's request from origin %q is refused", origin)
}

// request is one request on its way through a route.
type request struct {
	*http.Request
	query url.Values
	page  Page
}

// decode reads the body as one JSON value without unknown fields.
func (r *request) decode(into any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return Errorf(ErrInvalid, "content type is %q; it must be application/json", r.Header.Get("Content-Type"))
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bodyError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Errorf(ErrInvalid, "body: there is more after the JSON value")
	}
	return nil
}

func bodyError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Errorf(ErrTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	}
	return Errorf(ErrInvalid, "body: %v", err)
}

// serve is a route as a handler.
func (s *Server) serve(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			s.refuse(w, r, Errorf(ErrUnavailable, "%d requests are under way; try again later", cap(s.slots)))
			return
		}
		answer, err := s.call(w, r, route)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.answer(w, r, http.StatusOK, answer)
	})
}

func (s *Server) call(w http.ResponseWriter, r *http.Request, route Route) (answer any, err error) {
	if s.opt.Authorize != nil {
		if err := s.opt.Authorize(r, route.Permission); err != nil {
			return nil, &Error{Sentinel: ErrForbidden, Message: err.Error()}
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, Errorf(ErrInvalid, "query: %v", err)
	}
	for name := range query {
		if !slices.Contains(route.Query, name) {
			return nil, Errorf(ErrInvalid, "unknown parameter %q; %s", name, knows(route))
		}
	}
	req := &request{Request: r, query: query}
	if slices.Contains(route.Query, "limit") {
		if req.page, err = readPage(req); err != nil {
			return nil, err
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)

	ctx, cancel := context.WithTimeout(r.Context(), route.Timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.opt.Log.Error("api: panic", "route", route.pattern(), "panic", p, "stack", string(debug.Stack()))
			err = Errorf(ErrInternal, "panic: %v", p)
		}
	}()
	answer, err = route.handle(ctx, s.backend, req)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = Errorf(ErrUnavailable, "no answer within %s: %v", route.Timeout, err)
	}
	return answer, err
}

func knows(route Route) string {
	if len(route.Query) == 0 {
		return "this route has none"
	}
	return "this route has " + strings.Join(route.Query, ", ")
}

// unknown answers what no route matches.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = m
		if _, pattern := s.mux.Handler(other); strings.HasPrefix(pattern, m+" ") {
			methods = append(methods, m)
		}
	}
	if len(methods) == 0 {
		s.refuse(w, r, Errorf(ErrNotFound, "no route %s", r.URL.Path))
		return
	}
	sort.Strings(methods)
	w.Header().Set("Allow", strings.Join(methods, ", "))
	s.answer(w, r, http.StatusMethodNotAllowed, errorBody(ErrInvalid,
		fmt.Sprintf("method %s is not for %s; use %s", r.Method, r.URL.Path, strings.Join(methods, " or ")), nil))
}

// errorJSON is an error as it travels.
type errorJSON struct {
	Error struct {
		Code     string    `json:"code"`
		Message  string    `json:"message"`
		Mistakes []Mistake `json:"mistakes,omitempty"`
	} `json:"error"`
}

func errorBody(sentinel error, message string, mistakes []Mistake) errorJSON {
	var body errorJSON
	for _, c := range codes {
		if errors.Is(sentinel, c.err) {
			body.Error.Code = c.code
		}
	}
	body.Error.Message, body.Error.Mistakes = message, mistakes
	return body
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is there to read it
	}
	sentinel, status := ErrInternal, http.StatusInternalServerError
	for _, c := range codes {
		if errors.Is(err, c.err) {
			sentinel, status = c.err, c.status
			break
		}
	}
	if sentinel == ErrInternal {
		s.opt.Log.Error("api: internal error", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	var mistakes []Mistake
	if e, ok := errors.AsType[*Error](err); ok {
		mistakes = e.Mistakes
	}
	s.answer(w, r, status, errorBody(sentinel, err.Error(), mistakes))
}

// answer writes v as JSON. Lists and maps in it are never null.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	filled := reflect.New(reflect.TypeOf(v)).Elem()
	filled.Set(reflect.ValueOf(v))
	fill(filled)
	body, err := marshal(filled.Interface())
	if err != nil { // our bug, or a Backend's raw JSON that is none
		s.opt.Log.Error("api: encode", "path", r.URL.Path, "error", err)
		status = http.StatusInternalServerError
		body, _ = marshal(errorBody(ErrInternal, "encode the answer: "+err.Error(), nil)) // texts alone: no error
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// fill makes empty what is nil among v's slices and maps, except bytes, which have meanings of their own.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			return
		}
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len()) // the Backend's own slice stays as it is
		reflect.Copy(own, v)
		v.Set(own)
		if kind := v.Type().Elem().Kind(); kind != reflect.Struct && kind != reflect.Slice && kind != reflect.Map {
			return
		}
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	}
}
