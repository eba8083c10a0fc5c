"""Full DHCP: real clients get, renew and release addresses from `kube-baremetal up --dhcp lan0=full`, in network namespaces that this makes and removes (root).

    server (lan0 10.78.0.2): up -----------+
    second (lan0 10.78.0.3): a replica ----+
    client (eth0, no address) -------------+-- bridge in the namespace of the switch
    squatter (10.78.0.x, nobody's lease) --+
    rogue (dnsmasq 10.78.0.66) ------------+
    relay (10.78.0.5, dnsmasq) ------------+-- 10.79.0.1 -- far (eth0, no address)

Over IPv6 the server is fd00:78::2 and its clients are the same hosts; there is no router.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from clients import CLIENTS, ask, release  # noqa: E402
from clients_v6 import CLIENTS_V6, addresses as addresses_v6  # noqa: E402
from namespaces import Namespaces, ip  # noqa: E402
from server import Server  # noqa: E402

SERVER, SECOND, RELAY, ROGUE = "10.78.0.2", "10.78.0.3", "10.78.0.5", "10.78.0.66"
RANGE = [f"10.78.0.{last}" for last in range(100, 200)]
RESERVED, RESERVED_MAC = "10.78.0.20", "02:00:5e:00:53:20"
LEASE = 120
SERVER_V6, PREFIX_V6 = "fd00:78::2", "fd00:78::/64"
RANGE_V6 = {"first": "fd00:78::1000", "last": "fd00:78::10ff"}
RESERVED_V6, RESERVED_V6_MAC = "fd00:78::20", "02:00:5e:00:53:26"


class Network(Namespaces):
    def __init__(self):
        super().__init__("dhcp")

    def build(self):
        self.switch()
        for host, link, address in (
            ("server", "lan0", SERVER),
            ("second", "lan0", SECOND),
            ("client", "eth0", None),
            *((f"client{index}", "eth0", None) for index in range(len(CLIENTS))),
            ("squatter", "eth0", None),
            ("rogue", "eth0", ROGUE),
            ("relay", "eth0", RELAY),
        ):
            self.add(host)
            self.cable(host, link, address)
        self.add("far")
        self.direct("relay", "eth1", "10.79.0.1", "far", "eth0")
        self.run("relay", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for host in ("server", "second"):
            ip("-n", self.name(host), "route", "add", "10.79.0.0/24", "via", RELAY)


class Scene:
    def __init__(self, program, network, folder, loaders):
        self.network, self.folder = network, folder
        self.server = Server(program, network, folder, loaders)
        self.failures = []

    def expect(self, what, got, want=True):
        print(f"{'ok  ' if got == want else 'FAIL'}  {what}", flush=True)
        if got != want:
            self.failures.append(what)
            print(f"      got  {got}\n      want {want}")
        return got == want

    def until(self, what, check, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            found = check()
            if found or time.monotonic() > deadline:
                self.expect(what, bool(found))
                return found
            time.sleep(0.3)


def describe(server):
    """The networks: one on the wire, one behind the relay agent; and a reservation."""
    for name, prefix, first, last, gateway in (
        ("lan", "10.78.0.0/24", RANGE[0], RANGE[-1], "10.78.0.1"),
        ("far", "10.79.0.0/24", "10.79.0.100", "10.79.0.150", "10.79.0.1"),
    ):
        plan = {"prefix": prefix, "dynamicRanges": [{"first": first, "last": last}], "gateway": gateway, "dns": ["10.78.0.1"]}
        server.create("baremetalnetworks", "BareMetalNetwork", name, {"ipv4": plan, "dhcp": "Full", "leaseSeconds": LEASE})
    spec = {"address": RESERVED, "networkName": "lan", "mac": RESERVED_MAC}
    server.create("baremetaladdresses", "BareMetalAddress", "lan.0a4e0014", spec)


WRONG_LOADERS = {
    "neither loader nor URL": [{"firmware": "Bios"}],
    "both": [{"firmware": "Bios", "loader": "Ipxe", "url": "tftp://10.78.0.9/x"}],
    "a firmware twice": [{"firmware": "Bios", "loader": "Ipxe"}, {"firmware": "Bios", "loader": "Nothing"}],
    "a firmware that there is not": [{"firmware": "Openfirmware", "loader": "Nothing"}],
    "HTTP for who boots by TFTP": [{"firmware": "UefiX64", "url": "http://10.78.0.9/x.efi"}],
    "TFTP for who boots by HTTP": [{"firmware": "HttpX64", "url": "tftp://10.78.0.9/x.efi"}],
    "a server by name": [{"firmware": "Bios", "url": "tftp://boot.example/x"}],
    "an address that is none": [{"firmware": "Bios", "url": "tftp://10.78.0.999/x"}],
    "a signed loader for BIOS": [{"firmware": "Bios", "loader": "Signed"}],
    "iPXE for iPXE": [{"firmware": "Ipxe", "loader": "Ipxe"}],
    "the same by URL": [{"firmware": "Ipxe", "url": "http://10.78.0.9/undionly.kpxe?x=1"}],
    "a variable of iPXE": [{"firmware": "Ipxe", "url": "http://10.78.0.9/${uuid}"}],
    "a line break": [{"firmware": "Ipxe", "url": "http://10.78.0.9/a\nb"}],
    "a path upwards": [{"firmware": "Bios", "url": "tftp://10.78.0.9/../x"}],
    "a file": [{"firmware": "HttpX64", "url": "file:///etc/passwd"}],
}


def refusals(scene):
    """What makes no sense is refused at the door."""
    plan = {"prefix": "10.90.0.0/24", "ranges": [{"first": "10.90.0.10", "last": "10.90.0.20"}], "gateway": "10.90.0.1"}
    ranged = lambda first, last: plan | {"dynamicRanges": [{"first": first, "last": last}]}
    ranged_v6 = lambda first, last, *more: {"ipv6": {"prefix": "2001:db8::/64", "dynamicRanges": [{"first": first, "last": last}, *more]}}
    for what, spec in (
        ("Full with nothing to give out", {"ipv4": {"prefix": "10.90.0.0/24"}, "dhcp": "Full"}),
        ("a dynamic range outside of the prefix", {"ipv4": ranged("10.91.0.10", "10.91.0.20")}),
        ("one that runs backwards", {"ipv4": ranged("10.90.0.40", "10.90.0.30")}),
        ("one that overlaps a range for instances", {"ipv4": ranged("10.90.0.20", "10.90.0.30")}),
        ("one with the gateway in it", {"ipv4": ranged("10.90.0.1", "10.90.0.5")}),
        ("one that is no address", {"ipv4": ranged("x", "10.90.0.5")}),
        ("one of IPv6 outside of the prefix", ranged_v6("2001:db8:1::1", "2001:db8:1::2")),
        ("one of IPv6 of more than 65,536 addresses", ranged_v6("2001:db8::1", "2001:db8::1:1")),
        ("one of IPv6 that is IPv4", ranged_v6("10.90.0.1", "10.90.0.2")),
        ("two of IPv6", ranged_v6("2001:db8::1", "2001:db8::2", {"first": "2001:db8::5", "last": "2001:db8::6"})),
        ("a lease of a minute", {"ipv4": plan, "leaseSeconds": 60}),
        *((f"bootLoaders: {what}", {"ipv4": plan, "bootLoaders": rows}) for what, rows in WRONG_LOADERS.items()),
    ):
        scene.expect(f"refused: {what}", scene.server.refuses("baremetalnetworks", "BareMetalNetwork", "wrong", spec))
    spec = {"address": "10.78.0.21", "networkName": "lan"}
    scene.expect("refused: an address for nobody", scene.server.refuses("baremetaladdresses", "BareMetalAddress", "lan.0a4e0015", spec))


def real_clients(scene):
    """All of them at once: they renew by themselves, at half of the lease."""
    server = scene.server
    clients = [kind(scene.network, f"client{index}", "eth0", scene.folder) for index, kind in enumerate(CLIENTS)]
    with ExitStack() as stack:
        macs = [client.new_card() for client in clients]
        for client in clients:
            stack.enter_context(client)
        addresses = [client.address() for client in clients]
        for client, mac, address in zip(clients, macs, addresses):
            scene.expect(f"{client.name} gets an address of the dynamic range", address in RANGE)
            scene.until(f"{client.name}: it stands in a ConfigMap", lambda: server.lease(address).get("mac") == mac)
        scene.expect("each has an address of its own", len(set(addresses)), len(clients))
        for client, address in zip(clients, addresses):
            scene.until(f"{client.name} renews it", lambda: client.renewals() > 0, LEASE * 3 / 4)
            scene.expect(f"{client.name} keeps it", client.address(), address)
            client.release()
            if not scene.until(f"{client.name} gives it back", lambda: server.lease(address).get("state") == "Free"):
                print(client.output())
    for client, address in zip(clients, addresses):
        with client:
            scene.expect(f"{client.name} gets the same address when it comes back", client.address(), address)


def packets(scene):
    """What a client sees of it, packet by packet."""
    network, server = scene.network, scene.server
    told = ask(network, "client", mac="02:00:5e:00:53:01")
    scene.expect("the offer has mask, gateway, DNS and times", (told["offer"]["mask"], told["offer"]["router"], told["offer"]["dns"]), ("255.255.255.0", "10.78.0.1", "10.78.0.1"))
    scene.expect("the lease is as long as the network says", (told["ack"]["lease"], told["ack"]["server"]), (LEASE, SERVER))
    again = ask(network, "client", mac="02:00:5e:00:53:01")
    scene.expect("who asks again gets the same address", again["address"], told["address"])
    pxe = ask(network, "client", mac="02:00:5e:00:53:02", firmware="bios")
    scene.expect("firmware is told what to boot, too", (pxe["offer"]["file"], pxe["offer"]["next"]), ("undionly.kpxe", SERVER))
    ipxe = ask(network, "client", mac="02:00:5e:00:53:02", firmware="ipxe")
    scene.expect("and iPXE its script, at the same address", (ipxe["ack"]["file"], ipxe["address"]), (f"http://{SERVER}:8080/boot/ipxe", pxe["address"]))
    held = ask(network, "client", mac=RESERVED_MAC)
    scene.expect("a reservation is honoured", held["address"], RESERVED)
    wish = ask(network, "client", mac="02:00:5e:00:53:03", requested=RESERVED)
    scene.expect("nobody else gets it by asking for it", wish["address"] in RANGE)
    refused = ask(network, "client", mac="02:00:5e:00:53:04", requested="192.168.7.7", reboot=True)
    scene.expect("an address of another network is refused", refused["kind"], "nak")
    ip("-n", network.name("client"), "addr", "add", "10.78.0.77/24", "dev", "eth0")
    informed = ask(network, "client", mac="02:00:5e:00:53:05", inform="10.78.0.77")
    ip("-n", network.name("client"), "addr", "flush", "dev", "eth0")
    scene.expect("who has an address gets the rest", [(informed["ack"] or {}).get(key) for key in ("router", "lease", "address")], ["10.78.0.1", None, "0.0.0.0"])

    # Somebody sits on the address that a new machine would get.
    mac = "02:00:5e:00:53:06"
    wanted = ask(network, "client", mac=mac)["address"]
    release(network, "client", mac, wanted, SERVER)
    scene.until("its lease is given back", lambda: server.lease(wanted).get("state") == "Free")
    other = "02:00:5e:00:53:07"
    ip("-n", network.name("squatter"), "addr", "add", f"{wanted}/24", "dev", "eth0")
    got = ask(network, "client", mac=other, requested=wanted)
    scene.expect("an address that was somebody's goes to nobody else as long as there are others", got["address"] != wanted)
    fresh = next(address for address in reversed(RANGE) if not server.lease(address))
    ip("-n", network.name("squatter"), "addr", "add", f"{fresh}/24", "dev", "eth0")
    got = ask(network, "client", mac="02:00:5e:00:53:08", requested=fresh)
    scene.expect("an address that somebody uses is not given out", got["address"] not in (fresh, None))
    scene.until("and is in quarantine", lambda: server.lease(fresh).get("state") == "Quarantined")
    ip("-n", network.name("squatter"), "addr", "flush", "dev", "eth0")
    declined = ask(network, "client", mac="02:00:5e:00:53:09")["address"]
    release(network, "client", "02:00:5e:00:53:09", declined, SERVER, decline=True)
    scene.until("a declined address is in quarantine", lambda: server.lease(declined).get("state") == "Quarantined")


def relayed(scene):
    network = scene.network
    relay = network.dnsmasq("relay", scene.folder, f"--dhcp-relay=10.79.0.1,{SERVER}", "--interface=eth1", "--interface=eth0")
    time.sleep(1)
    client = CLIENTS[0](network, "far", "eth0", scene.folder)
    client.new_card()
    with client:
        address = client.address() or ""
        scene.expect("a client behind a relay agent gets an address of its own network", address.startswith("10.79.0.1"))
    network.stop(relay)


def rogue(scene):
    network, server = scene.network, scene.server
    condition = lambda: next((c for c in server.get("baremetalnetworks", "lan").get("status", {}).get("conditions", []) if c["type"] == "OtherDHCPServer"), {})
    scene.expect("no other DHCP server is seen", condition().get("status") != "True")
    other = network.dnsmasq("rogue", scene.folder, "--interface=eth0", "--bind-interfaces", "--dhcp-range=10.78.0.220,10.78.0.230,1h", f"--dhcp-leasefile={scene.folder}/leases-rogue")
    time.sleep(1)
    for last in range(0x10, 0x13):
        ask(network, "client", mac=f"02:00:5e:00:53:{last:02x}")
    told = scene.until("a second DHCP server is told in a condition", lambda: condition().get("status") == "True")
    mac = network.mac("rogue", "eth0")
    scene.expect("by its address and card", bool(told) and f"{ROGUE} ({mac})" in condition()["message"])
    scene.expect("and in the log", f"server={ROGUE}" in server.said())
    network.stop(other)


def restarts(scene):
    network, server = scene.network, scene.server
    mac = "02:00:5e:00:53:30"
    before = ask(network, "client", mac=mac)["address"]
    server.stop()
    server.start("lan0=full")
    after = ask(network, "client", mac=mac, requested=before, reboot=True)
    scene.expect("a lease outlives a restart", (after["kind"], after["address"]), ("ack", before))
    others = {ask(network, "client", mac=f"02:00:5e:00:53:{last:02x}")["address"] for last in range(0x31, 0x39)}
    scene.expect("and its address is nobody else's", before not in others and len(others) == 8)


def replicas(scene):
    network, server = scene.network, scene.server
    mac = lambda last: f"02:00:5e:00:54:{last:02x}"
    server.start_second(SECOND)
    scene.until("two replicas know of each other", lambda: server.replicas() == 2, 30)
    time.sleep(12)
    told = [ask(network, "client", mac=mac(last)) for last in range(24)]
    addresses = [one["address"] for one in told]
    scene.expect("two replicas give each client an address of its own", len(set(addresses)), 24)
    by = {one["ack"]["server"] for one in told if one["ack"]}
    scene.expect("both do their part", by, {SERVER, SECOND})
    scene.expect("no client hears two offers at once", max(one["offers"] for one in told), 1)
    server.stop_second()
    kept = [ask(network, "client", mac=mac(last), requested=addresses[last], reboot=True, seconds=8) for last in range(24)]
    scene.expect("when one is gone, the other one knows its leases", [one["address"] for one in kept], addresses)


def boot_loaders(scene):
    """A network and a machine are given something else to boot, with addresses and by ProxyDHCP."""
    network, server = scene.network, scene.server
    stranger, known = "02:00:5e:00:53:50", "02:00:5e:00:53:51"
    inventory = {"system": {}, "cpu": {"architecture": "amd64", "sockets": 1, "cores": 1, "threads": 1}, "memory": {"bytes": 1 << 30}, "firmware": {"mode": "BIOS"}}
    nic = {"name": "eth0", "mac": known, "link": True, "boot": True}
    server.create("baremetaldiscoveries", "BareMetalDiscovery", "known", {}, status={"inventory": inventory | {"nics": [nic]}})
    rows = [{"firmware": "Bios", "loader": "Ipxe"}, {"firmware": "Ipxe", "url": "http://10.78.0.9/menu.ipxe"}]
    server.create("baremetalhardware", "BareMetalHardware", "known", {"discoveryName": "known", "bootLoaders": rows})
    server.patch("baremetalnetworks", "lan", {"spec": {"bootLoaders": [{"firmware": "Bios", "url": "tftp://10.78.0.9/theirs.0"}]}})

    def told(mac, firmware):
        offer = ask(network, "client", mac=mac, firmware=firmware, patience=6)["offer"] or {}
        return offer.get("file"), offer.get("next")

    for mode in ("full", "proxy"):
        server.stop()
        server.start(f"lan0={mode}")
        scene.expect(f"{mode}: the network's loader, from its server", told(stranger, "bios"), ("theirs.0", "10.78.0.9"))
        scene.expect(f"{mode}: iPXE is led to us as ever", told(stranger, "ipxe")[0], f"http://{SERVER}:8080/boot/ipxe")
        scene.expect(f"{mode}: a machine's own row outweighs it", told(known, "bios"), ("undionly.kpxe", SERVER))
        scene.expect(f"{mode}: and its iPXE gets its own script", told(known, "ipxe")[0], "http://10.78.0.9/menu.ipxe")
    server.patch("baremetalhardware", "known", {"spec": {"bootLoaders": [{"firmware": "Bios", "loader": "Nothing"}]}})
    scene.expect("a machine that is to be left alone is", told(known, "bios"), (None, None))
    server.patch("baremetalnetworks", "lan", {"spec": {"bootLoaders": []}})
    scene.expect("without the row all is as before, at once", told(stranger, "bios"), ("undionly.kpxe", SERVER))
    server.stop()
    server.start("lan0=full")
def ipv6(scene):
    """DHCPv6 with router advertisements, and no router: who is told to ask (M) asks; where nothing is to be leased, hosts make their addresses (A)."""
    network, server = scene.network, scene.server
    ip("-n", network.name("server"), "addr", "add", f"{SERVER_V6}/64", "dev", "lan0", "nodad")
    plan = {"prefix": PREFIX_V6, "dynamicRanges": [RANGE_V6]}
    server.create("baremetalnetworks", "BareMetalNetwork", "lan6", {"ipv6": plan, "dhcp": "Full", "leaseSeconds": LEASE})
    spec = {"address": RESERVED_V6, "networkName": "lan6", "mac": RESERVED_V6_MAC}
    server.create("baremetaladdresses", "BareMetalAddress", f"lan6.{int(IPv6Address(RESERVED_V6)):032x}", spec)
    scene.until("the prefix is on the link of a host that does nothing, and gives it no address", lambda: on_link(network, "squatter"))
    scene.expect("it has none", addresses_v6(network, "squatter", "eth0"), [])
    clients = [kind(network, f"client{index}", "eth0", scene.folder) for index, kind in enumerate(CLIENTS_V6)]
    with ExitStack() as stack:
        macs = [client.new_card() for client in clients]
        for client in clients:
            stack.enter_context(client)
        leased = [client.address() for client in clients]
        for client, mac, address in zip(clients, macs, leased):
            if not scene.expect(f"{client.name} gets an address of the dynamic range", (address or "").startswith("fd00:78::10")):
                print(client.output())
            scene.until(f"{client.name}: it stands in a ConfigMap", lambda: server.lease(address).get("mac") == mac)
        scene.expect("each has an address of its own", len(set(leased)), len(clients))
        for client, address in zip(clients, leased):
            scene.until(f"{client.name} renews it", lambda: client.renewals() > 0, LEASE * 3 / 4)
            scene.expect(f"{client.name} keeps it", client.address(), address)
            client.release()
            if client.releases and not scene.until(f"{client.name} gives it back", lambda: server.lease(address).get("state") == "Free"):
                print(client.output())
    for client, address in zip(clients, leased):
        with client:
            scene.expect(f"{client.name} gets the same address when it comes back", client.address(), address)
    client = clients[0]
    network.run(client.host, "ip", "link", "set", "eth0", "down")
    network.run(client.host, "ip", "link", "set", "eth0", "address", RESERVED_V6_MAC, "up")
    (client.folder / "leases").unlink(missing_ok=True)
    with client:
        scene.expect("a reservation is its machine's, by the MAC address", client.address(), RESERVED_V6)
    server.patch("baremetalnetworks", "lan6", {"spec": {"ipv6": {"dynamicRanges": []}}})
    scene.until("without a range hosts make their addresses", lambda: any(length == 64 for _, length, _ in addresses_v6(network, "squatter", "eth0")))
    server.patch("baremetalnetworks", "lan6", {"spec": {"dhcp": "Off"}})


def on_link(network, host):
    """Whether a host knows by an advertisement that the prefix is on its link, and nothing of a router."""
    shown = subprocess.check_output(network.inside(host, "ip", "-6", "route", "show", "dev", "eth0"), text=True)
    return f"{PREFIX_V6} proto kernel" in shown and "default" not in shown


def modes(scene):
    """An interface may do less than its network says, and never more."""
    network, server = scene.network, scene.server
    mac = "02:00:5e:00:53:40"
    server.stop()
    server.start("lan0=proxy")
    told = ask(network, "client", mac=mac, firmware="bios", patience=3)
    scene.expect("proxy: boot parameters and no address", (told["kind"], told["address"], (told["offer"] or {}).get("file")), ("offer", "0.0.0.0", "undionly.kpxe"))
    server.stop()
    server.start("lan0=off")
    scene.expect("off: nothing", ask(network, "client", mac=mac, firmware="bios", patience=3)["kind"], "nothing")
    server.stop()
    server.start("lan0")
    scene.expect("no mode: as the network says", ask(network, "client", mac=mac)["kind"], "ack")
    server.patch("baremetalnetworks", "lan", {"spec": {"dhcp": "Proxy"}})
    told = ask(network, "client", mac="02:00:5e:00:53:41", firmware="bios", patience=3)
    scene.expect("the network changes its mind: no address any more", (told["kind"], told["address"]), ("offer", "0.0.0.0"))
    server.patch("baremetalnetworks", "lan", {"spec": {"dhcp": "Off"}})
    scene.expect("nor anything else", ask(network, "client", mac="02:00:5e:00:53:42", firmware="bios", patience=3)["kind"], "nothing")
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="kube-baremetal")
    parser.add_argument("--only", nargs="*", help="names of parts")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root: scripts/namespaces python3 tests/dhcp ...")
    started = time.monotonic()
    parts = (refusals, packets, real_clients, ipv6, relayed, rogue, restarts, replicas, boot_loaders, modes)
    with tempfile.TemporaryDirectory() as folder, Network() as network:
        folder = Path(folder)
        (folder / "loaders").mkdir()
        (folder / "loaders" / "undionly.kpxe").write_bytes(bytes(1000))
        scene = Scene(arguments.program.resolve(), network, folder, folder / "loaders")
        scene.server.start("lan0=full")
        describe(scene.server)
        for part in parts:
            if not arguments.only or part.__name__ in arguments.only:
                print(f"--- {part.__name__}", flush=True)
                part(scene)
        scene.server.stop()
        if scene.failures:
            print(scene.server.said()[-4000:])
    print(f"{len(scene.failures)} failures, {time.monotonic() - started:.0f} s")
    sys.exit(bool(scene.failures))


if __name__ == "__main__":
    main()
