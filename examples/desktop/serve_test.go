package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// served is the license page of a program that runs.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	link   string
	client *http.Client
	output func() string
}

var linkPattern = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\?token=\S+`)

func (i *installation) serve(args ...string) *served {
	i.t.Helper()
	cmd, _, _ := i.command(append([]string{"serve"}, args...)...)
	path := filepath.Join(i.t.TempDir(), "output")
	file, err := os.Create(path)
	require.NoError(i.t, err)
	i.t.Cleanup(func() { _ = file.Close() })
	cmd.Stdout, cmd.Stderr = file, file
	require.NoError(i.t, cmd.Start())
	i.t.Cleanup(func() {
		if cmd.ProcessState != nil {
			return // it was waited for
		}
		if cmd.Process.Signal(os.Interrupt) != nil { // as Ctrl-C, so that it tidies up; not on Windows
			_ = cmd.Process.Kill()
		}
		late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
	})
	s := &served{t: i.t, cmd: cmd, output: func() string {
		text, err := os.ReadFile(path)
		require.NoError(i.t, err)
		return string(text)
	}}
	require.Eventually(i.t, func() bool {
		s.link = linkPattern.FindString(s.output())
		return s.link != "" && strings.Contains(s.output(), "Ctrl-C")
	}, time.Minute, 5*time.Millisecond)
	jar, err := cookiejar.New(nil)
	require.NoError(i.t, err)
	s.client = &http.Client{Jar: jar, Timeout: time.Minute}
	return s
}

func (s *served) page(path string, form url.Values) string {
	s.t.Helper()
	at, err := url.Parse(s.link)
	require.NoError(s.t, err)
	target := "http://" + at.Host + path
	var resp *http.Response
	if form == nil {
		resp, err = s.client.Get(target)
	} else {
		resp, err = s.client.PostForm(target, form)
	}
	require.NoError(s.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, resp.StatusCode, "%s", body)
	return string(body)
}

func TestTheLicensePageIsServedUntilCtrlC(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no Ctrl-C to be sent to one process")
	}
	i := install(t, polartest.LicenseKey{LimitActivations: polartest.Limit(1)})
	s := i.serve("--no-browser")
	at, err := url.Parse(s.link)
	require.NoError(t, err)
	page := s.page("/?"+at.RawQuery, nil)
	assert.Contains(t, page, "Your license: No license yet")
	assert.Contains(t, page, `<button id="export" formaction="/export" disabled`)
	page = s.page("/license/activate", url.Values{"key": {i.key.Key}})
	for end := time.Now().Add(time.Minute); !strings.Contains(page, "This computer is activated.") && time.Now().Before(end); {
		page = s.page("/license/", nil)
	}
	assert.Contains(t, page, "Licensed")
	assert.NotContains(t, page, i.key.Key)
	assert.Equal(t, 1, i.polar.Seats(i.key.ID))
	assert.Equal(t, "active", i.status(exitOK)["state"], "the command line sees the same license")

	i.expect(exitOK, "deactivate")
	require.Eventually(t, func() bool { return strings.Contains(s.page("/license/check", url.Values{}), "No license yet") }, time.Minute, 20*time.Millisecond)

	require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, s.cmd.Wait(), "it ends with 0: %s", s.output())
	_, err = s.client.Get(s.link)
	require.Error(t, err)
	assert.NotContains(t, s.output(), i.key.Key)
}

func TestServeOpensTheBrowserAndSaysSoWhereItCannot(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the browser is started by another program here")
	}
	i := install(t, polartest.LicenseKey{})
	i.env["PATH"] = t.TempDir()
	s := i.serve()
	assert.Contains(t, s.output(), "No browser could be started. Open the address yourself.")

	seen := filepath.Join(t.TempDir(), "seen")
	script := "#!/bin/sh\nprintf %s \"$1\" > '" + seen + ".new' && /bin/mv '" + seen + ".new' '" + seen + "'\n"
	require.NoError(t, os.WriteFile(filepath.Join(i.env["PATH"], "xdg-open"), []byte(script), 0o700))
	s = i.serve()
	assert.NotContains(t, s.output(), "No browser")
	require.Eventually(t, func() bool { _, err := os.Stat(seen); return err == nil }, time.Minute, 5*time.Millisecond)
	opened, err := os.ReadFile(seen)
	require.NoError(t, err)
	assert.Equal(t, s.link, string(opened))
}

func TestThePageCanBeSeenWithNothingSet(t *testing.T) {
	t.Parallel()
	i := &installation{t: t, env: map[string]string{}}
	s := i.serve("--no-browser")
	at, err := url.Parse(s.link)
	require.NoError(t, err)
	require.Contains(t, s.page("/?"+at.RawQuery, nil), "The embedded Polar")
	key := regexp.MustCompile(`(POLAR-\S+)  for a year`).FindStringSubmatch(s.output())
	require.Len(t, key, 2)
	page := s.page("/license/activate", url.Values{"key": {key[1]}})
	assert.Contains(t, page, "Licensed")
	assert.Regexp(t, `in 36[56] days`, page)
	assert.Contains(t, s.page("/count", url.Values{"text": {"one two"}}), "The text has 2 words.")
	assert.Contains(t, s.page("/export", url.Values{"text": {"one"}}), "Exported 3 bytes.")
	page = s.page("/sync", url.Values{})
	assert.Contains(t, page, "Synced. 9 syncs left.")
	assert.NotContains(t, page, "disabled")
	assert.Contains(t, s.page("/demo", url.Values{"do": {"revoke"}}), "Your license: Licensed", "nobody has asked yet")
	assert.Contains(t, s.page("/license/check", url.Values{}), "Your license is inactive")
	s.page("/demo", url.Values{"do": {"grant"}})
	assert.Contains(t, s.page("/demo", url.Values{"do": {"offline"}}), "You're offline")
	assert.Contains(t, s.page("/demo", url.Values{"do": {"online"}}), "You're online")
	require.Eventually(t, func() bool { return strings.Contains(s.page("/license/check", url.Values{}), "Licensed") }, time.Minute, 100*time.Millisecond)
}
