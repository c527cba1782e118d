//go:build unix

package owned

import (
	"io/fs"
	"os"
	"syscall"
)

const (
	noFollow   = syscall.O_NOFOLLOW
	onlyFolder = syscall.O_DIRECTORY
)

func privileged() bool { return os.Geteuid() == 0 }

// OfRoot reports whether a file belongs to the superuser, or its owner can't be found out.
func OfRoot(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || stat.Uid == 0
}

// Of is the owner of a file.
func Of(info fs.FileInfo) Whose {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return Unknown
	case int(stat.Uid) == os.Geteuid():
		return Own
	case stat.Uid == 0:
		return Root
	}
	return Others
}

func giveAs(f *os.File, info fs.FileInfo) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(stat.Uid), int(stat.Gid))
	}
}
