"""A third implementation of docs/lease-format.md, by Python and the package cryptography.

It reads files of vectors and says where it disagrees:

    python3 verify.py v1.json r1.json d1.json armor.json
"""

import base64
import hashlib
import json
import os
import re
import sys
import unicodedata

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Refused(Exception):
    pass


def malformed(detail):
    raise Refused("malformed", detail)


# ---- text

KINDS = {
    "v1": (b"polargate lease v1\0", 64, "POLARGATE LEASE"),
    "r1": (b"polargate request v1\0", 32, "POLARGATE ACTIVATION REQUEST"),
    "d1": (b"polargate receipt v1\0", 32, "POLARGATE DEACTIVATION RECEIPT"),
}


def decode(part):
    if not re.fullmatch(r"[A-Za-z0-9_-]*", part) or len(part) % 4 == 1:
        malformed("alphabet")
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != part:
        malformed("not canonical")
    return data


def split(text, kind):
    if len(text.encode()) > 2048:
        malformed("too long")
    parts = text.split(".")
    if parts[0] != kind:
        if parts[0] not in KINDS and re.fullmatch(kind[0] + "[0-9]+", parts[0]):
            raise Refused("unsupported")
        malformed("version")
    if len(parts) != 3:
        malformed("parts")
    payload, proof = decode(parts[1]), decode(parts[2])
    if len(proof) != KINDS[kind][1]:
        malformed("proof")
    return payload, proof, KINDS[kind][0] + payload


# ---- claims, in their order: "?" are optional

MAX_TIME = 253402300799


def text(pattern, most):
    return lambda v: type(v) is str and len(v.encode("utf-8", "surrogatepass")) <= most and re.fullmatch(pattern, v)


def up_to(most):
    return lambda v: type(v) is int and 0 < v <= most


SHOWN = "[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+"
ID = text("[A-Za-z0-9_-]+", 64)
WORD = text(SHOWN, 100)
MACHINE = text(SHOWN, 500)
TIME = up_to(MAX_TIME)
SPAN = up_to(3653 * 86400)
COVERED = text(r"[0-9]+(\.[0-9]+)*", 64)


def WORDS(v):
    return type(v) is list and 0 < len(v) <= 100 and all(WORD(e) for e in v)


CLAIMS = {
    "v1": {
        "kid": ID, "id": ID, "org": ID, "ben?": ID, "lic?": ID, "act?": ID, "fp": MACHINE, "feat?": WORDS, "iat": TIME, "nbf?": TIME,
        "exp?": TIME, "grace?": SPAN, "cov?": COVERED, "rel?": TIME, "trial?": lambda v: v is True, "pool?": WORD, "holder?": WORD,
    },
    "r1": {
        "id": ID, "iat": TIME, "org": ID, "key?": text(SHOWN, 512), "lease?": ID, "last?": TIME, "fp": MACHINE, "rh": ID,
        "app?": WORD, "ver?": WORD, "label?": WORD, "borrow?": SPAN,
    },
    "d1": {"id": ID, "iat": TIME, "org": ID, "lease": ID, "lic?": ID, "act?": ID, "fp": MACHINE, "secret": ID},
}


def read(kind, payload):
    try:
        parsed = json.loads(payload.decode("utf-8", "strict"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        malformed("no JSON in UTF-8")
    if type(parsed) is not dict:
        malformed("no object")
    claims = {}
    for key, fine in CLAIMS[kind].items():
        name = key.rstrip("?")
        if name not in parsed:
            if name == key:
                malformed(f"no {name}")
            continue
        if not fine(parsed[name]):
            malformed(name)
        claims[name] = parsed[name]
    # There is one way to write them.
    if json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode() != payload:
        malformed("not canonical JSON")
    if kind == "v1":
        if "trial" not in claims and not ("ben" in claims and "lic" in claims):
            malformed("no benefit or license key")
        grace, expires = claims.get("grace", 0), claims.get("exp")
        if grace and not expires:
            malformed("grace without an end")
        if expires and (expires <= claims["iat"] or expires <= claims.get("nbf", 0) or expires + grace > MAX_TIME):
            malformed("order of times")
    return claims


def verify_lease(text, pinned):
    payload, signature, message = split(text, "v1")
    m = re.match(rb'\{"kid":"([0-9a-f]{12})"', payload)
    if not m:
        malformed("no kid")
    for key in map(decode, pinned):
        if hashlib.sha256(key).hexdigest().startswith(m.group(1).decode()):
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
            except InvalidSignature:
                raise Refused("forged")
            return read("v1", payload)
    raise Refused("unknown_signer")


def parse_text(kind, text):
    payload, checksum, message = split(text, kind)
    if hashlib.sha256(message).digest() != checksum:
        malformed("checksum")
    return read(kind, payload)


# ---- does it count?


def version(s):
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", s, re.A) or len(s) > 64:
        return None
    return [int(n) for n in s.split(".")]


def covers(newest, program):
    limit = version(newest)
    have = version(re.sub(r"(?s)[-+].*$", "", program.removeprefix("v")))
    if have is None:
        return False
    have = (have + [0] * len(limit))[: len(limit)]
    return have <= limit


def check(claims, c):
    high, newest = c.get("high_water", 0), c.get("newest", 0)
    if claims["org"] != c["organization"]:
        raise Refused("wrong_organization")
    if claims["fp"] != c["fingerprint"]:
        raise Refused("other_machine")
    if claims["iat"] < newest:
        raise Refused("older")
    if high - c["now"] > 3600 or claims["iat"] - c["now"] > 300:
        raise Refused("clock_behind")
    now = max(c["now"], high)
    if claims.get("nbf", claims["iat"]) - now > 300:
        raise Refused("not_yet")
    expires = claims.get("exp")
    if expires is not None and now >= expires + claims.get("grace", 0):
        raise Refused("expired")
    if "cov" in claims and not covers(claims["cov"], c.get("version", "")):
        raise Refused("not_covered")
    if "rel" in claims and not 0 < c.get("released", 0) <= claims["rel"]:
        raise Refused("not_covered")
    return "grace" if expires is not None and now >= expires else "active"


# ---- armor

def squeeze(s):
    return "".join(c for c in s if not c.isspace() and unicodedata.category(c) != "Cf" and c != ">")


def unarmor(data, kind):
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    everything = data.decode(encoding, "replace")
    found, others = set(), False
    for m in re.finditer(r"(?s)-----BEGIN (POLARGATE .*?)-----", everything):
        if m.group(1) != KINDS[kind][2]:
            others = True
            continue
        body, end, _ = everything[m.end() :].partition(f"-----END {m.group(1)}-----")
        if not end or not squeeze(body):
            malformed("no end")
        found.add(squeeze(body))
    if len(found) > 1 or (others and not found):
        malformed("more than one, or none of the kind")
    text = found.pop() if found else squeeze(everything)
    if not text:
        malformed("nothing")
    return text


# ---- vectors


def outcome(f, *args):
    try:
        return "ok", f(*args)
    except Refused as e:
        return e.args[0], None


def main(paths):
    agreed, disagreements = 0, []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            file = json.load(f)
        kind = os.path.basename(path).removesuffix(".json")
        for v in file["vectors"]:
            wrong = []

            def compare(what, want, have):
                if want != have or type(want) is not type(have):
                    wrong.append(f"{path}: {v['name']}: {what}: {want!r} wanted, {have!r} found")

            if kind == "armor":
                result, value = outcome(unarmor, base64.b64decode(v["data"]), v["kind"])
            elif kind == "v1":
                result, value = outcome(verify_lease, v["text"], [file["keys"][name] for name in v.get("pinned", [])])
            else:
                result, value = outcome(parse_text, kind, v["text"])
            compare("result", v["result"], result)
            if kind == "armor" and result == "ok":
                compare("text", v["text"], value)
            elif "claims" in v and result == "ok":
                compare("claims", v["claims"], value)
                for c in v.get("checks", []):
                    result, standing = outcome(check, value, c)
                    compare(c["name"], c["result"], standing or result)
            disagreements += wrong
            agreed += not wrong
    print(*disagreements, f"agrees on {agreed} vectors", sep="\n")
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
