"""Two LANs on one switch of ours: a native one for firmware, and VLAN 42 that only tagged frames of machines reach.

    router  (dnsmasq, 10.77.0.1 and 10.42.0.1: addresses in both, nothing about booting)  --+
    server  (kbm0 10.77.0.2 and kbm42 10.42.0.2, ours)  ------------------------------------+-- switch -- machines

Each of the router's and the server's cards is a port of its own, as if the switch had tagged nothing for them.
"""

import os
import subprocess
from pathlib import Path

from network import BRIDGE, IPV4, ip
from switch import Socket, Switch, Tap

NATIVE, TAGGED = 1, 42
TAGGED_CARD, TAGGED_ROUTER, TAGGED_SERVER = "kbm42", "10.42.0.1", "10.42.0.2"
JUMBO = 9000


class Lan:
    """Use it as a context, with the ports of a machine."""

    def __init__(self, folder: Path, ports):
        self.folder, self.sockets, self.at = folder, ports, IPV4
        self.router, self.server = f"kbm-vlan-router-{os.getpid()}", f"kbm-vlan-server-{os.getpid()}"
        self.switch = self.dnsmasq = None
        self.taps = 0

    def __enter__(self):
        try:
            for namespace in (self.router, self.server):
                ip("netns", "add", namespace)
                ip("-n", namespace, "link", "set", "lo", "up")
            hosts = [
                self.card(self.router, "eth0", IPV4.router, NATIVE),
                self.card(self.router, "eth42", TAGGED_ROUTER, TAGGED),
                self.card(self.server, BRIDGE, IPV4.server, NATIVE),
                self.card(self.server, TAGGED_CARD, TAGGED_SERVER, TAGGED),
            ]
            machine = [port.open(self.folder) for port in self.sockets]
            self.switch = Switch(hosts + machine)
            self.switch.__enter__()
            self.start_dnsmasq()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.dnsmasq:
            self.dnsmasq.kill()
            self.dnsmasq.wait()
        if self.switch:
            self.switch.__exit__()
        for namespace in (self.router, self.server):
            subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False)

    def card(self, namespace, name, address, vlan):
        """A tap of ours, moved to its host; it stays ours there."""
        tap = Tap(name=f"kbmv{os.getpid()}.{self.taps}", native=vlan).open()
        self.taps += 1
        ip("link", "set", tap.name, "netns", namespace, "name", name)
        ip("-n", namespace, "addr", "add", f"{address}/24", "brd", "+", "dev", name)
        ip("-n", namespace, "link", "set", name, "mtu", str(JUMBO), "up")
        return tap

    def start_dnsmasq(self):
        # Without a gateway: what is not in the same network is out of reach.
        command = [
            *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--interface=eth0", "--interface=eth42"),
            *("--user=root", "--no-ping", "--dhcp-range=10.77.0.100,10.77.0.200,1h", "--dhcp-range=10.42.0.100,10.42.0.200,1h"),
            *("--dhcp-option=3", "--log-dhcp", f"--dhcp-leasefile={self.folder}/leases"),
        ]
        log = open(self.folder / "dnsmasq.log", "a")
        self.dnsmasq = subprocess.Popen(self.inside(command, self.router), stdout=log, stderr=log)

    def inside(self, command, namespace=None):
        return ["ip", "netns", "exec", namespace or self.server, *map(str, command)]


def port(name, tagged=(), **further):
    """A machine's port: firmware's frames are of the native LAN."""
    return Socket(name=name, native=NATIVE, tagged=tagged, **further)
