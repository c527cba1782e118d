package polargateotel

import (
	"context"
	"errors"
	"fmt"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/metrics"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options say what a Telemetry tells, and to whom.
type Options struct {
	// MeterProvider gets the metrics. nil means that there are none.
	MeterProvider metric.MeterProvider
	// Spans has each decision told as an event "polargate.decision" on the span that is
	// current in its context, if that is recorded. An event costs about a microsecond.
	Spans bool
}

// Telemetry tells OpenTelemetry of gates, customers and decisions. Its methods are safe for
// use by many goroutines. Make one with New.
type Telemetry struct {
	figures  *metrics.Metrics
	spans    bool
	callback metric.Registration
}

// scope names this package to OpenTelemetry.
const scope = "github.com/polargate/polargate/polargateotel"

// New makes a Telemetry. An error means that the provider doesn't take an instrument. A
// program needs one; a second with the same provider would tell everything twice.
func New(options Options) (*Telemetry, error) {
	t := &Telemetry{figures: metrics.New(), spans: options.Spans}
	if options.MeterProvider == nil {
		return t, nil
	}
	meter := options.MeterProvider.Meter(scope)
	instruments := map[string]metric.Float64Observable{}
	var all []metric.Observable
	for _, m := range metrics.Describe() {
		var one metric.Float64Observable
		var err error
		if m.Counter {
			one, err = meter.Float64ObservableCounter(m.Name, metric.WithDescription(m.Help), metric.WithUnit(m.Unit))
		} else {
			one, err = meter.Float64ObservableGauge(m.Name, metric.WithDescription(m.Help), metric.WithUnit(m.Unit))
		}
		if err != nil {
			return nil, fmt.Errorf("polargateotel: the MeterProvider doesn't take %s: %w", m.Name, err)
		}
		instruments[m.Name], all = one, append(all, one)
	}
	var err error
	t.callback, err = meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		for _, m := range t.figures.Gather() {
			for _, s := range m.Samples {
				to.ObserveFloat64(instruments[m.Name], s.Value, metric.WithAttributeSet(attributes(s.Labels)))
			}
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("polargateotel: the MeterProvider doesn't call back: %w", err)
	}
	return t, nil
}

func attributes(labels []metrics.Label) attribute.Set {
	all := make([]attribute.KeyValue, len(labels))
	for i, l := range labels {
		all[i] = attribute.String(l.Name, l.Value)
	}
	return attribute.NewSet(all...)
}

// Customers adds the figures of Customers.Stats and Customers.Decisions. name tells several apart in one program, as
// the attribute "name". With one, leave it empty.
func (t *Telemetry) Customers(name string, c *polargate.Customers) { t.figures.Customers(name, c) }

// Gate adds the state of the license of this installation. name is as for Customers.
func (t *Telemetry) Gate(name string, g *polargate.Gate) { t.figures.Gate(name, g) }

// Decided tells of a decision on the span in its context, as CustomersConfig.OnDecision. It is
// needed for Options.Spans alone.
func (t *Telemetry) Decided(ctx context.Context, d polargate.Decision) {
	if !t.spans {
		return
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("polargate.decision", trace.WithTimestamp(d.At), trace.WithAttributes(described(d)...))
	}
}

// described is a decision without the customer.
func described(d polargate.Decision) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 7)
	add := func(name, value string) {
		if value != "" {
			all = append(all, attribute.String("polargate."+name, value))
		}
	}
	add("outcome", string(d.Outcome))
	add("route", d.Route)
	add("feature", d.Feature())
	add("source", string(d.Source))
	add("reason", string(d.Reason))
	if d.Outcome == polargate.Unpaid && d.Reason == "" {
		add("unmet", d.Unmet.String())
	}
	if d.Status != 0 {
		all = append(all, attribute.Int("polargate.status", d.Status))
	}
	return all
}

// Close ends the metrics. Call it before the provider's own.
func (t *Telemetry) Close() error {
	if t.callback == nil {
		return nil
	}
	if err := t.callback.Unregister(); err != nil {
		return errors.Join(errors.New("polargateotel: the metrics can't be ended"), err)
	}
	return nil
}
