#!/usr/bin/env python3
"""An agent of Kube BareMetal in Python, written from the protocol's description and sharing no code with the server.

It keeps the wire honest in two ways:

  agent_client.py vectors DIR     checks the recorded vectors
  agent_client.py run ...         plays one machine against a running server: boots, opens a session, obeys orders
                                  (it has no disk: it answers as if it had written and verified), asks for its seed

Standard library, and the package `cryptography` (Debian: python3-cryptography) for Ed25519, X25519, HKDF and ChaCha20-Poly1305.
"""

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import pathlib
import socket
import ssl
import struct
import sys
import urllib.parse

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SERVER_NAME = "kube-baremetal-netboot"
ENCODING_DER = 2  # of the ssl module's certificate objects
RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


def b64(data):
    return base64.b64encode(data).decode()


# --- signatures -------------------------------------------------------------------------------------------------------


def signing_input(method, path, session, sequence, body):
    digest = hashlib.sha256(body).hexdigest()
    return f"kbm-agent-v1\n{method}\n{path}\n{session}\n{sequence}\n{digest}\n".encode()


def thumbprint(signing_key, sealing_key):
    return hashlib.sha256(f"{signing_key}\n{sealing_key}\n".encode()).hexdigest()


# --- tokens: an agent only carries them; this is the server's side, to check the recorded one -------------------------


def token_claims(token, key, kind):
    version, payload, tag = token.split(".")
    assert version == "kbm1", version
    want = hmac.new(key, f"{kind}\n{payload}".encode(), hashlib.sha256).digest()
    got = base64.urlsafe_b64decode(tag + "=" * (-len(tag) % 4))
    assert hmac.compare_digest(want, got), "the token's HMAC differs"
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


# --- seeds: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305 --------------------

KEM = b"KEM" + struct.pack(">H", 0x0020)
SUITE = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, 0x0003)
INFO = b"kube-baremetal seed v1"


def labeled_extract(suite, salt, label, ikm):
    return hmac.new(salt or b"\0" * 32, b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()


def labeled_expand(suite, prk, label, info, length):
    labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=labeled).derive(prk)


def derive_sealing_key(ikm):
    prk = labeled_extract(KEM, b"", b"dkp_prk", ikm)
    return X25519PrivateKey.from_private_bytes(labeled_expand(KEM, prk, b"sk", b"", 32))


def open_seed(sealed, private):
    enc = base64.b64decode(sealed["encapsulatedKey"])
    public = private.public_key().public_bytes(*RAW)
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    prk = labeled_extract(KEM, b"", b"eae_prk", dh)
    shared = labeled_expand(KEM, prk, b"shared_secret", enc + public, 32)
    context = b"\x00" + labeled_extract(SUITE, b"", b"psk_id_hash", b"") + labeled_extract(SUITE, b"", b"info_hash", INFO)
    secret = labeled_extract(SUITE, shared, b"secret", b"")
    key = labeled_expand(SUITE, secret, b"key", context, 32)
    nonce = labeled_expand(SUITE, secret, b"base_nonce", context, 12)
    bound = f"{sealed['orderId']}\n{sealed['instanceUid']}".encode()
    plain = ChaCha20Poly1305(key).decrypt(nonce, base64.b64decode(sealed["ciphertext"]), bound)
    return json.loads(plain)


# --- TLS that trusts one CA by the digest of its public key -----------------------------------------------------------


def spki(certificate):
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(certificate.public_key().public_bytes(*form)).hexdigest()


def check_chain(chain, pin):
    """The CA is in the chain and has the pin; it signed the first certificate; that one carries the server's name."""
    leaf = chain[0]
    ca = next((c for c in chain[1:] if spki(c) == pin), None)
    if ca is None:
        raise ssl.SSLError("no certificate of the server has the pinned public key")
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    if SERVER_NAME not in names:
        raise ssl.SSLError(f"the server's certificate is for {names}")


class PinnedConnection(http.client.HTTPSConnection):
    def __init__(self, host, port, pin, source=None):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # judged below: the clock of a machine is not to be trusted
        super().__init__(host, port, context=context, timeout=60, source_address=source)
        self.pin = pin

    def connect(self):
        super().connect()
        # Python 3.13 has this in public; before, only the object below has it.
        get = getattr(self.sock, "get_unverified_chain", None) or self.sock._sslobj.get_unverified_chain
        chain = [c if isinstance(c, bytes) else c.public_bytes(ENCODING_DER) for c in get()]
        check_chain([x509.load_der_x509_certificate(c) for c in chain], self.pin)


# --- the agent --------------------------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, status, error):
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status, self.code = status, error.get("code")


class Agent:
    def __init__(self, uuid, mac, signing=None, sealing=None):
        self.uuid, self.mac = uuid, mac
        self.signing = signing or Ed25519PrivateKey.generate()
        self.sealing = sealing or X25519PrivateKey.generate()
        self.session, self.sequence, self.connection = "", 0, None

    @property
    def signing_key(self):
        return b64(self.signing.public_key().public_bytes(*RAW))

    @property
    def sealing_key(self):
        return b64(self.sealing.public_key().public_bytes(*RAW))

    def boot(self, url):
        """Asks for the boot script as iPXE would; returns the words of the kernel line, or None for the local disk."""
        query = {"uuid": self.uuid, "mac": self.mac.replace(":", "-"), "platform": "pcbios", "buildarch": "x86_64"}
        parts = urllib.parse.urlsplit(url)
        plain = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=30)
        plain.request("GET", f"{parts.path}?{urllib.parse.urlencode(query)}")
        script = plain.getresponse().read().decode("ascii")
        assert script.startswith("#!ipxe\n"), script
        kernel = next((line for line in script.splitlines() if line.startswith("kernel ")), None)
        if kernel is None:
            return None
        return dict(word.split("=", 1) for word in kernel.split() if "=" in word)

    def call(self, method, path, body=b""):
        self.sequence += 1
        headers = {
            "kbm-sequence": str(self.sequence),
            "kbm-signature": b64(self.signing.sign(signing_input(method, path, self.session, self.sequence, body))),
        }
        if self.session:
            headers["kbm-session"] = self.session
        self.connection.request(method, path, body=body, headers=headers)
        response = self.connection.getresponse()
        answer = json.loads(response.read() or b"{}")
        if response.status != 200:
            raise Refused(response.status, answer)
        return answer

    def inventory(self):
        blank = {"state": "Blank", "fingerprint": hashlib.sha256(b"").hexdigest()}
        disk = {
            "name": "sda",
            "identity": {"serial": "PY" + self.mac.replace(":", "").upper(), "model": "Python disk"},
            "sizeBytes": 64 << 30,
            "logicalSectorBytes": 512,
            "physicalSectorBytes": 4096,
            "kind": "SSD",
            "transport": "sata",
            "removable": False,
            "remote": False,
            "readOnly": False,
            "discard": True,
            "contents": blank,
        }
        return {
            "system": {"uuid": self.uuid, "vendor": "Python", "product": "agent_client.py"},
            "cpu": {"architecture": "amd64", "sockets": 1, "cores": 2, "threads": 2},
            "memory": {"bytes": 4 << 30},
            "disks": [disk],
            "nics": [{"name": "eth0", "mac": self.mac, "link": True, "boot": True}],
            "firmware": {"mode": "BIOS"},
        }

    def open(self, words):
        server = urllib.parse.urlsplit(words["kbm.server"])
        self.connection = PinnedConnection(server.hostname, server.port, words["kbm.ca"])
        request = {
            "protocol": 1,
            "agentVersion": "agent_client.py",
            "token": words["kbm.token"],
            "bootMac": self.mac,
            "signingKey": self.signing_key,
            "sealingKey": self.sealing_key,
            "inventory": self.inventory(),
        }
        answer = self.call("POST", "/agent/v1/sessions", json.dumps(request).encode())
        self.session = answer["session"]
        return answer

    def obey(self, order):
        """Answers a destructive order as a machine that did it."""
        seed = None
        if order["kind"] == "Image" and order["image"]["configDrive"]:
            seed = open_seed(self.call("GET", "/agent/v1/seed"), self.sealing)
        result = {"orderId": order["id"], "kind": order["kind"], "outcome": "Succeeded"}
        disk, size = order["disk"]["identity"], order["disk"]["sizeBytes"]
        if order["kind"] == "Image":
            result["image"] = {
                "orderId": order["id"],
                "disk": disk,
                "digest": order["image"]["digest"],
                "writtenBytes": size,
                "verifiedBytes": size,
                "durationMs": 1,
            }
        else:
            result["erase"] = {
                "orderId": order["id"],
                "claimUid": (order.get("claim") or {}).get("uid", ""),
                "disk": disk,
                "sizeBytes": size,
                "method": "none, this is a simulation",
                "strength": "Overwritten",
                "durationMs": 1,
                "sampledBlocks": 1,
                "canaries": 1,
            }
        report = {"orderId": order["id"], "result": result}
        self.call("POST", "/agent/v1/reports", json.dumps(report).encode())
        return seed


def run(options):
    agent = Agent(options.uuid, options.mac)
    words = agent.boot(options.boot)
    if words is None:
        print("the server says: boot the local disk")
        return
    opened = agent.open(words)
    print(f"session {opened['session']} of {opened['discovery']}", flush=True)
    after = ""
    for _ in range(options.polls):
        answer = agent.call("GET", f"/agent/v1/order?after={after}")
        order = answer["order"]
        print(f"{order['kind']} {order['id']} {answer['note']}".rstrip(), flush=True)
        if order["kind"] in ("Reboot", "PowerOff"):
            return
        if order["kind"] in ("Image", "Erase"):
            seed = agent.obey(order)
            after = order["id"]
            if seed is not None:
                print("seed: " + ", ".join(sorted(seed["files"])), flush=True)


# --- sharing ----------------------------------------------------------------------------------------------------------


def piece_set(text):
    """The number of pieces and those that are in a set: LEB128 count, then a bitmap or the lengths of runs, absent ones first."""
    data = base64.b64decode(text, validate=True)
    at = 1

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    count = number()
    if data[0] == 0:
        return count, [p for p in range(count) if data[at + p // 8] >> (p % 8) & 1]
    assert data[0] == 1, data[0]
    pieces, place = [], 0
    while at < len(data):
        start = place + number()
        place = start + number()
        pieces += range(start, place)
    return count, pieces


# --- vectors ----------------------------------------------------------------------------------------------------------


def check_vectors(folder):
    def load(name):
        return json.loads((pathlib.Path(folder) / name).read_text())

    v = load("signature.json")
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["privateKey"]))
    text = signing_input(v["method"], v["path"], v["session"], v["sequence"], v["body"].encode())
    assert text.decode() == v["signingInput"], text
    assert b64(key.public_key().public_bytes(*RAW)) == v["publicKey"]
    assert b64(key.sign(text)) == v["signature"]
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(v["publicKey"])).verify(base64.b64decode(v["signature"]), text + b"x")
        raise AssertionError("a changed text verifies")
    except InvalidSignature:
        pass

    v = load("token.json")
    for kind in ("boot", "guest"):
        assert token_claims(v[kind]["token"], bytes.fromhex(v["key"]), kind) == v[kind]["claims"]

    v = load("session.json")
    agent = Agent(
        v["request"]["inventory"]["system"]["uuid"],
        v["request"]["bootMac"],
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["signingPrivateKey"])),
        derive_sealing_key(bytes.fromhex(v["sealingIkm"])),
    )
    assert agent.signing_key == v["request"]["signingKey"]
    assert agent.sealing_key == v["request"]["sealingKey"]
    assert thumbprint(agent.signing_key, agent.sealing_key) == v["thumbprint"]
    assert agent.inventory() == v["request"]["inventory"], "what this agent sends"
    assert set(v["response"]) >= {"session", "discovery", "protocol", "pollSeconds"}

    v = load("order.json")
    assert v["order"]["kind"] == "Image" and v["order"]["image"]["configDrive"] is True
    assert v["order"]["disk"]["expected"] == [{"state": "Blank"}, {"state": "Interrupted", "instanceUid": v["order"]["claim"]["uid"]}]

    v = load("seed.json")
    seed = open_seed(v["sealed"], derive_sealing_key(bytes.fromhex(v["sealingIkm"])))
    assert seed == v["seed"], seed

    v = load("share.json")
    for recorded in v["sets"].values():
        assert piece_set(recorded["base64"]) == (recorded["count"], recorded["pieces"]), recorded
    assert piece_set(v["request"]["held"]) == (v["request"]["pieces"], [0, 1, 2, 500])
    assert [peer["address"].rsplit(":", 1)[1] for peer in v["response"]["peers"]] == ["40123", "40124"]
    print("all vectors agree")


def main():
    parser = argparse.ArgumentParser(description="an independent agent of Kube BareMetal")
    commands = parser.add_subparsers(dest="command", required=True)
    vectors = commands.add_parser("vectors", help="check the recorded vectors")
    vectors.add_argument("folder", nargs="?", default=pathlib.Path(__file__).parent / "vectors")
    play = commands.add_parser("run", help="play one machine")
    play.add_argument("--boot", required=True, help="URL of the boot script, http://HOST:PORT/boot/ipxe")
    play.add_argument("--uuid", required=True)
    play.add_argument("--mac", required=True)
    play.add_argument("--polls", type=int, default=10)
    options = parser.parse_args()
    try:
        if options.command == "vectors":
            check_vectors(options.folder)
        else:
            run(options)
    except (Refused, OSError, socket.timeout) as error:
        sys.exit(f"agent_client.py: {error}")


if __name__ == "__main__":
    main()
