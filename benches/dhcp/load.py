"""perfdhcp, and what it says."""

import os
import re
import subprocess

#: What makes a DISCOVER one of a machine that boots: class and architecture of a BIOS (RFC 4578).
BOOTS = ("-o", "60,505845436c69656e743a417263683a30303030303a554e44493a303032303031", "-o", "93,0000")
#: The first client's MAC address; the others count on from it.
BASE = 0x000C01020304


def mac(number):
    return ":".join(f"{byte:02x}" for byte in (BASE + number).to_bytes(6, "big"))


class Load:
    """Exchanges of four packets; with `proxy` of two, DISCOVER and OFFER, as machines that boot have them with a ProxyDHCP server."""

    def __init__(self, network, tree, server, proxy=False):
        self.network, self.tree, self.server, self.proxy = network, tree, server, proxy

    def run(self, rate, clients, seconds):
        """Exchanges done, the percentage that was dropped of any part of them, and how much of a core perfdhcp itself took."""
        command = [self.tree / "usr/sbin/perfdhcp", "-4", "-r", rate, "-R", clients, "-b", f"mac={mac(0)}", "-p", int(seconds), "-W", 2, "-d", 3, "-l", "eth0"]
        command += ["-i", *BOOTS] if self.proxy else []
        environment = os.environ | {"LD_LIBRARY_PATH": str(self.tree / f"usr/lib/{os.uname().machine}-linux-gnu")}
        before = os.times()
        # It ends with 3 when anything was dropped.
        done = subprocess.run(self.network.inside("generator", *command, self.server), capture_output=True, text=True, env=environment)
        after = os.times()
        received = [int(count) for count in re.findall(r"received packets: (\d+)", done.stdout)]
        sent = [int(count) for count in re.findall(r"sent packets: (\d+)", done.stdout)]
        if len(received) < (1 if self.proxy else 2):
            raise SystemExit(f"perfdhcp said nothing of use:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        lost = max(100 * (1 - got / asked) if asked else 100 for asked, got in zip(sent, received))
        busy = (after.children_user - before.children_user + after.children_system - before.children_system) / seconds
        return {"exchanges": received[-1], "drops": lost, "generator": busy}
