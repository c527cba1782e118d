package polartest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/polargate/polargate/polartest"
)

// The second recording comes from a server with two organizations, one of them with members. What the
// server knew is not listed; it is read out of the recordings themselves, with Import, the same way in
// which a program would start from its own organization. An exchange that reads finds what it tells
// of, the catalog and the customers; one that changes something finds what all recordings tell of but
// for what it makes itself.

const (
	secondOrg  = "f24cd398-a272-44be-8a0b-ff77e9b3b05a"
	membersOrg = "9c68656b-636b-45b1-8467-aa42607e5a2b"
)

// secondNow is shortly after the events of usage were ingested.
var secondNow = time.Date(2026, 11, 28, 16, 20, 40, 0, time.UTC)

// ofSecond says which recording an exchange is from.
func ofSecond(e *exchange) bool {
	token := e.bearer()
	return e.Response.Headers["cache-control"] != "" || strings.Contains(token, "st_synthetic0")
}

func (e *exchange) bearer() string {
	if v := e.Request.Headers["Authorization"]; v != nil {
		return strings.TrimPrefix(*v, "Bearer ")
	}
	return ""
}

// An avatar in the second recording is no customer's own, and inside of strings it lost a backslash.
var (
	scrubbedInside = regexp.MustCompile(`avatar\.png"(\}*,\\"|\}+"|\}+,\\")`)
	avatar         = regexp.MustCompile(`https://www\.gravatar\.com/avatar/[0-9a-f]{64}\?d=404`)
)

const scrubbed = "https://example.com/avatar.png"

func mend(data []byte) []byte { return scrubbedInside.ReplaceAll(data, []byte(`avatar.png\"$1`)) }

// scrub does to an answer what the second recording did to all of them, and puts the portal where that
// server had it.
func scrub(data []byte) []byte {
	data = avatar.ReplaceAll(data, []byte(scrubbed))
	return bytes.ReplaceAll(data, []byte("https://sandbox.polar.sh/"), []byte("http://127.0.0.1:3000/"))
}

// told is what one exchange of the second recording tells of.
type told struct {
	body any
	json []byte
}

// tellings are all of them, and what they tell of the catalog and of customers alone, each thing once.
type tellings struct {
	all       []told
	catalog   []byte
	customers []told
}

var secondRecording = sync.OnceValues(func() (*tellings, error) {
	files, err := filepath.Glob("testdata/golden/*/*.json")
	if err != nil {
		return nil, err
	}
	var tell tellings
	var catalog [][]byte
	seen := map[string]bool{}
	once := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil || seen[string(data)] {
			return nil
		}
		seen[string(data)] = true
		return data
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var e exchange
		d := json.NewDecoder(bytes.NewReader(mend(data)))
		d.UseNumber()
		if err := d.Decode(&e); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if !ofSecond(&e) || e.Response.Status >= 300 {
			continue
		}
		body := e.Response.Body
		if data := once(body); data != nil {
			tell.all = append(tell.all, told{body, data})
		}
		for _, o := range slices.Concat(objects(body, "selectable", "metadata"), objects(body, "aggregation"), objects(body, "is_recurring", "metadata")) {
			if data := once(o); data != nil {
				catalog = append(catalog, data)
			}
		}
		for _, o := range objects(body, "email_verified", "organization_id") {
			o = alone(o, "active_subscriptions", "granted_benefits", "active_meters")
			if data := once(o); data != nil {
				tell.customers = append(tell.customers, told{o, data})
			}
		}
	}
	tell.catalog = slices.Concat([]byte("["), bytes.Join(catalog, []byte(",")), []byte("]"))
	return &tell, nil
})

// objects finds all objects in a piece of JSON that have all these names.
func objects(v any, names ...string) (found []map[string]any) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			found = append(found, objects(one, names...)...)
		}
	case map[string]any:
		has := func(name string) bool { _, ok := v[name]; return ok }
		if !slices.ContainsFunc(names, func(name string) bool { return !has(name) }) {
			found = append(found, v)
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			found = append(found, objects(v[name], names...)...)
		}
	}
	return found
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

func mentions(v any, id string) bool {
	data, err := json.Marshal(v)
	return err == nil && id != "" && bytes.Contains(data, []byte(id))
}

// secondWorld makes a Polar that stands as the real one stood before an exchange.
func secondWorld(t *testing.T, folder string, e *exchange) *polartest.Polar {
	t.Helper()
	now := secondNow
	p := polartest.New(polartest.Config{
		OrganizationID: secondOrg, Unlimited: folder != "ratelimit", Sandbox: true, Now: func() time.Time { return now },
	})
	p.AddOrganization(polartest.Organization{Name: "acmeZ44AYQ", Slug: "acmeZ44AYQ"})
	p.AddOrganization(polartest.Organization{ID: membersOrg, Name: "memb5QYJAL", Slug: "memb5QYJAL", MemberModel: true})
	if token, ok := strings.CutPrefix(e.bearer(), "polar_oat_synthetic_"); ok {
		name, scope, _ := strings.Cut(token, "_")
		config := polartest.Token{Token: e.bearer(), OrganizationID: map[string]string{"acme": secondOrg, "memb": membersOrg}[name]}
		if i := strings.LastIndexByte(scope, '_'); i > 0 {
			config.Scopes = []string{scope[:i] + ":" + scope[i+1:]}
		}
		p.AddToken(config)
	}
	w := world{t: t, p: p, e: e}
	recording, err := secondRecording()
	require.NoError(t, err)
	w.recording = recording.all
	w.made, _ = e.Response.Body.(map[string]any)
	read := e.Request.Method == http.MethodGet
	listsCustomers := strings.HasPrefix(e.Request.Path, "/v1/customers/?")

	own := (read || e.Request.Method == http.MethodPatch) && w.made != nil && e.Response.Status == http.StatusOK
	if own { // goes before what is told of other moments
		require.NoError(t, p.Import(mustJSON(t, w.made)))
	}
	require.NoError(t, p.Import(recording.catalog))
	for _, one := range recording.customers {
		if o := one.body.(map[string]any); !listsCustomers && !w.makes(o) && !w.contradicts(o) {
			w.try(one)
		}
	}
	for _, one := range recording.all {
		if !read && !w.makes(one.body) && !slices.ContainsFunc(objects(one.body, "external_id"), w.contradicts) &&
			len(objects(one.body, "secret", "url")) == 0 { // nothing is to leave this test
			w.try(one)
		}
	}
	if own { // and has the last word
		require.NoError(t, p.Import(mustJSON(t, w.made)))
		w.fill()
	}
	w.keys()
	w.sessions()
	w.seats()
	w.webhooks()
	w.undo()
	return p
}

// world makes one.
type world struct {
	t         *testing.T
	p         *polartest.Polar
	e         *exchange
	recording []told
	made      map[string]any // the answer
}

// makes says whether an exchange makes something of which that tells.
func (w *world) makes(v any) bool {
	if w.e.Request.Method != http.MethodPost || w.e.Response.Status >= 300 || w.made == nil {
		return false
	}
	id, _ := w.made["id"].(string)
	return mentions(v, id)
}

// contradicts says whether a customer of another moment has what the one of the answer has now.
func (w *world) contradicts(o map[string]any) bool {
	id := w.made["external_id"]
	return id != nil && o["external_id"] == id && o["id"] != w.made["id"]
}

// try imports what may contradict something else: the recordings are of different moments.
func (w *world) try(what any) {
	one, ok := what.(told)
	if !ok {
		one.json = mustJSON(w.t, what)
	}
	_ = w.p.Import(one.json)
}

// alone is an object without some of its fields.
func alone(o map[string]any, names ...string) map[string]any {
	o = maps.Clone(o)
	for _, name := range names {
		delete(o, name)
	}
	return o
}

// fill adds what a list has on its other pages: more of the like.
func (w *world) fill() {
	items, _ := w.made["items"].([]any)
	pagination, _ := w.made["pagination"].(map[string]any)
	if len(items) == 0 || strings.Contains(w.e.Request.Path, "/webhooks/") {
		return
	}
	total := int(number(w.t, pagination["total_count"].(json.Number).String()))
	u, err := url.Parse(w.e.Request.Path)
	require.NoError(w.t, err)
	page, limit := 1, 10
	if s := u.Query().Get("page"); s != "" {
		page = int(number(w.t, s))
	}
	if s := u.Query().Get("limit"); s != "" {
		limit = min(100, int(number(w.t, s)))
	}
	before := (page - 1) * limit
	oldestFirst := strings.Contains(u.Path, "license-keys") || strings.Contains(u.Path, "customer-portal/benefit-grants")
	like := func(i int, v any, shift time.Duration) {
		o := maps.Clone(v.(map[string]any))
		o["id"] = fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)
		for _, name := range []string{"key", "email", "external_id"} {
			if s, ok := o[name].(string); ok {
				o[name] = strconv.Itoa(i) + s
			}
		}
		if oldestFirst {
			shift = -shift
		}
		for _, name := range []string{"created_at", "modified_at", "started_at"} {
			if s, ok := o[name].(string); ok {
				at, err := time.Parse(time.RFC3339Nano, s)
				require.NoError(w.t, err)
				o[name] = at.Add(shift).Format(time.RFC3339Nano)
			}
		}
		require.NoError(w.t, w.p.Import(mustJSON(w.t, o)))
	}
	for i := range before {
		like(i, items[0], time.Duration(i+1)*time.Second)
	}
	for i := before + len(items); i < total; i++ {
		like(i, items[len(items)-1], -time.Duration(i+1)*time.Second)
	}
}

// keys adds the grants of license keys, which say what member has one.
func (w *world) keys() {
	for _, k := range objects(w.made, "key", "display_key") {
		for _, one := range w.recording {
			for _, g := range objects(one.body, "benefit_id", "customer_id", "granted_at") {
				properties, _ := g["properties"].(map[string]any)
				if properties["license_key_id"] == k["id"] {
					w.try(g)
				}
			}
		}
	}
}

// sessions adds the session whose token was sent.
func (w *world) sessions() {
	token := w.e.bearer()
	if !strings.Contains(token, "st_synthetic0") {
		return
	}
	s := polartest.Session{Token: token}
	for _, one := range w.recording {
		for _, o := range objects(one.body, "token", "customer_portal_url") {
			if o["token"] == token {
				w.try(o)
				s.CustomerID, _ = o["customer_id"].(string)
				if u, err := url.Parse(o["customer_portal_url"].(string)); err == nil {
					s.MemberID = w.memberOf(u.Query().Get("email"), token)
				}
				s.CreatedAt, _ = time.Parse(time.RFC3339Nano, o["created_at"].(string))
				s.ExpiresAt, _ = time.Parse(time.RFC3339Nano, o["expires_at"].(string))
			}
		}
	}
	if s.CustomerID == "" { // made in an exchange that is not here: whose it was shows in the answer
		for _, o := range objects(w.made, "customer_id") {
			s.CustomerID, _ = o["customer_id"].(string)
			s.MemberID, _ = o["member_id"].(string)
		}
	}
	if s.CustomerID == "" {
		organization := secondOrg
		if strings.HasPrefix(token, "polar_mst_") {
			organization = membersOrg
		}
		c := w.p.AddCustomer(polartest.Customer{OrganizationID: organization, Type: "team", Email: "team@example.com"})
		s.CustomerID = c.ID
		if strings.HasPrefix(token, "polar_mst_") {
			s.MemberID = w.p.AddMember(polartest.Member{CustomerID: c.ID, Email: c.Email, Role: "owner"}).ID
		}
	}
	if _, known := w.p.Customer(s.CustomerID); !known {
		c := polartest.Customer{ID: s.CustomerID, OrganizationID: secondOrg}
		if strings.HasPrefix(token, "polar_mst_") {
			c.OrganizationID = membersOrg
		}
		for _, o := range objects(w.made, "email", "name") {
			c.Email, _ = o["email"].(string)
			c.Name, _ = o["name"].(string)
		}
		w.p.AddCustomer(c)
		w.try(w.made)
	}
	if strings.HasPrefix(token, "polar_mst_") && s.MemberID == "" {
		s.MemberID = w.memberOf("", token)
	}
	if s.MemberID != "" && len(objects(w.made, "member_id", "role")) > 0 {
		o := objects(w.made, "member_id", "role")[0]
		w.p.AddMember(polartest.Member{ID: o["member_id"].(string), CustomerID: s.CustomerID, Email: o["email"].(string),
			Name: o["name"].(string), Role: o["role"].(string)})
		s.MemberID = o["member_id"].(string)
	}
	w.p.AddSession(s)
}

// memberOf is the member whose address that is, and who is of the kind that a token is for.
func (w *world) memberOf(email, token string) string {
	if !strings.HasPrefix(token, "polar_mst_") {
		return ""
	}
	for _, one := range w.recording {
		for _, o := range objects(one.body, "role", "customer_id", "email", "id") {
			if o["email"] == email {
				w.try(o)
				return o["id"].(string)
			}
		}
	}
	for _, o := range objects(w.made, "member_id") {
		if id, ok := o["member_id"].(string); ok {
			return id
		}
	}
	return "00000000-0000-4000-8000-00000000beef"
}

// seats adds the subscription that has the seats, its buyer and the seats.
func (w *world) seats() {
	path := w.e.Request.Path
	if !strings.HasPrefix(path, "/v1/customer-seats") && !strings.HasSuffix(path, "/seats/subscriptions") {
		return
	}
	var request struct {
		SubscriptionID  string `json:"subscription_id"`
		Email           string `json:"email"`
		InvitationToken string `json:"invitation_token"`
	}
	if len(w.e.Request.Body) > 0 {
		require.NoError(w.t, json.Unmarshal(w.e.Request.Body, &request))
	}
	u, err := url.Parse(path)
	require.NoError(w.t, err)
	id := request.SubscriptionID
	if s := u.Query().Get("subscription_id"); s != "" {
		id = s
	}
	for _, o := range objects(w.made, "subscription_id", "seat_metadata") {
		id = o["subscription_id"].(string)
	}
	organization := secondOrg
	if strings.Contains(w.e.bearer(), "_memb") || strings.Contains(w.e.Name, "member_") {
		organization = membersOrg
	}
	if id == "" {
		id = "00000000-0000-4000-8000-0000000000aa"
	}
	product := polartest.Product{OrganizationID: organization, Name: "Team", Prices: []polartest.Price{{AmountType: "seat_based", Amount: 1000}}}
	if name, ok := w.made["product_name"].(string); ok {
		product.Name, product.ID = name, w.made["product_id"].(string)
	}
	total := int64(3)
	if n, ok := w.made["total_seats"].(json.Number); ok {
		total = number(w.t, n.String())
	}
	buyer := "00000000-0000-4000-8000-0000000000bb"
	for _, m := range objects(w.made, "role", "customer_id") {
		buyer = m["customer_id"].(string)
	}
	if _, known := w.p.Customer(buyer); !known {
		w.p.AddCustomer(polartest.Customer{ID: buyer, OrganizationID: organization, Type: "team", Email: "buyer@example.com"})
	}
	has := false
	w.p.UpdateCustomer(buyer, func(c *polartest.Customer) {
		has = slices.ContainsFunc(c.Subscriptions, func(s polartest.Subscription) bool { return s.ID == id })
	})
	if !has && !strings.HasSuffix(path, "/seats/subscriptions") {
		w.p.Subscribe(buyer, polartest.Subscription{ID: id, ProductID: w.p.AddProduct(product).ID, Seats: &total})
	}
	seat := func(s polartest.CustomerSeat) {
		s.SubscriptionID = id
		if s.CreatedAt.IsZero() {
			s.CreatedAt = secondNow
		}
		w.p.AddSeat(s)
	}
	switch {
	case w.e.Request.Method == http.MethodGet && strings.Contains(path, "/claim/"):
		seat(polartest.CustomerSeat{Status: "pending", Email: w.made["customer_email"].(string), InvitationToken: path[strings.LastIndexByte(path, '/')+1:]})
	case w.e.Request.Method == http.MethodGet && strings.HasSuffix(path, "/seats/subscriptions"):
		member := w.memberOf("", w.e.bearer())
		for _, one := range w.recording {
			for _, o := range objects(one.body, "token", "customer_portal_url") {
				if u, err := url.Parse(o["customer_portal_url"].(string)); err == nil && o["token"] == w.e.bearer() {
					member = w.memberOf(u.Query().Get("email"), w.e.bearer())
				}
			}
		}
		for _, o := range objects(w.made, "current_period_start") {
			id = o["id"].(string)
			seat(polartest.CustomerSeat{MemberID: member})
		}
	case w.e.Request.Method == http.MethodGet:
		w.try(w.made)
	case strings.HasSuffix(path, "/claim"):
		w.arrangeSeat(w.made["seat"], func(s *polartest.CustomerSeat) {
			s.Status, s.InvitationToken, s.ClaimedAt, s.ModifiedAt = "pending", request.InvitationToken, time.Time{}, time.Time{}
		})
	case w.e.Request.Method == http.MethodDelete:
		w.arrangeSeat(w.made, func(s *polartest.CustomerSeat) { s.Status, s.RevokedAt = "claimed", time.Time{} })
	case strings.HasSuffix(path, "/resend"):
		seat(polartest.CustomerSeat{ID: strings.Split(path, "/")[3]})
	case w.made["error"] == "SeatNotAvailable":
		for i := range total {
			seat(polartest.CustomerSeat{Email: fmt.Sprintf("seat%d@example.com", i)})
		}
	case w.made["modified_at"] != nil: // somebody had it before
		w.arrangeSeat(w.made, func(s *polartest.CustomerSeat) {
			s.Status, s.Email, s.RevokedAt = "revoked", "before@example.com", secondNow
		})
	}
}

// arrangeSeat imports a seat, and lets it be what it was before.
func (w *world) arrangeSeat(v any, before func(*polartest.CustomerSeat)) {
	require.NoError(w.t, w.p.Import(mustJSON(w.t, v)))
	o := v.(map[string]any)
	for _, s := range w.p.CustomerSeats(o["subscription_id"].(string)) {
		if s.ID == o["id"] {
			before(&s)
			w.p.AddSeat(s)
			return
		}
	}
	w.t.Fatal("the seat was not imported")
}

// webhooks adds the endpoint and the deliveries that an exchange speaks of.
func (w *world) webhooks() {
	path := w.e.Request.Path
	if !strings.HasPrefix(path, "/v1/webhooks/deliveries") && !strings.HasPrefix(path, "/v1/webhooks/events") {
		return
	}
	endpoint := polartest.Endpoint{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	u, err := url.Parse(path)
	require.NoError(w.t, err)
	endpoint.ID = u.Query().Get("endpoint_id")
	emit := func(e polartest.Event) {
		e.Type, e.Data = "order.created", []byte("{}")
		w.p.Emit(e)
		require.NoError(w.t, w.p.WaitForDeliveries(w.t.Context()))
		w.p.Advance(time.Second)
	}
	if strings.HasSuffix(path, "/redeliver") {
		endpoint.Events = []string{"order.created"}
		w.p.AddEndpoint(endpoint)
		emit(polartest.Event{ID: strings.Split(path, "/")[4]})
		return
	}
	items := w.made["items"].([]any)
	types := map[string]bool{"order.created": true}
	for _, v := range items {
		types[v.(map[string]any)["webhook_event"].(map[string]any)["type"].(string)] = true
	}
	endpoint.Events = slices.Sorted(maps.Keys(types))
	w.p.AddEndpoint(endpoint)
	for range number(w.t, w.made["pagination"].(map[string]any)["total_count"].(json.Number).String()) - int64(len(items)) {
		emit(polartest.Event{})
	}
	for _, v := range slices.Backward(items) {
		event := v.(map[string]any)["webhook_event"].(map[string]any)
		var payload struct {
			Data json.RawMessage `json:"data"`
		}
		require.NoError(w.t, json.Unmarshal([]byte(event["payload"].(string)), &payload))
		at, err := time.Parse(time.RFC3339Nano, event["created_at"].(string))
		require.NoError(w.t, err)
		w.p.Emit(polartest.Event{Type: event["type"].(string), ID: event["id"].(string), Data: payload.Data, At: at})
		require.NoError(w.t, w.p.WaitForDeliveries(w.t.Context()))
		w.p.Advance(time.Second)
	}
}

// undo lets what an exchange changes be as it was before.
func (w *world) undo() {
	path, method := w.e.Request.Path, w.e.Request.Method
	var request map[string]any
	if len(w.e.Request.Body) > 0 && w.e.Request.Body[0] == '{' {
		require.NoError(w.t, json.Unmarshal(w.e.Request.Body, &request))
	}
	switch {
	case method == http.MethodPatch && strings.HasPrefix(path, "/v1/customers/") && w.e.Response.Status == http.StatusOK:
		w.p.UpdateCustomer(w.made["id"].(string), func(c *polartest.Customer) {
			if request["external_id"] != nil {
				c.ExternalID = ""
			}
		})
	case method == http.MethodPatch && strings.HasPrefix(path, "/v1/subscriptions/") && w.e.Response.Status == http.StatusOK:
		w.p.UpdateCustomer(w.made["customer_id"].(string), func(c *polartest.Customer) {
			for i := range c.Subscriptions {
				s := &c.Subscriptions[i]
				if s.ID != w.made["id"] {
					continue
				}
				if request["product_id"] != nil {
					s.ProductID, s.PriceID = "b04f0711-95d4-400d-bf17-e821d8fdf34c", "d11e743f-6dcb-498c-a1cf-065d01c6fc83"
				}
				if end, ok := request["cancel_at_period_end"].(bool); ok {
					s.CancelAtPeriodEnd = !end
				}
			}
		})
	case method == http.MethodPost && path == "/v1/customers/" && w.e.Response.Status == http.StatusUnprocessableEntity:
		for _, o := range objects(w.made, "msg", "input") {
			if id, ok := request["external_id"].(string); ok && strings.Contains(o["msg"].(string), "external ID already exists") {
				if _, there := w.p.Customer(id); !there {
					w.p.AddCustomer(polartest.Customer{ExternalID: id})
				}
			}
		}
	case method == http.MethodPost && strings.HasSuffix(path, "/rotate"):
		id := strings.Split(path, "/")[4]
		for _, one := range w.recording {
			for _, k := range objects(one.body, "key", "display_key") {
				if k["id"] == id {
					w.try(k)
				}
			}
		}
		if w.e.Response.Status == http.StatusOK {
			w.p.Rotate(id)
		}
	case strings.HasSuffix(path, "/events/ingest"):
		w.ingested(request)
	}
}

// ingested sends beforehand what Polar then called a duplicate.
func (w *world) ingested(request map[string]any) {
	n, ok := w.made["duplicates"].(json.Number)
	if !ok {
		return
	}
	before := number(w.t, n.String())
	seen := map[string]bool{}
	var names []string
	for _, v := range request["events"].([]any) {
		name, _ := v.(map[string]any)["external_id"].(string)
		if seen[name] {
			before--
		} else if name != "" {
			names = append(names, name)
		}
		seen[name] = true
	}
	for _, name := range names[:before] {
		body := fmt.Sprintf(`{"events":[{"name":"before","external_customer_id":"somebody","external_id":%q}]}`, name)
		response, _ := ask(w.t, w.p.Client(), "POST", "/v1/events/ingest", w.e.bearer(), body)
		require.Equal(w.t, http.StatusOK, response.StatusCode)
	}
}
