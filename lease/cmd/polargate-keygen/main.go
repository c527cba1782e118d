// Polargate-keygen makes the keys that leases are signed with.
//
//	polargate-keygen new lease.key       make a private key and show its public part
//	polargate-keygen new -               the same, with the private key on standard output
//	polargate-keygen show lease.key      show the public part of a private key
//	polargate-keygen show -env NAME      the same, from a variable of the environment
//
// The private key is PKCS #8 in PEM, in a file that only its owner can read. An existing
// file is never overwritten. Keep the private key on the server that signs, and a copy
// in a safe; build the public part into the program.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"github.com/polargate/polargate/lease"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, os.LookupEnv))
}

const usage = `Usage:
  polargate-keygen new FILE        make a private key in FILE and show its public part
  polargate-keygen new -           the same, with the private key on standard output
  polargate-keygen show FILE       show the public part of the private key in FILE
  polargate-keygen show -env NAME  the same, from a variable of the environment
`

// run is main, for tests. It returns the exit code: 0 done, 1 failed, 64 usage.
func run(args []string, stdout, stderr io.Writer, lookup func(string) (string, bool)) int {
	flags := flag.NewFlagSet("polargate-keygen", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	env := flags.String("env", "", "")
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp), command == "help", command == "-h", command == "-help", command == "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
	case command == "new" && flags.NArg() == 1 && *env == "":
		return report(stderr, makeKey(flags.Arg(0), stdout, stderr))
	case command == "show" && flags.NArg() == 1 && *env == "":
		return report(stderr, showFile(flags.Arg(0), stdout, stderr))
	case command == "show" && flags.NArg() == 0 && *env != "":
		text, ok := lookup(*env)
		if !ok || text == "" {
			return report(stderr, fmt.Errorf("%s is not set: put the private key into it", *env))
		}
		key, err := lease.ParsePrivateKey(text)
		if err != nil {
			return report(stderr, fmt.Errorf("%s: %w", *env, err))
		}
		show(stdout, key)
		return 0
	}
	fmt.Fprint(stderr, usage)
	return 64
}

func report(stderr io.Writer, err error) int {
	if err != nil {
		fmt.Fprintln(stderr, "polargate-keygen:", err)
		return 1
	}
	return 0
}

func makeKey(path string, stdout, stderr io.Writer) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	text, err := lease.FormatPrivateKey(key)
	if err != nil {
		return err
	}
	if path == "-" {
		_, err := io.WriteString(stdout, text)
		show(stderr, key)
		return err
	}
	if err := writeNew(path, text); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The private key is in %s. Keep it secret, and a copy of it safe.\n\n", path)
	show(stdout, key)
	return nil
}

// writeNew writes a file that was not there, for its owner alone, and leaves none
// behind that is not whole.
func writeNew(path, text string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and a key in it may be in use: give another name", path)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	if _, err := io.WriteString(file, text); err != nil {
		return err
	}
	return file.Sync()
}

func showFile(path string, stdout, stderr io.Writer) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > 1<<16 {
		return fmt.Errorf("%s is far too long for a private key", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key, err := lease.ParsePrivateKey(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(stderr, "polargate-keygen: others on this computer can read %s: chmod 600 %s\n", path, path)
	}
	show(stdout, key)
	return nil
}

// show prints what may be known to everybody.
func show(w io.Writer, key ed25519.PrivateKey) {
	public := key.Public().(ed25519.PublicKey)
	fmt.Fprintf(w, `Key id:     %s
Public key: %s

In the program:
	LeaseKeys: []ed25519.PublicKey{lease.MustParsePublicKey(%q)},
`, lease.KeyID(public), lease.FormatPublicKey(public), lease.FormatPublicKey(public))
}
