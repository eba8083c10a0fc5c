"""A QEMU machine with a plug: it is off until something switches it on, boots from its disk first, and can be told to boot once from the network."""

import subprocess
import threading
from pathlib import Path

from machine import Machine

# Where firmware looks first: (network card, disk).
NETWORK_FIRST, DISK_FIRST = (0, 1), (2, 1)


class Guest(Machine):
    """Use it as a context: inside it can be switched on, and behind it is off. Its console is kept over all its boots."""

    def __init__(self, lan, name, firmware, disk: Path, ovmf: Path, network_first=False, devices=()):
        super().__init__(lan, name, firmware, disk, ovmf, reboots=True)
        self.network_first, self.devices = network_first, tuple(map(str, devices))
        self.tap, self.once, self.history = lan.tap(), False, ""
        # What it was told, in order.
        self.told = []
        self.lock = threading.RLock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.off()

    def _arguments(self):
        order = NETWORK_FIRST if self.network_first or self.once else DISK_FIRST
        for word in map(str, super()._arguments()):
            if word.startswith("virtio-net-pci"):
                yield f"{word.replace('bootindex=0', f'bootindex={order[0]}')},id=nic"
            else:
                yield word
        yield from self.devices

    def must_run(self):
        """It may be off."""

    def is_on(self):
        with self.lock:
            return self.process is not None and self.process.poll() is None

    def on(self):
        with self.lock:
            if self.is_on():
                return
            self.history += self._fresh()
            self.console.unlink(missing_ok=True)
            self.monitor.unlink(missing_ok=True)
            log = open(self.lan.folder / f"{self.name}.qemu", "a")
            self.process = subprocess.Popen(self.lan.inside(self._arguments()), stdout=log, stderr=log)
            if self.once:
                self.once = False
                # Firmware reads the order at a reset: the next one finds what is set up for good.
                self._wait_for_monitor()
                self.order(f"qom-set /machine/peripheral/nic bootindex {DISK_FIRST[0]}")

    def off(self):
        with self.lock:
            if self.is_on():
                self.process.kill()
                self.process.wait()

    def shut_down(self):
        """Presses the button."""
        with self.lock:
            if self.is_on():
                self.order("system_powerdown")

    def boot_once_from_network(self):
        self.once = True

    def _wait_for_monitor(self):
        self.until("QEMU's monitor", self.monitor.is_socket, 20)

    def _fresh(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def said(self):
        return self.history + self._fresh()
