package polargateredis

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/internal/hints"
	"github.com/redis/rueidis"
)

// Options configure a Store.
type Options struct {
	// Prefix begins all keys and the channel, and keeps programs and environments that
	// share a server apart: replicas that are to share what they know have the same. It
	// ends with a colon by custom. Empty means "polargate:". If it has a hash tag of its
	// own, as "{tenant}:" has, that decides on the slot in a cluster.
	Prefix string
	// Timeout bounds every call, since a client may retry for as long as its context
	// lasts. 0 means 1 second. Customers have a shorter bound of their own.
	Timeout time.Duration
}

// Store is a polargate.Shared in Redis or Valkey. New makes one. All methods are safe for
// use by many goroutines.
type Store struct {
	client  rueidis.Client
	head    string // of each key
	timeout time.Duration
}

var _ polargate.Shared = (*Store)(nil)

// versionLength is that of the texts that rand.Text makes.
const versionLength = 26

// batch is how many records one script handles at most, so that none holds up the server
// for long.
const batch = 128

// New makes a Store. It sends nothing; a server that cannot be reached is found by its
// first use, and fails no start.
func New(client rueidis.Client, options Options) (*Store, error) {
	if client == nil {
		return nil, errors.New("polargateredis: the client is nil: make one with rueidis.NewClient")
	}
	if options.Timeout < 0 {
		return nil, errors.New("polargateredis: Timeout is negative: give a duration, or 0 for 1 second")
	}
	prefix := cmp.Or(options.Prefix, "polargate:")
	head := prefix
	switch tag, braces := hashTag(prefix); {
	case tag != "":
	case braces:
		return nil, fmt.Errorf("polargateredis: Prefix %q has a brace but no hash tag: leave braces out, or put a name between { and }", prefix)
	default:
		head = prefix + "{" + cmp.Or(strings.TrimSuffix(prefix, ":"), "polargate") + "}:"
	}
	return &Store{client: client, head: head, timeout: cmp.Or(options.Timeout, time.Second)}, nil
}

// hashTag is the part of a key that decides on its slot, by the rule of Redis Cluster.
func hashTag(key string) (tag string, braces bool) {
	_, rest, open := strings.Cut(key, "{")
	tag, _, closed := strings.Cut(rest, "}")
	if open && closed && tag != "" {
		return tag, true
	}
	return "", strings.ContainsAny(key, "{}")
}

// Kinds of keys.
func (s *Store) record(key string) string   { return s.head + "r:" + key }
func (s *Store) claim(key string) string    { return s.head + "c:" + key }
func (s *Store) value(key string) string    { return s.head + "v:" + key }
func (s *Store) units(budget string) string { return s.head + "b:" + budget }
func (s *Store) paused(budget string) string {
	return s.head + "p:" + budget
}
func (s *Store) replicas() string { return s.head + "replicas" }
func (s *Store) channel() string  { return s.head + "hints" }

// bound is ctx within the Store's timeout.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// exec runs a script, which is sent once and named afterwards.
func (s *Store) exec(ctx context.Context, script *rueidis.Lua, keys []string, args ...string) (rueidis.RedisMessage, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return rueidis.RedisMessage{}, err
	}
	message, err := script.Exec(ctx, s.client, keys, args).ToMessage()
	if failed, ok := rueidis.IsRedisErr(err); ok && strings.Contains(failed.Error(), "READONLY ") {
		s.reconnect(ctx, keys[0])
		err = fmt.Errorf("%w: %w", errFollows, err)
	}
	return message, err
}

// run runs a script that replies with a list.
func (s *Store) run(ctx context.Context, script *rueidis.Lua, keys []string, args ...string) ([]rueidis.RedisMessage, error) {
	message, err := s.exec(ctx, script, keys, args...)
	if err != nil {
		return nil, err
	}
	return message.ToArray()
}

// errFollows is what a call fails with after a failover that the client hasn't noticed.
var errFollows = errors.New("polargateredis: the client is connected to a server that only follows another one, as after a failover. " +
	"If that lasts: connect to the primary; a client behind Sentinel needs the options that the documentation of polargateredis has")

// reconnect has the client of one server connect anew. A server that begins to follow another one
// keeps its connections, so the client would stay with it, while its name may stand for the next
// primary by now. Other clients learn of that from Sentinel or from the cluster.
func (s *Store) reconnect(ctx context.Context, key string) {
	if s.client.Mode() != rueidis.ClientModeStandalone {
		return
	}
	// Without a key it is the connection that messages come by, and with one any of several: four
	// by default. One that is left is met by a later call.
	_ = s.client.Do(ctx, s.client.B().Arbitrary("QUIT").Build())
	for range 8 {
		_ = s.client.Do(ctx, s.client.B().Arbitrary("QUIT").Keys(key).Build())
	}
}

// milliseconds writes a duration as Redis takes it.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// stored is a record as it is kept: the time, which has 19 digits, and the data, so that
// of two the younger is the greater.
func stored(r polargate.SharedRecord) string { return string(r.At) + string(r.Data) }

func parseRecord(key, text string) (polargate.SharedRecord, bool) {
	if len(text) < len(noTime) || !polargate.FactTime(text[:len(noTime)]).Valid() {
		return polargate.SharedRecord{}, false
	}
	return polargate.SharedRecord{Key: key, At: polargate.FactTime(text[:len(noTime)]), Data: []byte(text[len(noTime):])}, true
}

const noTime = "0000000000000000000"

func parseValue(text string) polargate.SharedValue {
	if len(text) < versionLength {
		return polargate.SharedValue{}
	}
	return polargate.SharedValue{Version: text[:versionLength], Data: []byte(text[versionLength:])}
}

// reply reads a script's reply, of which the first errors are kept.
type reply struct {
	messages []rueidis.RedisMessage
	err      error
}

func (r *reply) next() (m rueidis.RedisMessage) {
	if len(r.messages) == 0 {
		r.err = errors.Join(r.err, errors.New("polargateredis: a reply that is too short"))
		return m
	}
	m, r.messages = r.messages[0], r.messages[1:]
	return m
}

func (r *reply) number() int64 {
	if m := r.next(); r.err == nil {
		n, err := m.AsInt64()
		r.err = errors.Join(r.err, err)
		return n
	}
	return 0
}

func (r *reply) text() string {
	if m := r.next(); r.err == nil {
		text, err := m.ToString()
		r.err = errors.Join(r.err, err)
		return text
	}
	return ""
}

// budgetArgs are what the scripts take for a budget.
func budgetArgs(b polargate.SharedBudget) []string {
	return []string{
		strconv.Itoa(b.Limit), milliseconds(b.Window), strconv.Itoa(max(b.Units, 1)), strconv.Itoa(max(b.Keep, 0)),
	}
}

// turn reads what take replies.
func (r *reply) turn() (turn polargate.SharedTurn) {
	outcome := r.number()
	left, wait := r.number(), time.Duration(r.number())*time.Millisecond
	switch turn.Left = int(left); outcome {
	case 1:
		turn.Taken = true
	case 2:
		turn.Wait, turn.Paused = wait, true
	default:
		turn.Wait = wait
	}
	return turn
}

// Lookup does all of it in one script.
func (s *Store) Lookup(ctx context.Context, q polargate.SharedLookup) (a polargate.SharedAnswer, err error) {
	keys := []string{s.claim(q.Key), s.units(q.Budget.Name), s.paused(q.Budget.Name), s.record(q.Key)}
	names := append([]string{q.Key}, q.Also...)
	for _, key := range q.Also {
		keys = append(keys, s.record(key))
	}
	args := append([]string{string(q.NotBefore), q.Holder, milliseconds(q.ClaimFor)}, budgetArgs(q.Budget)...)
	messages, err := s.run(ctx, lookupScript, keys, args...)
	if err != nil {
		return polargate.SharedAnswer{}, err
	}
	r := reply{messages: messages}
	outcome, index, text := r.text(), r.number(), r.text()
	if index > 0 && int(index) <= len(names) {
		a.Record, _ = parseRecord(names[index-1], text)
	}
	switch outcome {
	case "found":
		a.Found = true
	case "busy":
		a.Busy, a.Wait = true, time.Duration(r.number())*time.Millisecond
	case "claimed":
		a.Claimed = true
		if q.Budget.Limit > 0 {
			a.Turn = r.turn()
		}
	case "refused":
		a.Turn = r.turn()
	default:
		return polargate.SharedAnswer{}, fmt.Errorf("polargateredis: the script replied %q", outcome)
	}
	return a, r.err
}

// Get reads records, by a script, for it is to read the primary: clients can be told to
// send what only reads to replicas, which may be behind.
func (s *Store) Get(ctx context.Context, keys ...string) (records []polargate.SharedRecord, err error) {
	for len(keys) > 0 {
		part := keys[:min(len(keys), batch)]
		keys = keys[len(part):]
		names := make([]string, len(part))
		for i, key := range part {
			names[i] = s.record(key)
		}
		messages, err := s.run(ctx, getScript, names)
		if err != nil {
			return nil, err
		}
		if len(messages) != len(part) {
			return nil, errors.New("polargateredis: a reply that is too short")
		}
		for i, message := range messages {
			text, err := message.ToString()
			if err != nil {
				continue // there is none
			}
			if record, ok := parseRecord(part[i], text); ok {
				records = append(records, record)
			}
		}
	}
	return records, nil
}

// Put compares and stores by one script for each 128 records, which also tells of those
// that changed.
func (s *Store) Put(ctx context.Context, holder string, records ...polargate.SharedRecord) (younger []polargate.SharedRecord, err error) {
	for len(records) > 0 {
		part := records[:min(len(records), batch)]
		records = records[len(part):]
		keys := make([]string, 0, 2*len(part))
		args := []string{s.channel(), holder}
		for _, record := range part {
			keys = append(keys, s.record(record.Key), s.claim(record.Key))
			args = append(args, record.Key, milliseconds(record.TTL), stored(record))
		}
		messages, err := s.run(ctx, putScript, keys, args...)
		if err != nil {
			return younger, err
		}
		for r := (reply{messages: messages}); len(r.messages) > 0; {
			index, text := r.number(), r.text()
			if r.err != nil || index < 1 || int(index) > len(part) {
				return younger, errors.Join(r.err, errors.New("polargateredis: a reply that cannot be read"))
			}
			if record, ok := parseRecord(part[index-1].Key, text); ok {
				younger = append(younger, record)
			}
		}
	}
	return younger, nil
}

// Discard compares and removes by one script.
func (s *Store) Discard(ctx context.Context, records ...polargate.SharedRecord) error {
	var keys, args []string
	for _, record := range records {
		keys = append(keys, s.record(record.Key))
		args = append(args, stored(record))
	}
	return s.removeEqual(ctx, keys, args)
}

// Release compares and removes by one script.
func (s *Store) Release(ctx context.Context, holder string, keys ...string) error {
	names, args := make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		names[i], args[i] = s.claim(key), holder
	}
	return s.removeEqual(ctx, names, args)
}

func (s *Store) removeEqual(ctx context.Context, keys, args []string) error {
	if len(keys) == 0 {
		return ctx.Err()
	}
	_, err := s.exec(ctx, removeScript, keys, args...)
	return err
}

// Take counts units by Redis' own clock.
func (s *Store) Take(ctx context.Context, b polargate.SharedBudget) (polargate.SharedTurn, error) {
	messages, err := s.run(ctx, takeScript, []string{s.units(b.Name), s.paused(b.Name)}, budgetArgs(b)...)
	if err != nil {
		return polargate.SharedTurn{}, err
	}
	r := reply{messages: messages}
	return r.turn(), r.err
}

// Pause is a key that ends by itself.
func (s *Store) Pause(ctx context.Context, budget string, d time.Duration) error {
	_, err := s.exec(ctx, pauseScript, []string{s.paused(budget)}, milliseconds(d))
	return err
}

// Beat counts the replicas in a sorted set, by when they are forgotten.
func (s *Store) Beat(ctx context.Context, replica string, ttl time.Duration) (int, error) {
	message, err := s.exec(ctx, beatScript, []string{s.replicas()}, replica, milliseconds(ttl))
	if err != nil {
		return 0, err
	}
	n, err := message.AsInt64()
	return int(n), err
}

// Load reads from the primary; see Get.
func (s *Store) Load(ctx context.Context, key string) (polargate.SharedValue, error) {
	messages, err := s.run(ctx, getScript, []string{s.value(key)})
	if err != nil {
		return polargate.SharedValue{}, err
	}
	r := reply{messages: messages}
	message := r.next()
	text, err := message.ToString()
	if err != nil { // there is none
		return polargate.SharedValue{}, r.err
	}
	return parseValue(text), r.err
}

// Swap compares versions by one script.
func (s *Store) Swap(ctx context.Context, key, version string, data []byte, ttl time.Duration) (now polargate.SharedValue, swapped bool, err error) {
	next := polargate.SharedValue{}
	text := ""
	if len(data) > 0 {
		next = polargate.SharedValue{Version: rand.Text(), Data: data}
		text = next.Version + string(data)
	}
	messages, err := s.run(ctx, swapScript, []string{s.value(key)}, version, text, milliseconds(ttl))
	if err != nil {
		return polargate.SharedValue{}, false, err
	}
	r := reply{messages: messages}
	if done, is := r.number(), r.text(); done == 0 || r.err != nil {
		return parseValue(is), false, r.err
	}
	return next, true, nil
}

// Hint publishes.
func (s *Store) Hint(ctx context.Context, keys ...string) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return err
	}
	return s.client.Do(ctx, s.client.B().Publish().Channel(s.channel()).Message(strings.Join(keys, " ")).Build()).Error()
}

// Listen subscribes. The client subscribes again by itself when it has lost the
// connection, and what was said meanwhile is lost: each confirmation is a gap.
func (s *Store) Listen(ctx context.Context, heard func(keys []string, gap bool)) error {
	q := hints.New()
	ctx, end := context.WithCancelCause(ctx)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer end(nil)
	hooked := rueidis.WithOnSubscriptionHook(ctx, func(sub rueidis.PubSubSubscription) {
		if sub.Channel == s.channel() {
			q.Gap()
		}
	})
	receiving.Go(func() {
		err := s.client.Receive(hooked, s.client.B().Subscribe().Channel(s.channel()).Build(), func(message rueidis.PubSubMessage) {
			q.Add(strings.Fields(message.Message)...)
		})
		if err == nil {
			err = errors.New("polargateredis: the subscription ended")
		}
		end(err)
	})
	_ = q.Deliver(ctx, heard)
	return context.Cause(ctx)
}
