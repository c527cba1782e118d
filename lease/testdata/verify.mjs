// A second implementation of docs/lease-format.md, by Node.js and nothing else. It
// reads files of vectors and says where it disagrees.
//
//	node verify.mjs v1.json r1.json d1.json armor.json
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";

class Refused extends Error {}
const refuse = (reason, detail) => {
	throw new Refused(reason, { cause: detail });
};
const malformed = (detail) => refuse("malformed", detail);

// ---- text

const KINDS = {
	v1: { domain: "polargate lease v1\0", proof: 64, label: "POLARGATE LEASE" },
	r1: { domain: "polargate request v1\0", proof: 32, label: "POLARGATE ACTIVATION REQUEST" },
	d1: { domain: "polargate receipt v1\0", proof: 32, label: "POLARGATE DEACTIVATION RECEIPT" },
};

function decode(part) {
	if (!/^[A-Za-z0-9_-]*$/.test(part)) malformed("alphabet");
	const bytes = Buffer.from(part, "base64url");
	if (bytes.toString("base64url") !== part) malformed("not canonical");
	return bytes;
}

function split(text, kind) {
	if (Buffer.byteLength(text) > 2048) malformed("too long");
	const parts = text.split(".");
	if (parts[0] !== kind) {
		if (!(parts[0] in KINDS) && new RegExp(`^${kind[0]}[0-9]+$`).test(parts[0])) refuse("unsupported");
		malformed("version");
	}
	if (parts.length !== 3) malformed("parts");
	const [payload, proof] = [decode(parts[1]), decode(parts[2])];
	if (proof.length !== KINDS[kind].proof) malformed("proof");
	return { payload, proof, message: Buffer.concat([Buffer.from(KINDS[kind].domain), payload]) };
}

// ---- claims, in their order: "?" are optional

const text = (pattern, max) => (v) =>
	typeof v === "string" && v.isWellFormed() && Buffer.byteLength(v) <= max && pattern.test(v);
const SHOWN = /^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$/u;
const id = text(/^[A-Za-z0-9_-]+$/, 64);
const word = text(SHOWN, 100);
const machine = text(SHOWN, 500);
const time = (v) => Number.isInteger(v) && v > 0 && v <= 253402300799;
const span = (v) => Number.isInteger(v) && v > 0 && v <= 3653 * 86400;
const words = (v) => Array.isArray(v) && v.length > 0 && v.length <= 100 && v.every(word);
const covered = text(/^[0-9]+(\.[0-9]+)*$/, 64);

const CLAIMS = {
	v1: {
		kid: id, id, org: id, "ben?": id, "lic?": id, "act?": id, fp: machine, "feat?": words, iat: time, "nbf?": time, "exp?": time,
		"grace?": span, "cov?": covered, "rel?": time, "trial?": (v) => v === true, "pool?": word, "holder?": word,
	},
	r1: {
		id, iat: time, org: id, "key?": text(SHOWN, 512), "lease?": id, "last?": time, fp: machine, rh: id,
		"app?": word, "ver?": word, "label?": word, "borrow?": span,
	},
	d1: { id, iat: time, org: id, lease: id, "lic?": id, "act?": id, fp: machine, secret: id },
};

function read(kind, payload) {
	let parsed;
	try {
		parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload));
	} catch {
		malformed("no JSON in UTF-8");
	}
	const claims = {};
	for (const [key, fine] of Object.entries(CLAIMS[kind])) {
		const name = key.replace("?", "");
		if (!Object.hasOwn(parsed, name)) {
			if (name === key) malformed(`no ${name}`);
			continue;
		}
		if (!fine(parsed[name])) malformed(name);
		claims[name] = parsed[name];
	}
	// There is one way to write them.
	if (!Buffer.from(JSON.stringify(claims)).equals(payload)) malformed("not canonical JSON");
	if (kind === "v1") {
		const { trial, ben, lic, iat, nbf, exp, grace } = claims;
		if (!trial && (!ben || !lic)) malformed("no benefit or license key");
		if (grace && !exp) malformed("grace without an end");
		if (exp && (exp <= iat || exp <= (nbf ?? 0) || exp + (grace ?? 0) > 253402300799)) malformed("order of times");
	}
	return claims;
}

function verifyLease(text, pinned) {
	const { payload, proof, message } = split(text, "v1");
	const kid = /^\{"kid":"([0-9a-f]{12})"/.exec(payload.toString("latin1"))?.[1] ?? malformed("no kid");
	const x = pinned.find((k) => createHash("sha256").update(Buffer.from(k, "base64url")).digest("hex").startsWith(kid));
	if (!x) refuse("unknown_signer");
	const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
	if (!verify(null, message, key, proof)) refuse("forged");
	return read("v1", payload);
}

function parseText(kind, text) {
	const { payload, proof, message } = split(text, kind);
	if (!createHash("sha256").update(message).digest().equals(proof)) malformed("checksum");
	return read(kind, payload);
}

// ---- does it count?

function version(s) {
	return /^[0-9]+(\.[0-9]+)*$/.test(s) && s.length <= 64 ? s.split(".").map(BigInt) : null;
}

function covers(newest, program) {
	const limit = version(newest);
	const have = version(program.replace(/^v/, "").replace(/[-+].*$/s, ""));
	if (!have) return false;
	for (const [i, n] of limit.entries()) {
		const m = have[i] ?? 0n;
		if (m !== n) return m < n;
	}
	return true;
}

function check(claims, c) {
	if (claims.org !== c.organization) refuse("wrong_organization");
	if (claims.fp !== c.fingerprint) refuse("other_machine");
	if (claims.iat < (c.newest ?? 0)) refuse("older");
	if ((c.high_water ?? 0) - c.now > 3600 || claims.iat - c.now > 300) refuse("clock_behind");
	const now = Math.max(c.now, c.high_water ?? 0);
	if ((claims.nbf ?? claims.iat) - now > 300) refuse("not_yet");
	const end = claims.exp === undefined ? Infinity : claims.exp + (claims.grace ?? 0);
	if (now >= end) refuse("expired");
	if (claims.cov !== undefined && !covers(claims.cov, c.version ?? "")) refuse("not_covered");
	if (claims.rel !== undefined && (!c.released || c.released > claims.rel)) refuse("not_covered");
	return claims.exp !== undefined && now >= claims.exp ? "grace" : "active";
}

// ---- armor

function unarmor(data, kind) {
	const encoding = data[0] === 0xff && data[1] === 0xfe ? "utf-16le" : data[0] === 0xfe && data[1] === 0xff ? "utf-16be" : "utf-8";
	const all = new TextDecoder(encoding).decode(data);
	const squeeze = (s) => s.replace(/[\s\u0085\p{Cf}>]/gu, "");
	const found = new Set();
	let others = false;
	for (const m of all.matchAll(/-----BEGIN (POLARGATE .*?)-----/gs)) {
		if (m[1] !== KINDS[kind].label) {
			others = true;
			continue;
		}
		const body = all.slice(m.index + m[0].length);
		const end = body.indexOf(`-----END ${m[1]}-----`);
		const text = squeeze(body.slice(0, Math.max(end, 0)));
		if (!text) malformed("no end");
		found.add(text);
	}
	if (found.size > 1 || (found.size === 0 && others)) malformed("more than one, or none of the kind");
	const text = found.size === 1 ? [...found][0] : squeeze(all);
	if (!text) malformed("nothing");
	return text;
}

// ---- vectors

const outcome = (f) => {
	try {
		return { result: "ok", value: f() };
	} catch (e) {
		if (!(e instanceof Refused)) throw e;
		return { result: e.message };
	}
};

let agreed = 0;
const disagreements = [];
for (const path of process.argv.slice(2)) {
	const file = JSON.parse(readFileSync(path, "utf8"));
	const kind = basename(path, ".json");
	for (const v of file.vectors) {
		const differs = (what, want, have) => disagreements.push(`${path}: ${v.name}: ${what}: ${JSON.stringify(want)} wanted, ${JSON.stringify(have)} found`);
		const before = disagreements.length;
		let got;
		if (kind === "armor") got = outcome(() => unarmor(Buffer.from(v.data, "base64"), v.kind));
		else if (kind === "v1") got = outcome(() => verifyLease(v.text, (v.pinned ?? []).map((name) => file.keys[name])));
		else got = outcome(() => parseText(kind, v.text));
		if (got.result !== v.result) differs("result", v.result, got.result);
		if (kind === "armor" && got.result === "ok" && got.value !== v.text) differs("text", v.text, got.value);
		if (v.claims && got.result === "ok") {
			if (JSON.stringify(v.claims) !== JSON.stringify(got.value)) differs("claims", v.claims, got.value);
			for (const c of v.checks ?? []) {
				const standing = outcome(() => check(got.value, c));
				const have = standing.value ?? standing.result;
				if (have !== c.result) differs(c.name, c.result, have);
			}
		}
		if (disagreements.length === before) agreed++;
	}
}
console.log(disagreements.join("\n"));
console.log(`agrees on ${agreed} vectors`);
process.exit(disagreements.length ? 1 : 0);
