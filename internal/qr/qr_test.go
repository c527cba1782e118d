package qr

import (
	"bytes"
	"errors"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// read reads a code off its picture, as a phone does with a picture that has no faults. It
// knows how a code is laid out, and shares nothing else with the encoder.
func read(t *testing.T, img image.Image) string {
	t.Helper()
	side := img.Bounds().Dx()
	dark := func(x, y int) bool { r, _, _, _ := img.At(x, y).RGBA(); return r < 0x8000 }
	border := 0
	for !dark(border, border) {
		border++
	}
	edge := border
	for dark(edge, border) {
		edge++
	}
	scale := (edge - border) / 7 // of a corner
	size := (side - 2*border) / scale
	version := (size - 17) / 4
	at := func(x, y int) bool { return dark(border+x*scale+scale/2, border+y*scale+scale/2) }

	format := 0
	for i, place := range [][2]int{{0, 8}, {1, 8}, {2, 8}, {3, 8}, {4, 8}, {5, 8}, {7, 8}, {8, 8}, {8, 7}, {8, 5}, {8, 4}, {8, 3}, {8, 2}, {8, 1}, {8, 0}} {
		if at(place[0], place[1]) {
			format |= 1 << (14 - i)
		}
	}
	format ^= 0b101010000010010
	require.Equal(t, 1, format>>13, "level L")
	mask := format >> 10 & 7

	var centers []int
	if version > 1 {
		n := version/7 + 2
		step := (version*8 + n*3 + 5) / (n*4 - 4) * 2
		centers = []int{6}
		for i := n - 2; i >= 0; i-- {
			centers = append(centers, size-7-i*step)
		}
	}
	pattern := func(x, y int) bool {
		if x == 6 || y == 6 || x < 9 && (y < 9 || y >= size-8) || x >= size-8 && y < 9 {
			return true
		}
		if version >= 7 && (x < 6 && y >= size-11 || y < 6 && x >= size-11) {
			return true
		}
		for _, cx := range centers {
			for _, cy := range centers {
				corner := cx == 6 && cy == 6 || cx == 6 && cy == size-7 || cx == size-7 && cy == 6
				if !corner && x >= cx-2 && x <= cx+2 && y >= cy-2 && y <= cy+2 {
					return true
				}
			}
		}
		return false
	}
	masked := func(x, y int) bool {
		switch mask {
		case 0:
			return (y+x)%2 == 0
		case 1:
			return y%2 == 0
		case 2:
			return x%3 == 0
		case 3:
			return (y+x)%3 == 0
		case 4:
			return (y/2+x/3)%2 == 0
		case 5:
			return y*x%2+y*x%3 == 0
		case 6:
			return (y*x%2+y*x%3)%2 == 0
		}
		return ((y+x)%2+y*x%3)%2 == 0
	}
	var bits []bool
	up := true
	for x := size - 1; x > 0; x -= 2 {
		if x == 6 {
			x--
		}
		for i := range size {
			y := i
			if up {
				y = size - 1 - i
			}
			for _, column := range []int{x, x - 1} {
				if !pattern(column, y) {
					bits = append(bits, at(column, y) != masked(column, y))
				}
			}
		}
		up = !up
	}
	mixed := make([]byte, len(bits)/8)
	for i := range mixed {
		for _, bit := range bits[8*i : 8*i+8] {
			mixed[i] <<= 1
			if bit {
				mixed[i] |= 1
			}
		}
	}

	n, ecc := blocks[version-1], correction[version-1]
	parts := make([][]byte, n)
	data := len(mixed) - n*ecc
	for i := range data {
		row := i / n
		if row < data/n {
			parts[i%n] = append(parts[i%n], mixed[i])
		} else {
			part := n - data%n + i%n
			parts[part] = append(parts[part], mixed[i])
		}
	}
	var all []byte
	for i, part := range parts {
		whole := bytes.Clone(part)
		for j := range ecc {
			whole = append(whole, mixed[data+j*n+i])
		}
		require.True(t, isCodeword(whole, ecc), "the error correction of block %d fits its data", i)
		all = append(all, part...)
	}
	require.Equal(t, byte(4), all[0]>>4, "bytes")
	nibbles := func(i int) byte { return all[i]<<4 | all[i+1]>>4 }
	length, start := int(nibbles(0)), 1
	if version >= 10 {
		length, start = length<<8|int(nibbles(1)), 2
	}
	var text strings.Builder
	for i := range length {
		text.WriteByte(nibbles(start + i))
	}
	return text.String()
}

// isCodeword evaluates a block as a polynomial at the roots of the generator, by logarithms.
func isCodeword(block []byte, ecc int) bool {
	var power [255]byte
	log := map[byte]int{}
	value := 1
	for i := range power {
		power[i], log[byte(value)] = byte(value), i
		if value *= 2; value > 255 {
			value ^= 0x11d
		}
	}
	for root := range ecc {
		var sum byte
		for i, b := range block {
			if b != 0 {
				sum ^= power[(log[b]+root*(len(block)-1-i))%255]
			}
		}
		if sum != 0 {
			return false
		}
	}
	return true
}

func TestWhatIsDrawnCanBeReadBack(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 1, 16, 17, 18, 100, 230, 231, 271, 272, 400, 563, 604, 700, 858, 1000, 1500, 2953} {
		text := strings.Repeat("r1.eyJpZCI6Ilk4QkQ", 200)[:length]
		img, err := Encode(text, 3)
		require.NoError(t, err)
		assert.Equal(t, text, read(t, img), "%d bytes", length)
	}
	_, err := Encode(strings.Repeat("x", 2954), 1)
	assert.ErrorIs(t, err, ErrTooLong)
}

// A reader that others wrote agrees, where it is installed.
func TestZbarReadsWhatIsDrawn(t *testing.T) {
	t.Parallel()
	zbar, err := exec.LookPath("zbarimg")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("this needs zbarimg: install zbar-tools")
	}
	require.NoError(t, err)
	for _, length := range []int{1, 50, 300, 600, 900} {
		text := "https://licenses.example.com/#" + strings.Repeat("r1.eyJpZCI6Ilk4QkQ", 60)[:length]
		img, err := Encode(text, 4)
		require.NoError(t, err)
		var picture bytes.Buffer
		require.NoError(t, png.Encode(&picture, img))
		path := filepath.Join(t.TempDir(), "code.png")
		require.NoError(t, os.WriteFile(path, picture.Bytes(), 0o600))
		said, err := exec.Command(zbar, "--raw", "-q", path).Output()
		require.NoError(t, err, "%d bytes", length)
		assert.Equal(t, text, strings.TrimSpace(string(said)))
	}
}
