"""Four-way exchanges per second: `kube-baremetal up --dhcp lan0=full` beside Kea (memfile in memory and on file) and dnsmasq, all asked by Kea's perfdhcp, in two network namespaces (root).

A server's rate is the highest one of a row of rates at which fewer than 2.5 % of the exchanges are dropped. All clients are known by then: a round at a rate that every server keeps up with comes first and gives each its lease.
The figures of a machine that does other work beside are of no use.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).resolve().parent.parent.parent / folder) for folder in ("tests", "tests/dhcp")]
import kea  # noqa: E402
from contenders import SIDES  # noqa: E402
from load import Load  # noqa: E402
from namespaces import Namespaces  # noqa: E402

SERVER, GENERATOR = "10.64.0.2", "10.64.0.3"
DROPS = 2.5


class Wire(Namespaces):
    def __init__(self):
        super().__init__("bench-dhcp")

    def build(self):
        self.add("server")
        self.add("generator")
        self.direct("server", "lan0", SERVER, "generator", "eth0", GENERATOR, length=16)


def rate(side, load, arguments):
    """The best of the rates, with what it cost, and what the first one that was too much looked like."""
    load.run(arguments.warm, arguments.clients, arguments.clients / arguments.warm * 1.5)
    best, too_much = None, None
    wanted = arguments.start
    while True:
        before = side.processor_seconds()
        figures = load.run(wanted, arguments.clients, arguments.seconds)
        figures["cpu_us"] = (side.processor_seconds() - before) / max(1, figures["exchanges"]) * 1e6
        print(f"  {side.name:28} {wanted:7}/s wanted: {figures['exchanges'] / arguments.seconds:8.0f}/s, drops {figures['drops']:5.1f} %, {figures['cpu_us']:4.0f} us", flush=True)
        if figures["drops"] >= DROPS:
            too_much = figures
            break
        best = figures
        if figures["exchanges"] / arguments.seconds < wanted * 0.9:
            # The generator sent no more.
            break
        wanted = int(wanted * 1.4)
    return best, too_much


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="kube-baremetal, a release build")
    parser.add_argument("--peers", type=Path, required=True, help="folder into which the peers' packages are unpacked")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=10, help="of each rate")
    parser.add_argument("--start", type=int, default=1000, help="the first rate")
    parser.add_argument("--warm", type=int, default=500, help="rate of the first round, in which each client gets its lease")
    parser.add_argument("--only", nargs="*", help="names of servers")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root")
    tree = kea.unpacked(arguments.peers)
    results = []
    for kind in SIDES:
        if arguments.only and kind.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder, Wire() as network:
            side = kind(network, Path(folder), arguments.program.resolve(), tree)
            side.start()
            best, _ = rate(side, Load(network, tree, SERVER), arguments)
            results.append({"server": side.name, "perSecond": round(best["exchanges"] / arguments.seconds) if best else 0, "cpuMicroseconds": round(best["cpu_us"]) if best else None})
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
