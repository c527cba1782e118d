// Package issuer is the vendor's side of leases: it asks Polar whether a license key may
// be used on a computer, signs a lease for it, renews it, and ends it.
//
//	issuer, err := issuer.New(issuer.Config{
//		Client: client,  // a polargate.Client with an access token
//		Key:    private, // from polargate-keygen
//		For:    30 * 24 * time.Hour,
//	})
//	mux.Handle("POST /lease", issuer.Handler())
//
// Programs send a request of package lease and get a lease, or a problem report with
// Polar's reason. Since the server asks Polar with its own access token, Polar's limit of
// three requests a second for programs does not apply: a classroom or a build fleet
// behind one address works.
//
// # What an Issuer does
//
//   - A computer uses one activation at Polar, however often it asks and whichever server
//     of several it reaches, also under a license key that was rotated. An activation that
//     it has at Polar already, from before or from a request whose answer was lost, is
//     used again.
//   - A renewal never activates: if a customer deactivated a computer at Polar, only a
//     person can activate it again.
//   - A renewal is a validation at Polar. What Polar refuses is not renewed, and the
//     lease that is out there ends by itself: at the latest after For and Grace.
//   - When Polar cannot be reached, nobody is refused and nothing is signed: the answer
//     is 503, and a program goes on with the lease it has. Floating leases are renewed
//     for Grace, since they are too short to wait.
//   - No lease outlives the license key's own expiry.
//   - Each lease of a computer is issued later than the one before, whatever the clock
//     does, so that programs can tell an old one that was put back.
//   - Asking again with the same request changes nothing, and a request whose activation
//     was given back cannot be used again.
//   - A receipt frees the activation of a computer without a network, if it shows the
//     secret that the request promised.
//
// # Floating pools
//
// A benefit with a [Pool] lets a key be used on so many computers at once instead of
// activating each. Its leases last for two heartbeats and are renewed after one, so the
// place of a computer that crashed is free after two, without anybody's doing. A
// computer can borrow a place for longer, if the pool allows it.
//
// Several servers can share what was issued: a Store that can be locked, or a Shared; see
// [Config.Store].
package issuer
