"""A QEMU machine on a port of the switch, with nothing but its own firmware to boot from the network: QEMU tells it nothing."""

import shutil
import subprocess
import time
from pathlib import Path

OVMF = Path("/usr/share/OVMF")


class Machine:
    """Use it as a context: it is switched on inside, and off behind."""

    def __init__(self, lan, name, firmware, disk: Path):
        self.lan, self.name, self.firmware, self.disk = lan, name, firmware, disk
        self.console = lan.folder / f"{name}.console"
        self.mac = f"52:54:00:77:00:{lan.taps + 1:02x}"
        self.process = None

    def _arguments(self):
        nic = f"virtio-net-pci,netdev=n0,mac={self.mac}"
        yield from ("qemu-system-x86_64", "-name", self.name, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "1")
        yield from ("-display", "none", "-nodefaults", "-vga", "std", "-serial", f"file:{self.console}", "-no-reboot")
        yield from ("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
        yield from ("-drive", f"if=none,id=d0,format=raw,file={self.disk}", "-netdev", f"tap,id=n0,ifname={self.lan.tap()},script=no,downscript=no")
        if self.firmware == "uefi":
            variables = self.lan.folder / f"{self.name}.vars"
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
            yield from ("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd", "-drive", f"if=pflash,format=raw,file={variables}")
            # Its own PXE, not that of iPXE in the card's ROM.
            nic += ",romfile="
        yield from ("-device", f"{nic},bootindex=0", "-device", "virtio-blk-pci,drive=d0,serial=DISK0,bootindex=1")

    def __enter__(self):
        log = open(self.lan.folder / f"{self.name}.qemu", "w")
        self.process = subprocess.Popen(self.lan.inside(self._arguments()), stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def said(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def until(self, text, limit):
        """Seconds until the console shows it."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            if text in self.said():
                return time.monotonic() - started
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name}: QEMU ended with {self.process.returncode}: {(self.lan.folder / f'{self.name}.qemu').read_text()[-500:]}")
            time.sleep(0.25)
        raise SystemExit(f"{self.name}: its console did not show {text!r} within {limit} s; it ends with:\n{self.said()[-1500:]}")
