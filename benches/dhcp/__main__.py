"""DHCP servers side by side, in two network namespaces (root):

    full     four-way exchanges per second: ours, Kea (memfile in memory and on file) and dnsmasq, all asked by Kea's perfdhcp
    known    the same of ours, where each of the clients has an address of its own, by ten thousand objects
    proxy    answers of ProxyDHCP per second: ours and dnsmasq
    burst    ten thousand clients that ask at once, each as often as firmware does: all have to be bound

A server's rate is the highest one of a row of rates at which fewer than 2.5 % of the exchanges are dropped. All clients of `full` and `known` have been there by then: a round at a rate that every server
keeps up with comes first and gives each its lease. Where perfdhcp itself takes more than nine tenths of a core, it is the limit, which is said. The figures of a machine that does other work beside are of no use.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).resolve().parent.parent.parent / folder) for folder in ("tests", "tests/dhcp")]
import contenders  # noqa: E402
import kea  # noqa: E402
from load import Load, mac  # noqa: E402
from namespaces import Namespaces  # noqa: E402

GENERATOR = "10.64.0.3"
DROPS = 2.5
# Of a core.
BUSY = 0.9
BURST_LIMIT = 120


class Wire(Namespaces):
    def __init__(self):
        super().__init__("bench-dhcp")

    def build(self):
        self.add("server")
        self.add("generator")
        self.direct("server", "lan0", contenders.SERVER, "generator", "eth0", GENERATOR, length=16)


@contextmanager
def served(kind, arguments, tree, known=()):
    with tempfile.TemporaryDirectory() as folder, Wire() as network:
        side = kind(network, Path(folder), arguments.program.resolve(), tree)
        side.known = known
        side.start()
        yield network, side


def rate(side, load, arguments, warm=True):
    """The best of the rates, with what it cost."""
    if warm:
        load.run(arguments.warm, arguments.clients, arguments.clients / arguments.warm * 1.5)
    best, wanted = None, arguments.start
    while True:
        before = side.processor_seconds()
        figures = load.run(wanted, arguments.clients, arguments.seconds)
        figures["cpu_us"] = (side.processor_seconds() - before) / max(1, figures["exchanges"]) * 1e6
        limit = ", perfdhcp at its limit" if figures["generator"] > BUSY else ""
        print(f"  {side.name:28} {wanted:7}/s wanted: {figures['exchanges'] / arguments.seconds:8.0f}/s, drops {figures['drops']:5.1f} %, {figures['cpu_us']:4.0f} us{limit}", flush=True)
        if figures["drops"] >= DROPS:
            break
        best = figures
        if figures["exchanges"] / arguments.seconds < wanted * 0.9:
            # The generator sent no more.
            break
        wanted = int(wanted * 1.4)
    if best is None:
        return {"server": side.name, "perSecond": 0}
    return {
        "server": side.name,
        "perSecond": round(best["exchanges"] / arguments.seconds),
        "cpuMicroseconds": round(best["cpu_us"]),
        "generatorOfACore": round(best["generator"], 2),
    }


def full(arguments, tree):
    for kind in contenders.FULL:
        with served(kind, arguments, tree) as (network, side):
            yield rate(side, Load(network, tree, contenders.SERVER), arguments)


def known(arguments, tree):
    with served(contenders.Ours, arguments, tree, [mac(number) for number in range(arguments.clients)]) as (network, side):
        yield rate(side, Load(network, tree, contenders.SERVER), arguments) | {"known": arguments.clients}


def proxy(arguments, tree):
    for kind in contenders.PROXY:
        with served(kind, arguments, tree) as (network, side):
            yield rate(side, Load(network, tree, contenders.SERVER, proxy=True), arguments, warm=False)


def burst(arguments, tree):
    with served(contenders.Ours, arguments, tree) as (network, side):
        program = Path(__file__).resolve().parent / "burst.py"
        said = network.run("generator", sys.executable, program, arguments.clients, BURST_LIMIT, capture_output=True, text=True).stdout
        seen = json.loads(said)
        print(f"  {side.name:28} {seen['bound']} of {seen['clients']} bound in {seen['seconds']} s, with {seen['packets']} packets", flush=True)
        if seen["bound"] != arguments.clients or seen["addresses"] != arguments.clients:
            raise SystemExit(f"not every client has an address of its own: {seen}")
        yield seen


GROUPS = {"full": full, "known": known, "proxy": proxy, "burst": burst}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="kube-baremetal, a release build")
    parser.add_argument("--peers", type=Path, required=True, help="folder into which the peers' packages are unpacked")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=10, help="of each rate")
    parser.add_argument("--start", type=int, default=1000, help="the first rate")
    parser.add_argument("--warm", type=int, default=500, help="rate of the first round, in which each client gets its lease")
    parser.add_argument("--only", nargs="*", choices=GROUPS, help="these groups")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root: sudo make bench-dhcp")
    tree = kea.unpacked(arguments.peers)
    results = {}
    for name in arguments.only or GROUPS:
        print(name, flush=True)
        results[name] = list(GROUPS[name](arguments, tree))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
