// Package standardwebhooks holds a test of the webhook handler against the library that
// Standard Webhooks publish for Node.
package standardwebhooks
