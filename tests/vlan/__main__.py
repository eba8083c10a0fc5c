"""Boot networks with VLANs, bonds, jumbo frames and several cards, on a switch of ours (switch.py): the host's kernel need know none of them.

    python3 tests/vlan --program PATH --media FOLDER [--only CASE]...

Firmware boots by the native LAN from our ProxyDHCP, as ever; what is looked at is how the agent goes on.

    vlan       as the network says: VLAN 42, and nothing untagged any more
    bond       VLAN 42 with jumbo frames over an LACP bond of both cards; a cable is pulled, and the machine is erased and accepted nevertheless; then active-backup, as its hardware object says
    jumbo      the network says 9000 bytes and the switch carries 1500: that is told, and used
    mistyped   a VLAN that leads nowhere: reached over the card as it is, with the reason
    cards      three cards in one LAN: the one it booted from has the address, and no other answers for it
    refused    what the API does not take, with the field named

Needs root, for namespaces and taps.
"""

import argparse
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True
# The server and the disks are the firmware tests' own.
REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path += [str(REPOSITORY / "tests/firmware"), str(REPOSITORY / "tests")]

from cells import play_all  # noqa: E402
from disk import bios_disk, blank_disk  # noqa: E402
from guest import Guest  # noqa: E402
from lan import JUMBO, NATIVE, TAGGED, TAGGED_SERVER, Lan, port  # noqa: E402
from network import BRIDGE  # noqa: E402
from server import Server  # noqa: E402

# Under TCG, beside other work.
LIMIT = 600
# A datagram to a port where nobody is.
SEND = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', (sys.argv[1], 9))"


def fail(text):
    raise SystemExit(text)


def expect(what, got, want):
    if got != want:
        fail(f"{what}: got {got}, expected {want}")


def network(server, name, prefix, **spec):
    server.call("POST", "baremetalnetworks", {"kind": "BareMetalNetwork", "metadata": {"name": name}, "spec": {"ipv4": {"prefix": prefix}, **spec}})


def native(server, **boot_network):
    network(server, "native", "10.77.0.0/24", **({"bootNetwork": boot_network} if boot_network else {}))


def machines(server, **spec):
    network(server, "machines", "10.42.0.0/24", **{"vlan": TAGGED, **spec})


def session(server, guest):
    """The status of the machine's discovery, once its agent has a session of this boot."""
    guest.until("the agent's session", lambda: "kbm: session open" in guest.said(), LIMIT)
    status = server.discovery()["status"]
    condition = next(c for c in status["conditions"] if c["type"] == "AgentNetwork")
    return status, status["inventory"]["connection"], condition


def eventually(what, seen, limit):
    started = time.monotonic()
    while not seen():
        if time.monotonic() - started > limit:
            fail(f"{what}: not within {limit} s")
        time.sleep(0.2)


def vlan(server, guest, lan):
    native(server, networkName="machines")
    machines(server)
    with guest:
        status, connection, condition = session(server, guest)
        expect("the agent's VLAN", connection.get("vlan"), TAGGED)
        expect("its network", status["session"]["address"].rsplit(".", 1)[0], "10.42.0")
        expect("the condition", (condition["status"], condition["reason"]), ("True", "AsTold"))
        frames = lan.sockets[0].frames
        untagged, tagged = frames[NATIVE], frames[TAGGED]
        # The agent's next question is not long in coming.
        eventually("a frame after the session", lambda: frames[TAGGED] > tagged, 60)
        expect("frames without a tag after the session", frames[NATIVE] - untagged, 0)
    return f"session from {status['session']['address']} by {connection['interface']}"


def bond(server, guest, lan):
    native(server, networkName="machines", bond={"mode": "802.3ad", "lacpRate": "fast", "transmitHash": "layer3+4"})
    machines(server, mtu=JUMBO)
    with guest:
        status, connection, condition = session(server, guest)
        expect("the bond's cards", sorted(connection["bond"]["members"]), sorted(guest.macs))
        expect("VLAN and MTU", (connection["vlan"], connection["mtu"]), (TAGGED, JUMBO))
        expect("the condition", (condition["status"], condition["reason"]), ("True", "AsTold"))
        boots = [nic["mac"] for nic in status["inventory"]["nics"] if nic["boot"]]
        expect("the card that it booted from", boots, [guest.mac])
        eventually("both ports in the switch's aggregate", lambda: lan.switch.is_bonded(1), 60)
        expect("the longest frame of the machine", max(p.longest for p in lan.sockets), JUMBO + 14)

        guest.pull(0)
        # From here on everything goes over the other card.
        policy = {"when": "true", "eraseForeignData": True, "bootNetwork": {"networkName": "machines", "bond": {"mode": "802.3ad"}}}
        server.call("POST", "baremetaldiscoverypolicies", {"kind": "BareMetalDiscoveryPolicy", "metadata": {"name": "all"}, "spec": policy})
        ready = lambda: [h for h in server.call("GET", "baremetalhardware")["items"] if h.get("status", {}).get("phase") == "Ready"]
        eventually("erased and ready over one card", ready, LIMIT)
        if "order erase succeeded" not in guest.said():
            fail(f"the disk was not erased:\n{guest.said()[-1500:]}")
        (hardware,) = ready()
        expect("the policy's boot network", hardware["spec"]["bootNetwork"]["networkName"], "machines")

        # By hardware: another bond, no VLAN. The cable that was pulled stays out, so the other card carries all of it, firmware's part too.
        hardware["spec"]["bootNetwork"] = {"bond": {"mode": "active-backup", "members": guest.macs}}
        guest.order("set_link c0 on")
        lan.sockets[0].cable = True
        server.call("PUT", f"baremetalhardware/{hardware['metadata']['name']}", hardware)
        for p in lan.sockets:
            p.partner, p.bond = None, None
        guest.restart()
        status, connection, _ = session(server, guest)
        expect("the bond that its hardware names", connection["bond"], {"mode": "active-backup", "members": guest.macs})
        expect("no VLAN", (connection.get("vlan"), status["session"]["address"].rsplit(".", 1)[0]), (None, "10.77.0"))
    return f"erased with a cable pulled; then {connection['bond']['mode']} as the hardware says"


def jumbo(server, guest, lan):
    native(server, networkName="machines")
    machines(server, mtu=JUMBO)
    with guest:
        _, connection, condition = session(server, guest)
        expect("the MTU that is used", connection["mtu"], 1500)
        expect("the condition", (condition["status"], condition["reason"]), ("False", "NotAsTold"))
        for word in (TAGGED_SERVER, "1500", str(JUMBO)):
            if word not in condition["message"]:
                fail(f"{word} is not in {condition['message']!r}")
        if not any(p.dropped for p in lan.switch.ports):
            fail("the switch dropped nothing, so nothing was tried")
    return condition["message"]


def mistyped(server, guest, lan):
    native(server, networkName="machines")
    machines(server, vlan=TAGGED + 1)
    with guest:
        status, connection, condition = session(server, guest)
        expect("its network", status["session"]["address"].rsplit(".", 1)[0], "10.77.0")
        expect("no VLAN", connection.get("vlan"), None)
        expect("the condition", (condition["status"], condition["reason"]), ("False", "NotAsTold"))
        if f"VLAN {TAGGED + 1}" not in condition["message"]:
            fail(f"the VLAN is not in {condition['message']!r}")
    return condition["message"]


def cards(server, guest, lan):
    native(server)
    with guest:
        status, connection, _ = session(server, guest)
        address = status["session"]["address"]
        # Whoever has forgotten the address asks for it when it has something to send.
        for _ in range(3):
            subprocess.run(lan.inside(["ip", "neigh", "flush", "dev", BRIDGE]), check=True)
            subprocess.run(lan.inside(["python3", "-c", SEND, address]), check=True)
            time.sleep(1)
        expect(f"the cards that answer for {address}", lan.switch.owners[address], {guest.mac})
    return f"{address} is at {guest.mac} alone, of {len(guest.macs)}"


def refused(server, guest, lan):
    bond = lambda **further: {"bootNetwork": {"bond": {"mode": "802.3ad", **further}}}
    bad = {
        "spec.vlan": {"vlan": 4095},
        "spec.mtu": {"mtu": 1000},
        "spec.bootNetwork.bond.mode": bond(mode="balance-rr"),
        "spec.bootNetwork.bond.members": bond(members=["eth0"]),
        "bond.lacpRate is for the mode 802.3ad only": bond(mode="active-backup", lacpRate="fast"),
        "bond.transmitHash is for the mode 802.3ad only": bond(mode="active-backup", transmitHash="layer2"),
        "spec.bootNetwork.networkName": {"bootNetwork": {"networkName": ""}},
    }
    for field, spec in bad.items():
        body = {"kind": "BareMetalNetwork", "metadata": {"name": "bad"}, "spec": {"ipv4": {"prefix": "10.1.0.0/24"}, **spec}}
        answer = server.call("POST", "baremetalnetworks", body, refused=True)
        if answer.get("code") != 422 or field not in answer["message"]:
            fail(f"{field}: {answer}")
    twice = bond(members=["52:54:00:77:42:00", "52:54:00:77:42:00"])
    answer = server.call("POST", "baremetalnetworks", {"kind": "BareMetalNetwork", "metadata": {"name": "bad"}, "spec": {"ipv4": {"prefix": "10.1.0.0/24"}, **twice}}, refused=True)
    expect("a card that is named twice", answer.get("code"), 422)
    return f"{len(bad) + 1} refusals"


def trunk(name, **further):
    return port(name, tagged=(TAGGED,), **further)


CASES = {
    "refused": (refused, lambda: []),
    "vlan": (vlan, lambda: [trunk("p0")]),
    "bond": (bond, lambda: [trunk("p0", bond=1), trunk("p1", bond=1)]),
    "jumbo": (jumbo, lambda: [trunk("p0", largest=1514)]),
    "mistyped": (mistyped, lambda: [trunk("p0")]),
    "cards": (cards, lambda: [port("p0"), port("p1"), port("p2")]),
}


def play(arguments, folder, name):
    case, ports = CASES[name]
    folder = folder / name
    folder.mkdir()
    disk = folder / "disk.img"
    # What is erased in the one case is foreign data.
    (bios_disk if name == "bond" else blank_disk)(disk)
    with Lan(folder, ports()) as lan:
        with Server(lan, arguments, name, ("--advertise", TAGGED_SERVER, "--unaccepted", "hold")) as server:
            guest = Guest(lan, name, disk, boots_from=1 if name == "cards" else 0) if lan.sockets else None
            seen = case(server, guest, lan)
    disk.unlink()
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/debug/kube-baremetal")
    parser.add_argument("--media", type=Path, default=REPOSITORY / "target/bootmedia")
    parser.add_argument("--loaders", type=Path, default=Path("/usr/lib"), help="folder with ipxe as Debian's package installs it")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and consoles")
    arguments = parser.parse_args()
    # The server wants an image's folder; nothing is installed here.
    arguments.image = arguments.media / "none"
    if os.geteuid() != 0:
        raise SystemExit("vlan: needs root, for network namespaces and taps: sudo make test-vlan")
    for path in (arguments.program, arguments.media):
        if not path.exists():
            raise SystemExit(f"vlan: {path} is missing; `make build bootmedia` makes program and boot media")
    return play_all("vlan", arguments.only or CASES, partial(play, arguments), arguments.keep)


sys.exit(main())
