#!/usr/bin/env bash
# standardwebhooks 1.1.1 (npm): a raw secret that is a string is cut to a byte a character.
#
# Guess: with {format: "raw"}, the key is the UTF-8 of the secret, as Polar signs with
# secrets that are anybody's own text.
# Seen: each UTF-16 code unit is cut to its low byte. "öffne dich" gives the Latin-1 bytes, which
# nobody else's UTF-8 verifies; and "秘密" has the same key as "ØÆ", so that another secret
# verifies.
# For us: own text is taken as its UTF-8, as Polar does. Pass the library bytes
# (new TextEncoder().encode(secret)) to sign the same.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --ignore-scripts --silent standardwebhooks@1.1.1
cat >main.cjs <<'JS'
const { createHmac } = require("node:crypto");
const { Webhook } = require("standardwebhooks");

const id = "msg_1", at = 1700000000, body = "{}";
const sign = (secret) => new Webhook(secret, { format: "raw" }).sign(id, new Date(at * 1000), body);
const expected = (key) => "v1," + createHmac("sha256", key).update(`${id}.${at}.${body}`).digest("base64");

const text = "öffne dich";
const isUTF8 = sign(text) === expected(Buffer.from(text, "utf8"));
const isLatin1 = sign(text) === expected(Buffer.from(text, "latin1"));
const same = sign("秘密") === sign("ØÆ");
const bytes = sign(new TextEncoder().encode(text)) === expected(Buffer.from(text, "utf8"));
console.log("standardwebhooks 1.1.1, raw secrets:");
console.log("  the key of a string is its UTF-8:   ", isUTF8);
console.log("  the key of a string is its Latin-1: ", isLatin1);
console.log("  秘密 and ØÆ sign the same:           ", same);
console.log("  the key of bytes is those bytes:    ", bytes);
if (isUTF8 || !isLatin1 || !same || !bytes) {
  console.log("the behaviour has changed");
  process.exit(1);
}
JS
node main.cjs
