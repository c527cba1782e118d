// Package polargateredis is a polargate.Shared in Redis or Valkey, for replicas that run
// on several computers.
//
//	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{"redis:6379"}, DisableCache: true})
//	store, err := polargateredis.New(client, polargateredis.Options{Prefix: "inkwell:"})
//	customers, err := polargate.NewCustomers(polargate.CustomersConfig{AccessToken: token, Shared: store, Secret: secret})
//
// One replica asks Polar about a customer for all of them, a webhook to one is known to all
// within milliseconds, all keep to one budget of requests, and customers outlast a restart
// while Polar is down. What the store promises is the interface polargate.Shared.
//
// The client is the program's own, and is used for other things as well if you like. It
// may be one server, a cluster, or behind Sentinel, which needs two more options; see below.
// Server-assisted caching is not used, so DisableCache can be set, as it has to be where the
// server lacks CLIENT TRACKING. Closing the client is up to the program, after it has closed
// its Customers.
//
// # What the server needs
//
// Redis 6.2 or later, or Valkey. All keys begin with the prefix and have one hash tag, so
// that they are in one slot of a cluster: each change is one script, and a look-up, its
// claim and its unit of the budget are one round trip. A customer takes about 1 KiB there;
// 100,000 of them take 100 MB of one node, and no more than a few thousand operations a
// second. All reads go to the primary, whatever the client's SendToReplicas says. With
// access control, a user needs ~inkwell:* and &inkwell:*, and +@read +@write +@pubsub
// +@scripting +@connection.
//
// # Behind Sentinel
//
// A client learns of the next primary from Sentinel, over a connection of its own. By default
// rueidis doesn't look whether that is alive. If it dies in silence, the client stays with the last
// primary, which refuses to write: until the operating system notices, which takes minutes, or for
// ever if something in between goes on answering. So let it ask:
//
//	rueidis.SentinelOption{
//		MasterSet:               "main",
//		Dialer:                  net.Dialer{Timeout: time.Second, KeepAlive: time.Second},
//		TopologyRefreshInterval: 5 * time.Second,
//	}
//
// TopologyRefreshInterval alone makes it worse: without a KeepAlive, the client waits on the dead
// connection, and so does its Close. A cluster needs nothing. Nor does a name that moves to the next
// primary, as hosted services have it: a Store that is told that its server only follows another one
// ends the client's connections (QUIT), and the client looks the name up again.
//
// # Memory and persistence
//
// Everything in there ends by itself; nothing needs persistence. If memory runs out, set
// maxmemory-policy to one that evicts (allkeys-lru): where the server refuses to write
// instead, the store counts as away, and replicas go on with their own memory and Polar.
package polargateredis
