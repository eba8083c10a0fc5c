"""An Ethernet switch in user space: VLANs, bonds by LACP, and a largest frame, for ports that are taps (of the kernel) or datagram sockets (of QEMU).

The host's kernel need know neither VLANs nor bonds. The switch notes what the tests ask about: which frames came from where.
"""

import fcntl
import os
import selectors
import socket
import struct
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

SLOW_PROTOCOLS = bytes.fromhex("0180c2000002")
LACP, VLAN, ARP = 0x8809, 0x8100, 0x0806
SWITCH = bytes.fromhex("02005e77ffff")
# Bits of LACP's state: activity, short time-out, aggregation, synchronisation, collecting, distributing.
ACTIVE, SHORT, AGGREGATION, SYNC, COLLECTING, DISTRIBUTING = 1, 2, 4, 8, 16, 32
# A partner that is silent this long is none; it is told to send every second.
SILENCE = 3.5
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000


@dataclass
class Port:
    """`native` and `tagged`: the VLANs whose frames go without and with a tag. `bond`: ports of one number are one."""

    name: str
    native: int
    tagged: tuple = ()
    bond: int | None = None
    # The longest frame that passes, without tag and checksum.
    largest: int = 9014
    number: int = 0
    cable: bool = True
    # The partner as its LACP said it last (system, key, port, state), and when.
    partner: tuple | None = None
    heard: float = 0
    # Why it drops, by length; the longest frame that came from it.
    dropped: int = 0
    longest: int = 0
    # Frames of IP and ARP that came from it, by VLAN.
    frames: dict = field(default_factory=lambda: defaultdict(int))

    def send(self, frame):
        raise NotImplementedError


class Tap(Port):
    """A tap in the network namespace of whoever makes it."""

    def open(self):
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.file, TUNSETIFF, struct.pack("16sH22x", self.name.encode(), IFF_TAP | IFF_NO_PI))
        return self

    def receive(self):
        return os.read(self.file, 65536)

    def send(self, frame):
        try:
            os.write(self.file, frame)
        except OSError:
            pass

    def close(self):
        os.close(self.file)


class Socket(Port):
    """A pair of datagram sockets with QEMU: its `-netdev dgram`."""

    def open(self, folder):
        self.path, self.peer = folder / f"{self.name}.switch", folder / f"{self.name}.nic"
        self.file = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.file.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.file.bind(str(self.path))
        self.file.setblocking(False)
        return self

    def netdev(self, name):
        return f"dgram,id={name},local.type=unix,local.path={self.peer},remote.type=unix,remote.path={self.path}"

    def receive(self):
        return self.file.recv(65536)

    def send(self, frame):
        # A machine that is slow holds its traffic up for a moment, as flow control would.
        for _ in range(200):
            try:
                self.file.sendto(frame, str(self.peer))
                return
            except BlockingIOError:
                time.sleep(0.0005)
            except OSError:
                return

    def close(self):
        self.file.close()


class Switch:
    """Use it as a context: it forwards inside."""

    def __init__(self, ports):
        self.ports = ports
        for number, port in enumerate(ports, 1):
            port.number = number
        self.table = {}
        # Which cards said by ARP that an address is theirs.
        self.owners = defaultdict(set)
        self.selector = selectors.DefaultSelector()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        for port in self.ports:
            self.selector.register(port.file, selectors.EVENT_READ, port)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join(5)
        for port in self.ports:
            port.close()

    def run(self):
        next_lacp = 0
        while not self.ended.is_set():
            for key, _ in self.selector.select(0.1):
                for _ in range(64):
                    try:
                        self.forward(key.data, key.data.receive())
                    except OSError:
                        break
            if time.monotonic() >= next_lacp:
                next_lacp = time.monotonic() + 1
                for port in self.ports:
                    if port.bond is not None and port.cable and self.partner(port):
                        port.send(self.lacp(port))

    def partner(self, port):
        """The partner's (system, key, port, state), while it is heard."""
        return port.partner if time.monotonic() - port.heard < SILENCE else None

    def members(self, port):
        """The ports that carry a bond's traffic: those whose partner is one and the same and is in step. None of them: each port is for itself, which is how firmware gets through."""
        mates = [p for p in self.ports if p.bond == port.bond and p.cable]
        spoken = [(p, self.partner(p)) for p in mates]
        systems = [partner[:2] for _, partner in spoken if partner and partner[3] & SYNC]
        return [p for p, partner in spoken if partner and partner[3] & SYNC and partner[:2] == systems[0]]

    def is_bonded(self, number):
        """Whether two ports of a bond carry traffic."""
        first = next(p for p in self.ports if p.bond == number)
        return len(self.members(first)) > 1

    def forward(self, port, frame):
        if not port.cable or len(frame) < 14:
            return
        kind = int.from_bytes(frame[12:14], "big")
        if kind == LACP:
            if port.bond is not None and frame[14] == 1:
                self.heard(port, frame)
            return
        vlan, inner = port.native, frame
        if kind == VLAN:
            vlan = int.from_bytes(frame[14:16], "big") & 0xFFF
            if vlan not in port.tagged:
                return
            inner = frame[:12] + frame[16:]
            kind = int.from_bytes(inner[12:14], "big")
        port.longest = max(port.longest, len(inner))
        if kind in (ARP, 0x0800):
            port.frames[vlan] += 1
        if kind == ARP and inner[20:22] == b"\0\2":
            self.owners[socket.inet_ntoa(inner[28:32])].add(inner[22:28].hex(":"))
        source = inner[6:12]
        self.table[vlan, source] = port
        known = self.table.get((vlan, inner[:6]))
        if known is not None and not inner[0] & 1:
            targets = [known]
        else:
            targets = [p for p in self.ports if p is not port and (port.bond is None or p.bond != port.bond)]
        sent = set()
        for target in targets:
            if target.bond is not None:
                if target.bond in sent:
                    continue
                carrying = self.members(target)
                if carrying:
                    sent.add(target.bond)
                    target = carrying[inner[11] % len(carrying)] if target not in carrying or len(targets) > 1 else target
            self.emit(target, vlan, inner)

    def emit(self, port, vlan, inner):
        if not port.cable or vlan not in (port.native, *port.tagged):
            return
        if len(inner) > port.largest:
            port.dropped += 1
            return
        port.send(inner if vlan == port.native else inner[:12] + struct.pack("!HH", VLAN, vlan) + inner[12:])

    def heard(self, port, frame):
        # Behind the header of 14 bytes: subtype, version, then the actor's block (type, length, priority, system, key, port priority, port, state).
        _, _, _, _, _, system, key, _, number, state = struct.unpack("!BBBBH6sHHHB", frame[14:33])
        port.partner, port.heard = (system, key, number, state), time.monotonic()
        port.send(self.lacp(port))

    def lacp(self, port):
        """What we say of ourselves, and what we heard of the partner."""
        system, key, number, state = port.partner
        own = ACTIVE | SHORT | AGGREGATION | SYNC | COLLECTING | DISTRIBUTING
        actor = struct.pack("!BBH6sHHHB3x", 1, 20, 32768, SWITCH, port.bond, 255, port.number, own)
        partner = struct.pack("!BBH6sHHHB3x", 2, 20, 65535, system, key, 255, number, state)
        source = SWITCH[:5] + bytes([port.number])
        return SLOW_PROTOCOLS + source + struct.pack("!HBB", LACP, 1, 1) + actor + partner + struct.pack("!BBH12x", 3, 16, 0) + bytes(52)
