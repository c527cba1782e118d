package intern

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type list struct{ of []string }

func equal(a, b *list) bool { return slices.Equal(a.of, b.of) }

func TestEqualValuesAreKeptOnce(t *testing.T) {
	t.Parallel()
	var p Pool[list]
	one := p.Share(1, &list{[]string{"a", "b"}}, equal)
	assert.Same(t, one, p.Share(1, &list{[]string{"a", "b"}}, equal))
	other := p.Share(2, &list{[]string{"c"}}, equal)
	assert.NotSame(t, one, other)
	assert.Equal(t, 2, p.Len())
}

func TestValuesOfOneHashAreNotTakenForEachOther(t *testing.T) {
	t.Parallel()
	var p Pool[list]
	one := p.Share(1, &list{[]string{"a"}}, equal)
	other := p.Share(1, &list{[]string{"b"}}, equal)
	assert.Equal(t, []string{"b"}, other.of)
	assert.Same(t, one, p.Share(1, &list{[]string{"a"}}, equal))
	assert.Equal(t, 1, p.Len())
}

func TestAPoolKeepsNothingThatNobodyUses(t *testing.T) {
	t.Parallel()
	var p Pool[list]
	kept := p.Share(0, &list{[]string{"kept"}}, equal)
	for i := range uint64(100) {
		p.Share(i+1, &list{[]string{"gone"}}, equal)
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return p.Len() == 1
	}, 10*time.Second, time.Millisecond)
	assert.Same(t, kept, p.Share(0, &list{[]string{"kept"}}, equal))
	assert.Equal(t, 1, p.Len())
}
