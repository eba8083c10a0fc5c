#!/usr/bin/env python3
"""A power driver of one's own: Kube BareMetal's signed requests become commands on this host.

    POWER_KEY=whsec_... python3 service.py --listen 127.0.0.1:8420 --machines machines.json

machines.json names, for each machine, what each call runs (a list of words, no shell); `{soft}`, `{device}`, `{firmware}` and `{url}` are replaced by what came with the call:

    {"rack-3-7": {"on": ["snmpset", "...", "i", "1"], "off": ["..."], "cycle": ["..."], "state": ["..."]}}

`state` prints on, off or unknown. A command that fails tells why on its standard error. Calls that a machine has no command for are answered with 501.

The contract is in docs/reference/power.md, the signature is that of Standard Webhooks. Python's standard library is all it needs.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "power.kube-baremetal.io/v1"
# Seconds by which a request's time may be off.
TOLERANCE = 300
# Seconds that a command may take: an answer is waited for 12 s.
PATIENCE = 10
LARGEST = 64 * 1024


class Refused(Exception):
    """What is answered instead."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class Signatures:
    """Lets each genuine request through once."""

    def __init__(self, key):
        self.key = base64.b64decode(key.removeprefix("whsec_"), validate=True)
        if not 24 <= len(self.key) <= 64:
            raise SystemExit("POWER_KEY must be the base64 of 24 to 64 bytes: make one with `openssl rand -base64 32`")
        self.seen = {}
        self.lock = threading.Lock()

    def check(self, headers, body):
        identity, stamp, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
        now = time.time()
        if not (stamp.isascii() and stamp.isdigit()) or abs(now - int(stamp)) > TOLERANCE:
            raise Refused(401, "the request is too old, or the clocks differ by more than five minutes")
        signed = f"{identity}.{stamp}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.digest(self.key, signed, hashlib.sha256)).decode()
        if not any(hmac.compare_digest(wanted.encode(), given.encode()) for given in signatures.split()):
            raise Refused(401, "the signature is wrong: both sides need the same key")
        with self.lock:
            self.seen = {seen: until for seen, until in self.seen.items() if until > now}
            if identity in self.seen:
                raise Refused(401, "this request was here before")
            self.seen[identity] = now + 2 * TOLERANCE


def replaced(word, values):
    """Only what has a name here: a command may have braces of its own."""
    for name, value in values.items():
        word = word.replace("{" + name + "}", value)
    return word


def run(machines, request):
    """Runs what a request asks for, and returns what is answered."""
    if request.get("apiVersion") != VERSION:
        raise Refused(400, f"this service speaks {VERSION}")
    calls = machines.get(request.get("machine"))
    if calls is None:
        raise Refused(422, f"no machine {request.get('machine')!r} is known here")
    words = calls.get(request.get("call"))
    if words is None:
        raise Refused(501, f"{request.get('call')!r} is not set up for this machine")
    with_it = {name: str(request.get(name, "")).lower() if name != "url" else str(request.get(name, "")) for name in ("soft", "device", "firmware", "url")}
    command = [replaced(word, with_it) for word in words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    except OSError as error:
        raise Refused(500, f"{command[0]} does not run here: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Refused(500, f"{command[0]} took longer than {PATIENCE} s") from None
    if done.returncode != 0:
        raise Refused(500, (done.stderr.strip() or f"{command[0]} ended with {done.returncode}")[-500:])
    return {"state": done.stdout.strip() or "unknown"} if request["call"] == "state" else {}


def handler(signatures, machines):
    class Handler(BaseHTTPRequestHandler):
        timeout = 15

        def do_POST(self):
            try:
                length = self.headers.get("content-length", "")
                if not (length.isascii() and length.isdigit()) or int(length) > LARGEST:
                    raise Refused(413, "a body of at most 64 KiB is expected, with its length")
                body = self.rfile.read(int(length))
                signatures.check(self.headers, body)
                try:
                    request = json.loads(body)
                except ValueError:
                    raise Refused(400, "the body is no JSON") from None
                if not isinstance(request, dict):
                    raise Refused(400, "the body is no object")
                status, answer = 200, run(machines, request)
                print(f"{request['machine']}: {request['call']}", flush=True)
            except Refused as refused:
                status, answer = refused.status, {"error": str(refused)}
                print(f"refused with {refused.status}: {refused}", file=sys.stderr, flush=True)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:8420")
    parser.add_argument("--machines", required=True)
    arguments = parser.parse_args()
    key = os.environ.get("POWER_KEY")
    if not key:
        raise SystemExit("POWER_KEY is not set: it is the key that the Secret has, too")
    with open(arguments.machines, encoding="utf-8") as file:
        machines = json.load(file)
    host, _, port = arguments.listen.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), handler(Signatures(key), machines))
    server.daemon_threads = True
    print(f"listening at {server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
