package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
)

// organizationOf is a Polar with many customers who all have the same.
type organizationOf struct {
	customers, grants, meters int // the last two of each customer
	requests                  atomic.Int64
}

var granted = []string{benefit, "26bb6d3f-2e0e-4f7d-9d3d-0d5f5a7f3d11", "d0b99bc4-a459-43d2-b039-8ca2c1f87e10"}

const meter = "aaf2bfea-ac4f-40eb-99ad-de858ccdfd97"

func (o *organizationOf) customer(i int) string {
	return fmt.Sprintf(`"id":"8b4a91e8-8712-4bc8-9e43-%012d","external_id":"usr_%d","organization_id":%q,"deleted_at":null`, i, i, organization)
}

func (o *organizationOf) RoundTrip(r *http.Request) (*http.Response, error) {
	o.requests.Add(1)
	var body bytes.Buffer
	switch r.URL.Path {
	case "/v1/benefit-grants/":
		o.list(&body, r, o.grants, func(kind int) string {
			return fmt.Sprintf(`"benefit_id":%q,"benefit":{"type":"custom","metadata":{}},"properties":{}`, granted[kind])
		})
	case "/v1/subscriptions/":
		o.list(&body, r, 0, nil)
	case "/v1/customer-meters/":
		o.list(&body, r, o.meters, func(int) string {
			return fmt.Sprintf(`"meter_id":%q,"consumed_units":1,"credited_units":100,"balance":99`, meter)
		})
	default:
		i, err := strconv.Atoi(strings.TrimPrefix(path.Base(path.Dir(r.URL.Path)), "usr_"))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&body, `{%s,"granted_benefits":[{"benefit_id":%q,"benefit_type":"custom"}],"active_subscriptions":[],"active_meters":[]}`, o.customer(i), benefit)
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: r, Body: io.NopCloser(&body),
		Header: http.Header{"Content-Type": {"application/json"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
	}, nil
}

// list writes a page of a list in which each customer is so many times, on several pages.
func (o *organizationOf) list(body *bytes.Buffer, r *http.Request, each int, entry func(kind int) string) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size := o.customers * each
	body.WriteString(`{"items":[`)
	for n := (page - 1) * 100; n < min(page*100, size); n++ {
		if n%100 > 0 {
			body.WriteByte(',')
		}
		at := time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC).Format(time.RFC3339)
		fmt.Fprintf(body, `{"id":"%08d-0000-4000-9000-000000000000","granted_at":%q,"started_at":%q,"created_at":%q,"customer":{%s},%s}`, n, at, at, at, o.customer(n%o.customers), entry(n/o.customers))
	}
	fmt.Fprintf(body, `],"pagination":{"total_count":%d,"max_page":%d}}`, size, (size+99)/100)
}

// TestColdDeploy measures how long it takes after a start with an empty cache until 99 of
// 100 customers were served once, within 300 requests a minute. All of them come again and
// again: every two seconds at first, and after five minutes a hundredth of them each second.
func TestColdDeploy(t *testing.T) {
	count := 1000
	if *whole {
		count = 10_000
	}
	for _, x := range []struct {
		name           string
		grants, meters int
	}{{"a grant each", 1, 0}, {"three grants and a meter each", 3, 1}} {
		synctest.Test(t, func(t *testing.T) {
			o := &organizationOf{customers: count, grants: x.grants, meters: x.meters}
			customers := manyCustomers(t, func(c *polargate.CustomersConfig) {
				c.HTTPClient, c.RequestsPerMinute = &http.Client{Transport: o}, 300
				c.AccessToken = fmt.Sprintf("polar_oat_deploy_%d", x.grants) // all clients with one token share its requests
			})
			warmed := make(chan error, 1)
			go func() { _, err := customers.Warm(t.Context()); warmed <- err }()
			synctest.Wait() // a server warms up before it listens
			began := time.Now()
			served, left := make([]bool, count), count
			for {
				for i := range count {
					if serves(customers, i) && !served[i] {
						served[i] = true
						left--
					}
				}
				if left <= count/100 {
					break
				}
				time.Sleep(2 * time.Second)
			}
			took := time.Since(began)
			tell("deploy", x.name, spoken(took), strconv.FormatInt(o.requests.Load(), 10), fmt.Sprint(took.Seconds()))
			if err := <-warmed; err != nil {
				t.Error(err)
			}
			_ = customers.Close()
		})
	}
}

func serves(customers *polargate.Customers, i int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := customers.Entitlements(ctx, polargate.ExternalID("usr_"+strconv.Itoa(i)))
	return err == nil
}
