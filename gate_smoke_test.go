package polargate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, s string) { t.Error(r.Path, s) }})
		k := p.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(2)})
		cfg := Config{
			OrganizationID: p.OrganizationID(), App: "inkwell", Version: "1.0", BaseURL: p.URL(),
			HTTPClient: p.Client(), Store: &MemoryStore{}, Features: map[string][]string{k.BenefitID: {"sync", "export"}},
			OnChange: func(s Status) { t.Log("change", s.State, string(s.Reason)) },
		}
		g, err := Open(cfg)
		require.NoError(t, err)
		defer g.Close()
		ctx := context.Background()
		st, err := g.Check(ctx)
		t.Log(st.State, err)
		st, err = g.Activate(ctx, "  "+k.Key+"\n")
		require.NoError(t, err)
		require.True(t, g.Has("export"))
		t.Logf("%+v", st)
		st, err = g.Activate(ctx, k.Key)
		require.NoError(t, err)
		require.Equal(t, 1, p.Seats(k.Key))
		time.Sleep(25 * time.Hour)
		t.Log(g.Status())
		p.SetOffline(true)
		st, err = g.Check(ctx)
		t.Log(st.State, st.Message, err)
		p.SetOffline(false)
		st, err = g.Refresh(ctx)
		t.Log(st.State, st.Message, err)
		p.Revoke(k.Key)
		st, err = g.Refresh(ctx)
		t.Log(st.State, st.Message, err)
		p.Grant(k.Key)
		st, err = g.Refresh(ctx)
		require.NoError(t, err)
		left, err := g.Consume(ctx, 5)
		t.Log(left, err)
		require.NoError(t, g.Deactivate(ctx))
		require.Equal(t, 0, p.Seats(k.Key))
		t.Log(g.Status())
	})
}
