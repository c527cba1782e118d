package polargate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/polargate/polargate/internal/disk"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEveryReasonHasATextForDevelopersAndAMessageForPeople(t *testing.T) {
	t.Parallel()
	for phrase := range english {
		reason := Reason(phrase)
		if _, ok := english[phrase+".do"]; !ok || strings.Contains(string(phrase), ".") {
			continue
		}
		e := &Error{Op: "check", Reason: reason, StatusCode: 404, Detail: "the detail"}
		assert.Contains(t, e.Error(), english[Phrase(reason)])
		assert.Contains(t, e.Error(), "the detail")
		message := Message(e)
		assert.Regexp(t, `^[A-Z].*\.$`, message, reason)
		for _, unfit := range []string{"polargate", "404", "detail", "Config"} {
			assert.NotContains(t, message, unfit, reason)
		}
		assert.ErrorIs(t, e, reason)
	}
	assert.Empty(t, Message(nil))
	assert.Equal(t, "something else", Message(errors.New("something else")))
	assert.Equal(t, "The license key is empty.", Message(&InputError{"license key", "is empty"}))
	assert.NotContains(t, Message(&StoreError{"save", &os.PathError{Op: "open", Path: "/secret/place", Err: os.ErrPermission}}), "place")
}

func TestAnErrorWithinAnErrorGivesOneAdvice(t *testing.T) {
	t.Parallel()
	outer := &Error{Op: "check", Reason: ErrExpired, Err: &Error{Op: opValidate, Reason: ErrUnreachable}}
	assert.Equal(t, "polargate: check: "+english["expired"]+" ("+english["unreachable"]+"). "+english["expired.do"], outer.Error())
	assert.ErrorIs(t, outer, ErrUnreachable)
}

func TestMessagesFitTheSituation(t *testing.T) {
	t.Parallel()
	t.Run("a login page in front of an activation", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		polar.Inject(polartest.Fault{Effect: polartest.LoginPage(200)})
		_, err := openGate(t, polar, nil).Activate(t.Context(), key.Key)
		require.ErrorIs(t, err, ErrActivationInDoubt)
		assert.Contains(t, Message(err), english["in_doubt.page.do"])
	})
	t.Run("a fault of Polar's own, and a proxy's", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
			gate := openGate(t, polar, nil)
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			polar.Inject(polartest.Fault{Effect: polartest.ServerError(500)})
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, ErrUnreachable)
			assert.Contains(t, Message(err), english["unreachable.failed.do"])
			assert.NotContains(t, Message(err), "internet")
			polar.ClearFaults()
			polar.Inject(polartest.Fault{Effect: polartest.ProxyPage(502)})
			_, err = gate.Refresh(t.Context())
			require.ErrorIs(t, err, ErrUnreachable)
			assert.Contains(t, Message(err), english["unreachable.page.do"])
		})
	})
	t.Run("a caller who gives up", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate := openGate(t, polar, nil)
		_, err := gate.Activate(t.Context(), key.Key)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range []error{
			func() error { _, err := gate.Consume(ctx, 1); return err }(),
			func() error { _, err := gate.Activate(ctx, key.Key); return err }(),
			func() error { _, err := gate.Refresh(ctx); return err }(),
		} {
			require.ErrorIs(t, err, context.Canceled)
			assert.Contains(t, Message(err), english["ended.do"])
			assert.NotContains(t, Message(err), "Wi-Fi")
		}
	})
	t.Run("a lost activation that fills the last seat", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{Unlimited: true})
		key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
		gate := openGate(t, polar, nil)
		polar.Inject(polartest.Fault{Path: "/activate", Times: 1, Effect: polartest.AnswerLost()})
		_, err := gate.Activate(t.Context(), key.Key)
		require.ErrorIs(t, err, ErrActivationInDoubt)
		for range 2 {
			_, err = gate.Activate(t.Context(), key.Key)
			require.ErrorIs(t, err, ErrActivationLimit)
			assert.Contains(t, Message(err), english["activation_limit.earlier.do"])
		}
	})
	t.Run("a server with a token that is not good", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{})
		client, err := NewClient(ClientConfig{OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(), AccessToken: "polar_oat_nope"})
		require.NoError(t, err)
		_, err = client.Validate(t.Context(), ValidateRequest{Key: newKey("ACME-KEY")})
		require.ErrorIs(t, err, ErrMisconfigured)
		assert.Contains(t, err.Error(), english["misconfigured.server.do"])
	})
	t.Run("a server whose question Polar does not take", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{})
		customers, err := NewCustomers(CustomersConfig{
			AccessToken: polar.AddToken(polartest.Token{}), OrganizationID: polar.OrganizationID(), BaseURL: polar.URL(), HTTPClient: polar.Client(),
		})
		require.NoError(t, err)
		defer customers.Close()
		polar.Inject(polartest.Fault{Effect: polartest.Body(422, "application/json",
			`{"error":"RequestValidationError","detail":[{"loc":["path","external_id"],"msg":"too strange"}]}`)})
		_, err = customers.Entitlements(t.Context(), ExternalID("usr_strange"))
		require.ErrorIs(t, err, ErrMisconfigured)
		assert.Contains(t, err.Error(), "path.external_id: too strange")
		assert.NotContains(t, err.Error(), "access token", "it is in order")
	})
	t.Run("a damaged state that is deactivated", func(t *testing.T) {
		t.Parallel()
		polar := polartest.New(polartest.Config{})
		store := &MemoryStore{}
		gate := openGate(t, polar, func(c *Config) { c.Store = store })
		require.NoError(t, store.Save(t.Context(), gate.name, []byte("garbage")))
		err := gate.Deactivate(t.Context())
		require.ErrorIs(t, err, ErrUnreadableState)
		assert.Contains(t, Message(err), english["unreadable_state.seat.do"])
		_, err = gate.Consume(t.Context(), 1)
		require.ErrorIs(t, err, ErrUnreadableState)
	})
	t.Run("a license whose key is no longer known", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			polar := polartest.New(polartest.Config{})
			key := polar.AddKey(polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
			gate := openGate(t, polar, nil)
			_, err := gate.Activate(t.Context(), key.Key)
			require.NoError(t, err)
			polar.Rotate(key.ID)
			status, err := gate.Refresh(t.Context())
			assert.NotContains(t, status.Message, "typing")
			_, checkErr := gate.Check(t.Context())
			_, activateErr := gate.Activate(t.Context(), key.Key)
			_, consumeErr := gate.Consume(t.Context(), 1)
			for _, err := range []error{err, checkErr, activateErr, consumeErr, gate.Deactivate(t.Context())} {
				require.ErrorIs(t, err, ErrUnknownKey)
				assert.Equal(t, status.Message, Message(err))
			}
			_, err = gate.Activate(t.Context(), "POLAR-mistyped")
			require.ErrorIs(t, err, ErrUnknownKey)
			assert.Contains(t, Message(err), "typing")
		})
	})
}

func TestABaseThatEndsInTheVersionIsRefused(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"https://api.polar.sh/v1", "https://api.polar.sh/v1/"} {
		_, err := NewClient(ClientConfig{OrganizationID: testOrganization, BaseURL: base})
		var input *InputError
		require.ErrorAs(t, err, &input)
		assert.Contains(t, err.Error(), "leave that out")
	}
}

func TestAnErrorOfTheStoreSaysWhatHelpsAgainstItsCause(t *testing.T) {
	t.Parallel()
	writable := "Make the folder writable"
	for _, is := range []struct {
		err  *StoreError
		says string
	}{
		{&StoreError{"save", errors.New("the keyring is locked.")}, "can't save the license state: the keyring is locked. Set Config.Store"},
		{&StoreError{"lock", errors.New("no such device")}, "can't lock the license state: no such device. Set Config.Store"},
		{&StoreError{"load", errors.New("it broke.")}, "can't load the license state: it broke. Nothing is overwritten. Check the disk"},
		{&StoreError{"load", fs.ErrPermission}, "Give the files"},
		{&StoreError{"lock", context.DeadlineExceeded}, "Try again."},
	} {
		assert.Contains(t, is.err.Error(), is.says)
		assert.NotContains(t, is.err.Error(), writable)
		assert.NotContains(t, is.err.Error(), "..")
	}
	for _, cause := range disk.ReadOnly {
		assert.Contains(t, (&StoreError{"save", cause}).Error(), writable)
		assert.Contains(t, (&StoreError{"lock", cause}).Error(), writable)
	}
	for _, cause := range disk.Full {
		assert.Contains(t, (&StoreError{"save", cause}).Error(), "Make room on the disk")
	}
}

func TestErrorsThatATestMadeByHandCanBePrinted(t *testing.T) {
	t.Parallel()
	for _, err := range []error{&Error{}, &InputError{}, &StoreError{}, &MissingError{}, &Refusal{}} {
		assert.NotEmpty(t, err.Error(), "%T", err)
		assert.NotEmpty(t, Message(err), "%T", err)
	}
}
