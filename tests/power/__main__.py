"""The whole life of QEMU machines that are switched by peers nobody here wrote.

    python3 tests/power --program PATH --media FOLDER --loaders FOLDER --image FILE --power-peers FOLDER [--only CELL]...

    ipmi        ipmi_sim of OpenIPMI is the BMC, and QEMU's ipmi-bmc-extern its system's side
    redfish     sushy-tools with its libvirt driver, over a real libvirtd
    virtual-media  the same, a machine with UEFI on a network without DHCP: it boots from our medium, which its BMC attaches, at a fixed address; nobody has seen it before
    wake        Wake-on-LAN: a card that listens for frames at the far end of the switch; off by the agent and the guest's helper

Each machine boots from its disk first where its BMC can say otherwise, and is off until somebody presses the button. It registers, is accepted, and is switched off because nobody needs it; it is
claimed, woken, written, and runs; it is stopped and started; it is released, erased, and switched off again. No secret of it may be anywhere in logs, objects or events.

Needs root, for namespaces: scripts/namespaces gives it that.
"""

import argparse
import base64
import json
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True
sys.path += [str(Path(__file__).resolve().parent.parent / "firmware"), str(Path(__file__).resolve().parent.parent)]

import bmc  # noqa: E402
import life  # noqa: E402
import media  # noqa: E402
import redfish  # noqa: E402
from cells import play_all  # noqa: E402
from disk import blank_disk  # noqa: E402
from guest import Guest  # noqa: E402
from network import BRIDGE, Lan  # noqa: E402
from server import Server  # noqa: E402
from wake import Card  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Seconds, under TCG beside other work.
LIMIT = int(os.environ.get("KBM_LIMIT", 300))
LIFE_LIMIT = 1200


def ipmi(stack, arguments, lan, disk):
    sim = bmc.IpmiSim(lan)
    guest = stack.enter_context(Guest(lan, "ipmi", "bios", disk, arguments.ovmf, devices=sim.devices()))
    return guest, stack.enter_context(sim.switches(guest)), lambda: guest.told


def behind_redfish(stack, arguments, lan, disk):
    libvirt = stack.enter_context(redfish.Libvirt(lan))
    domain = stack.enter_context(redfish.Domain(lan, libvirt, "redfish", "bios", disk, arguments.ovmf))
    emulator = stack.enter_context(redfish.Emulator(lan, arguments.power_peers))
    return domain, emulator, emulator.told


def virtual_media(stack, arguments, lan, disk):
    media.needs(arguments.media)
    libvirt = stack.enter_context(redfish.Libvirt(lan))
    domain = stack.enter_context(redfish.Domain(lan, libvirt, "media", "uefi", disk, arguments.ovmf))
    emulator = stack.enter_context(redfish.Emulator(lan, arguments.power_peers))
    return domain, emulator, emulator.told


def wake(stack, arguments, lan, disk):
    guest = stack.enter_context(Guest(lan, "wake", "bios", disk, arguments.ovmf, network_first=True))
    return guest, stack.enter_context(Card(lan, guest)), lambda: guest.told


CELLS = {"ipmi": ipmi, "redfish": behind_redfish, "virtual-media": virtual_media, "wake": wake}


def cell(arguments, folder, name):
    disk = folder / f"{name}.img"
    blank_disk(disk, 3072)
    at = folder / name
    at.mkdir()
    with ExitStack() as stack:
        lan = stack.enter_context(Lan(at))
        without_dhcp = name == "virtual-media"
        if not without_dhcp:
            lan.house_router()
        server = stack.enter_context(Server(lan, arguments, name, ("--unaccepted", "hold"), media.OFF if without_dhcp else BRIDGE))
        machine, switch, told = CELLS[name](stack, arguments, lan, disk)
        prepare(server)
        times = media.play(lan, server, machine, switch, LIFE_LIMIT) if without_dhcp else whole_life(server, machine, switch)
        seen = ", ".join(f"{what} after {seconds:.0f} s" for what, seconds in times.items())
        seen += f"; told {', '.join(told())}"
        shows_no_secret(server, at)
    disk.unlink()
    return seen


def prepare(server):
    life.prepare(server)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bmc"}, "data": {key: base64.b64encode(value.encode()).decode() for key, value in SECRETS.items()}}
    server.call("POST", "/api/v1/namespaces/kube-baremetal-system/secrets", secret)


def whole_life(server, machine, switch):
    idle = {"idle": {"policy": "PowerOff", "afterSeconds": 5}}
    server.call("POST", "baremetalhardwareclasses", {"kind": "BareMetalHardwareClass", "metadata": {"name": "lab"}, "spec": idle})
    times = {}
    machine.on()
    times["registered"] = machine.until("the machine to be ready", lambda: phase(server) == "Ready", LIFE_LIMIT)
    path = f"baremetalhardware/{hardware(server)['metadata']['name']}"
    server.call("PATCH", path, {"spec": {"power": switch.spec(), "class": "lab"}})
    times["off while nobody needs it"] = machine.until("it to be switched off", lambda: not machine.is_on(), LIMIT)
    life.claim(server)
    times["running"] = machine.until("a system that reported", lambda: life.runs(server), LIFE_LIMIT)
    machine.until("that system's word on the console", lambda: life.boots(machine), LIMIT)
    instance = f"namespaces/default/baremetalinstances/{life.NAME}"
    server.call("PATCH", instance, {"spec": {"running": False}})
    times["stopped"] = machine.until("the stopped machine to be off", lambda: not machine.is_on(), LIMIT)
    before = len(life.boots(machine))
    server.call("PATCH", instance, {"spec": {"running": True}})
    times["started"] = machine.until("its system to be back", lambda: len(life.boots(machine)) > before, LIMIT)
    server.call("DELETE", instance)
    times["erased"] = machine.until("the machine to be erased", lambda: phase(server) == "Ready" and hardware(server)["spec"].get("claimRef") is None, LIFE_LIMIT)
    if not hardware(server)["status"].get("lastErase"):
        raise SystemExit(f"it is free without a proof of its erase: {json.dumps(hardware(server)['status'])}")
    times["off again"] = machine.until("it to be switched off again", lambda: not machine.is_on(), LIMIT)
    return times


SECRETS = {"username": bmc.USER, "password": bmc.PASSWORD}


def hardware(server):
    (found,) = server.call("GET", "baremetalhardware")["items"]
    return found


def phase(server):
    found = server.call("GET", "baremetalhardware")["items"]
    return found[0].get("status", {}).get("phase") if found else None


def shows_no_secret(server, folder):
    """Neither objects and events nor anything that was logged has a password in it, as it is or in base64."""
    shown = {"the server's log": server.said()}
    for path in ("baremetalhardware", "baremetaldiscoveries", "baremetalinstances", "/api/v1/events", "/api/v1/configmaps"):
        shown[path] = json.dumps(server.call("GET", path))
    for log in folder.glob("*.console"):
        shown[log.name] = log.read_text(errors="replace")
    if '"reason"' not in shown["/api/v1/events"]:
        raise SystemExit("there are no events to look at")
    secret = SECRETS["password"]
    for what, text in shown.items():
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()):
            if form in text:
                raise SystemExit(f"the password is in {what}: {text[max(0, text.index(form) - 200):][:400]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/debug/kube-baremetal")
    parser.add_argument("--media", type=Path, default=REPOSITORY / "target/bootmedia")
    parser.add_argument("--image", type=Path, default=REPOSITORY / "target/images/debian.raw.zst", help="the Debian image that `make image` builds")
    parser.add_argument("--loaders", type=Path, default=Path("/usr/lib"), help="folder with ipxe, shim and grub as Debian's packages install them")
    parser.add_argument("--ovmf", type=Path, default=Path("/usr/share/OVMF"), help="folder with OVMF as Debian's package installs it")
    parser.add_argument("--power-peers", type=Path, default=REPOSITORY / "target/power-peers", help="sushy-tools, as scripts/setup --power installs them")
    parser.add_argument("--only", action="append", choices=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and consoles")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("power: needs root, for network namespaces: scripts/namespaces python3 tests/power ...")
    for path in (arguments.program, arguments.media, arguments.image, arguments.loaders, arguments.ovmf, arguments.power_peers):
        if not path.exists():
            raise SystemExit(f"power: {path} is missing; `make build bootmedia image loaders` and `scripts/setup --power` make programs, boot media, image, loaders and peers")
    return play_all("power", arguments.only or CELLS, partial(cell, arguments), arguments.keep)


sys.exit(main())
