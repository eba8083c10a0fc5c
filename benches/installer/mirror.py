"""A caching mirror of the Debian archive on loopback, the HTTP server around it, and the receiver of what an installer logs.

What never changes (packages, indexes by hash) is kept for ever; all else is fetched once for each run of the rig, so that every machine of a run sees one archive. The
archive behind it is the one that the host's own apt uses. It counts what it had to fetch: the installation that is counted should find all of it here.
"""

import hashlib
import http.server
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace

from machine import HOST

ARCHIVE = "/debian/"
# For one read of the archive behind; a file may take as many of them as it needs.
TIMEOUT = 60
TRIES = 3


class Unreachable(Exception):
    """The archive behind the mirror cannot be had, or lacks what is needed."""


@dataclass
class Counts:
    """What the archive behind was asked for."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def since(self, before):
        return Counts(self.files - before.files, self.bytes - before.bytes, self.seconds - before.seconds)


def upstream(suite):
    """The archive that the host's apt has for a suite."""
    said = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in said.stdout.splitlines():
        site, *rest = line.split()
        if rest == [suite, "main"] and site.startswith("http"):
            return site.rstrip("/")
    raise Unreachable(f"this host's apt names no archive for {suite}; name one with --mirror")


def _opener():
    """Goes through the proxy that apt is told to use, else the environment's."""
    said = subprocess.run(["apt-config", "dump", "--format", "%f %v%n", "Acquire::http::Proxy"], stdout=subprocess.PIPE, text=True)
    found = re.search(r"^Acquire::http::Proxy (http\S+)", said.stdout, re.M)
    handlers = [urllib.request.ProxyHandler({"http": found[1]})] if found else []
    return urllib.request.build_opener(*handlers)


class Mirror:
    """The archive's files by their path below its root. `add` puts in what it does not have."""

    def __init__(self, root, kept, session):
        self.root, self._kept, self._session = root, kept, session
        shutil.rmtree(session, ignore_errors=True)
        session.mkdir(parents=True)
        kept.mkdir(parents=True, exist_ok=True)
        self._opener = _opener()
        self._own, self._absent, self._locks = {}, set(), {}
        self._lock = threading.Lock()
        self._counts = Counts()

    def counts(self):
        with self._lock:
            return replace(self._counts)

    def add(self, path, file):
        """Answers a path with a file of ours."""
        self._own[path] = file

    def get(self, path):
        """The file, or None where the archive has none."""
        if path in self._own:
            return self._own[path]
        lasting = path.startswith("pool/") or "/by-hash/" in path
        file = (self._kept if lasting else self._session) / path
        with self._lock:
            lock = self._locks.setdefault(path, threading.Lock())
        # Two machines may ask for one file at the same time.
        with lock:
            if path in self._absent:
                return None
            if not file.exists() and not self._fetch(path, file):
                self._absent.add(path)
                return None
        return file

    def need(self, path):
        file = self.get(path)
        if file is None:
            raise Unreachable(f"{self.root} has no {path}")
        return file

    def _fetch(self, path, file):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        url = f"{self.root}/{urllib.parse.quote(path, safe='/+~:')}"
        started = time.monotonic()
        for attempt in range(TRIES):
            try:
                with self._opener.open(url, timeout=TIMEOUT) as answer, open(partial, "wb") as out:
                    shutil.copyfileobj(answer, out, 1 << 18)
                    wanted = answer.headers.get("Content-Length")
                if wanted is None or partial.stat().st_size == int(wanted):
                    break
                problem = "it was cut short"
            except urllib.error.HTTPError as error:
                if error.code in (403, 404, 410):
                    return False
                problem = error
            except OSError as error:
                problem = error
            if attempt == TRIES - 1:
                raise Unreachable(f"fetching {url}: {problem}")
            time.sleep(1 + attempt)
        with self._lock:
            self._counts.files += 1
            self._counts.bytes += partial.stat().st_size
            self._counts.seconds += time.monotonic() - started
        partial.rename(file)
        return True


def sha256(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Site:
    """The HTTP server: the mirror below /debian/, and `files` and `texts` by their path below the root. Use it as a context.

    iPXE, and nobody else, gets `scripts`: Debian's installer asks for the boot URL that DHCP names, too, and takes it for a preseed file.
    """

    def __init__(self, mirror, files):
        self.mirror, self.files, self.texts, self.scripts = mirror, files, {}, {}
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An idle connection must not keep its thread for ever.
            timeout = 600

            def do_GET(self):
                site._answer(self, with_body=True)

            def do_HEAD(self):
                site._answer(self, with_body=False)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self):
        """As machines see it."""
        return f"{HOST}:{self._server.server_port}"

    def _answer(self, request, with_body):
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        body, file, absent = None, None, 404
        if ".." in path.split("/"):
            pass
        elif path.startswith(ARCHIVE):
            try:
                file = self.mirror.get(path[len(ARCHIVE) :])
            except Unreachable:
                absent = 502
        else:
            texts = self.scripts if request.headers.get("User-Agent", "").startswith("iPXE") and path[1:] in self.scripts else self.texts
            file, text = self.files.get(path[1:]), texts.get(path[1:])
            body = text.encode() if text is not None else None
        length = file.stat().st_size if file else len(body or b"")
        request.send_response(200 if file or body is not None else absent)
        request.send_header("Content-Length", str(length))
        request.send_header("Content-Type", "application/octet-stream")
        request.end_headers()
        if with_body and file:
            with open(file, "rb") as opened:
                shutil.copyfileobj(opened, request.wfile, 1 << 18)
        elif with_body and body:
            request.wfile.write(body)


class Syslog:
    """What one installer logs, by the syslog protocol, into a file; `on_step` is called with each step of its menu. Use it as a context."""

    def __init__(self, file, on_step):
        self._file, self._on_step = file, on_step
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def port(self):
        return self._socket.getsockname()[1]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _listen(self):
        with open(self._file, "w", encoding="utf-8") as out:
            while not self._stop.is_set():
                try:
                    line = self._socket.recv(65536).decode(errors="replace").strip()
                except TimeoutError:
                    continue
                out.write(f"{line}\n")
                out.flush()
                if step := re.search(r"Menu item '(\S+)' selected", line):
                    self._on_step(step[1])
