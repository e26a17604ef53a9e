package functions

import (
	"container/list"
	"sync"
	"time"

	"github.com/kisflow/kisflow/kis"
)

// maxCacheBytes is about the most memory that a look-up's cache takes, whatever its number of keys.
const maxCacheBytes = 256 << 20

// cacheOverhead is about what an entry takes beside its key and its row's text.
const cacheOverhead = 256

// lookupCache remembers what was found of keys, and that nothing was. It is bounded in keys and in bytes; the one
// that was not asked for longest goes first. Time is that of commits.
type lookupCache struct {
	mu    sync.Mutex
	most  int
	bytes int
	byKey map[string]*list.Element // of *cached
	order list.List                // the last one that was asked for in front
}

type cached struct {
	key   string
	row   *kis.Row // nil: there was nothing
	until time.Time
	size  int
}

func newLookupCache(most int) *lookupCache {
	return &lookupCache{most: max(1, most), byKey: make(map[string]*list.Element)}
}

// get returns what is known of a key.
func (c *lookupCache) get(key string, now time.Time) (row *kis.Row, ok bool) {
	e := c.byKey[key]
	if e == nil {
		return nil, false
	}
	v := e.Value.(*cached)
	if !now.Before(v.until) {
		c.remove(e)
		return nil, false
	}
	c.order.MoveToFront(e)
	return v.row, true
}

// put remembers what was found of a key. What was not is remembered for a shorter time.
func (c *lookupCache) put(key string, row *kis.Row, now time.Time, keep time.Duration) {
	if e := c.byKey[key]; e != nil {
		c.remove(e)
	}
	v := &cached{key: key, row: row, size: cacheOverhead + len(key)}
	if row == nil {
		keep = min(keep/missShare, maxMiss)
	} else {
		v.size += rowSize(row)
	}
	v.until = now.Add(keep)
	c.byKey[key] = c.order.PushFront(v)
	for c.bytes += v.size; c.order.Len() > c.most || c.bytes > maxCacheBytes && c.order.Len() > 1; {
		c.remove(c.order.Back())
	}
}

func (c *lookupCache) remove(e *list.Element) {
	v := c.order.Remove(e).(*cached)
	delete(c.byKey, v.key)
	c.bytes -= v.size
}

// rowSize is about what a row takes in memory.
func rowSize(row *kis.Row) int {
	n := 0
	for i := range row.Len() {
		f := row.At(i)
		n += 32 + len(f.Name) + 8
		if k := f.Value.Kind(); k == kis.String || k == kis.Array || k == kis.Object || k == kis.Number {
			n += len(f.Value.Text())
		}
	}
	return n
}
