"""The servers: how each is set up, started, and what it costs."""

import json
import os
import subprocess
import time

PACKAGES = ("kea-admin", "kea-dhcp4-server", "kea-common", "liblog4cplus-2.0.5", "libmariadb3", "libpq5")
FIRST, LAST = "10.64.16.0", "10.64.127.255"


def unpacked(folder):
    """Kea's programs and libraries, without installing them: the package would start a server."""
    tree = folder / "kea"
    if not (tree / "usr/sbin/perfdhcp").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    return tree


class Side:
    name = None

    def __init__(self, network, folder, program, tree):
        self.network, self.folder, self.program, self.tree = network, folder, program, tree

    def processor_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Ours(Side):
    name = "kube-baremetal"

    def start(self):
        from server import Server

        (self.folder / "loaders").mkdir()
        (self.folder / "loaders" / "undionly.kpxe").write_bytes(bytes(1000))
        server = Server(self.program, self.network, self.folder, self.folder / "loaders", address="10.64.0.2", log="warn")
        server.start("lan0=full")
        self.process = server.process
        plan = {"prefix": "10.64.0.0/16", "dynamicRanges": [{"first": FIRST, "last": LAST}], "gateway": "10.64.0.1"}
        server.create("baremetalnetworks", "BareMetalNetwork", "lan", {"ipv4": plan, "dhcp": "Full"})
        time.sleep(2)


class Kea(Side):
    name, persist = "Kea, leases on file", True

    def start(self):
        lib = self.tree / f"usr/lib/{os.uname().machine}-linux-gnu"
        subnet = {"id": 1, "subnet": "10.64.0.0/16", "pools": [{"pool": f"{FIRST} - {LAST}"}], "option-data": [{"name": "routers", "data": "10.64.0.1"}]}
        # Its clean-up is a program of its own at the place where the package installs it.
        leases = {"type": "memfile", "persist": self.persist, "name": str(self.folder / "leases.csv"), "lfc-interval": 0}
        logger = {"name": "kea-dhcp4", "output_options": [{"output": str(self.folder / "log")}], "severity": "ERROR"}
        interfaces = {"interfaces": ["lan0"], "dhcp-socket-type": "udp"}
        shared = {"valid-lifetime": 3600, "multi-threading": {"enable-multi-threading": True}}
        settings = {"Dhcp4": shared | {"interfaces-config": interfaces, "lease-database": leases, "subnet4": [subnet], "loggers": [logger]}}
        (self.folder / "kea.json").write_text(json.dumps(settings))
        places = {"KEA_PIDFILE_DIR": str(self.folder), "KEA_LOCKFILE_DIR": str(self.folder), "LD_LIBRARY_PATH": str(lib)}
        command = [self.tree / "usr/sbin/kea-dhcp4", "-c", self.folder / "kea.json"]
        self.process = self.network.start("server", self.folder / "output", *command, env=os.environ | places)
        time.sleep(2)


class KeaInMemory(Kea):
    name, persist = "Kea, leases in memory", False


class Dnsmasq(Side):
    name = "dnsmasq"

    def start(self):
        options = ["--interface=lan0", f"--dhcp-range={FIRST},{LAST},255.255.0.0,1h", f"--dhcp-leasefile={self.folder}/leases", "--dhcp-lease-max=100000"]
        self.process = self.network.dnsmasq("server", self.folder, *options)
        time.sleep(1)


SIDES = (Ours, Kea, KeaInMemory, Dnsmasq)
