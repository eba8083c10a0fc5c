"""A QEMU machine on a port of the switch, with nothing but its own firmware to boot from the network: QEMU tells it nothing."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

# What OVMF is told to leave out of its boot options, so that a cell tries the way that it is about.
NO_PXE = {version: ("-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n") for version in (4, 6)}

# EDK2 for arm64, as Debian's package qemu-efi-aarch64 installs it.
AAVMF = Path("/usr/share/AAVMF")


class Machine:
    """Use it as a context: it is switched on inside, and off behind.

    firmware: bios (SeaBIOS and the card's iPXE), pxe (OVMF over IPv4), http (OVMF's HTTP boot), secure (pxe with Microsoft's keys enforced), secure-http, arm64 (EDK2's PXE on
    an arm64 machine), arm64-http; pxe6, http6 and secure6: the same over IPv6.
    """

    def __init__(self, lan, name, firmware, disk: Path, ovmf: Path, reboots=False):
        self.lan, self.name, self.firmware, self.disk, self.ovmf, self.reboots = lan, name, firmware, disk, ovmf, reboots
        self.console = lan.folder / f"{name}.console"
        self.monitor = lan.folder / f"{name}.monitor"
        self.mac = f"52:54:00:77:00:{lan.taps + 1:02x}"
        self.process = None

    def _arguments(self):
        secure = self.firmware.startswith("secure")
        nic = f"virtio-net-pci,netdev=n0,mac={self.mac}"
        if self.firmware.startswith("arm64"):
            yield from ("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a57")
        else:
            yield from ("qemu-system-x86_64", "-machine", "q35,smm=on" if secure else "q35", "-cpu", "max", "-vga", "std")
        yield from ("-name", self.name, "-accel", "tcg,thread=multi", "-m", "1024", "-smp", "1", "-display", "none", "-nodefaults", "-serial", f"file:{self.console}")
        yield from ("-monitor", f"unix:{self.monitor},server=on,wait=off")
        yield from () if self.reboots else ("-no-reboot",)
        yield from ("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
        yield from ("-drive", f"if=none,id=d0,format=raw,file={self.disk}", "-netdev", f"tap,id=n0,ifname={self.lan.tap()},script=no,downscript=no")
        if self.firmware != "bios":
            code, variables = self._flash(secure)
            own = self.lan.folder / f"{self.name}.vars"
            shutil.copy(variables, own)
            yield from ("-drive", f"if=pflash,format=raw,readonly=on,file={code}", "-drive", f"if=pflash,format=raw,file={own}")
            # Its own PXE, not that of iPXE in the card's ROM.
            nic += ",romfile="
            if secure:
                # Nothing but firmware itself may write its variables.
                yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")
            if self.firmware.endswith(("http", "6")):
                yield from NO_PXE[4]
            if self.firmware.endswith(("http", "http6")):
                yield from NO_PXE[6]
        yield from ("-device", f"{nic},bootindex=0", "-device", "virtio-blk-pci,drive=d0,serial=DISK0,bootindex=1")

    def _flash(self, secure):
        """The firmware's code, and its variables as they are at first."""
        if self.firmware.startswith("arm64"):
            return AAVMF / "AAVMF_CODE.fd", AAVMF / "AAVMF_VARS.fd"
        if secure:
            return self.ovmf / "OVMF_CODE_4M.secboot.fd", self.ovmf / "OVMF_VARS_4M.ms.fd"
        return self.ovmf / "OVMF_CODE_4M.fd", self.ovmf / "OVMF_VARS_4M.fd"

    def __enter__(self):
        log = open(self.lan.folder / f"{self.name}.qemu", "w")
        self.process = subprocess.Popen(self.lan.inside(self._arguments()), stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def reset(self):
        """Presses the reset button."""
        self.order("system_reset")

    def order(self, text):
        """Says something to QEMU's monitor."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(20)
            monitor.connect(str(self.monitor))
            monitor.sendall(text.encode() + b"\n")
            # The prompt after the command's echo: it was carried out.
            answer = b""
            while answer.count(b"(qemu) ") < 2:
                answer += monitor.recv(4096)

    def said(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def must_run(self):
        if self.process.poll() is not None:
            raise SystemExit(f"QEMU ended with {self.process.returncode}: {(self.lan.folder / f'{self.name}.qemu').read_text()[-500:]}")

    def until(self, what, seen, limit):
        """Seconds until `seen` is true."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            if seen():
                return time.monotonic() - started
            self.must_run()
            time.sleep(0.1)
        raise SystemExit(f"{what}: not within {limit} s; the console ends with:\n{self.said()[-1500:]}")
