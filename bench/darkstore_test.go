package bench

import (
	"context"
	"time"

	"github.com/launchdarkly/go-server-sdk/v7/subsystems"
	"github.com/launchdarkly/go-server-sdk/v7/subsystems/ldstoretypes"
	"github.com/redis/rueidis"
)

// darkStore is a persistent store of LaunchDarkly's in Redis: a hash for each kind of data,
// as in the store that LaunchDarkly publishes, with the client that the others here use.
type darkStore struct{ redis rueidis.Client }

var _ subsystems.PersistentDataStore = (*darkStore)(nil)

// Build makes the store one that a configuration can name.
func (s *darkStore) Build(subsystems.ClientContext) (subsystems.PersistentDataStore, error) {
	return s, nil
}

func (s *darkStore) do(command rueidis.Completed) rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return s.redis.Do(ctx, command)
}

const darkInited = "dark:$inited"

func darkKey(kind ldstoretypes.DataKind) string { return "dark:" + kind.GetName() }

func (s *darkStore) Init(all []ldstoretypes.SerializedCollection) error {
	for _, c := range all {
		if err := s.do(s.redis.B().Del().Key(darkKey(c.Kind)).Build()).Error(); err != nil {
			return err
		}
		for _, i := range c.Items {
			if err := s.put(c.Kind, i.Key, i.Item); err != nil {
				return err
			}
		}
	}
	return s.do(s.redis.B().Set().Key(darkInited).Value("").Build()).Error()
}

func (s *darkStore) put(kind ldstoretypes.DataKind, key string, item ldstoretypes.SerializedItemDescriptor) error {
	return s.do(s.redis.B().Hset().Key(darkKey(kind)).FieldValue().FieldValue(key, string(item.SerializedItem)).Build()).Error()
}

func (s *darkStore) Get(kind ldstoretypes.DataKind, key string) (ldstoretypes.SerializedItemDescriptor, error) {
	text, err := s.do(s.redis.B().Hget().Key(darkKey(kind)).Field(key).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return ldstoretypes.SerializedItemDescriptor{}.NotFound(), nil
	}
	return ldstoretypes.SerializedItemDescriptor{SerializedItem: text}, err
}

func (s *darkStore) GetAll(kind ldstoretypes.DataKind) ([]ldstoretypes.KeyedSerializedItemDescriptor, error) {
	all, err := s.do(s.redis.B().Hgetall().Key(darkKey(kind)).Build()).AsStrMap()
	var items []ldstoretypes.KeyedSerializedItemDescriptor
	for key, text := range all {
		items = append(items, ldstoretypes.KeyedSerializedItemDescriptor{Key: key, Item: ldstoretypes.SerializedItemDescriptor{SerializedItem: []byte(text)}})
	}
	return items, err
}

// Upsert is not atomic: nothing here changes a flag.
func (s *darkStore) Upsert(kind ldstoretypes.DataKind, key string, item ldstoretypes.SerializedItemDescriptor) (bool, error) {
	return true, s.put(kind, key, item)
}

func (s *darkStore) IsInitialized() bool {
	n, err := s.do(s.redis.B().Exists().Key(darkInited).Build()).AsInt64()
	return err == nil && n == 1
}

func (s *darkStore) IsStoreAvailable() bool {
	return s.do(s.redis.B().Ping().Build()).Error() == nil
}

func (s *darkStore) Close() error { return nil }
