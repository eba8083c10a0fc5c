"""`netboot doctor` on networks that are wrong in known ways, in network namespaces that this makes and removes (as root, which scripts/namespaces gives it; ip and dnsmasq).

    house (dnsmasq 10.79.0.1) --+
    server (10.79.0.2) ---------+-- bridge in the namespace of the switch
    desk (10.79.0.3), doctor ---+
    rogue (dnsmasq 10.79.0.66) -+
    far (10.80.0.3) -- router of the house: another network, without a relay
    side (10.81.0.3) -- server's second interface, which nobody named
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kubernetes_api import KubernetesApi  # noqa: E402
from namespaces import Namespaces, ip  # noqa: E402

HOUSE, SERVER, DESK, ROGUE, FAR = "10.79.0.1", "10.79.0.2", "10.79.0.3", "10.79.0.66", "10.80.0.3"


class Network(Namespaces):
    def __init__(self):
        super().__init__("doctor")

    def build(self):
        self.switch()
        for host, address in (("house", HOUSE), ("server", SERVER), ("desk", DESK), ("rogue", ROGUE)):
            self.add(host)
            self.cable(host, "eth0", address)
        self.add("side")
        self.direct("server", "eth1", "10.81.0.2", "side", "eth0", "10.81.0.3")
        ip("-n", self.name("side"), "route", "add", "default", "via", "10.81.0.2")
        self.add("far")
        self.direct("house", "eth1", "10.80.0.1", "far", "eth0", FAR)
        self.run("house", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        ip("-n", self.name("far"), "route", "add", "default", "via", "10.80.0.1")
        ip("-n", self.name("server"), "route", "add", "default", "via", HOUSE)

    def dhcp_server(self, host, folder, first, last, *further, **options):
        listen = ("--interface=eth0", "--bind-interfaces")
        return self.dnsmasq(host, folder, *listen, f"--dhcp-range={first},{last},1h", f"--dhcp-leasefile={folder}/leases-{host}", *further, **options)


# Asks for a loader over TFTP; whether anything comes back.
ASK = """
import socket, sys
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(2)
try:
    ask.sendto(b"\\0\\1undionly.kpxe\\0octet\\0", (sys.argv[1], 69))
    print(ask.recv(2000)[:2] == b"\\0\\3")
except OSError:
    print(False)
"""


# A machine with UEFI that asks what to boot, twice, and then does nothing more.
MACHINE = """
import socket, sys, time
packet = bytearray(240)
packet[0:3] = 1, 1, 6
packet[4:8] = b"boot"
packet[10] = 0x80
packet[28:34] = bytes.fromhex(sys.argv[1].replace(":", ""))
packet[236:240] = 99, 130, 83, 99
packet += bytes([53, 1, 1, 93, 2, 0, 7, 60, 32]) + b"PXEClient:Arch:00007:UNDI:003016" + bytes([255])
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
ask.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
for _ in range(2):
    ask.sendto(packet, ("255.255.255.255", 67))
    time.sleep(1)
"""
STOPPED = "02:00:5e:00:53:01"


class Scene:
    def __init__(self, program, network, folder):
        self.program, self.network, self.folder = program, network, folder
        self.failures = []

    def up(self, *further):
        """The boot server, once it answers; `further` are its flags for the LAN."""
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.unlink(missing_ok=True)
        command = [self.program, "--log", "info", "up", "--data-dir", self.folder / "data", "--kubeconfig", kubeconfig]
        process = self.network.start(
            "server", self.folder / "up.log", *command, "--media-dir", self.folder / "media", "--advertise", SERVER, *further, cwd=self.folder
        )
        deadline = time.monotonic() + 60
        while not kubeconfig.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{(self.folder / 'up.log').read_text()[-3000:]}")
            time.sleep(0.1)
        return process

    def doctor(self, host, *further):
        """Its exit code, and what is not good by check."""
        command = [self.program, "--log", "warn", "netboot", "doctor", "--interface", "eth0", "--patience", "3", "--output", "json", *further]
        environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        done = subprocess.run(self.network.inside(host, *command), capture_output=True, text=True, env=environment, timeout=120)
        try:
            report = json.loads(done.stdout)
        except json.JSONDecodeError:
            raise SystemExit(f"the doctor said no JSON ({done.returncode}):\n{done.stdout}{done.stderr}")
        self.last = report
        return done.returncode, {f["check"]: f["verdict"] for f in report["findings"] if f["verdict"] != "good"}

    def expect(self, what, got, want):
        print(f"{'ok  ' if got == want else 'FAIL'}  {what}", flush=True)
        if got != want:
            self.failures.append(what)
            print(f"      got  {got}\n      want {want}")
            for finding in self.last["findings"]:
                print(f"      {finding['verdict']:8} {finding['check']}: {finding['seen']}")

    def tftp(self, host, server):
        """Whether a host gets a loader from an address of the server."""
        return subprocess.check_output(self.network.inside(host, "python3", "-c", ASK, server), text=True).strip() == "True"

    def seen(self, check):
        return " ".join(f["seen"] for f in self.last["findings"] if f["check"] == check)


def play(scene):
    network, folder = scene.network, scene.folder
    mac = lambda host: network.mac(host, "eth0")
    unknown = {"machines": "unknown"}
    to_server = ("--server", SERVER)

    house = network.dhcp_server("house", folder, "10.79.0.100", "10.79.0.150")
    server = scene.up("--dhcp", "eth0")
    network.run("desk", "python3", "-c", MACHINE, STOPPED)
    asked = time.monotonic()
    scene.expect("nothing is wrong, seen from another host", scene.doctor("desk", *to_server), (0, unknown))
    scene.expect(
        "nothing is wrong, seen from the boot server itself", scene.doctor("server"), (0, unknown | {"firewall": "unknown"})
    )

    scene.expect("TFTP on the interface that was named, and to this host itself", (scene.tftp("desk", SERVER), scene.tftp("server", SERVER)), (True, True))
    scene.expect("no TFTP by another interface", (scene.tftp("side", "10.81.0.2"), scene.tftp("side", SERVER)), (False, False))

    rogue = network.dhcp_server("rogue", folder, "10.79.0.200", "10.79.0.220")
    scene.expect("a second DHCP server", scene.doctor("desk", *to_server), (0, unknown | {"dhcpServer": "warning"}))
    named = f"{ROGUE} ({mac('rogue')})" in scene.seen("dhcpServer") and f"{HOUSE} ({mac('house')})" in scene.seen("dhcpServer")
    scene.expect("both are named by address and card", named, True)
    network.stop(rogue)
    rogue = network.dhcp_server("rogue", folder, "10.79.0.200", "10.79.0.220", f"--dhcp-boot=pxelinux.0,,{ROGUE}")
    got = scene.doctor("desk", *to_server)
    scene.expect("a second one with boot options of its own", got, (1, unknown | {"dhcpServer": "warning", "bootOptions": "problem"}))
    scene.expect("its file is named", "pxelinux.0" in scene.seen("bootOptions") and mac("rogue") in scene.seen("bootOptions"), True)
    network.stop(rogue)

    ip("-n", network.name("switch"), "link", "set", "desk", "mtu", "1300")
    scene.expect("a switch port that carries smaller packets", scene.doctor("desk", *to_server), (1, unknown | {"mtu": "problem"}))
    ip("-n", network.name("switch"), "link", "set", "desk", "mtu", "1500")

    got = scene.doctor("far", *to_server)
    scene.expect("another network, without DHCP and relay", got, (1, unknown | {"dhcpServer": "problem", "relay": "problem"}))

    # TFTP is bound to interfaces, not to addresses: it moves along with one that is renumbered, and is not there on others.
    ip("-n", network.name("server"), "addr", "del", f"{SERVER}/24", "dev", "eth0")
    ip("-n", network.name("server"), "addr", "add", "10.79.0.22/24", "brd", "+", "dev", "eth0")
    scene.expect("the boot server got another address", scene.doctor("desk", "--server", "10.79.0.22"), (0, unknown))
    ip("-n", network.name("server"), "addr", "del", "10.79.0.22/24", "dev", "eth0")
    ip("-n", network.name("server"), "addr", "add", f"{SERVER}/24", "brd", "+", "dev", "eth0")
    ip("-n", network.name("server"), "route", "replace", "default", "via", HOUSE)

    # By now the boot of that machine counts as stopped and is written down.
    time.sleep(max(0, 32 - (time.monotonic() - asked)))
    kubeconfig = ("--kubeconfig", folder / "kubeconfig")
    shown = subprocess.run(network.inside("server", scene.program, "--log", "warn", "timeline", STOPPED, *kubeconfig), capture_output=True, text=True)
    print("\n".join(f"      {line}" for line in shown.stdout.splitlines()))
    told = "Offer" in shown.stdout and "UEFI x86-64" in shown.stdout and "The last boot stopped after Offer" in shown.stdout
    scene.expect("the timeline of a machine that never came further", (shown.returncode, told), (0, True))
    got = scene.doctor("server", *kubeconfig)
    scene.expect("the doctor names that machine and no other", got, (1, {"firewall": "unknown", "machine": "problem"}))
    scene.expect("with the reason", STOPPED in scene.seen("machine") and "NoAddress" in scene.seen("machine"), True)

    network.stop(house)
    scene.expect("no DHCP server at all", scene.doctor("desk", *to_server), (1, unknown | {"dhcpServer": "problem"}))
    house = network.dhcp_server("house", folder, "10.79.0.100", "10.79.0.150")

    network.stop(server)
    (folder / "media/amd64/vmlinuz").unlink()
    server = scene.up()
    want = {"port67": "problem", "port4011": "problem", "tftp": "unknown", "bootMedia": "problem"}
    scene.expect("no ProxyDHCP, and no boot media", scene.doctor("desk", *to_server), (1, unknown | want))
    network.stop(server)
    got = scene.doctor("desk", *to_server)
    want = {"port67": "problem", "port4011": "problem", "tftp": "unknown", "http": "problem", "agentPort": "problem"}
    scene.expect("the boot server is off", got, (1, unknown | want))

    house = health(scene, house)
    recipes(scene, house)


def health(scene, house):
    """The boot server's own word: the condition NetbootHealthy of the network, and a report of each replica."""
    network, folder = scene.network, scene.folder
    (folder / "media/amd64/vmlinuz").write_bytes(bytes(100_000))
    server = scene.up("--dhcp", "eth0", "--api-listen", f"{SERVER}:6443")
    api = KubernetesApi(folder / "kubeconfig", lambda command: network.inside("server", *command))
    body = {"kind": "BareMetalNetwork", "metadata": {"name": "lan"}, "spec": {"ipv4": {"prefix": "10.79.0.0/24"}}}
    scene.expect("a network", api.call("POST", "baremetalnetworks", body)[0], 201)
    status = lambda: api.call("GET", "baremetalnetworks/lan")[1].get("status") or {}

    def told():
        """Status and reason of the condition."""
        return next(((c["status"], c["reason"]) for c in status().get("conditions", []) if c["type"] == "NetbootHealthy"), None)

    def until(what, got, want, seconds=45):
        deadline = time.monotonic() + seconds
        while got() != want and time.monotonic() < deadline:
            time.sleep(0.5)
        scene.expect(what, got(), want)

    replicas = lambda: {report["replica"]: (report["address"], report["interface"]) for report in status().get("netboot", [])}
    until("the boot server finds nothing wrong with itself", told, ("True", "NothingFound"))
    scene.expect("it says where it looked", replicas(), {"up": (SERVER, "eth0")})
    version = lambda: api.call("GET", "baremetalnetworks/lan")[1]["metadata"]["resourceVersion"]
    before = version()
    time.sleep(15)
    scene.expect("nothing is written while nothing changes", version(), before)

    # Another look is due when the addresses change.
    network.stop(house)
    (folder / "media/amd64/vmlinuz").unlink()
    ip("-n", network.name("server"), "addr", "add", "10.79.0.23/24", "dev", "eth0")
    until("without a DHCP server it is not healthy", told, ("False", "DhcpServer"))
    findings = {finding["check"]: finding["verdict"] for report in status()["netboot"] for finding in report.get("findings", [])}
    scene.expect("and both faults are told", findings, {"dhcpServer": "Problem", "bootMedia": "Problem"})
    (folder / "media/amd64/vmlinuz").write_bytes(bytes(100_000))
    house = network.dhcp_server("house", folder, "10.79.0.100", "10.79.0.150")
    ip("-n", network.name("server"), "addr", "del", "10.79.0.23/24", "dev", "eth0")
    until("mended, it is again", told, ("True", "NothingFound"))

    command = [scene.program, "--log", "info", "netboot", "--kubeconfig", folder / "kubeconfig", "--replica", "second", "--media-dir", folder / "media", "--advertise", DESK]
    second = network.start("desk", folder / "second.log", *command, "--server", f"https://{SERVER}:8443", "--dhcp", "eth0", cwd=folder)
    until("a second replica tells its own", lambda: sorted(replicas()), ["second", "up"])
    # Both have looked once more by then, knowing of each other.
    time.sleep(25)
    scene.expect("neither takes the other for a stranger", told(), ("True", "NothingFound"))
    got = scene.doctor("server", "--kubeconfig", folder / "kubeconfig")[1]
    scene.expect("nor does the doctor who can ask the API", {check: got[check] for check in ("bootOptions", "dhcpServer") if check in got}, {})
    network.stop(second)
    until("one that ends takes its report away", lambda: sorted(replicas()), ["up"])
    scene.expect("and the condition stays", told(), ("True", "NothingFound"))
    network.stop(server)
    return house


def recipes(scene, house):
    """The house's own DHCP server is told what `netboot options` prints: then it points machines at us, and the doctor sees that."""
    network, folder = scene.network, scene.folder
    network.stop(house)
    recipe = subprocess.check_output([scene.program, "--log", "warn", "netboot", "options", "--server", SERVER, "--format", "dnsmasq"], text=True)
    (folder / "recipe.conf").write_text(recipe)
    network.dhcp_server("house", folder, "10.79.0.100", "10.79.0.150", configuration=folder / "recipe.conf")
    server = scene.up("--dhcp", "eth0")
    scene.expect("the house's DHCP server with our recipe", scene.doctor("desk", "--server", SERVER), (0, {"machines": "unknown"}))
    scene.expect("it points machines at us", f"{HOUSE} " in scene.seen("bootOptions") and "points machines at us" in scene.seen("bootOptions"), True)
    files = {o["asker"]: o["bootFile"] for o in scene.last["facts"]["offers"] if o["serverId"] == HOUSE}
    want = {"system": "", "bios": "undionly.kpxe", "uefiX64": "ipxe-x64.efi", "ipxe": f"http://{SERVER}:8080/boot/ipxe"}
    scene.expect("each kind of machine gets its own file from it", files, want)
    network.stop(server)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="kube-baremetal")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root: scripts/namespaces python3 tests/doctor ...")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Network() as network:
        folder = Path(folder)
        (folder / "media/amd64").mkdir(parents=True)
        for name in ("vmlinuz", "initramfs.zst"):
            (folder / "media/amd64" / name).write_bytes(bytes(100_000))
        scene = Scene(arguments.program.resolve(), network, folder)
        play(scene)
    print(f"{len(scene.failures)} failures, {time.monotonic() - started:.0f} s")
    sys.exit(bool(scene.failures))


if __name__ == "__main__":
    main()
