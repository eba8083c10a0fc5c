"""Measures our TFTP server side by side with tftpd-hpa, dnsmasq and atftpd on loopback.

    python3 benches/tftp --program PATH [--runs N] [--clients N]... [--window N]...

PATH is the example `tftp_bench` of the crate `tftp`, built with the release profile: it holds our server and the clients for all of them. Everything happens in a network
namespace of its own, each server at an address of its own, so it needs root and disturbs nobody. In each round the contenders take turns. Peers come from Debian: dnsmasq as
it is installed, the others are unpacked into the target folder, because installing them would start them. The exit status is 1 if a fetch failed or a peer is missing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent.parent))

import contenders  # noqa: E402
import machine  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILE, SIZE, BLOCK_SIZE = "loader.efi", 1_000_000, 1468
INSIDE = "KBM_BENCH_TFTP_INSIDE"


def main():
    parser = argparse.ArgumentParser(prog="bench-tftp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="the example tftp_bench")
    parser.add_argument("--runs", type=int, default=5, help="rounds; figures are medians of them")
    parser.add_argument("--clients", type=int, action="append", help="clients at once (may be repeated; 1 and 50)")
    parser.add_argument("--window", type=int, action="append", help="windowsize that is asked for (may be repeated; 1, 8 and 64)")
    parser.add_argument("--megabytes", type=int, default=200, help="what all clients together fetch in a run")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench-tftp: needs root, for a network namespace")
    if not arguments.program.exists():
        raise SystemExit(f"bench-tftp: {arguments.program} is missing; `make bench-tftp` builds it")
    peers = contenders.find(REPOSITORY / "target/bench-tftp/peers")
    if INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], os.environ | {INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Where there is nothing but loopback, glibc resolves no IPv4 address for tftpd-hpa, not even a written one (AI_ADDRCONFIG).
    subprocess.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True)

    busy = machine.busy_share(2.0)
    print(f"{platform.release()}, {os.cpu_count()} processors; file of {SIZE:,} bytes, blksize {BLOCK_SIZE}, medians of {arguments.runs} rounds")
    print(f"before the first round {busy:.0%} of the processors were busy with other things" + ("" if busy < 0.05 else ": NOT A QUIET MACHINE, take the figures as orientation only"))
    results = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="kbm-tftp.") as folder:
        os.chmod(folder, 0o755)
        file = Path(folder) / "files" / FILE
        file.parent.mkdir(mode=0o755)
        file.write_bytes(os.urandom(SIZE))
        servers = contenders.start(arguments.program, peers, file.parent)
        try:
            for round_number in range(arguments.runs):
                for clients in arguments.clients or [1, 50]:
                    for window in arguments.window or [1, 8, 64]:
                        for server in servers:
                            said = measure(arguments, server, clients, window)
                            results.setdefault((clients, window), {}).setdefault(server.name, []).append(said)
                            if said["failed"]:
                                failed = True
                                print(f"{server.name}, {clients} clients, window {window}: {said['failed']} fetches failed: {said['first_failure']}")
                print(f"round {round_number + 1} of {arguments.runs} done", file=sys.stderr, flush=True)
        finally:
            for server in servers:
                server.stop()
    tables(results)
    return 1 if failed else 0


def measure(arguments, server, clients, window):
    repeat = max(1, arguments.megabytes * 1_000_000 // SIZE // clients)
    before, began = server.processor_seconds(), os.times()
    command = [arguments.program, "load", "--address", server.address, "--file", FILE, "--size", SIZE, "--clients", clients, "--repeat", repeat]
    command += ["--block-size", BLOCK_SIZE, "--window", window]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    ended = os.times()
    said = json.loads(done.stdout)
    said["server_processor"] = None if before is None else server.processor_seconds() - before
    said["client_processor"] = ended.children_user + ended.children_system - began.children_user - began.children_system
    return said


def tables(results):
    for (clients, window), by_server in results.items():
        print(f"\n{clients} client{'s' if clients > 1 else ''}, windowsize {window}\n")
        print("| server | MB/s | lowest to highest | ours is times as fast | its processor ms per MB | clients' processor ms per MB | timeouts | longest fetch s |")
        print("|---|---|---|---|---|---|---|---|")
        rates = {name: [run["bytes"] / run["seconds"] / 1e6 for run in runs] for name, runs in by_server.items()}
        ours = statistics.median(rates["kube-baremetal"])
        for name, runs in by_server.items():
            rate = statistics.median(rates[name])
            cost = [per_megabyte(runs, key) for key in ("server_processor", "client_processor")]
            ratio = f"{ours / rate:.2f}" if rate > 0 else "-"
            span = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
            longest = max(run["longest"] for run in runs)
            print(f"| {name} | {rate:.1f} | {span} | {ratio} | {cost[0]} | {cost[1]} | {sum(run['timeouts'] for run in runs)} | {longest:.2f} |")


def per_megabyte(runs, key):
    """Median of processor time in ms per megabyte; a dash where it cannot be known."""
    if any(run[key] is None for run in runs):
        return "-"
    return f"{statistics.median(run[key] * 1e9 / max(run['bytes'], 1) for run in runs):.2f}"


if __name__ == "__main__":
    sys.exit(main())
