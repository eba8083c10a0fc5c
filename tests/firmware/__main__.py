"""Boots real firmware on a LAN with a house router and our ProxyDHCP beside it.

    python3 tests/firmware --program PATH --media FOLDER [--only CELL]...

Cells: {SeaBIOS with the card's iPXE, OVMF's own PXE} x {agent, local disk}. The router (dnsmasq) gives out addresses and says nothing about booting; the machines find our
server by ProxyDHCP alone. A machine that is to boot the agent shows the agent's words on its console; one that is left alone boots its disk. Needs root, for namespaces.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

from disk import LINE, bios_disk, blank_disk, uefi_disk  # noqa: E402
from machine import Machine  # noqa: E402
from network import BRIDGE, SERVER, Lan  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Under TCG, beside other work.
# UEFI tries IPv6 and HTTP before its disk, which takes minutes.
LIMIT = 420
CELLS = [(firmware, target) for firmware in ("bios", "uefi") for target in ("agent", "disk")]


def say(text):
    print(f"firmware: {text}", flush=True)


class Server:
    """`kube-baremetal up` on the LAN."""

    def __init__(self, lan, program, media, unaccepted):
        self.log = lan.folder / f"server-{unaccepted}.log"
        self.log_file = open(self.log, "w")
        command = [
            *(program, "--log", "info", "up", "--data-dir", lan.folder / f"data-{unaccepted}", "--media-dir", media, "--proxy-dhcp", BRIDGE),
            *("--advertise", SERVER, "--unaccepted", unaccepted),
        ]
        self.process = subprocess.Popen(lan.inside(command), stdout=self.log_file, stderr=subprocess.STDOUT)

    def __enter__(self):
        started = time.monotonic()
        while "boot URL" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() - started > 60:
                raise SystemExit(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def said(self):
        return self.log.read_text()


def cell(folder, program, media, firmware, target):
    name = f"{firmware}-{target}"
    disk = folder / f"{name}.img"
    if target == "agent":
        blank_disk(disk)
    elif firmware == "bios":
        bios_disk(disk)
    else:
        uefi_disk(disk)
    with Lan(folder) as lan:
        lan.house_router()
        with Server(lan, program, media, "hold" if target == "agent" else "ignore") as server, Machine(lan, name, firmware, disk) as machine:
            seconds = machine.until("kbm: session open" if target == "agent" else LINE, LIMIT)
            log = server.said()
            if "DHCP boot parameters" not in log:
                raise SystemExit(f"{name}: the machine booted without our DHCP; its log:\n{log[-2000:]}")
            if machine.mac not in log.lower().replace("-", ":"):
                raise SystemExit(f"{name}: the server's log does not know {machine.mac}")
    say(f"{name}: passed in {seconds:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/debug/kube-baremetal")
    parser.add_argument("--media", type=Path, default=REPOSITORY / "target/bootmedia")
    parser.add_argument("--only", action="append", choices=[f"{firmware}-{target}" for firmware, target in CELLS])
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and consoles")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("firmware: needs root, for network namespaces: sudo make test-firmware")
    for path in (arguments.program, arguments.media):
        if not path.exists():
            raise SystemExit(f"firmware: {path} is missing; `make build bootmedia` makes it")
    folder = Path(tempfile.mkdtemp(prefix="kbm-firmware-"))
    failed = 0
    for firmware, target in CELLS:
        if arguments.only and f"{firmware}-{target}" not in arguments.only:
            continue
        try:
            cell(folder, arguments.program, arguments.media, firmware, target)
        except SystemExit as error:
            failed += 1
            say(f"{firmware}-{target}: FAILED: {error}")
    if failed == 0 and not arguments.keep:
        subprocess.run(["rm", "-rf", folder], check=True)
    else:
        say(f"logs and consoles are in {folder}")
    passed = (len(arguments.only) if arguments.only else len(CELLS)) - failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
