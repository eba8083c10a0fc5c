"""A QEMU machine with one card for each port of the switch. It boots from the network by the card that is said."""

from pathlib import Path

import machine as firmware


class Guest(firmware.Machine):
    """As its base, with SeaBIOS and the card's iPXE."""

    def __init__(self, lan, name, disk: Path, boots_from=0):
        super().__init__(lan, name, "bios", disk, ovmf=None, reboots=True)
        self.boots_from = boots_from
        self.macs = [f"52:54:00:77:42:{number:02x}" for number in range(len(lan.sockets))]
        self.mac = self.macs[boots_from]

    def _arguments(self):
        yield from ("qemu-system-x86_64", "-name", self.name, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "1")
        yield from ("-display", "none", "-nodefaults", "-vga", "std", "-serial", f"file:{self.console}", "-monitor", f"unix:{self.monitor},server=on,wait=off")
        yield from ("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
        yield from ("-drive", f"if=none,id=d0,format=raw,file={self.disk}", "-device", "virtio-blk-pci,drive=d0,serial=DISK0,bootindex=9")
        for number, (port, mac) in enumerate(zip(self.lan.sockets, self.macs)):
            # LACP agrees to links of a known speed only.
            card = f"virtio-net-pci,netdev=n{number},mac={mac},speed=10000,duplex=full,id=c{number}"
            boot = ",bootindex=0" if number == self.boots_from else ",romfile="
            yield from ("-netdev", port.netdev(f"n{number}"), "-device", card + boot)

    def pull(self, number):
        """Pulls a card's cable at both ends."""
        self.order(f"set_link c{number} off")
        self.lan.sockets[number].cable = False

    def restart(self):
        self.console.write_text("")
        self.reset()
