"""perfdhcp, and what it says."""

import os
import re
import subprocess


class Load:
    def __init__(self, network, tree, server):
        self.network, self.tree, self.server = network, tree, server

    def run(self, rate, clients, seconds):
        """Exchanges done, and the percentage that was dropped of either half."""
        command = [self.tree / "usr/sbin/perfdhcp", "-4", "-r", rate, "-R", clients, "-p", int(seconds), "-W", 2, "-d", 3, "-l", "eth0", self.server]
        environment = os.environ | {"LD_LIBRARY_PATH": str(self.tree / f"usr/lib/{os.uname().machine}-linux-gnu")}
        # It ends with 3 when anything was dropped.
        done = subprocess.run(self.network.inside("generator", *command), capture_output=True, text=True, env=environment)
        received = [int(count) for count in re.findall(r"received packets: (\d+)", done.stdout)]
        sent = [int(count) for count in re.findall(r"sent packets: (\d+)", done.stdout)]
        if len(received) < 2:
            raise SystemExit(f"perfdhcp said nothing of use:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        lost = max(100 * (1 - got / asked) if asked else 100 for asked, got in zip(sent, received))
        return {"exchanges": received[1], "drops": lost}
