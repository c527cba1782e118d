package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/polargateredis"
	"github.com/redis/rueidis"
)

// defaultPrefix begins the keys of this example in Redis.
const defaultPrefix = "polargate-server-example:"

// share sets up the store that the replicas of this server share: Redis, or a file, or
// none. The caller calls closeStore after it has closed its Customers.
func share(config *polargate.CustomersConfig, getenv func(string) string) (closeStore func(), err error) {
	closeStore = func() {}
	config.Secret, config.OtherSecret, _ = strings.Cut(getenv("POLARGATE_SHARED_SECRET"), ",")
	config.Secret, config.OtherSecret = strings.TrimSpace(config.Secret), strings.TrimSpace(config.OtherSecret)
	if address := getenv("REDIS_URL"); address != "" {
		client, err := connect(address, config.Logger)
		if err != nil {
			return closeStore, err
		}
		config.Shared, err = polargateredis.New(client, polargateredis.Options{Prefix: cmp.Or(getenv("POLARGATE_REDIS_PREFIX"), defaultPrefix)})
		if err != nil {
			client.Close()
			return closeStore, fmt.Errorf("POLARGATE_REDIS_PREFIX: %w", err)
		}
		return client.Close, nil
	}
	if path := getenv("POLARGATE_SHARED_FILE"); path != "" {
		config.Shared = polargate.SharedFile(path)
	}
	return closeStore, nil
}

// connect makes a client for Redis or Valkey.
//
// A server has to start while Redis is away, too, because customers are served without it.
// rueidis connects first and fails, unless it is told that it is one server alone. It can't
// find out that there is a cluster then, so such a client is the second choice.
func connect(address string, log *slog.Logger) (rueidis.Client, error) {
	option, err := redisOption(address)
	if err != nil {
		return nil, err
	}
	client, err := rueidis.NewClient(option)
	if err == nil {
		return client, nil
	}
	if len(option.InitAddress) > 1 || option.Sentinel.MasterSet != "" {
		return nil, fmt.Errorf("REDIS_URL: no node can be reached: %w", err)
	}
	log.Warn("Redis can't be reached; this server starts without it, and uses it as soon as it is there", "error", err)
	option.ForceSingleClient = true
	client, _ = rueidis.NewClient(option) // the same error again, with a client that goes on trying
	return client, nil
}

// redisOption reads an address. It may have a password, and so may what is wrong with it:
// the error doesn't repeat it.
func redisOption(address string) (rueidis.ClientOption, error) {
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return option, errors.New("REDIS_URL must look like redis://user:password@host:6379/0, or rediss:// for TLS; further nodes of a cluster are added as ?addr=host:port")
	}
	option.Dialer.Timeout = cmp.Or(option.Dialer.Timeout, time.Second) // for each address, when this server starts
	option.DisableCache = true                                         // polargateredis never uses it, and not every server has it
	// A client behind Sentinel (?master_set=name) must notice when that connection dies in silence,
	// or it stays with the old primary after a failover.
	option.Sentinel.Dialer = net.Dialer{Timeout: option.Dialer.Timeout, KeepAlive: time.Second}
	option.Sentinel.TopologyRefreshInterval = 5 * time.Second
	return option, nil
}
