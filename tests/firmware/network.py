"""A LAN in network namespaces: a switch, a house router that gives out addresses, and ports for machines. Everything is removed at the end.

    router  (dnsmasq, 10.77.0.1)  --veth--  lan: bridge kbm0 (10.77.0.2), taps of machines, our server
"""

import os
import subprocess
from pathlib import Path

BRIDGE = "kbm0"
NETWORK = "10.77.0"
ROUTER, SERVER = f"{NETWORK}.1", f"{NETWORK}.2"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Lan:
    """Use it as a context."""

    def __init__(self, folder: Path):
        self.folder = folder
        # Two runs at once do not meet.
        self.lan, self.router = f"kbm-lan-{os.getpid()}", f"kbm-router-{os.getpid()}"
        self.dnsmasq = None
        self.taps = 0

    def __enter__(self):
        try:
            for name in (self.lan, self.router):
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            ip("-n", self.lan, "link", "add", BRIDGE, "type", "bridge")
            ip("-n", self.lan, "addr", "add", f"{SERVER}/24", "dev", BRIDGE)
            ip("-n", self.lan, "link", "set", BRIDGE, "up")
            ip("-n", self.lan, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.router)
            ip("-n", self.lan, "link", "set", "up0", "master", BRIDGE, "up")
            ip("-n", self.router, "addr", "add", f"{ROUTER}/24", "dev", "eth0")
            ip("-n", self.router, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.dnsmasq:
            self.dnsmasq.kill()
            self.dnsmasq.wait()
        for name in (self.lan, self.router):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)

    def house_router(self):
        """The DHCP server of a router bought in a shop: addresses, itself as gateway, and nothing about booting."""
        log = open(self.folder / "dnsmasq.log", "a")
        command = [
            *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--user=root"),
            *(f"--dhcp-range={NETWORK}.100,{NETWORK}.200,1h", f"--dhcp-option=3,{ROUTER}", "--log-dhcp", f"--dhcp-leasefile={self.folder}/leases"),
        ]
        self.dnsmasq = subprocess.Popen(self.inside(command, self.router), stdout=log, stderr=log)

    def inside(self, command, namespace=None):
        return ["ip", "netns", "exec", namespace or self.lan, *map(str, command)]

    def tap(self):
        """A port of the switch for one machine."""
        name = f"tap{self.taps}"
        self.taps += 1
        ip("-n", self.lan, "tuntap", "add", "dev", name, "mode", "tap")
        ip("-n", self.lan, "link", "set", name, "master", BRIDGE, "up")
        return name
