"""The servers: how each is set up, started, and what it costs."""

import os
import time

import kea

FIRST, LAST = "10.64.16.0", "10.64.127.255"


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
        plan = {"prefix": "10.64.0.0/16", "first": FIRST, "last": LAST, "gateway": "10.64.0.1"}
        command, environment = kea.server(self.tree, self.folder, "lan0", plan, self.persist)
        self.process = self.network.start("server", self.folder / "output", *command, env=environment)
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
