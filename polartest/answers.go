package polartest

import (
	"errors"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polargate/polargate/polartest/internal/pydantic"
)

// answer is what Polar, or what stands in its way, says.
type answer struct {
	status int
	header http.Header
	body   []byte
	// problems are those of a 422 that may still be joined by others.
	problems []problem
	// breach is what was wrong with the request, if a good client never makes its like.
	breach string
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

func jsonAnswer(status int, o *object) *answer {
	body, err := pydantic.Print(o)
	if err != nil {
		return serverError()
	}
	return &answer{status: status, header: jsonHeader(), body: body}
}

func ok(o *object) *answer { return jsonAnswer(http.StatusOK, o) }

// refuse is Polar's own shape of error.
func refuse(status int, kind, detail string) *answer {
	return jsonAnswer(status, newObject("error", kind, "detail", detail))
}

func notFound(detail string) *answer { return refuse(http.StatusNotFound, "ResourceNotFound", detail) }

// router is an answer of the router, which says nothing about any license.
func router(status int, detail, breach string) *answer {
	a := jsonAnswer(status, newObject("detail", detail))
	a.breach = breach
	return a
}

func noSuchPath() *answer {
	return router(http.StatusNotFound, "Not Found", "there is no such path")
}

func unprocessable(problems []problem) *answer {
	list := make([]any, 0, len(problems))
	what := make([]string, 0, len(problems))
	for _, p := range problems {
		list = append(list, p.Object())
		what = append(what, p.Message)
	}
	a := jsonAnswer(http.StatusUnprocessableEntity, newObject("error", "RequestValidationError", "detail", list))
	a.breach = "malformed request: " + strings.Join(what, "; ")
	a.problems = problems
	return a
}

// serverError is what an exception in Polar looks like: plain text, and not even a version.
func serverError() *answer {
	return &answer{
		status: http.StatusInternalServerError,
		header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, versionHeader: nil},
		body:   []byte("Internal Server Error"),
	}
}

const realm = `Bearer realm="polar"`

func challenge(a *answer, value string) *answer {
	a.header.Set("WWW-Authenticate", value)
	return a
}

func unauthorized() *answer {
	return challenge(refuse(http.StatusUnauthorized, "Unauthorized", "Unauthorized"), realm)
}

func oauthError(status int, kind, description, scope string) *answer {
	a := jsonAnswer(status, newObject("error", kind, "error_description", description))
	a.header.Set("Cache-Control", "no-store")
	if scope != "" {
		scope = `, scope="` + scope + `"`
	}
	return challenge(a, realm+scope+`, error="`+kind+`", error_description="`+description+`"`)
}

func invalidToken() *answer {
	return oauthError(http.StatusUnauthorized, "invalid_token",
		"The access token provided is expired, revoked, malformed, or invalid for other reasons.", "")
}

// wrongSubject refuses a token of an organization in the portal, and that of a session elsewhere. It
// follows Polar's source of August 2026; there is no recording of it.
func wrongSubject(allowed string) *answer {
	const description = "The subject of this access token is not valid for this endpoint."
	a := oauthError(http.StatusUnauthorized, "invalid_token", description, "")
	return challenge(a, realm+`, allowed_subjects="`+allowed+`", error="invalid_token", error_description="`+description+`"`)
}

func insufficientScope(scopes []string) *answer {
	return oauthError(http.StatusForbidden, "insufficient_scope",
		"The request requires higher privileges than provided by the access token.", strings.Join(scopes, " "))
}

func rateLimited(retryAfter string) *answer {
	a := &answer{status: http.StatusTooManyRequests, header: http.Header{}}
	if retryAfter != "" {
		a.header.Set("Retry-After", retryAfter)
	}
	return a
}

// call is one request on its way through Polar.
type call struct {
	method, scheme, host  string
	path, rawQuery        string
	header                http.Header
	body                  []byte
	unmeasured, oversized bool // no Content-Length; more than Polar reads
	client                string

	at         time.Time // when it arrived
	version    string    // of the API, that it is answered in
	parameters map[string]string
	token      *Token   // a valid one, on the endpoints that ask for it
	session    *Session // the same of the portal's endpoints
}

// bearer is the token that was sent; an empty one counts as none.
func (c *call) bearer() string {
	scheme, token, _ := strings.Cut(c.header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// form is the body of a request, read as an object; or else the refusal.
func (c *call) form() (*form, *answer) {
	var v any
	switch {
	case len(c.body) == 0:
	case isJSON(c.header.Get("Content-Type")):
		var err error
		v, err = pydantic.Read(c.body)
		if syntax, ok := errors.AsType[*pydantic.SyntaxError](err); ok {
			a := unprocessable([]problem{newProblem("json_invalid", []any{"body", syntax.Position}, "JSON decode error",
				newObject(), newObject("error", syntax.Message))})
			a.problems = nil
			return nil, a
		}
		if err != nil {
			return nil, router(http.StatusBadRequest, "There was an error parsing the body", "the body cannot be read as text")
		}
	default:
		v = string(c.body)
	}
	switch v := v.(type) {
	case *object:
		return &form{fields: v, place: "body"}, nil
	case nil:
		return nil, unprocessable([]problem{newProblem("missing", []any{"body"}, "Field required", nil, nil)})
	default:
		return nil, unprocessable([]problem{newProblem("model_attributes_type", []any{"body"},
			"Input should be a valid dictionary or object to extract fields from", v, nil)})
	}
}

// isJSON takes application/json and application/anything+json.
func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return false
	}
	subtype, ok := strings.CutPrefix(t, "application/")
	return ok && (subtype == "json" || strings.HasSuffix(subtype, "+json"))
}

func (c *call) pathForm(names ...string) *form {
	o := newObject()
	for _, name := range names {
		o.Set(name, c.parameters[name])
	}
	return &form{fields: o, place: "path"}
}

func (c *call) query() url.Values {
	q, _ := url.ParseQuery(c.rawQuery) // what is malformed is left out
	return q
}

// queryForm has the last value of each parameter.
func (c *call) queryForm() *form {
	q := c.query()
	o := newObject()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if values := q[name]; len(values) > 0 {
			o.Set(name, values[len(values)-1])
		}
	}
	return &form{fields: o, place: "query"}
}
