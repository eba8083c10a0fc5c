"""Real DHCPv6 clients, each in its namespace, as `clients` has them for IPv4. The kernel takes prefix and routes out of router advertisements."""

import json
import re
import subprocess
import time

from clients import Client, NetworkdMixin

# What dhclient and dhcpcd call when something happens: dhclient leaves the address to it, dhcpcd sets it itself.
HOOK = """#!/bin/sh
address=${new_ip6_address:-$new_dhcp6_ia_na1_ia_addr1}
if [ -n "$new_ip6_address" ]; then
  case $reason in BOUND6 | RENEW6 | REBIND6) ip -6 addr replace "$new_ip6_address/128" dev "$interface" ;; esac
fi
case $reason in
  PREINIT6) ip link set "$interface" up ;;
  RELEASE6 | EXPIRE6 | STOP6) ip -6 addr flush dev "$interface" scope global ;;
esac
echo "$reason $address" >> LOG
"""


def addresses(network, host, link, scope="global"):
    """Those of the link, each with its prefix length and the seconds for which it holds, that nobody else has."""
    shown = json.loads(subprocess.check_output(network.inside(host, "ip", "-j", "-6", "addr", "show", "dev", link, "scope", scope)))
    return [(a["local"], a["prefixlen"], a["valid_life_time"]) for entry in shown for a in entry.get("addr_info", []) if "local" in a and not a.get("tentative")]


class ClientV6(Client):
    # Whether it gives its address back when it ends.
    releases = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.hook.write_text(HOOK.replace("LOG", str(self.log)))

    def flush(self):
        self.network.run(self.host, "ip", "-6", "addr", "flush", "dev", self.link, "scope", "global")

    def __enter__(self):
        self.flush()
        self.log.write_text("")
        # dhclient ends where there is no address to ask from.
        deadline = time.monotonic() + 10
        while not addresses(self.network, self.host, self.link, "link") and time.monotonic() < deadline:
            time.sleep(0.1)
        self.process = self.network.start(self.host, self.folder / "output", *self.command())
        return self

    def __exit__(self, *_):
        self.network.stop(self.process)
        self.flush()

    def address(self, patience=30):
        deadline = time.monotonic() + patience
        while True:
            leased = [address for address, length, _ in addresses(self.network, self.host, self.link) if length == 128]
            if leased or time.monotonic() > deadline:
                return leased[0] if leased else None
            time.sleep(0.2)

    def renewals(self):
        return len(re.findall(r"^(RENEW6|REBIND6) ", self.log.read_text(), re.M))


class Dhclient6(ClientV6):
    name = "dhclient-6"

    def files(self):
        return ["-lf", self.folder / "leases", "-pf", self.folder / "pid", "-cf", "/dev/null", "-sf", self.hook]

    def command(self):
        return ["dhclient", "-6", "-d", *self.files(), self.link]

    def release(self):
        self.network.run(self.host, "dhclient", "-6", "-r", *self.files(), self.link, stderr=subprocess.DEVNULL)


class Dhcpcd6(ClientV6):
    name = "dhcpcd-6"

    def command(self):
        # Router advertisements are the kernel's. Without a folder that stays, its DUID is a new one each time, unless it is made of the card.
        options = ["--nobackground", "--ipv6only", "--noipv6rs", "--ia_na", "--config", "/dev/null", "--duid=ll", "--script", self.hook]
        return self.isolated("dhcpcd", *options, self.link)

    def release(self):
        self.process.send_signal(14)


class Networkd6(NetworkdMixin, ClientV6):
    name = "systemd-networkd-6"
    # That of Debian 12 (252) does so with IPv4 only.
    releases = False
    # M of an advertisement makes it ask.
    unit = "DHCP=ipv6\nIPv6AcceptRA=yes\n[DHCPv6]\nDUIDType=link-layer\n"

    def left(self):
        return max((left for _, length, left in addresses(self.network, self.host, self.link) if length == 128), default=0)


CLIENTS_V6 = (Dhclient6, Dhcpcd6, Networkd6)
