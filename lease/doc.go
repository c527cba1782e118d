// Package lease signs and checks leases: short texts with which a program proves,
// without a network, what a vendor's server has allowed it.
//
// Polar signs nothing, and what a program seals itself can be made by anybody who
// takes the program apart. A lease is signed by the vendor with a private key that
// never leaves the vendor's server. The program holds the public key, which can
// check a lease but cannot make one.
//
// # The vendor's server
//
// Make a key once with the command in lease/cmd/polargate-keygen, then sign:
//
//	text, err := lease.Sign(private, lease.Claims{
//		ID: rand.Text(), OrganizationID: "…", BenefitID: "…", LicenseKeyID: "…",
//		Fingerprint: request.Fingerprint, Features: []string{"export", "sync"},
//		Issued: now, Expires: now.Add(30 * 24 * time.Hour), Grace: 7 * 24 * time.Hour,
//	})
//
// # The program
//
//	keys, err := lease.NewKeys(lease.MustParsePublicKey("…")) // built into the program
//	held, err := keys.Verify(text)                           // is it genuine?
//	standing, err := held.Check(time.Now(), lease.Want{      // does it count here and now?
//		OrganizationID: "…", Fingerprint: fingerprint, Version: "3.2.0",
//	})
//
// Verify reads nothing of a text but the name of its key before the signature is known
// to be good. Check is given the time, and what the program remembers of earlier times
// and earlier leases, so it needs no storage and no clock of its own. Each failure
// is an [*Error] with a [Reason], which errors.Is matches, and says what to do.
//
// # Clocks
//
//   - A lease that was issued, or that starts, up to [Skew] in the future counts:
//     two clocks are never quite equal.
//   - Expiry is exact. At Expires the lease is in grace, and it ends at Expires plus
//     Grace. A zero Expires means that it never ends.
//   - [Want.HighWater] is the latest time the program has seen. A clock that is behind
//     it by more than [Slack] is refused; within Slack, the high-water mark is used
//     as the time. Setting a clock back never buys time.
//   - [Want.Newest] is when the newest lease the program has seen was issued. Older
//     leases are refused, so that an old one cannot be put back.
//
// # Changing the signing key
//
// Pin two public keys: the one in use and its successor, whose private key stays in
// a safe. When the first is stolen or lost, sign with the second, and ship an update
// that pins the second and a third. A lease names its key by a short id that is
// derived from the public key ([KeyID]), so there is nothing to configure.
//
// # Computers without a network
//
// A program writes a [Request], the vendor's server answers with a lease, and when
// the computer is deactivated the program writes a [Receipt]. The receipt shows a
// secret whose hash was in the request, so only the program that asked can write it.
// [Armor] puts any of the three into a form that survives e-mail, and [Unarmor] takes
// it out again.
//
// A request can hold the license key. Treat its text like the key itself.
//
// # What a lease cannot do
//
// It does not stop anybody who patches the program, and a lease that was issued
// counts until it ends: choose Expires with that in mind. It is bound to a
// fingerprint, and an administrator can give two computers the same one.
//
// docs/lease-format.md describes the three formats byte by byte, for other languages.
// Texts of version 1 stay readable in every later version of this package.
package lease
