"""Real DHCP clients, each in its namespace, and one of ours that says packet by packet what it was told."""

import json
import re
import secrets
import subprocess
import time
from pathlib import Path

ASK = Path(__file__).resolve().parent / "ask.py"

# What clients call when something happens: it sets the address and writes the moment down. dhclient and dhcpcd say $reason and $new_ip_address, udhcpc an argument and $ip.
HOOK = """#!/bin/sh
what=${1:-$reason} address=${ip:-$new_ip_address}
case $what in
  BOUND | RENEW | REBIND | REBOOT | bound | renew) ip addr replace "$address/24" brd + dev "$interface" ;;
  PREINIT) ip link set "$interface" up ;;
  deconfig | RELEASE | EXPIRE | FAIL | STOP) ip addr flush dev "$interface" ;;
esac
echo "$what $address" >> LOG
"""


def ask(network, host, **wishes):
    """A whole exchange; see ask.py."""
    done = subprocess.run(network.inside(host, "python3", ASK, json.dumps(wishes)), capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise SystemExit(f"asking failed:\n{done.stderr}")
    return json.loads(done.stdout)


def release(network, host, mac, address, server, decline=False):
    ask(network, host, mac=mac, give_back=address, server=server, decline=decline)


class Client:
    """Use it as a context: the program runs as long as that."""

    name = program = None

    def __init__(self, network, host, link, folder):
        self.network, self.host, self.link = network, host, link
        self.folder = folder / f"{self.name}-{host}"
        self.folder.mkdir()
        self.log = self.folder / "events"
        self.log.touch()
        self.hook = self.folder / "hook"
        self.hook.write_text(HOOK.replace("LOG", str(self.log)))
        self.hook.chmod(0o755)

    def new_card(self):
        """Another MAC address, as of another machine."""
        mac = "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))
        for words in (("down",), ("address", mac), ("up",)):
            self.network.run(self.host, "ip", "link", "set", self.link, *words)
        return mac

    def __enter__(self):
        self.network.run(self.host, "ip", "addr", "flush", "dev", self.link)
        self.log.write_text("")
        self.process = self.network.start(self.host, self.folder / "output", *self.command())
        return self

    def __exit__(self, *_):
        self.network.stop(self.process)
        self.network.run(self.host, "ip", "addr", "flush", "dev", self.link)

    def isolated(self, *command, before=""):
        """In a mount namespace with a /run of its own, so that it meets no other one of its kind."""
        return ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /run && {before} exec \"$@\"", "sh", *command]

    def address(self, patience=30):
        """What the interface has, once it has one."""
        deadline = time.monotonic() + patience
        while True:
            shown = subprocess.check_output(self.network.inside(self.host, "ip", "-j", "-4", "addr", "show", self.link))
            addresses = [a["local"] for entry in json.loads(shown) for a in entry.get("addr_info", [])]
            if addresses or time.monotonic() > deadline:
                return addresses[0] if addresses else None
            time.sleep(0.2)

    def renewals(self):
        """How often it was told that it may keep its address."""
        return len(re.findall(r"^(RENEW|renew) ", self.log.read_text(), re.M))

    def output(self):
        return (self.folder / "output").read_text()[-1500:]

    def release(self):
        raise NotImplementedError


class Dhclient(Client):
    name = "dhclient"

    def files(self):
        return ["-lf", self.folder / "leases", "-pf", self.folder / "pid", "-cf", "/dev/null", "-sf", self.hook]

    def command(self):
        return ["dhclient", "-d", *self.files(), self.link]

    def release(self):
        self.network.run(self.host, "dhclient", "-r", *self.files(), self.link, stderr=subprocess.DEVNULL)


class Udhcpc(Client):
    name = "udhcpc"

    def command(self):
        return ["udhcpc", "-f", "-i", self.link, "-s", self.hook, "-A", "3"]

    def release(self):
        self.process.send_signal(12)


class Dhcpcd(Client):
    name = "dhcpcd"

    def command(self):
        # Answers to ARP probes of its own take five seconds; that is another test.
        options = ["--nobackground", "--ipv4only", "--noarp", "--noipv4ll", "--config", "/dev/null", "--script", self.hook]
        return self.isolated("dhcpcd", *options, self.link)

    def release(self):
        self.process.send_signal(14)


class NetworkdMixin:
    """systemd-networkd, for a client of either family: `unit` is what its file says behind the link's name, `left` for how many seconds the kernel lets it have the address."""

    def command(self):
        unit = self.folder / "10-wire.network"
        # The identifier is that of the card: it takes no machine-id.
        unit.write_text(f"[Match]\nName={self.link}\n[Network]\n{self.unit}")
        # With a /sys that cannot be written it does not wait for udev.
        before = f"mkdir -p /run/systemd/network && cp {unit} /run/systemd/network && mount -o remount,bind,ro /sys &&"
        return self.isolated("/lib/systemd/systemd-networkd", before=before)

    def __enter__(self):
        self.granted = None
        return super().__enter__()

    def address(self, patience=30):
        address = super().address(patience)
        self.granted = self.granted or time.monotonic() + self.left()
        return address

    def renewals(self):
        # It says nothing; but the address lives for longer than it was first granted.
        return int(time.monotonic() + self.left() > self.granted + 10)

    def release(self):
        self.process.terminate()


class Networkd(NetworkdMixin, Client):
    name = "systemd-networkd"
    unit = "DHCP=ipv4\nLinkLocalAddressing=no\n[DHCPv4]\nClientIdentifier=mac\n"

    def left(self):
        shown = subprocess.check_output(self.network.inside(self.host, "ip", "-j", "-4", "addr", "show", self.link))
        return max((a["valid_life_time"] for entry in json.loads(shown) for a in entry.get("addr_info", [])), default=0)


CLIENTS = (Dhclient, Udhcpc, Dhcpcd, Networkd)
