"""A verifier for exports of Keyward's audit log, written from docs/audit.md and docs/approvals.md alone, with Python's
standard library.

    python3 verify.py <folder> --public-key <pem> [--known <checkpoint>] [--witness <verifier key>]

Prints what was proven, or the first thing that is wrong, as one line of JSON; exits 0 or 1. The options may be repeated.
Without arguments it takes them from standard input: each line is a JSON array of them, and is answered by a line.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import urllib.parse
from datetime import datetime

FILE_ENTRIES = 65536
WIDTH = 256
HASH = 32
LAST_SECOND = 8640000000000


class Wrong(Exception):
    """The first thing that is wrong."""

    def __init__(self, problem, **facts):
        super().__init__(problem)
        self.report = {"problem": problem, **facts}


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def decode_base64(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


# --- ECDSA on P-256 (FIPS 186-5, SEC 1) ---

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def add(a, b):
    """The sum of two points of the curve; None is the point at infinity."""
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(k, point):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point = add(point, point)
        k >>= 1
    return result


def der_integers(signature):
    """r and s of SEQUENCE { INTEGER, INTEGER } in DER."""
    if len(signature) < 2 or signature[0] != 0x30 or signature[1] != len(signature) - 2:
        raise ValueError("not a signature in DER")
    numbers, at = [], 2
    while at < len(signature):
        if signature[at] != 0x02:
            raise ValueError("not an INTEGER")
        body = signature[at + 2 : at + 2 + signature[at + 1]]
        padded = len(body) > 1 and body[0] == 0 and body[1] < 0x80
        if len(body) == 0 or len(body) != signature[at + 1] or body[0] >= 0x80 or padded:
            raise ValueError("not a positive INTEGER in DER")
        numbers.append(int.from_bytes(body, "big"))
        at += 2 + len(body)
    r, s = numbers
    return r, s


def ecdsa_verifies(point, message, signature):
    try:
        r, s = der_integers(signature)
    except (ValueError, IndexError):
        return False
    if not (0 < r < N and 0 < s < N):
        return False
    w = pow(s, -1, N)
    e = int.from_bytes(sha256(message), "big")
    found = add(multiply(e * w % N, G), multiply(r * w % N, point))
    return found is not None and found[0] % N == r


def public_key(pem):
    """The key's SPKI in DER, and its point."""
    body = re.search(r"-----BEGIN PUBLIC KEY-----(.*?)-----END PUBLIC KEY-----", pem, re.S)
    der = base64.b64decode("".join(body.group(1).split()))
    if len(der) != len(SPKI) + 65 or not der.startswith(SPKI + b"\x04"):
        raise ValueError("not a key on P-256")
    x, y = int.from_bytes(der[-64:-32], "big"), int.from_bytes(der[-32:], "big")
    if (y * y - (x * x * x - 3 * x + B)) % P != 0:
        raise ValueError("not a point on the curve")
    return der, (x, y)


# --- Ed25519 (RFC 8032), for witnesses ---

Q = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, Q) % Q


def edwards_add(a, b):
    product = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, Q)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, Q)
    return x % Q, y % Q


def edwards_multiply(k, point):
    result = (0, 1)
    while k:
        if k & 1:
            result = edwards_add(result, point)
        point = edwards_add(point, point)
        k >>= 1
    return result


def edwards_point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    if (x * x - square) % Q != 0:
        x = x * pow(2, (Q - 1) // 4, Q) % Q
    if (x * x - square) % Q != 0 or y >= Q:
        raise ValueError("not a point")
    return (Q - x if x & 1 != sign else x), y


def ed25519_verifies(key, message, signature):
    try:
        a, r = edwards_point(key), edwards_point(signature[:32])
    except ValueError:
        return False
    s = int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    base = edwards_point((4 * pow(5, -1, Q) % Q).to_bytes(32, "little"))
    return s < L and edwards_multiply(s, base) == edwards_add(r, edwards_multiply(h, a))


# --- Checkpoints ---


def take_apart(data, keys, name_line):
    """Lines, text and signatures of a note that one of the keys has signed, by the name on that line."""
    if len(data) > 1048576:
        raise Wrong("CHECKPOINT")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong("CHECKPOINT")
    at = note.rfind("\n\n")
    if at < 0 or not note.endswith("\n") or re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", note):
        raise Wrong("CHECKPOINT")
    text, lines, signatures = note[: at + 1], note[at + 2 : -1].split("\n"), []
    if len(lines) > 100:
        raise Wrong("CHECKPOINT")
    for line in lines:
        parts = re.fullmatch("\u2014 ([^\n]+) ([A-Za-z0-9+/=]+)", line)
        try:
            signature = decode_base64(parts.group(2))
        except (AttributeError, ValueError):
            raise Wrong("CHECKPOINT")
        if len(signature) < 5:
            raise Wrong("CHECKPOINT")
        signatures.append((parts.group(1), signature[:4], signature[4:]))
    lines = text[:-1].split("\n")
    if len(lines) <= name_line:
        raise Wrong("CHECKPOINT")
    verified = 0
    for der, point in keys:
        for name, key_id, signature in signatures:
            if name == lines[name_line] and key_id == sha256(der)[:4]:
                if not ecdsa_verifies(point, text.encode(), signature):
                    raise Wrong("CHECKPOINT")
                verified += 1
    if verified == 0:
        raise Wrong("CHECKPOINT")
    return lines, text, signatures


def open_note(data, keys, name_line):
    return take_apart(data, keys, name_line)[0]


def open_checkpoint(data, keys):
    """Origin, size, root, text and signatures of a checkpoint that one of the keys has signed."""
    lines, text, signatures = take_apart(data, keys, 0)
    if len(lines) < 3 or "" in lines or not re.fullmatch("0|[1-9][0-9]*", lines[1]):
        raise Wrong("CHECKPOINT")
    try:
        root = decode_base64(lines[2])
    except ValueError:
        raise Wrong("CHECKPOINT")
    if len(root) != HASH or int(lines[1]) >= 2**53:
        raise Wrong("CHECKPOINT")
    return {"origin": lines[0], "size": int(lines[1]), "root": root, "text": text, "signatures": signatures}


def require_witness(checkpoint, verifier_key):
    name, key_hex, typed = verifier_key.split("+", 2)
    typed = decode_base64(typed)
    key_id = sha256(name.encode(), b"\n", typed)[:4]
    if key_id.hex() != key_hex or typed[0] != 4 or len(typed) != 33:
        raise ValueError("not a witness's verifier key")
    found = [s for n, i, s in checkpoint["signatures"] if n == name and i == key_id]
    for signature in found:
        time = int.from_bytes(signature[:8], "big")
        message = f"cosignature/v1\ntime {time}\n{checkpoint['text']}".encode()
        if len(signature) != 72 or time > LAST_SECOND or not ed25519_verifies(typed[1:], message, signature[8:]):
            raise Wrong("CHECKPOINT")
    if not found:
        raise Wrong("CHECKPOINT")


# --- The tree, in tiles ---


def tree_hash(hashes):
    """MTH, by its definition, over what is taken for leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01", tree_hash(hashes[:k]), tree_hash(hashes[k:]))


def tile_path(level, index, width):
    groups = [index % 1000]
    while index >= 1000:
        index //= 1000
        groups.insert(0, index % 1000)
    place = "/".join(f"x{g:03}" for g in groups[:-1]) + ("/" if len(groups) > 1 else "") + f"{groups[-1]:03}"
    return f"tile/{level}/{place}" + ("" if width == WIDTH else f".p/{width}")


class Tree:
    def __init__(self, folder, size, root):
        self.folder, self.size, self.whole, self.last = folder, size, {}, []
        level = 0
        while size // WIDTH**level > 0:
            count = size // WIDTH**level
            width = count % WIDTH
            self.last.append(self.read(level, count // WIDTH, width) if width else [])
            level += 1
        if self.root_over(self.last) != root:
            raise Wrong("ROOT")

    def read(self, level, index, width):
        path = tile_path(level, index, width)
        try:
            with open(os.path.join(self.folder, path), "rb") as file:
                data = file.read()
        except OSError:
            raise Wrong("TILE", file=path)
        if len(data) != width * HASH:
            raise Wrong("TILE", file=path)
        return [data[i : i + HASH] for i in range(0, len(data), HASH)]

    @staticmethod
    def root_over(last_tiles):
        rest = []
        for hashes in last_tiles:
            hashes = hashes + rest
            rest = [tree_hash(hashes)] if hashes else []
        return rest[0] if rest else sha256()

    def tile(self, level, index):
        if index == self.size // WIDTH**level // WIDTH:
            return self.last[level]
        if self.whole.get(level, (None, None))[0] != index:
            hashes = self.read(level, index, WIDTH)
            if tree_hash(hashes) != self.tile(level + 1, index // WIDTH)[index % WIDTH]:
                raise Wrong("TILE", file=tile_path(level, index, WIDTH))
            self.whole[level] = (index, hashes)
        return self.whole[level][1]

    def root_at(self, size):
        last, level = [], 0
        while size // WIDTH**level > 0:
            count = size // WIDTH**level
            width = count % WIDTH
            last.append(self.tile(level, count // WIDTH)[:width] if width else [])
            level += 1
        return self.root_over(last)


# --- Generations ---


def generation_of(name, environment):
    """Which generation of the environment's log the origin is of; 0 for another log's."""
    first = f"keyward/{environment}"
    if name == first:
        return 1
    found = re.fullmatch("[1-9][0-9]{0,8}", name[len(first) + 1 :]) if name.startswith(first + "/") else None
    return int(found.group()) if found and found.group() != "1" else 0


def verify_resumptions(folder, tree, origin, keys):
    path = os.path.join(folder, "resumptions.jsonl")
    data = read(path, "rb") if os.path.exists(path) else b""
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise Wrong("RESUMPTION")
    environment = origin.split("/")[1] if origin.startswith("keyward/") else ""
    expected = origin
    while generation_of(expected, environment) > 1:
        if not lines:
            raise Wrong("RESUMPTION")
        leaf = lines.pop(0)
        try:
            note = json.loads(leaf)["detail"]["resumption"]
            text = open_note(note.encode(), keys, 1)
            heading, name, _, left_size, left_root, start, size, root = text
            heads = [(text[2], left_size, left_root), (start, size, root)]
            generations = [generation_of(each, environment) for each, _, _ in heads]
            fits = heading == "keyward/v1/audit-resume" and name == expected
            fits = fits and all(0 < each < generation_of(expected, environment) for each in generations)
            for _, number, hash_ in heads:
                fits = fits and re.fullmatch("0|[1-9][0-9]*", number) and int(number) < 2**53
                fits = fits and len(decode_base64(hash_)) == HASH
        except (ValueError, KeyError, TypeError, AttributeError, Wrong):
            raise Wrong("RESUMPTION")
        if not fits or int(size) >= tree.size or tree.root_at(int(size)) != decode_base64(root):
            raise Wrong("RESUMPTION")
        if tree.tile(0, int(size) // WIDTH)[int(size) % WIDTH] != sha256(b"\x00", leaf):
            raise Wrong("RESUMPTION")
        expected = start
    if lines:
        raise Wrong("RESUMPTION")


# --- Approvals (docs/approvals.md) ---

DECIDING = {
    "keyward.v1.ApprovalService/ApproveOperation": "approve",
    "keyward.v1.ApprovalService/RejectOperation": "reject",
}
MENTIONS = (b"ApprovalService/", b"RegisterPasskey", b'"pendingOperation"')
EC_SPKI, ED_SPKI = SPKI + b"\x04", bytes.fromhex("302a300506032b6570032100")
RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def decode_base64url(text):
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise ValueError("not base64url")
    return data


def der(data, at):
    """The tag, the body and the end of what begins there in DER."""
    tag, length, at = data[at], data[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    if at + length > len(data):
        raise ValueError("cut")
    return tag, data[at : at + length], at + length


def rsa_verifies(spki, message, signature):
    _, outer, _ = der(spki, 0)
    if not outer.startswith(RSA_ALGORITHM):
        raise ValueError("not an RSA key")
    _, bits, _ = der(outer, len(RSA_ALGORITHM))
    _, numbers, _ = der(bits, 1)
    _, modulus, at = der(numbers, 0)
    _, exponent, _ = der(numbers, at)
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    size = (n.bit_length() + 7) // 8
    digest = SHA256_INFO + sha256(message)
    padded = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
    return len(signature) == size and pow(int.from_bytes(signature, "big"), e, n).to_bytes(size, "big") == padded


def passkey_verifies(algorithm, spki, message, signature):
    if algorithm == -7 and spki.startswith(EC_SPKI) and len(spki) == len(EC_SPKI) + 64:
        x, y = int.from_bytes(spki[-64:-32], "big"), int.from_bytes(spki[-32:], "big")
        on_curve = (y * y - (x * x * x - 3 * x + B)) % P == 0
        return on_curve and ecdsa_verifies((x, y), message, signature)
    if algorithm == -8 and spki.startswith(ED_SPKI) and len(spki) == len(ED_SPKI) + 32:
        return len(signature) == 64 and ed25519_verifies(spki[-32:], message, signature)
    return algorithm == -257 and rsa_verifies(spki, message, signature)


def is_origin_of(relying_party, origin):
    url = urllib.parse.urlsplit(origin)
    if relying_party == "localhost":
        return url.hostname == "localhost"
    within = url.hostname == relying_party or (url.hostname or "").endswith("." + relying_party)
    return url.scheme == "https" and within


def milliseconds(time):
    """Since 1970."""
    return round(datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() * 1000)


def with_length(text):
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


class Approvals:
    """What the entries say of approvals, one after the other; each raises unless it is borne out."""

    def __init__(self, origin, whole):
        self.environment, self.whole, self.pending, self.passkeys = origin.split("/")[1], whole, {}, {}

    def check(self, index, line):
        if not any(word in line for word in MENTIONS):
            return
        try:
            entry = json.loads(line)
            method, outcome, detail = entry["method"], entry["outcome"], entry.get("detail", {})
            if outcome == "APPROVAL_REQUIRED":
                asked = (method, entry["caller"], detail["requestDigest"])
                required = detail["approvalsRequired"]
                assert required >= 1
                self.pending.setdefault(detail["pendingOperation"], [asked, required, set(), False])
            elif outcome != "OK":
                pass
            elif "change" not in entry and (detail.get("repeated") is True or detail.get("validateOnly") is True):
                pass
            elif method == "keyward.v1.PasskeyService/RegisterPasskey":
                made = entry["change"]["after"]
                self.passkeys[entry["resource"].split("/")[1]] = (entry["caller"], decode_base64url(made["publicKey"]))
            elif method == "keyward.v1.ApprovalService/BreakGlass":
                assert entry["resource"] in self.pending or not self.whole
                if entry["resource"] in self.pending:
                    required = entry["change"]["after"]["rule"]["approvals"]
                    assert required >= 1
                    self.pending[entry["resource"]][1:3] = [required, set()]
            elif method in DECIDING:
                self.decided(entry, detail["evidence"])
            elif "approvers" in detail:
                self.done(entry, detail["pendingOperation"])
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError, IndexError):
            raise Wrong("APPROVAL", leafIndex=index)

    def decided(self, entry, evidence):
        approver, requester, operation = evidence["approver"], evidence["requester"], evidence["operation"]
        assert evidence["decision"] == DECIDING[entry["method"]] and approver == entry["caller"] != requester
        assert milliseconds(entry["time"]) <= milliseconds(evidence["expiresAt"])
        self.signed(evidence)
        known = self.passkeys.get(evidence["credentialId"])
        assert known is not None or not self.whole
        assert known is None or known == (approver, decode_base64url(evidence["publicKey"]))
        asked = (evidence["method"], requester, evidence["requestDigest"])
        assert operation in self.pending or not self.whole
        pending = self.pending.setdefault(operation, [asked, None, set(), False])
        assert pending[0] == asked and approver not in pending[2]
        if evidence["decision"] == "approve":
            pending[2].add(approver)

    def signed(self, evidence):
        digest, client_data = decode_base64url(evidence["requestDigest"]), decode_base64url(evidence["clientDataJson"])
        if "request" in evidence:
            assert sha256(decode_base64url(evidence["request"])) == digest
        uuid = re.search("/pendingOperations/([0-9a-f-]{36})$", evidence["operation"]).group(1)
        challenge = sha256(
            b"keyward/v1/approval\x00",
            bytes.fromhex(self.environment.replace("-", "")),
            bytes.fromhex(uuid.replace("-", "")),
            with_length(evidence["method"]),
            digest,
            with_length(evidence["requester"]),
            bytes([{"approve": 1, "reject": 2}[evidence["decision"]]]),
            milliseconds(evidence["expiresAt"]).to_bytes(8, "big"),
        )
        client, relying_party = json.loads(client_data), evidence["relyingPartyId"]
        assert client["type"] == "webauthn.get" and decode_base64url(client["challenge"]) == challenge
        assert client.get("crossOrigin") is not True and is_origin_of(relying_party, client["origin"])
        authenticator_data = decode_base64url(evidence["authenticatorData"])
        assert authenticator_data[:32] == sha256(relying_party.encode()) and authenticator_data[32] & 5 == 5
        key, signature = decode_base64url(evidence["publicKey"]), decode_base64url(evidence["signature"])
        assert passkey_verifies(evidence["algorithm"], key, authenticator_data + sha256(client_data), signature)

    def done(self, entry, operation):
        assert operation in self.pending or not self.whole
        if operation not in self.pending:
            return
        pending = self.pending[operation]
        (method, requester, _), required, approvers, is_done = pending
        assert (method, requester) == (entry["method"], entry["caller"]) and not is_done
        assert required is None or len(approvers) >= required
        pending[3] = True


# --- The export ---


def integer(digits):
    if digits.startswith("-"):
        raise ValueError("not an unsigned integer")
    return int(digits)


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


def read_description(folder):
    try:
        with open(os.path.join(folder, "export.json"), "rb") as file:
            data = file.read(65537)
            if len(data) > 65536:
                raise ValueError("too long")
            said = json.loads(data.decode("utf-8"), parse_int=integer, parse_constant=no_constant)
        first, size, origin = said["firstLeafIndex"], said["treeSize"], said["origin"]
        whole = all(type(value) is int for value in (first, size, said["format"]))
        fits = said["format"] == 1 and whole and 0 <= first <= size < 2**53 and (first % WIDTH == 0 or first == size)
    except (OSError, ValueError, KeyError, TypeError):
        raise Wrong("EXPORT")
    if not fits:
        raise Wrong("EXPORT")
    return first, size, origin


def entry_files(first, size):
    while first < size:
        end = min((first // FILE_ENTRIES + 1) * FILE_ENTRIES, size)
        yield f"entries/{first}.jsonl", first, end
        first = end


def verify_entries(folder, tree, first, approvals):
    files = list(entry_files(first, tree.size))
    entries = os.path.join(folder, "entries")
    for name in sorted(os.listdir(entries)) if os.path.isdir(entries) else []:
        if f"entries/{name}" not in [path for path, _, _ in files]:
            raise Wrong("FILE", file=f"entries/{name}")
    for index in range(first // WIDTH):
        tree.tile(0, index)
    for path, index, end in files:
        try:
            file = open(os.path.join(folder, path), "rb")
        except OSError:
            raise Wrong("ENTRY", leafIndex=index)
        with file:
            for line in file:  # of bytes: parted at 0a and nowhere else
                if index == end or not line.endswith(b"\n"):
                    raise Wrong("ENTRY", leafIndex=index)
                if sha256(b"\x00", line[:-1]) != tree.tile(0, index // WIDTH)[index % WIDTH]:
                    raise Wrong("ENTRY", leafIndex=index)
                approvals.check(index, line[:-1])
                index += 1
        if index < end:
            raise Wrong("ENTRY", leafIndex=index)


def verify(folder, keys, known, witnesses):
    first, size, origin = read_description(folder)
    try:
        with open(os.path.join(folder, "checkpoint"), "rb") as file:
            checkpoint = open_checkpoint(file.read(), keys)
    except OSError:
        raise Wrong("CHECKPOINT")
    if (checkpoint["origin"], checkpoint["size"]) != (origin, size):
        raise Wrong("EXPORT")
    for witness in witnesses:
        require_witness(checkpoint, witness)
    tree = Tree(folder, size, checkpoint["root"])
    verify_resumptions(folder, tree, origin, keys)
    for data in known:
        other = open_checkpoint(data, keys)
        if other["origin"] != origin:
            raise Wrong("ORIGIN")
        if other["size"] > size:
            raise Wrong("CUT")
        if tree.root_at(other["size"]) != other["root"]:
            raise Wrong("FORK")
    verify_entries(folder, tree, first, Approvals(origin, first == 0))
    return {"origin": origin, "treeSize": size, "firstLeafIndex": first, "root": checkpoint["root"].hex()}


def read(path, mode):
    with open(path, mode) as file:
        return file.read()


def run(arguments):
    """Whether the export is good; prints what is to be said of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for option in ("--public-key", "--known", "--witness"):
        parser.add_argument(option, action="append", default=[])
    given = parser.parse_args(arguments)
    keys = [public_key(read(path, "r")) for path in given.public_key]
    known = [read(path, "rb") for path in given.known]
    try:
        print(json.dumps(verify(given.folder, keys, known, given.witness)), flush=True)
        return True
    except Wrong as wrong:
        print(json.dumps(wrong.report), flush=True)
        return False


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for line in sys.stdin:
            run(json.loads(line))
    elif not run(sys.argv[1:]):
        sys.exit(1)
