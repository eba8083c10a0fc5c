"""Boots real firmware on a LAN, with a house router and our ProxyDHCP beside it or in other ways to share the DHCP.

    python3 tests/firmware --program PATH --media FOLDER --loaders FOLDER [--only CELL]...

A cell is a firmware, what it is to boot, and who does DHCP:

    (nothing)    the router (dnsmasq) gives out addresses and says nothing about booting; machines find our server by ProxyDHCP alone
    kea          the same with Kea instead of dnsmasq
    off          our DHCP is off; the router's dnsmasq was told what `kube-baremetal netboot options` prints
    full         ours is the only DHCP server, by a BareMetalNetwork

What is booted:

    agent        a blank disk; the machine shows the agent's words on its console
    disk         a machine that is left alone boots its own disk, within 10 s of our answer
    provisioned  the machine is accepted, claimed, written and booted; then the reset button is pressed twice, the second time as soon as it is back, and it
                 comes back in its own system by way of us
    reboots      the same, and the reset button is pressed 20 times
    refused      firmware with Secure Boot on does not start a loader that is not signed

Needs root, for namespaces: scripts/namespaces gives it that.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True

import life  # noqa: E402
from disk import LINE, bios_disk, blank_disk, signed_disk, uefi_disk  # noqa: E402
from machine import Machine  # noqa: E402
from network import BRIDGE, IPV4, IPV6, Lan  # noqa: E402
from server import Server  # noqa: E402

# `network` says where it is.
import kea  # noqa: E402
from cells import play_all  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Under TCG, beside other work.
LIMIT = int(os.environ.get("KBM_LIMIT", 240))
# Of the whole way from power-on to a system that reported.
LIFE_LIMIT = 1200
# The bar: seconds from our answer to the disk.
DISK_LIMIT = 10
# How often the reset button is pressed.
PROVISIONED = {"provisioned": 2, "reboots": 20}


@dataclass(frozen=True)
class Row:
    """A firmware, and what our server offers it."""

    firmware: str
    arguments: tuple = ()
    targets: tuple = ("agent", "disk")
    # Not beside a house router that says nothing about booting.
    alone: bool = False
    # Seconds from power-on to our answer.
    limit: int = LIMIT

    @property
    def secure(self):
        return self.firmware.startswith("secure")

    @property
    def architecture(self):
        return "arm64" if self.firmware.startswith("arm64") else "amd64"

    @property
    def at(self):
        """Which addresses there are on its LAN."""
        return IPV6 if self.firmware.endswith("6") else IPV4


IPXE = ("--uefi-loader", "ipxe")
ROWS = {
    "bios": Row("bios", targets=("agent", "disk", "provisioned")),
    "pxe": Row("pxe", targets=("agent", "disk", "provisioned")),
    "pxe-ipxe": Row("pxe", IPXE),
    "http": Row("http"),
    "http-ipxe": Row("http", IPXE),
    "secure": Row("secure", targets=("agent", "disk", "provisioned", "reboots")),
    "secure-ipxe": Row("secure", IPXE, targets=("refused",)),
    "secure-http": Row("secure-http"),
    "arm64": Row("arm64"),
    "arm64-http": Row("arm64-http"),
    "pxe6": Row("pxe6"),
    # iPXE does not find its script beside another DHCPv6 server.
    "pxe6-ipxe": Row("pxe6", IPXE, alone=True),
    # OVMF 2022.11 cannot be told to leave out HTTP boot over IPv4, and gives that up after three minutes.
    "http6": Row("http6", limit=2 * LIMIT),
    "http6-ipxe": Row("http6", IPXE, alone=True, limit=2 * LIMIT),
    "secure6": Row("secure6"),
}
# Rows that are tried with every way to share the DHCP.
SHARED = ("bios", "pxe", "http", "secure", "arm64")
# The same for those over IPv6, of which Kea is none. dnsmasq's DHCPv6 has no words for HTTP boot.
SHARED_V6 = {"full": ("pxe6", "pxe6-ipxe", "http6", "http6-ipxe", "secure6"), "off": ("pxe6", "pxe6-ipxe", "secure6")}
CELLS = {f"{row}-{target}": (row, target, "proxy") for row in ROWS if not ROWS[row].alone for target in ROWS[row].targets}
CELLS |= {f"{row}-{target}-{dhcp}": (row, target, dhcp) for dhcp in ("kea", "off", "full") for row in SHARED for target in ROWS[row].targets if target in ("agent", "disk")}
CELLS |= {f"{row}-{target}-{dhcp}": (row, target, dhcp) for dhcp, rows in SHARED_V6.items() for row in rows for target in ROWS[row].targets}
# One of each way to boot, and one where we are the only DHCP server.
SHORT = ("pxe-disk-full", "bios-disk", "pxe-disk", "http-disk", "secure-disk", "arm64-disk", "pxe6-disk-full")


def cell(arguments, folder, name):
    """Runs one, and says what was seen."""
    row_name, target, dhcp = CELLS[name]
    row = ROWS[row_name]
    disk = folder / f"{name}.img"
    if target == "agent":
        blank_disk(disk)
    elif target in PROVISIONED:
        blank_disk(disk, 3072)
    elif row.firmware == "bios":
        bios_disk(disk)
    elif row.secure:
        signed_disk(disk, arguments.loaders)
    elif row.architecture == "arm64":
        signed_disk(disk, arguments.loaders, "arm64", "aa64")
    else:
        uefi_disk(disk)
    further = ("--unaccepted", "hold" if target == "agent" or target in PROVISIONED else "ignore", *row.arguments)
    with Lan(folder, row.at) as lan:
        if dhcp == "off":
            lan.house_router(recipe(arguments, row))
        elif dhcp == "kea":
            lan.kea(kea.unpacked(arguments.peers))
        elif dhcp == "proxy":
            lan.house_router()
        interface = f"{BRIDGE}={dhcp}" if dhcp in ("off", "full") else BRIDGE
        with Server(lan, arguments, name, further, interface) as server:
            if dhcp == "full":
                server.call("POST", "baremetalnetworks", {"kind": "BareMetalNetwork", "metadata": {"name": "lan"}, "spec": row.at.plan() | {"dhcp": "Full"}})
            with Machine(lan, name, row.firmware, disk, arguments.ovmf, reboots=target in PROVISIONED) as machine:
                seen = TARGETS[target](row, server, machine)
            said = server.said()
        ours = f"DHCP{'v6' if row.at is IPV6 else ''} boot parameters" in said
        if ours != (dhcp != "off") or machine.mac not in said.lower().replace("-", ":"):
            raise SystemExit(f"the machine booted {'with' if ours else 'without'} our DHCP; the server's log ends with:\n{said[-2000:]}")
    disk.unlink()
    return seen


def recipe(arguments, row):
    """What dnsmasq is told by the person who looked it up."""
    command = [arguments.program, "netboot", "options", "--server", row.at.server, "--format", "dnsmasq", "--http-boot"]
    command += ["--uefi-loader", "ipxe" if row.arguments == IPXE else "signed"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def agent(row, server, machine):
    seconds = machine.until("the agent's session", lambda: "kbm: session open" in machine.said(), row.limit)
    firmware = server.discovery()["status"]["inventory"]["firmware"]
    wanted = {"mode": "BIOS"} if row.firmware == "bios" else {"mode": "UEFI", "secureBoot": row.secure}
    session = server.discovery()["status"]["session"]
    if (":" in session["address"]) != (row.at is IPV6):
        raise SystemExit(f"the agent came from {session['address']}")
    if any(firmware.get(field) != value for field, value in wanted.items()):
        raise SystemExit(f"the agent found {firmware}, and not {wanted}")
    architecture = server.discovery()["status"]["inventory"]["cpu"]["architecture"]
    if architecture != row.architecture:
        raise SystemExit(f"the agent is of {architecture}, and the machine of {row.architecture}")
    return f"the agent's session after {seconds:.0f} s"


def local_disk(row, server, machine):
    seconds = machine.until("our answer", lambda: server.answers(machine.mac), row.limit)
    after = machine.until("the local disk", lambda: LINE in machine.said(), LIMIT)
    seen = f"our answer after {seconds:.0f} s, the local disk {after:.1f} s later"
    if after > DISK_LIMIT:
        raise SystemExit(f"{seen}; at most {DISK_LIMIT} s are allowed")
    return seen


def provisioned(row, server, machine, presses):
    """The way of a machine to its own system, and back into it each time the reset button is pressed."""
    life.ask_for_a_system(server)
    living = machine.until("a system that reported", lambda: life.runs(server), LIFE_LIMIT)
    machine.until("that system's word on the console", lambda: life.boots(machine), LIMIT)
    if "session open" not in machine.said():
        raise SystemExit("there is a system, and no agent wrote it")
    first, told = len(life.boots(machine)), len(server.answers(machine.mac))
    times = []
    for press in range(1, presses + 1):
        machine.reset()
        times.append(machine.until(f"its own system after reset {press}", lambda: len(life.boots(machine)) > first + press - 1, LIMIT))
    boots, answers = life.boots(machine), server.answers(machine.mac)[told:]
    seen = f"its own system after {living:.0f} s; {presses} resets, each back in it after {min(times):.0f} to {max(times):.0f} s"
    if len(answers) != presses or any("answer=LocalDisk" not in line for line in answers):
        raise SystemExit(f"{seen}, but not by {presses} answers of ours: {answers}")
    wanted = (life.NAME, life.ROOT, "" if row.firmware == "bios" else str(int(row.secure)))
    if len(boots) != first + presses or len({boot for boot, *_ in boots}) != len(boots) or any(tuple(rest) != wanted for _, *rest in boots):
        raise SystemExit(f"{seen}, but its systems said {boots}, and not each {wanted} once")
    return seen


def refused(_row, server, machine):
    """The judge of the cells with Secure Boot: a loader that is not signed does not start."""
    words = ("Access Denied", "Security Violation")
    seconds = machine.until("the firmware's refusal", lambda: any(word in machine.said() for word in words), LIMIT)
    if server.answers(machine.mac):
        raise SystemExit("the firmware started a loader that nobody signed")
    return f"an unsigned loader was refused after {seconds:.0f} s"


TARGETS = {"agent": agent, "disk": local_disk, "refused": refused, **{target: partial(provisioned, presses=presses) for target, presses in PROVISIONED.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/debug/kube-baremetal")
    parser.add_argument("--media", type=Path, default=REPOSITORY / "target/bootmedia")
    parser.add_argument("--image", type=Path, default=REPOSITORY / "target/images/debian.raw.zst", help="the Debian image that `make image` builds")
    parser.add_argument("--loaders", type=Path, default=Path("/usr/lib"), help="folder with ipxe, shim and grub as Debian's packages install them")
    parser.add_argument("--ovmf", type=Path, default=Path("/usr/share/OVMF"), help="folder with OVMF as Debian's package installs it")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / "target/firmware", help="folder into which `python3 tests/kea.py` unpacked Kea")
    parser.add_argument("--only", action="append", choices=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and consoles")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("firmware: needs root, for network namespaces: scripts/namespaces python3 tests/firmware ...")
    for path in (arguments.program, arguments.media, arguments.image, arguments.loaders, arguments.ovmf):
        if not path.exists():
            raise SystemExit(f"firmware: {path} is missing; `make build bootmedia image loaders` makes programs, boot media, image and loaders")
    names = arguments.only or (SHORT if arguments.short else CELLS)
    for architecture in sorted({ROWS[CELLS[name][0]].architecture for name in names if CELLS[name][1] != "disk"}):
        if not (arguments.media / architecture / "vmlinuz").exists():
            target = "bootmedia" if architecture == "amd64" else f"bootmedia-{architecture}"
            raise SystemExit(f"firmware: {arguments.media}/{architecture} has no boot media; `make {target}` makes them, or leave those cells out with --only")
    return play_all("firmware", names, partial(cell, arguments), arguments.keep)


sys.exit(main())
