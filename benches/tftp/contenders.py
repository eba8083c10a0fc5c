"""The servers: how each is found, started and stopped, and what it costs."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import machine

PORT = 69


class Server:
    """One that runs, at an address of its own."""

    def __init__(self, name, host, command):
        self.name, self.address = name, f"{host}:{PORT}"
        # It has a process for each transfer and waits for none of them, so the kernel adds them to nobody's account.
        self.countable = name != "tftpd-hpa"
        self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for_port(name, self.child, host)

    def processor_seconds(self):
        return machine.processor_seconds(self.child.pid) if self.countable else None

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def find(folder):
    """Paths of the peers' programs."""
    dnsmasq = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin")
    if not dnsmasq:
        raise SystemExit("bench-tftp: dnsmasq is missing: `scripts/setup --bench` installs it")
    return {"dnsmasq": dnsmasq, "tftpd-hpa": unpacked(folder, "tftpd-hpa", "usr/sbin/in.tftpd"), "atftpd": unpacked(folder, "atftpd", "usr/sbin/atftpd")}


def unpacked(folder, package, program):
    """A program of a Debian package that is not installed."""
    path = folder / package / program
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda p: p.stat().st_mtime)
        subprocess.run(["dpkg-deb", "-x", archive, folder / package], check=True)
    return path


def start(program, peers, files):
    """All servers, with the files of a folder. A peer that has no answer to `windowsize` sends block by block, whatever it is asked for."""
    commands = [
        ("kube-baremetal", lambda host: [program, "serve", "--address", f"{host}:{PORT}", "--folder", files]),
        ("kube-baremetal, one port", lambda host: [program, "serve", "--address", f"{host}:{PORT}", "--folder", files, "--single-port"]),
        ("tftpd-hpa", lambda host: [peers["tftpd-hpa"], "--foreground", "--address", f"{host}:{PORT}", "--user", "root", "--secure", files]),
        (
            "dnsmasq",
            lambda host: [peers["dnsmasq"], "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--bind-interfaces"]
            + [f"--listen-address={host}", "--enable-tftp", f"--tftp-root={files}", "--tftp-max=1000", "--log-facility=/dev/null"],
        ),
        (
            "atftpd",
            lambda host: [peers["atftpd"], "--daemon", "--no-fork", "--user", "root.root", "--bind-address", host, "--port", PORT, "--maxthread", 1000]
            + ["--logfile", "/dev/null", "--verbose=0", files],
        ),
    ]
    servers = []
    try:
        for number, (name, command) in enumerate(commands):
            host = f"127.0.1.{number + 1}"
            servers.append(Server(name, host, command(host)))
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def wait_for_port(name, child, host):
    """Until somebody is bound to the port, which takes no packets of theirs."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if child.poll() is not None:
            raise SystemExit(f"bench-tftp: {name} ended at once with status {child.returncode}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, PORT))
            except OSError:
                return
        time.sleep(0.05)
    raise SystemExit(f"bench-tftp: {name} does not listen on {host}:{PORT}")
