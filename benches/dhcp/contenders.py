"""The servers: how each is set up, started, and what it costs."""

import os
import time
from ipaddress import IPv4Address

import kea

SERVER = "10.64.0.2"
PREFIX, GATEWAY = "10.64.0.0/16", "10.64.0.1"
FIRST, LAST = "10.64.16.0", "10.64.127.255"
#: The first of the addresses for known machines, outside of the range for whoever comes.
KNOWN = "10.64.128.0"


class Side:
    name = None

    def __init__(self, network, folder, program, tree):
        self.network, self.folder, self.program, self.tree = network, folder, program, tree

    def processor_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Ours(Side):
    """Leases are kept, always: in the API's store, before the client is told."""

    name = "kube-baremetal"
    mode = "full"
    #: MAC addresses that have an address of their own.
    known = ()

    def start(self):
        from server import Server

        (self.folder / "loaders").mkdir()
        for loader in ("undionly.kpxe", "ipxe.efi"):
            (self.folder / "loaders" / loader).write_bytes(bytes(1000))
        server = Server(self.program, self.network, self.folder, self.folder / "loaders", address=SERVER, log="warn")
        server.start(f"lan0={self.mode}")
        self.process = server.process
        if self.mode == "full":
            plan = {"prefix": PREFIX, "dynamicRanges": [{"first": FIRST, "last": LAST}], "gateway": GATEWAY}
            server.create("baremetalnetworks", "BareMetalNetwork", "lan", {"ipv4": plan, "dhcp": "Full"})
        addresses = [(IPv4Address(KNOWN) + number, mac) for number, mac in enumerate(self.known)]
        specs = ((f"lan.{int(address):08x}", {"networkName": "lan", "address": str(address), "mac": mac}) for address, mac in addresses)
        server.api.create_all("baremetaladdresses", "BareMetalAddress", specs)
        time.sleep(2)


class OursProxy(Ours):
    mode = "proxy"


class Kea(Side):
    name, persist = "Kea, leases on file", True

    def start(self):
        plan = {"prefix": PREFIX, "first": FIRST, "last": LAST, "gateway": GATEWAY}
        command, environment = kea.server(self.tree, self.folder, "lan0", plan, self.persist)
        self.process = self.network.start("server", self.folder / "output", *command, env=environment)
        time.sleep(2)


class KeaInMemory(Kea):
    name, persist = "Kea, leases in memory", False


class Dnsmasq(Side):
    name = "dnsmasq"

    def options(self):
        return [f"--dhcp-range={FIRST},{LAST},255.255.0.0,1h", f"--dhcp-leasefile={self.folder}/leases", "--dhcp-lease-max=100000"]

    def start(self):
        self.process = self.network.dnsmasq("server", self.folder, "--interface=lan0", *self.options())
        time.sleep(1)


class DnsmasqProxy(Dnsmasq):
    def options(self):
        return ["--dhcp-range=10.64.0.0,proxy,255.255.0.0", "--pxe-service=x86PC,boot,undionly"]


FULL = (Ours, Kea, KeaInMemory, Dnsmasq)
PROXY = (OursProxy, DnsmasqProxy)
