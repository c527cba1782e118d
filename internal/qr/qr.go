// Package qr draws QR codes (ISO/IEC 18004) of bytes, for a screen that a phone looks at: the
// lowest level of error correction, and as small as the text allows. It reads none.
package qr

import (
	"errors"
	"image"
	"image/color"
)

// quiet is the white border that a reader needs, in modules.
const quiet = 4

// Of level L, by version: how many bytes of error correction a block has, and how many blocks
// there are. Source: ISO/IEC 18004:2015, table 9.
var (
	correction = [...]int{7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28, 28, 28, 30, 30, 26, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30}
	blocks     = [...]int{1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8, 8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19, 19, 20, 21, 22, 24, 25}
)

// ErrTooLong is for texts of more than 2,953 bytes.
var ErrTooLong = errors.New("qr: the text is too long for a QR code")

// Encode makes an image of a text, with a border, of so many pixels a module.
func Encode(text string, scale int) (image.Image, error) {
	c, err := encode(text)
	if err != nil {
		return nil, err
	}
	side := (c.size + 2*quiet) * scale
	img := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.White, color.Black})
	for y := range side {
		for x := range side {
			if c.dark(x/scale-quiet, y/scale-quiet) {
				img.SetColorIndex(x, y, 1)
			}
		}
	}
	return img, nil
}

// code is a square of modules. fixed are those that no mask changes.
type code struct {
	version, size int
	modules       []bool
	fixed         []bool
}

func (c *code) dark(x, y int) bool {
	return x >= 0 && y >= 0 && x < c.size && y < c.size && c.modules[y*c.size+x]
}

// set draws a module of a pattern.
func (c *code) set(x, y int, dark bool) {
	if x >= 0 && y >= 0 && x < c.size && y < c.size {
		c.modules[y*c.size+x], c.fixed[y*c.size+x] = dark, true
	}
}

// capacity is how many bytes of data and of error correction a version has.
func capacity(version int) int {
	bits := (16*version+128)*version + 64
	if version >= 2 {
		align := version/7 + 2
		bits -= (25*align-10)*align - 55
		if version >= 7 {
			bits -= 36
		}
	}
	return bits / 8
}

func encode(text string) (*code, error) {
	for version := 1; version <= len(blocks); version++ {
		room := capacity(version) - correction[version-1]*blocks[version-1]
		header := 4 + 8 // mode and length, in bits
		if version >= 10 {
			header += 8
		}
		if (header+7)/8+len(text) > room {
			continue
		}
		c := &code{version: version, size: 17 + 4*version}
		c.modules, c.fixed = make([]bool, c.size*c.size), make([]bool, c.size*c.size)
		c.patterns()
		c.fill(interleave(payload(text, header-4, room), version))
		c.mask()
		return c, nil
	}
	return nil, ErrTooLong
}

// payload is the text with its mode and length, filled up to room bytes.
func payload(text string, lengthBits, room int) []byte {
	var data []byte
	bits := 0
	put := func(value, n int) {
		for i := n - 1; i >= 0; i-- {
			if bits%8 == 0 {
				data = append(data, 0)
			}
			data[bits/8] |= byte(value>>i&1) << (7 - bits%8)
			bits++
		}
	}
	put(4, 4) // bytes
	put(len(text), lengthBits)
	for _, b := range []byte(text) {
		put(int(b), 8)
	}
	put(0, min(4, room*8-bits))
	for pad := byte(0xec); len(data) < room; pad ^= 0xec ^ 0x11 {
		data = append(data, pad)
	}
	return data
}

// interleave divides data into blocks, adds error correction to each, and mixes them.
func interleave(data []byte, version int) []byte {
	n, ecc := blocks[version-1], correction[version-1]
	total := capacity(version)
	short := n - total%n // so many blocks have a byte less
	parts, checks := make([][]byte, n), make([][]byte, n)
	divisor := generator(ecc)
	for i := range n {
		length := total/n - ecc
		if i >= short {
			length++
		}
		parts[i], data = data[:length], data[length:]
		checks[i] = remainder(parts[i], divisor)
	}
	var all []byte
	for _, set := range [][][]byte{parts, checks} {
		for i := range len(set[n-1]) {
			for _, part := range set {
				if i < len(part) {
					all = append(all, part[i])
				}
			}
		}
	}
	return all
}

// multiply is that of the field of 256 elements, modulo x^8+x^4+x^3+x^2+1.
func multiply(a, b byte) byte {
	product := 0
	for i := 7; i >= 0; i-- {
		product = product<<1 ^ product>>7*0x11d
		product ^= int(b>>i&1) * int(a)
	}
	return byte(product)
}

// generator is the polynomial of so many bytes of error correction.
func generator(degree int) []byte {
	poly := make([]byte, degree)
	poly[degree-1] = 1
	root := byte(1)
	for range degree {
		for j := range poly {
			poly[j] = multiply(poly[j], root)
			if j+1 < degree {
				poly[j] ^= poly[j+1]
			}
		}
		root = multiply(root, 2)
	}
	return poly
}

func remainder(data, divisor []byte) []byte {
	rest := make([]byte, len(divisor))
	for _, b := range data {
		factor := b ^ rest[0]
		copy(rest, rest[1:])
		rest[len(rest)-1] = 0
		for i, d := range divisor {
			rest[i] ^= multiply(d, factor)
		}
	}
	return rest
}

// patterns draws what a reader finds the code by.
func (c *code) patterns() {
	for i := range c.size {
		c.set(6, i, i%2 == 0)
		c.set(i, 6, i%2 == 0)
	}
	for _, at := range [][2]int{{3, 3}, {c.size - 4, 3}, {3, c.size - 4}} {
		for dy := -4; dy <= 4; dy++ {
			for dx := -4; dx <= 4; dx++ {
				ring := max(dx, -dx, dy, -dy)
				c.set(at[0]+dx, at[1]+dy, ring != 2 && ring != 4)
			}
		}
	}
	places := c.alignments()
	for i, x := range places {
		for j, y := range places {
			last := len(places) - 1
			if i == 0 && j == 0 || i == 0 && j == last || i == last && j == 0 {
				continue // there are the large ones
			}
			for dy := -2; dy <= 2; dy++ {
				for dx := -2; dx <= 2; dx++ {
					c.set(x+dx, y+dy, max(dx, -dx, dy, -dy) != 1)
				}
			}
		}
	}
	c.format(0) // keeps its place
	if c.version >= 7 {
		rest := c.version
		for range 12 {
			rest = rest<<1 ^ rest>>11*0x1f25
		}
		bits := c.version<<12 | rest
		for i := range 18 {
			a, b := c.size-11+i%3, i/3
			c.set(a, b, bits>>i&1 == 1)
			c.set(b, a, bits>>i&1 == 1)
		}
	}
}

// alignments are the places of the small patterns, in both directions.
func (c *code) alignments() []int {
	if c.version == 1 {
		return nil
	}
	n := c.version/7 + 2
	step := (c.version*8 + n*3 + 5) / (n*4 - 4) * 2
	places := make([]int, n)
	places[0] = 6
	for i := n - 1; i > 0; i-- {
		places[i] = c.size - 7 - (n-1-i)*step
	}
	return places
}

// format draws which mask is used.
func (c *code) format(mask int) {
	data := 1<<3 | mask // level L
	rest := data
	for range 10 {
		rest = rest<<1 ^ rest>>9*0x537
	}
	bits := (data<<10 | rest) ^ 0x5412
	bit := func(i int) bool { return bits>>i&1 == 1 }
	for i := range 6 {
		c.set(8, i, bit(i))
	}
	c.set(8, 7, bit(6))
	c.set(8, 8, bit(7))
	c.set(7, 8, bit(8))
	for i := 9; i < 15; i++ {
		c.set(14-i, 8, bit(i))
	}
	for i := range 8 {
		c.set(c.size-1-i, 8, bit(i))
	}
	for i := 8; i < 15; i++ {
		c.set(8, c.size-15+i, bit(i))
	}
	c.set(8, c.size-8, true)
}

// fill draws the data, in two columns at a time from the right, up and down in turn.
func (c *code) fill(data []byte) {
	i := 0
	for right := c.size - 1; right >= 1; right -= 2 {
		if right == 6 {
			right = 5
		}
		for vert := range c.size {
			for j := range 2 {
				x, y := right-j, vert
				if (right+1)&2 == 0 {
					y = c.size - 1 - vert
				}
				if !c.fixed[y*c.size+x] && i < len(data)*8 {
					c.modules[y*c.size+x] = data[i/8]>>(7-i%8)&1 == 1
					i++
				}
			}
		}
	}
}

var masks = [...]func(x, y int) bool{
	func(x, y int) bool { return (x+y)%2 == 0 },
	func(_, y int) bool { return y%2 == 0 },
	func(x, _ int) bool { return x%3 == 0 },
	func(x, y int) bool { return (x+y)%3 == 0 },
	func(x, y int) bool { return (x/3+y/2)%2 == 0 },
	func(x, y int) bool { return x*y%2+x*y%3 == 0 },
	func(x, y int) bool { return (x*y%2+x*y%3)%2 == 0 },
	func(x, y int) bool { return ((x+y)%2+x*y%3)%2 == 0 },
}

// mask chooses the mask that looks the least like a pattern.
func (c *code) mask() {
	best, least := 0, -1
	for m := range masks {
		c.invert(m)
		c.format(m)
		if p := c.penalty(); least < 0 || p < least {
			best, least = m, p
		}
		c.invert(m)
	}
	c.invert(best)
	c.format(best)
}

func (c *code) invert(mask int) {
	for y := range c.size {
		for x := range c.size {
			if i := y*c.size + x; !c.fixed[i] && masks[mask](x, y) {
				c.modules[i] = !c.modules[i]
			}
		}
	}
}

// penalty counts runs of one color, squares of four, what looks like a corner, and how far dark
// and light are from half and half.
func (c *code) penalty() int {
	points, dark := 0, 0
	for _, across := range []bool{false, true} {
		at := func(i, j int) bool {
			if across {
				return c.dark(i, j)
			}
			return c.dark(j, i)
		}
		for i := range c.size {
			run := 0
			history := 0 // the last 11 modules; outside it is light
			for j := -4; j < c.size+4; j++ {
				inside := j >= 0 && j < c.size
				now := inside && at(i, j)
				history = history<<1&0x7ff | map[bool]int{true: 1}[now]
				if history == 0b10111010000 || history == 0b00001011101 {
					points += 40
				}
				if !inside {
					continue
				}
				if j > 0 && now == at(i, j-1) {
					run++
				} else {
					run = 1
				}
				if run == 5 {
					points += 3
				} else if run > 5 {
					points++
				}
			}
		}
	}
	for y := range c.size {
		for x := range c.size {
			now := c.dark(x, y)
			if now {
				dark++
			}
			if x > 0 && y > 0 && now == c.dark(x-1, y) && now == c.dark(x, y-1) && now == c.dark(x-1, y-1) {
				points += 3
			}
		}
	}
	share := dark*20 - c.size*c.size*10 // twentieths of the whole, off half
	if share < 0 {
		share = -share
	}
	return points + share/(c.size*c.size)*10
}
