package gate

import (
	"context"
	"maps"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polartest"
	"github.com/polargate/polargate/tests/internal/kit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// assertInputError is that err is an *InputError about field, which says what
// to do and does not repeat the value.
func assertInputError(t *testing.T, err error, field, value string) {
	t.Helper()
	var input *polargate.InputError
	require.ErrorAs(t, err, &input)
	if field != "" {
		assert.Contains(t, strings.ToLower(input.Field), strings.ToLower(field))
	}
	assert.NotEmpty(t, input.Field)
	assert.NotEmpty(t, input.Problem)
	assert.Contains(t, err.Error(), input.Field)
	assert.Contains(t, err.Error(), input.Problem)
	assert.GreaterOrEqual(t, len(strings.Fields(input.Problem)), 3, "%q tells nobody what to do", input.Problem)
	assert.LessOrEqual(t, len(err.Error()), 500)
	if value != "" {
		assert.NotContains(t, err.Error(), value)
	}
}

func many(n int) map[string]any {
	all := map[string]any{}
	for i := range n {
		all["name"+strings.Repeat("x", i%30)+string(rune('a'+i/30))] = i
	}
	return all
}

// badConditions are maps that Polar would refuse.
var badConditions = map[string]struct {
	conditions map[string]any
	value      string
}{
	"51 entries":                       {many(51), ""},
	"an empty name":                    {map[string]any{"": "s3cr3tvalue"}, "s3cr3tvalue"},
	"a name of 41 characters":          {map[string]any{strings.Repeat("n", 41): "s3cr3tvalue"}, "s3cr3tvalue"},
	"an empty text":                    {map[string]any{"machine": ""}, ""},
	"a text of 501 characters":         {map[string]any{"machine": strings.Repeat("é", 501)}, "éé"},
	"a text with a NUL":                {map[string]any{"machine": "s3cr3t\x00value"}, "s3cr3t"},
	"a name with a NUL":                {map[string]any{"mach\x00ine": "s3cr3tvalue"}, "s3cr3tvalue"},
	"nil for a value":                  {map[string]any{"machine": nil}, ""},
	"a list for a value":               {map[string]any{"machine": []string{"s3cr3tvalue"}}, "s3cr3tvalue"},
	"a map for a value":                {map[string]any{"machine": map[string]any{"a": "s3cr3tvalue"}}, "s3cr3tvalue"},
	"a function for a value":           {map[string]any{"machine": func() {}}, ""},
	"a channel for a value":            {map[string]any{"machine": make(chan int)}, ""},
	"not a number":                     {map[string]any{"machine": math.NaN()}, ""},
	"an infinite number":               {map[string]any{"machine": math.Inf(-1)}, ""},
	"a struct for a value":             {map[string]any{"machine": struct{ A string }{"s3cr3tvalue"}}, "s3cr3tvalue"},
	"a pointer for a value":            {map[string]any{"machine": new("s3cr3tvalue")}, "s3cr3tvalue"},
	"a time for a value":               {map[string]any{"machine": time.Unix(0, 0)}, ""},
	"bytes for a value":                {map[string]any{"machine": []byte("s3cr3tvalue")}, "s3cr3tvalue"},
	"a text that is not UTF-8":         {map[string]any{"machine": "s3cr3t\xff"}, "s3cr3t"},
	"a name that is not UTF-8":         {map[string]any{"mach\xff": "s3cr3tvalue"}, "s3cr3tvalue"},
	"a half of a surrogate pair":       {map[string]any{"machine": "s3cr3t\xed\xa0\x80"}, "s3cr3t"},
	"one bad entry among good ones":    {map[string]any{"a": 1, "b": true, "c": "d", "machine": nil}, ""},
	"a text that is too long in runes": {map[string]any{"machine": strings.Repeat("💡", 501)}, "💡💡"},
}

func TestAnAppWithTheNameOfADeviceOfWindowsIsRefusedOnEverySystem(t *testing.T) {
	t.Parallel()
	w := kit.NewWorld(t)
	open := func(app string) error {
		config := w.Config
		config.App = app
		gate, err := polargate.Open(config)
		if err == nil {
			_ = gate.Close()
		}
		return err
	}
	for _, app := range []string{
		"con", "CON", "Con", "prn", "aux", "nul", "NUL", "com1", "COM9", "lpt1", "Lpt9", "com¹", "COM²", "lpt³",
		"aux.v1", "NUL.tar.gz", "lpt9.x", "com¹.exe", "con .x", "con.x-1 y",
	} {
		var wrong *polargate.InputError
		require.ErrorAs(t, open(app), &wrong, app)
		assert.Equal(t, "App", wrong.Field, app)
	}
	for _, app := range []string{"console", "con-1", "acon", "com", "com10", "com1x", "com¹²", "lpt", "a.con", "my con", "null", "aux_", "comé"} {
		assert.NoError(t, open(app), app)
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	type bad struct {
		change       func(*polargate.Config)
		field, value string
	}
	organization := func(id string) bad {
		return bad{func(c *polargate.Config) { c.OrganizationID = id }, "OrganizationID", id}
	}
	base := func(url string) bad {
		return bad{func(c *polargate.Config) { c.BaseURL = url }, "BaseURL", strings.TrimPrefix(url, "https://")}
	}
	app := func(name string) bad { return bad{func(c *polargate.Config) { c.App = name }, "App", name} }
	tests := map[string]bad{
		"no organization":                        organization(""),
		"an organization's name":                 organization("acme-tools"),
		"an organization of version 1":           organization("c232ab00-9414-11ec-b3c8-9f6bdeced846"),
		"an organization of version 7":           organization("01890a5d-ac96-774b-bcce-b302099a8057"),
		"the nil UUID":                           organization("00000000-0000-0000-0000-000000000000"),
		"an organization in braces":              organization("{34f57e13-8bcb-4481-85b2-a4b55c4ba0b9}"),
		"an organization with a space":           organization("34f57e13-8bcb-4481-85b2-a4b55c4ba0b9 "),
		"an organization of a wrong variant":     organization("34f57e13-8bcb-4481-15b2-a4b55c4ba0b9"),
		"an organization as an urn":              organization("urn:uuid:34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"),
		"an organization with other letters":     organization("34f57e13-8bcb-4481-85b2-a4b55c4ba0bg"),
		"a base that is no address":              base("license-server-s3cr3t"),
		"a base without a scheme":                base("api.polar.sh"),
		"a base of a file":                       base("file:///etc/passwd"),
		"a base by ftp":                          base("ftp://api.polar.sh"),
		"a base without a host":                  base("https://"),
		"a base with a path but no host":         base("https:///v1"),
		"a base with a query":                    base("https://api.polar.sh?token=s3cr3t"),
		"a base with an empty query":             base("https://api.polar.sh?"),
		"a base with a fragment":                 base("https://api.polar.sh#s3cr3t"),
		"a base with a user":                     base("https://joe:s3cr3t@api.polar.sh"),
		"a base with a user alone":               base("https://joe@api.polar.sh"),
		"a base with a control character":        base("https://api.polar.sh/\x7f"),
		"a base with a bad port":                 base("https://api.polar.sh:port"),
		"a server that nobody knows":             {func(c *polargate.Config) { c.BaseURL, c.Server = "", "staging-s3cr3t" }, "Server", "staging-s3cr3t"},
		"a program of 65 letters":                app(strings.Repeat("a", 65)),
		"a program that is a path":               app("../../etc/inkwell"),
		"a program with a slash":                 app("ink/well"),
		"a program with a backslash":             app(`ink\well`),
		"a program with a line break":            app("ink\nwell"),
		"a program with a NUL":                   app("ink\x00well"),
		"a program with a colon":                 app("ink:well"),
		"a program that is two dots":             app(".."),
		"a program that is one dot":              app("."),
		"a feature of a benefit that is no UUID": {func(c *polargate.Config) { c.Features = map[string][]string{"pro-plan-s3cr3t": {"export"}} }, "Features", "pro-plan-s3cr3t"},
		"a feature of no benefit":                {func(c *polargate.Config) { c.Features = map[string][]string{"": {"export"}} }, "Features", ""},
		"a negative freshness":                   {func(c *polargate.Config) { c.FreshFor = -1 }, "FreshFor", ""},
		"a negative timeout":                     {func(c *polargate.Config) { c.CheckTimeout = -1 }, "CheckTimeout", ""},
		"a fingerprint of 501 characters":        {func(c *polargate.Config) { c.Fingerprint = strings.Repeat("f", 501) }, "Fingerprint", "ffff"},
	}
	for name, test := range badConditions {
		tests["conditions with "+name] = bad{func(c *polargate.Config) { c.Conditions = test.conditions }, "Conditions", test.value}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := kit.NewWorld(t)
			test.change(&w.Config)
			gate, err := polargate.Open(w.Config)
			assert.Nil(t, gate)
			assertInputError(t, err, test.field, test.value)
			assert.Zero(t, w.Polar.Count(""))
		})
	}
}

func TestAConfigurationThatCanWorkIsAccepted(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*polargate.Config){
		"only an organization": func(c *polargate.Config) {
			*c = polargate.Config{OrganizationID: c.OrganizationID, BaseURL: c.BaseURL, HTTPClient: c.HTTPClient, Store: c.Store}
		},
		"an organization in capitals": func(c *polargate.Config) { c.OrganizationID = strings.ToUpper(c.OrganizationID) },
		"a benefit in capitals":       func(c *polargate.Config) { c.Features = upper(c.Features) },
		"a benefit without features": func(c *polargate.Config) {
			c.Features = map[string][]string{otherBenefit: nil, firstKey(c.Features): {}}
		},
		"a feature named twice":          func(c *polargate.Config) { c.Features[firstKey(c.Features)] = []string{"sync", "sync"} },
		"a slash after the base":         func(c *polargate.Config) { c.BaseURL += "/" },
		"a program of 64 characters":     func(c *polargate.Config) { c.App = strings.Repeat("a", 64) },
		"a program with spaces and dots": func(c *polargate.Config) { c.App = "Ink Well_2.0-beta" },
		"a version with odd characters":  func(c *polargate.Config) { c.Version = "1.0 (\r\nX-Injected: 1) é" },
		"conditions of each type": func(c *polargate.Config) {
			c.Conditions = map[string]any{"a": 1, "b": 1.5, "c": true, "d": "e", "f": int64(math.MaxInt64)}
		},
		"conditions of 50 entries": func(c *polargate.Config) { c.Conditions = many(50) },
		"conditions of other number types": func(c *polargate.Config) {
			c.Conditions = map[string]any{"a": uint8(1), "b": float32(1.5), "c": int32(-7)}
		},
		"a text of 500 characters": func(c *polargate.Config) {
			c.Conditions = map[string]any{strings.Repeat("é", 40): strings.Repeat("💡", 500)}
		},
		"a fingerprint of 500 characters": func(c *polargate.Config) { c.Fingerprint = strings.Repeat("é", 500) },
		"a label of 10,000 characters":    func(c *polargate.Config) { c.Label = strings.Repeat("é\x00", 5000) },
		"a label that is not UTF-8":       func(c *polargate.Config) { c.Label = "Ada\xff\xfe" },
		"a version that is not UTF-8":     func(c *polargate.Config) { c.Version = "1\xff" },
		"a version of 10,000 characters":  func(c *polargate.Config) { c.Version = strings.Repeat("1", 10_000) },
		"a secret":                        func(c *polargate.Config) { c.Secret = strings.Repeat("\x00s", 5000) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				change(&w.Config)
				w.Config.Features = maps.Clone(w.Config.Features)
				gate := w.Activated()
				_, err := gate.Refresh(t.Context())
				require.NoError(t, err)
				assert.True(t, w.Open().Status().OK())
				require.NoError(t, gate.Deactivate(t.Context()))
				assert.Zero(t, w.Seats())
				for _, r := range w.Polar.Requests() {
					assert.Empty(t, r.Header.Get("X-Injected"))
				}
			})
		})
	}
}

func firstKey(m map[string][]string) string {
	for k := range m {
		return k
	}
	return ""
}

func upper(m map[string][]string) map[string][]string {
	all := map[string][]string{}
	for k, v := range m {
		all[strings.ToUpper(k)] = v
	}
	return all
}

func TestAKeyIsCleanedOfEverythingThatPastingAdds(t *testing.T) {
	t.Parallel()
	const plain = "POLAR-00000000-0000-4000-8000-0000000a1b2C"
	for name, pasted := range map[string]string{
		"as it is":                  plain,
		"with spaces":               "   " + plain + " ",
		"with a line break":         plain + "\n",
		"with a Windows line break": "\r\n" + plain + "\r\n",
		"with tabs":                 "\t" + plain + "\t",
		"in quotes":                 `"` + plain + `"`,
		"in single quotes":          `'` + plain + `'`,
		"in backquotes":             "`" + plain + "`",
		"in curly quotes":           "“" + plain + "”",
		"in guillemets":             "«" + plain + "»",
		"in quotes and spaces":      ` " ` + plain + ` " `,
		"with no-break spaces":      "\u00a0" + plain + "\u202f",
		"with a zero-width space":   "\u200b" + plain + "\u200b",
		"with a byte order mark":    "\ufeff" + plain,
		"with direction marks":      "\u200e" + plain + "\u200f",
		"with a word joiner":        "\u2060" + plain + "\u2060",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := polargate.ParseKey(pasted)
			require.NoError(t, err)
			assert.Equal(t, plain, key.Reveal(), "and letters keep their case")
			assert.Equal(t, "****-0a1b2C", key.String())
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		status, err := w.Open().Activate(t.Context(), "\ufeff “"+w.Key.Key+"”\r\n")
		require.NoError(t, err)
		assert.Equal(t, polargate.Active, status.State)
	})
}

func TestAKeyThatCannotBeOneIsRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ pasted, value string }{
		"nothing":        {"", ""},
		"only spaces":    {" \t\r\n\u00a0", ""},
		"only quotes":    {`""`, ""},
		"only invisible": {"\u200b\ufeff", ""},
		"513 bytes":      {strings.Repeat("K", 513), "KKKK"},
		"a megabyte":     {strings.Repeat("K", 1<<20), "KKKK"},
		"no text":        {"POLAR-\xff\xfe-s3cr3t", "s3cr3t"},
		"a NUL in it":    {"POLAR-\x00-s3cr3t", "s3cr3t"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := polargate.ParseKey(test.pasted)
			assertInputError(t, err, "key", test.value)
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Open()
				status, err := gate.Activate(t.Context(), test.pasted)
				assertInputError(t, err, "key", test.value)
				assert.Equal(t, polargate.Unlicensed, status.State)
				_, err = gate.ActivateWait(t.Context(), test.pasted)
				assertInputError(t, err, "key", test.value)
				assert.Zero(t, w.Polar.Count(""))
				gate = w.Activated()
				_, err = gate.Activate(t.Context(), test.pasted)
				assertInputError(t, err, "key", test.value)
				assert.True(t, gate.Has("export"), "and the held license stays")
			})
		})
	}
	_, err := polargate.ParseKey(strings.Repeat("K", 512))
	require.NoError(t, err)
}

func TestUsesOutOfRangeAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int64{"none": 0, "a negative number": -1, "the most negative one": math.MinInt64, "more than 31 bits": math.MaxInt32 + 1, "the most": math.MaxInt64} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				sent := w.Polar.Count("")
				_, err := gate.Consume(t.Context(), n)
				assertInputError(t, err, "n", "")
				assert.Equal(t, sent, w.Polar.Count(""))
				assert.Equal(t, polargate.Active, gate.Status().State)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := kit.NewWorld(t)
		gate := w.Activated()
		_, err := gate.Consume(t.Context(), math.MaxInt32)
		require.NoError(t, err)
		assert.Equal(t, int64(math.MaxInt32), w.Now().Usage)
	})
}

func TestNoContextIsAnInputError(t *testing.T) {
	t.Parallel()
	var none context.Context
	for name, call := range map[string]func(*polargate.Gate, *kit.World) error{
		"Check":        func(g *polargate.Gate, _ *kit.World) error { _, err := g.Check(none); return err },
		"Refresh":      func(g *polargate.Gate, _ *kit.World) error { _, err := g.Refresh(none); return err },
		"Activate":     func(g *polargate.Gate, w *kit.World) error { _, err := g.Activate(none, w.Key.Key); return err },
		"ActivateWait": func(g *polargate.Gate, w *kit.World) error { _, err := g.ActivateWait(none, w.Key.Key); return err },
		"Consume":      func(g *polargate.Gate, _ *kit.World) error { _, err := g.Consume(none, 1); return err },
		"Deactivate":   func(g *polargate.Gate, _ *kit.World) error { return g.Deactivate(none) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := kit.NewWorld(t)
				gate := w.Activated()
				sent := w.Polar.Count("")
				var err error
				require.NotPanics(t, func() { err = call(gate, w) })
				assertInputError(t, err, "ctx", "")
				assert.Equal(t, sent, w.Polar.Count(""))
				assert.True(t, gate.Has("export"))
			})
		})
	}
}

func TestAClientsInputIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	polar := polartest.New(polartest.Config{OnBreach: func(r polartest.Request, what string) { t.Errorf("%s: %s", r.Path, what) }})
	good := polargate.ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client()}
	client, err := polargate.NewClient(good)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	key, err := polargate.ParseKey("POLAR-00000000-0000-4000-8000-000000000000")
	require.NoError(t, err)
	ctx := t.Context()
	const id = "34f57e13-8bcb-4481-85b2-a4b55c4ba0b9"
	validate := func(r polargate.ValidateRequest) error { _, err := client.Validate(ctx, r); return err }
	activate := func(r polargate.ActivateRequest) error { _, err := client.Activate(ctx, r); return err }
	type bad struct {
		err          error
		field, value string
	}
	tests := map[string]bad{
		"validate without a key":                {validate(polargate.ValidateRequest{}), "Key", ""},
		"validate with an activation's label":   {validate(polargate.ValidateRequest{Key: key, ActivationID: "laptop-s3cr3t"}), "ActivationID", "laptop-s3cr3t"},
		"validate with a benefit's name":        {validate(polargate.ValidateRequest{Key: key, BenefitID: "pro-s3cr3t"}), "BenefitID", "pro-s3cr3t"},
		"validate with a customer's name":       {validate(polargate.ValidateRequest{Key: key, CustomerID: "ada-s3cr3t"}), "CustomerID", "ada-s3cr3t"},
		"validate with a negative increment":    {validate(polargate.ValidateRequest{Key: key, IncrementUsage: -1}), "IncrementUsage", ""},
		"validate with too large an increment":  {validate(polargate.ValidateRequest{Key: key, IncrementUsage: math.MaxInt32 + 1}), "IncrementUsage", ""},
		"activate without a key":                {activate(polargate.ActivateRequest{}), "Key", ""},
		"deactivate without a key":              {client.Deactivate(ctx, polargate.Key{}, id), "key", ""},
		"deactivate without an activation":      {client.Deactivate(ctx, key, ""), "activation", ""},
		"deactivate with an activation's label": {client.Deactivate(ctx, key, "laptop-s3cr3t"), "activation", "laptop-s3cr3t"},
	}
	for name, test := range badConditions {
		tests["validate, conditions with "+name] = bad{validate(polargate.ValidateRequest{Key: key, ActivationID: id, Conditions: test.conditions}), "Conditions", test.value}
		tests["activate, conditions with "+name] = bad{activate(polargate.ActivateRequest{Key: key, Conditions: test.conditions}), "Conditions", test.value}
		tests["activate, meta with "+name] = bad{activate(polargate.ActivateRequest{Key: key, Meta: test.conditions}), "Meta", test.value}
	}
	for name, change := range map[string]func(*polargate.ClientConfig){
		"a client without an organization":         func(c *polargate.ClientConfig) { c.OrganizationID = "" },
		"a client with a base without a scheme":    func(c *polargate.ClientConfig) { c.BaseURL = "api.polar.sh" },
		"a client with a base with a query":        func(c *polargate.ClientConfig) { c.BaseURL = "https://api.polar.sh/?s3cr3t" },
		"a client with a server that nobody knows": func(c *polargate.ClientConfig) { c.BaseURL, c.Server = "", "s3cr3t" },
		"a client with a negative rate":            func(c *polargate.ClientConfig) { c.RequestsPerMinute = -1 },
		"a client with a token of two lines":       func(c *polargate.ClientConfig) { c.AccessToken = "polar_oat_s3cr3t\nX: y" },
		"a client with a token with a space":       func(c *polargate.ClientConfig) { c.AccessToken = "polar_oat s3cr3t" },
	} {
		config := good
		change(&config)
		_, err := polargate.NewClient(config)
		tests[name] = bad{err, "", "s3cr3t"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assertInputError(t, test.err, test.field, test.value)
		})
	}
	assert.Zero(t, polar.Count(""))
}
