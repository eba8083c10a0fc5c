"""Measures `kube-baremetal image write` side by side with its limits and its peers, and holds it against the bars of docs/benchmarks.md.

    python3 benches/image [--program PATH] [--only GROUP]... [--runs N] [--keep] [--tables]

Everything it needs is made here and kept by content: the image in all its forms, the peers, the target. Within a group the contenders take turns, so that what else the
machine does hits all of them alike. The exit status is 1 if a bar is missed or could not be measured. It needs root (loop devices, namespaces) and some 20 GiB of disk.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import bars  # noqa: E402
import groups  # noqa: E402
import peers  # noqa: E402
from images import Images  # noqa: E402
from ours import Program  # noqa: E402
from results import Results, tables  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def say(text):
    print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


def commit():
    said = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    return said.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(prog="bench-image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/release/kube-baremetal", help="the command under test")
    parser.add_argument("--image", type=Path, default=REPOSITORY / "target/images/debian.raw.zst", help="the Debian image that `make image` builds")
    parser.add_argument("--only", action="append", choices=list(groups.ALL), help="measure this group alone (may be repeated)")
    parser.add_argument("--contender", action="append", help="measure only contenders with this name (may be repeated)")
    parser.add_argument("--runs", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--keep", action="store_true", help="keep the results of other groups from before")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what was measured before")
    arguments = parser.parse_args()

    out = REPOSITORY / "target/bench-image"
    results = Results(out / "results.json", arguments.keep or arguments.tables)
    if not arguments.tables:
        if os.geteuid() != 0:
            raise SystemExit("bench-image: needs root, for loop devices and namespaces")
        # Peers build on what the system calls a temporary folder; nothing of ours depends on the time zone or the language.
        os.environ["LC_ALL"] = "C.UTF-8"
        if not arguments.image.exists():
            raise SystemExit(f"bench-image: {arguments.image} is missing; `make image` builds it")
        cache = os.environ.get("KBM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-baremetal"
        program = Program(arguments.program)
        results.data["about"] = {
            "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
            "commit": commit(),
            "under test": f"{program.path} ({program.version() if program.path.exists() else 'not built'})",
            "machine": f"{os.cpu_count()} cores, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB, Linux {platform.release()}",
            **peers.versions(),
        }
        bench = groups.Bench(results, Images(cache, arguments.image, say), program, out, arguments.runs, arguments.contender, say)
        for name in arguments.only or groups.ALL:
            results.begin(name)
            try:
                groups.ALL[name](bench, name)
            finally:
                results.save()
    print(tables(results, bars.OURS))
    print("\nBars")
    verdicts = bars.all_bars(results)
    for verdict in verdicts:
        print(verdict.line())
    return 0 if all(verdict.passed for verdict in verdicts) else 1


sys.exit(main())
