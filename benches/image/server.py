"""An HTTP server that is fast and not ours: nginx with sendfile, one folder, no encryption. It counts what it sent.

It runs in the foreground as a child, with its files in a folder of its own; the host's nginx service, if any, is not touched.
"""

import os
import shutil
import socket
import subprocess
import time

import peers

CONFIGURATION = """
daemon off;
user root;
worker_processes auto;
pid {state}/pid;
error_log {state}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format counted '$bytes_sent $status $request_uri "$http_range"';
  access_log {state}/access.log counted;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {state}/temp; proxy_temp_path {state}/temp; fastcgi_temp_path {state}/temp; uwsgi_temp_path {state}/temp; scgi_temp_path {state}/temp;
  server {{
    {listen}
    root {root};
  }}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Server:
    """nginx over `root`. Use it as a context."""

    def __init__(self, root, state, addresses=("127.0.0.1",)):
        self.root, self.state, self.addresses = root, state, addresses

    def __enter__(self):
        shutil.rmtree(self.state, ignore_errors=True)
        (self.state / "temp").mkdir(parents=True)
        self.port = free_port()
        listen = " ".join(f"listen {address}:{self.port} reuseport;" for address in self.addresses)
        configuration = self.state / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(state=self.state, listen=listen, root=self.root))
        program, reason = peers.cached("nginx")
        if reason:
            raise SystemExit(f"bench-image: nginx {reason}")
        self.child = subprocess.Popen([program, "-e", str(self.state / "error.log"), "-c", str(configuration)])
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((self.addresses[0], self.port), 1).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self.child.poll() is not None:
                    raise SystemExit(f"bench-image: nginx did not start; see {self.state}/error.log") from None
                time.sleep(0.05)

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()

    def url(self, name, address=None):
        return f"http://{address or self.addresses[0]}:{self.port}/{name}"

    def forget(self):
        """Begins to count anew."""
        os.truncate(self.state / "access.log", 0)

    def sent(self):
        """Bytes sent since then, headers included, and in how many answers."""
        # The log's lines are written when an answer is complete, which can be a moment after the client has seen its end.
        time.sleep(0.2)
        lines = (self.state / "access.log").read_text().splitlines()
        return sum(int(line.split()[0]) for line in lines), len(lines)

    def warm(self, path):
        """Brings a file into the page cache, so that the server's disk is not what is measured."""
        with open(path, "rb") as file:
            while file.read(1 << 22):
                pass
