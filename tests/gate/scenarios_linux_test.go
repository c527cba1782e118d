package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/machine"
	"github.com/polargate/polargate/internal/testprogram"
	"github.com/polargate/polargate/polartest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { programs["shows-its-machine"] = programShowsItsMachine }

// programShowsItsMachine activates, and prints the fingerprint that Polar is
// shown, then what is left on its standard input. args are the state folder, a
// host name to take, and a file to put in the place of the machine's id; the
// last two may be empty, and else need a namespace of one's own. Of two files with
// a colon between them, the second one is dbus'.
func programShowsItsMachine(args []string) error {
	if err := setStage(args[1], args[2]); err != nil {
		fmt.Print(forbidden, err)
		return nil
	}
	polar := polartest.New(polartest.Config{})
	key := polar.AddKey(polartest.LicenseKey{OrganizationID: anOrganization, LimitActivations: polartest.Limit(1)})
	config := polargate.Config{OrganizationID: anOrganization, App: "inkwell", BaseURL: polar.URL(), HTTPClient: polar.Client(), Store: &polargate.MemoryStore{}}
	if args[0] != "" {
		config.Store = polargate.FileStore(args[0])
	}
	gate, err := polargate.Open(config)
	if err != nil {
		return err
	}
	defer gate.Close()
	if _, err := gate.Activate(context.Background(), key.Key); err != nil {
		return err
	}
	seat, _ := polar.LicenseKey(key.ID)
	fmt.Print(seat.Activations[0].Conditions["fingerprint"], "\n")
	if err := gate.Deactivate(context.Background()); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, os.Stdin)
	return err
}

// forbidden is said by a process that could not have a stage of its own.
const forbidden = "forbidden: "

func setStage(host, idFile string) error {
	if host != "" {
		if err := syscall.Sethostname([]byte(host)); err != nil {
			return err
		}
	}
	if idFile == "" {
		return nil
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	systemd, dbus, two := strings.Cut(idFile, ":")
	if !two {
		dbus = systemd
	}
	there := 0
	for place, file := range map[string]string{"/etc/machine-id": systemd, "/var/lib/dbus/machine-id": dbus} {
		if info, err := os.Lstat(place); err != nil || two && !info.Mode().IsRegular() {
			continue // or both places are one file
		}
		there++
		if err := syscall.Mount(file, place, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	if there == 0 || two && there < 2 {
		return errors.New("this machine has no file for its id, or not two")
	}
	return nil
}

// onAStage runs a process with a host name, file systems and network interfaces
// that are its own to change, and gives its output. The test is skipped where the
// system forbids that; that of the fingerprint itself then has to do.
func onAStage(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	ids := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid()),
	}
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) || strings.HasPrefix(string(out), forbidden) {
		t.Skip("no stage of its own here:", string(out), err)
	}
	require.NoError(t, err)
	return string(out)
}

// shown is the fingerprint that a process shows, in a namespace of its own.
func shown(t *testing.T, state, host, idFile string) string {
	t.Helper()
	out := onAStage(t, testprogram.Command(t, "shows-its-machine", state, host, idFile))
	require.Regexp(t, `^[0-9a-f]{32}\n$`, out)
	return strings.TrimSpace(out)
}

// A dock with a network card in it made a new machine of a laptop, a VPN another;
// in containers the host name is new at each start. Then there was the image with
// an empty id in it, of which four thousand computers had the same. And the text
// of a cgroup names the container of today.
func TestAMachineIsKnownByItsIDAndNotByItsNamesOrAddresses(t *testing.T) {
	t.Parallel()
	idFile := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "machine-id")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	const id, another = "00112233445566778899aabbccddeeff", "10112233445566778899aabbccddeeff"
	t.Run("with an id, names, addresses and folders may change", func(t *testing.T) {
		t.Parallel()
		file := idFile(t, id+"\n")
		first := shown(t, t.TempDir(), "at-home", file)
		assert.Equal(t, first, shown(t, t.TempDir(), "e3b0c44298fc", file))
		assert.NotEqual(t, first, shown(t, t.TempDir(), "at-home", idFile(t, another+"\n")), "and another machine has another")
		assert.NotContains(t, first, id[:8])
		assert.Equal(t, machine.Fingerprint("machine", id, anOrganization, "inkwell"), first, "there is nothing else in it")
	})
	for name, text := range map[string]string{
		"that is empty":                 "",
		"that only a first boot has":    "uninitialized\n",
		"that was cut":                  another[:30] + "\n",
		"that is left of another image": another + "\n",
	} {
		t.Run("a second file with an id "+name+" does not hide the good one", func(t *testing.T) {
			t.Parallel()
			good := idFile(t, id+"\n")
			assert.Equal(t, shown(t, t.TempDir(), "here", good), shown(t, t.TempDir(), "here", good+":"+idFile(t, text)))
		})
	}
	t.Run("and a first file without one does not hide the second", func(t *testing.T) {
		t.Parallel()
		good := idFile(t, id+"\n")
		assert.Equal(t, shown(t, t.TempDir(), "here", good), shown(t, t.TempDir(), "here", idFile(t, "uninitialized\n")+":"+good))
	})
	for name, text := range map[string]string{
		"that is empty":                "",
		"of a first boot":              "uninitialized\n",
		"of an image":                  strings.Repeat("0", 32) + "\n",
		"that is the path of a cgroup": "0::/docker/" + strings.Repeat("3d1219c7c4c5404aaa1f6d2a48adfda4", 2) + "\n",
	} {
		t.Run("an id "+name+" makes no two machines the same, and one stays one", func(t *testing.T) {
			t.Parallel()
			file, here, there := idFile(t, text), t.TempDir(), t.TempDir()
			first := shown(t, here, "localhost", file)
			assert.NotEqual(t, first, shown(t, there, "localhost", file))
			assert.Equal(t, first, shown(t, here, "another-name", file))
		})
	}
}

// One library ran "ioreg", whatever that was in the user's PATH, with the
// program's own input to read, and waited for it as long as it liked.
func TestNoToolOfTheUsersPathIsAskedForTheMachine(t *testing.T) {
	t.Parallel()
	for name, idFile := range map[string]string{"on a machine with an id": "", "on one without": "/dev/null"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			traps := t.TempDir()
			trap := "#!/bin/sh\n/bin/touch " + traps + "/SPRUNG\n/bin/cat\necho 3d1219c7c4c5404aaa1f6d2a48adfda4\n"
			for _, tool := range strings.Fields("ioreg kenv reg sysctl smbios hostid hostname hostnamectl dbus-uuidgen systemd-machine-id-setup systemd-id128 dmidecode cat sh bash uname ip ifconfig getent wmic powershell") {
				require.NoError(t, os.WriteFile(filepath.Join(traps, tool), []byte(trap), 0o755))
			}
			cmd := testprogram.Command(t, "shows-its-machine", t.TempDir(), "", idFile)
			cmd.Dir = traps
			cmd.Env = append(cmd.Env, "PATH="+traps+":.")
			cmd.Stdin = strings.NewReader("for the program\n")
			out := onAStage(t, cmd)
			assert.NoFileExists(t, filepath.Join(traps, "SPRUNG"))
			id, input, _ := strings.Cut(out, "\n")
			assert.Regexp(t, "^[0-9a-f]{32}$", id)
			assert.Equal(t, "for the program\n", input, "the program's input is left to it")
		})
	}
}

// With the mainboard's serial number in it, which only root can read, the
// fingerprint that "sudo" gave was another than the user's: two seats, and each
// locked the other out.
func TestRootAndTheUserAreOneMachine(t *testing.T) {
	t.Parallel()
	if machine.This().ID() == "" {
		t.Skip("this machine has no id")
	}
	mine, err := testprogram.Command(t, "shows-its-machine", "", "", "").Output()
	require.NoError(t, err)
	t.Run("by what sudo makes of the environment", func(t *testing.T) {
		t.Parallel()
		cmd := testprogram.Command(t, "shows-its-machine", "", "", "")
		cmd.Env = append(cmd.Env, "HOME=/home/of/root", "USER=superuser", "LOGNAME=superuser", "SUDO_USER=ada", "SUDO_UID=1815", "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=/home/of/root/.cache", "PATH=/usr/sbin:/sbin")
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Equal(t, string(mine), string(out))
	})
	t.Run("by the rights of nobody", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("only root can become somebody else")
		}
		cmd := testprogram.Command(t, "shows-its-machine", "", "", "")
		cmd.Path = "/proc/self/exe" // the file may be where nobody else can look
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Equal(t, string(mine), string(out))
	})
	t.Run("since all that is read for it can be read by all", func(t *testing.T) {
		t.Parallel()
		for _, place := range []string{"/var/lib/dbus/machine-id", "/etc/machine-id"} {
			if info, err := os.Stat(place); err == nil {
				assert.NotZero(t, info.Mode()&0o004, place)
			}
		}
	})
}
