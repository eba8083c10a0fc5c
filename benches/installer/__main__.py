"""Measures power-on to SSH with our image against an unattended Debian installation on the same QEMU machine, and compares two disks of each way.

    python3 benches/installer [--program PATH] [--media FOLDER] [--image FILE] [--out FOLDER] [--only PART]... [--keep] [--tables]

The installer has its packages from a caching mirror on loopback that this program runs, filled beforehand; ours has its image from `kube-baremetal up`. The exit status is 1
unless ours is at least five times as fast, and its disks are the same but for what the instances' status lists. It needs no root; half an hour with KVM, and about two
without. Disks and logs stay in the folder of results.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

sys.dont_write_bytecode = True

import disks  # noqa: E402
import installer  # noqa: E402
import machine  # noqa: E402
import ours  # noqa: E402
from mirror import Mirror, Site, Syslog, Unreachable, upstream  # noqa: E402
from results import INSTALLER, OURS, Results, tables  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PARTS = (OURS, INSTALLER, "compare")
# Longest that one way may take, in seconds.
OURS_LIMIT, INSTALLER_LIMIT = 1200, 7200


def say(text):
    print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


def load():
    return f"{os.getloadavg()[0]:.1f}"


class Bench:
    """One run of the rig."""

    def __init__(self, arguments, results):
        self.arguments, self.results, self.out = arguments, results, arguments.out.resolve()
        self.shape = machine.Shape(arguments.memory, arguments.cpus, arguments.disk, machine.accelerator())
        self.out.mkdir(parents=True, exist_ok=True)
        self.key = machine.Key(self.out)
        self.machines = []

    def about(self):
        commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        self.results.data["about"] |= {
            "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
            "commit": commit.stdout.strip() or "unknown",
            "host": f"{os.cpu_count()} cores, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB, Linux {platform.release()}",
            "machine": self.shape.text(),
            "at a time": f"{self.arguments.parallel} machines of one way",
        }

    def _measure(self, folder, boot_url, limit, on_installed=lambda: None):
        """Power-on to login; more is asked when the clock has stopped."""

        def installed(seconds):
            # An installer that gives up reboots, too.
            disks.root_partition(folder / "disk.raw")
            on_installed()
            say(f"{folder.name}: its disk is done after {seconds:.0f} s; its own system starts")

        with machine.Machine(folder, self.shape, boot_url) as running:
            self.machines.append(running)
            before = load()
            login = running.until_login(self.key, limit, installed)
            say(f"{folder.name}: logged in {login.seconds:.1f} s after power-on")
            packages = running.ask(self.key, "dpkg-query -W | wc -l")
            used = running.ask(self.key, "df -m --output=used / | tail -n 1")
            return asdict(login) | {"packages": int(packages), "used_mib": int(used), "load": [before, load()]}

    def _all(self, way, count, one):
        """Runs all of one way, so many at a time, and keeps what came out."""
        with ThreadPoolExecutor(self.arguments.parallel) as pool:
            try:
                futures = [pool.submit(one, number) for number in range(1, count + 1)]
                # With a limit, because a signal may reach another thread, and then does not wake one that waits without.
                open_ = futures
                while open_ and not any(future.done() and future.exception() for future in futures):
                    open_ = wait(futures, 1, FIRST_EXCEPTION).not_done
                self.results.data["logins"][way] = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for running in self.machines:
                    running.stop()
                raise
        self.results.save()

    def kube_baremetal(self):
        arguments = self.arguments
        for path, remedy in ((arguments.media, "make bootmedia"), (arguments.image, "make image"), (arguments.program, "cargo build --release --bin kube-baremetal")):
            if not path.exists():
                raise machine.Failed(f"{path} is missing; `{remedy}` builds it")

        def one(number):
            name, folder = f"web-{number}", self.out / f"{OURS}-{number}"
            with ours.Server(arguments.program, arguments.media, arguments.image, self.out / f"server-{number}") as server:
                server.prepare()
                server.create_instance(name, self.key)
                say(f"{folder.name}: the instance waits; power on")
                login = self._measure(folder, server.boot_url, OURS_LIMIT)
                status = server.instance(name)["status"]
                (folder / "status.json").write_text(json.dumps(status["image"]))
                return login

        program = subprocess.run([arguments.program, "--version"], stdout=subprocess.PIPE, text=True, check=True)
        self.results.data["about"][OURS] = f"{program.stdout.strip()}, {arguments.image.name} ({arguments.image.stat().st_size >> 20} MiB)"
        self._all(OURS, arguments.runs, one)

    def debian_installer(self):
        cache = os.environ.get("KBM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-baremetal"
        mirror = Mirror(self.arguments.mirror or upstream(installer.SUITE), Path(cache) / "bench-installer", self.out / "mirror")
        media = installer.Media(mirror, self.out / "installer", say)
        media.warm()
        self.results.data["about"][INSTALLER] = f"{media.name} (Linux {media.kernel}), installs {installer.SUITE}; parts left out: {', '.join(media.left_out) or 'none'}"

        def one(number):
            name = f"{INSTALLER}-{number}"
            boot_script, folder, steps, began = f"{name}/boot.ipxe", self.out / name, [], []

            def step(item):
                steps.append((item, time.monotonic() - began[0]))
                say(f"{name}: {item}")

            def installed():
                site.scripts[boot_script] = installer.BOOT_DISK

            with Syslog(self.out / f"{name}.syslog", step) as log:
                site.scripts[boot_script] = installer.script(site, log.port)
                site.texts[boot_script] = installer.NO_ANSWERS
                before = mirror.counts()
                say(f"{name}: power on")
                began.append(time.monotonic())
                login = self._measure(folder, f"http://{site.address}/{boot_script}", INSTALLER_LIMIT, installed)
                return login | {"fetched": asdict(mirror.counts().since(before)), "steps": steps}

        with Site(mirror, media.files) as site:
            site.texts |= installer.answers(site, self.key, media.codename)
            self._all(INSTALLER, 2, one)

    def compare(self):
        for way in (OURS, INSTALLER):
            folders = [self.out / f"{way}-{number}" for number in (1, 2)]
            if not all((folder / "disk.raw").exists() for folder in folders):
                say(f"compare: there are no two disks of {way}")
                continue
            say(f"compare: two disks of {way}")
            used, differing = disks.blocks(*(folder / "disk.raw" for folder in folders))
            trees = [folder / "root" for folder in folders]
            found = disks.compare(*(disks.extract(folder / "disk.raw", tree) for folder, tree in zip(folders, trees)))
            counts = {sort: len(found[sort]) for sort in ("equal", "different", "only in one", "equal, but for the time")}
            kept = {"files": counts, "blocks": {"used": used, "differing": differing}, "only in one": found["only in one"], "as root": os.geteuid() == 0}
            kept["examples"] = [(name, disks.example(name, *trees)) for name in found["different"]]
            if way == OURS:
                kept["ranges"] = self._ranges(folders)
            self.results.data["comparisons"][way] = kept
            self.results.save()

    def _ranges(self, folders):
        """What the independent program of the immutability statement says of our two disks."""
        command = [sys.executable, REPOSITORY / "tests/immutability/compare.py", str(ours.image_bytes(self.arguments.image))]
        for folder in folders:
            command += [folder / "disk.raw", folder / "status.json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
        return {"held": done.returncode == 0, "said": done.stdout.strip()}


def main():
    parser = argparse.ArgumentParser(prog="bench-installer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/release/kube-baremetal", help="the command under test")
    parser.add_argument("--media", type=Path, default=REPOSITORY / "target/bootmedia", help="the boot media that `make bootmedia` builds")
    parser.add_argument("--image", type=Path, default=REPOSITORY / "target/images/debian.raw.zst", help="the Debian image that `make image` builds")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target/bench-installer", help="folder of results, disks and logs")
    parser.add_argument("--mirror", help="URL of the Debian archive behind the rig's own mirror; left out: the one that this host's apt uses")
    parser.add_argument("--only", action="append", choices=PARTS, help="do this part alone (may be repeated)")
    parser.add_argument("--runs", type=int, default=3, help="how often our way runs; the installer runs twice")
    parser.add_argument("--parallel", type=int, default=1, help="machines of one way that run at the same time")
    parser.add_argument("--cpus", type=int, default=1, help="of each machine")
    parser.add_argument("--memory", type=int, default=1024, help="of each machine, in MiB")
    parser.add_argument("--disk", type=int, default=4, help="of each machine, in GiB")
    parser.add_argument("--keep", action="store_true", help="keep the results of other parts from before")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what was measured before")
    arguments = parser.parse_args()
    results = Results(arguments.out / "results.json", arguments.keep or arguments.tables)
    if not arguments.tables:
        os.environ["LC_ALL"] = "C.UTF-8"
        # Whoever ends the rig ends its machines.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench-installer: terminated"))
        bench = Bench(arguments, results)
        bench.about()
        work = {OURS: bench.kube_baremetal, INSTALLER: bench.debian_installer, "compare": bench.compare}
        try:
            for part in arguments.only or PARTS:
                work[part]()
        except (machine.Failed, Unreachable) as problem:
            raise SystemExit(f"bench-installer: {problem}") from None
        finally:
            results.save()
    print(tables(results))
    return 0 if all(passed for _, _, passed in results.verdicts()) else 1


sys.exit(main())
