"""A LAN in network namespaces: a switch, a house router that gives out addresses, and ports for machines. Everything is removed at the end.

    router  (dnsmasq or Kea, 10.77.0.1)  --veth--  lan: bridge kbm0 (10.77.0.2), taps of machines, our server

A LAN has addresses of one family: over IPv6 there is no IPv4 address of anybody's.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import kea  # noqa: E402

BRIDGE = "kbm0"


@dataclass(frozen=True)
class Addresses:
    """Of a LAN."""

    family: int
    prefix: str
    router: str
    server: str
    first: str
    last: str

    @property
    def length(self):
        return self.prefix.split("/")[1]

    def plan(self):
        """As a BareMetalNetwork has it, with everything to give out."""
        return {f"ipv{self.family}": {"prefix": self.prefix, "dynamicRanges": [{"first": self.first, "last": self.last}], "gateway": self.router}}


IPV4 = Addresses(4, "10.77.0.0/24", "10.77.0.1", "10.77.0.2", "10.77.0.100", "10.77.0.200")
IPV6 = Addresses(6, "fd00:77::/64", "fd00:77::1", "fd00:77::2", "fd00:77::1000", "fd00:77::1fff")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Lan:
    """Use it as a context."""

    def __init__(self, folder: Path, at: Addresses = IPV4):
        self.folder, self.at = folder, at
        # Two runs at once do not meet.
        self.lan, self.router = f"kbm-lan-{os.getpid()}", f"kbm-router-{os.getpid()}"
        self.dhcp = None
        self.taps = 0

    def __enter__(self):
        try:
            for name in (self.lan, self.router):
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            ip("-n", self.lan, "link", "add", BRIDGE, "type", "bridge")
            self._address(self.lan, self.at.server, BRIDGE)
            ip("-n", self.lan, "link", "set", BRIDGE, "up")
            ip("-n", self.lan, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.router)
            ip("-n", self.lan, "link", "set", "up0", "master", BRIDGE, "up")
            self._address(self.router, self.at.router, "eth0")
            ip("-n", self.router, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self, namespace, address, link):
        # Nobody else has it: it need not be asked for a second whether somebody does.
        ip("-n", namespace, "addr", "add", f"{address}/{self.at.length}", "dev", link, *(("nodad",) if self.at.family == 6 else ()))

    def __exit__(self, *_):
        if self.dhcp:
            self.dhcp.kill()
            self.dhcp.wait()
        for name in (self.lan, self.router):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)

    def house_router(self, recipe=""):
        """The DHCP server of a router bought in a shop: addresses, itself as gateway, and nothing about booting but what a recipe for dnsmasq says."""
        (self.folder / "dnsmasq.conf").write_text(recipe)
        command = [
            *("dnsmasq", "--no-daemon", f"--conf-file={self.folder}/dnsmasq.conf", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root"),
            *("--log-dhcp", f"--dhcp-leasefile={self.folder}/leases"),
        ]
        if self.at.family == 6:
            command += ["--enable-ra", f"--dhcp-range={self.at.first},{self.at.last},{self.at.length},1h"]
        else:
            command += [f"--dhcp-range={self.at.first},{self.at.last},1h", f"--dhcp-option=3,{self.at.router}"]
        self._serve(command)

    def kea(self, tree):
        """The same by Kea."""
        folder = self.folder / "kea-of-the-router"
        folder.mkdir(exist_ok=True)
        # Raw sockets, or it cannot answer a machine that has no address yet.
        plan = {"prefix": self.at.prefix, "first": self.at.first, "last": self.at.last, "gateway": self.at.router, "raw": True}
        self._serve(*kea.server(tree, folder, "eth0", plan))

    def _serve(self, command, environment=None):
        log = open(self.folder / "router.log", "a")
        self.dhcp = subprocess.Popen(self.inside(command, self.router), stdout=log, stderr=log, env=environment)

    def inside(self, command, namespace=None):
        return ["ip", "netns", "exec", namespace or self.lan, *map(str, command)]

    def tap(self):
        """A port of the switch for one machine."""
        name = f"tap{self.taps}"
        self.taps += 1
        ip("-n", self.lan, "tuntap", "add", "dev", name, "mode", "tap")
        ip("-n", self.lan, "link", "set", name, "master", BRIDGE, "up")
        return name
