"""What is measured together: one form of the image and all who can write it, with the limits that hold for all of them; and the bars that have a rig of their own."""

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Callable

import ours
import peers
from choices import choices
from failures import failures
from images import LARGE, MIB, SIZE, Images, sha256
from measure import run
from results import Results
from server import Server
from target import Target, difference
from throttle import SlowDisk, Wire

# Longest time of one run: the slowest peer takes over a minute.
LIMIT = 300
# One that hangs at times is ended after this, so often at most.
HANGING = 45
TRIES = 4
# A contender that takes longer than this and that no bar names runs fewer times.
SLOW = 25
FEWER = 3
CURL = ["curl", "-sf", "-o", "/dev/null"]


@dataclass
class Bench:
    """What all groups share."""

    results: Results
    images: Images
    program: ours.Program
    out: object
    runs: int
    contenders: list | None
    say: Callable

    def wanted(self, name):
        return not self.contenders or any(part in name for part in self.contenders)

    def digest(self, form):
        return self.images.digest(self.images.form(form))

    def target(self, size=SIZE):
        return Target(self.out / "target.img", size)

    def timed(self, group, contender, target, url, **options):
        """One run onto a disk full of garbage, and a look at what came out."""
        hung = 0
        while True:
            target.garbage()
            limit = HANGING if contender.hangs else LIMIT
            command = contender.command(url, target.device, self.images.folder)
            done = run(command, env=contender.env(url, target.device), limit=limit, finish=target.settle, **options)
            if not (done.timed_out and contender.hangs and hung + 1 < TRIES):
                break
            hung += 1
            self.say(f"{group}: {contender.name} hung and is tried again")
        if not done.failed:
            wrong = target.difference(self.images.raw)
            done.correct, done.note = wrong is None, wrong or ""
            if wrong and contender.partial:
                done.note = "old data between the mapped blocks"
        done.hung = hung
        self.results.add(group, contender.name, done)
        state = "failed" if done.failed else done.note or "correct"
        self.say(f"{group}: {contender.name} {done.seconds:.2f} s, {state}")
        return done


def _limits(bench, group, target, url, path):
    """What network, hash and disk can do alone with these bytes."""
    bench.results.limit(group, "network", run([*CURL, url]).seconds)
    started = time.monotonic()
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    bench.results.limit(group, "SHA-256", time.monotonic() - started)
    written, read = target.write_and_read(bench.images.windows())
    bench.results.limit(group, "writing the data", written)
    bench.results.limit(group, "reading the data", read)
    bench.results.limit(group, "write and read back", written + read)
    bench.results.limit(group, "zeroing all", target.zero())


DECODERS = {"gz": "gzip -dc", "xz": "xz -T0 -dc", "zst": "zstd -dc"}


def form(bench, group):
    """One stored form, all contenders in turn."""
    path = bench.images.form(group)
    if group.endswith(".gz") or group.endswith(".xz") or group.endswith(".zst"):
        bench.images.form("bmap")
    everyone = [contender for contender in bench.program.contenders(bench.digest) + peers.all_peers(bench.digest) if contender.form == group]
    with bench.target() as target, Server(bench.images.folder, bench.out / "nginx") as server:
        url = server.url(path.name)
        decoder = DECODERS.get(path.suffix.removeprefix("."))
        for turn in range(bench.runs):
            server.warm(path)
            _limits(bench, group, target, url, path)
            if decoder:
                bench.results.limit(group, f"{decoder.split()[0]} alone", run(f"{decoder} {path} > /dev/null").seconds)
            for contender in everyone:
                if contender.unavailable:
                    bench.results.unavailable(group, contender.name, contender.unavailable)
                elif bench.wanted(contender.name) and not _too_slow(bench, group, contender, turn):
                    bench.timed(group, contender, target, url)


def _too_slow(bench, group, contender, turn):
    named = contender.name in (ours.NAME, "curl, xz -d, dd", "coreos-installer", "bmaptool", "curl, dd", "curl, zstd -d, dd")
    before = bench.results.runs(group, contender.name)
    return not named and turn >= FEWER and before and before[0]["seconds"] > SLOW


def packed(bench, group):
    """The packed image, with the limits that it is held to, and the peer that it must beat."""
    rival = next(peer for peer in peers.all_peers(bench.digest) if peer.form == "zstd.qcow2" and peer.name.startswith("qemu-img"))
    rival.name = "qemu-img convert -W, zstd qcow2"
    lacking = bench.program.lacks("image", "pack")
    with bench.target() as target, Server(bench.images.folder, bench.out / "nginx") as server:
        qcow2 = bench.images.form("zstd.qcow2")
        if not lacking:
            folder, digest = bench.program.packed(bench.images.folder, bench.images.raw, "packed")
            chunks, pieces = folder / "chunks", ours.pieces(folder, os.cpu_count())
            source = server.url("packed/manifest.json")
            contender = peers.Contender(ours.NAME, "packed", lambda _url, device, _folder: bench.program.write(source, device, digest))
        else:
            bench.results.unavailable(group, ours.NAME, lacking)
        for _ in range(bench.runs):
            server.warm(qcow2)
            if not lacking:
                server.warm(chunks)
                _limits(bench, group, target, server.url("packed/chunks"), chunks)
                bench.results.limit(group, "decompression", run(ours.decompress_on_all_cores(pieces)).seconds)
                if bench.wanted(contender.name):
                    bench.timed(group, contender, target, source)
            if bench.wanted(rival.name):
                bench.timed(group, rival, target, server.url(qcow2.name))


def _sources(bench, server, address):
    """The two ways to fetch: packed, and one stream. (name, the file that is fetched, our source, its digest)"""
    found = []
    if not bench.program.lacks("image", "write"):
        path = bench.images.form("raw.zst")
        found.append(("raw.zst", path, server.url(path.name, address), bench.digest("raw.zst")))
    if not bench.program.lacks("image", "pack"):
        folder, digest = bench.program.packed(bench.images.folder, bench.images.raw, "packed")
        found.append(("packed", folder / "chunks", server.url("packed/manifest.json", address), digest))
    return found


def _ours(bench, group, name, target, command, raw=None, **options):
    """A run of ours outside of the table of forms, with what came out and what the command said of it."""
    done = run(command, limit=LIMIT, finish=target.settle, **options)
    wrong = None if done.failed else target.difference(raw or bench.images.raw)
    done.correct, done.note = wrong is None, wrong or ""
    bench.say(f"{group}: {name} {done.seconds:.2f} s, {'failed: ' + done.output.strip()[-300:] if done.failed else done.note or 'correct'}")
    return done


def wire(bench, group):
    """A wire of 400 Mbit/s: ours, and curl to /dev/null for the same bytes."""
    with Wire("400mbit") as link, bench.target() as target, Server(bench.images.folder, bench.out / "nginx", ("127.0.0.1", link.SERVER)) as server:
        sources = _sources(bench, server, link.SERVER)
        if not sources:
            bench.results.unavailable(group, ours.NAME, bench.program.lacks("image", "write"))
        for _ in range(bench.runs):
            for form_name, path, source, digest in sources:
                server.warm(path)
                url = server.url(path.relative_to(bench.images.folder), link.SERVER)
                done = run(link.inside([*CURL, url]))
                bench.results.add(group, f"curl, {form_name}", {**done.as_dict(), "rate": path.stat().st_size / done.seconds})
                target.garbage()
                done = _ours(bench, group, form_name, target, link.inside(bench.program.write(source, target.device, digest)))
                bench.results.add(group, f"{ours.NAME}, {form_name}", {**done.as_dict(), "rate": path.stat().st_size / done.seconds})


RATE = 100_000_000
# At that rate the whole image takes a minute a run.
SLOW_DISK = 512 * MIB


def slow_disk(bench, group):
    """A disk of 100 MB/s, by the kernel's throttle on the loop device; a part of the image without holes, since what counts is bytes."""
    lacking = bench.program.lacks("image", "write")
    if lacking:
        bench.results.unavailable(group, ours.NAME, lacking)
        return
    folder = bench.out / "slow-disk"
    raw = bench.images.part(folder, SLOW_DISK)
    zst = folder / "image.raw.zst"
    subprocess.run(["zstd", "-q", "-f", "-3", raw, "-o", zst], check=True)
    sources = [("raw.zst", "image.raw.zst", sha256(zst))]
    if not bench.program.lacks("image", "pack"):
        _, digest = bench.program.packed(folder, raw, "packed-part")
        sources.append(("packed", "packed-part/manifest.json", digest))
    with bench.target(SLOW_DISK) as target, Server(folder, bench.out / "nginx") as server, SlowDisk(target.number, RATE) as disk:
        bench.results.data["about"]["disk throttle"] = disk.means
        for _ in range(bench.runs):
            for name, path, digest in sources:
                target.garbage()
                done = _ours(bench, group, name, target, bench.program.write(server.url(path), target.device, digest), raw=raw, cgroup=disk.group)
                said = ours.evidence(done)
                least = (said.get("writtenBytes", 0) + said.get("verifiedBytes", 0)) / RATE
                bench.results.add(group, f"{ours.NAME}, {name}", {**done.as_dict(), "least_seconds": least})


def memory(bench, group):
    """Peak resident set of our command for every form, on one core and on two, and with an image of a disk of 64 GiB."""
    lacking = bench.program.lacks("image", "write")
    if lacking:
        bench.results.unavailable(group, ours.NAME, lacking)
        return
    with bench.target() as target, Server(bench.images.folder, bench.out / "nginx") as server:
        for name in ours.STREAMS:
            path = bench.images.form(name)
            _peak(bench, group, target, name, server.url(path.name), bench.digest(name))
        if not bench.program.lacks("image", "pack"):
            _, digest = bench.program.packed(bench.images.folder, bench.images.raw, "packed")
            _peak(bench, group, target, "packed", server.url("packed/manifest.json"), digest)
        for name in ("raw.zst", "raw.gz", "multi.raw.xz", "zstd.qcow2"):
            path = bench.images.large(name)
            _large_peak(bench, group, name, server.url(path.name), bench.images.digest(path))
        if not bench.program.lacks("image", "pack"):
            _, digest = bench.program.packed(bench.images.folder, bench.images.large("raw"), "large-packed")
            _large_peak(bench, group, "packed", server.url("large-packed/manifest.json"), digest)


def _peak(bench, group, target, name, source, digest):
    for count in (1, 2):
        target.garbage()
        done = _ours(bench, group, name, target, bench.program.write(source, target.device, digest), cpus=set(range(count)))
        bench.results.add(group, f"{name}, {count} {'core' if count == 1 else 'cores'}", done)


def _large_peak(bench, group, name, source, digest):
    """A disk of 64 GiB is a sparse file here, as few hosts have the room for another. Its tables are moved to the disk's ends, so those are not compared."""
    disk = bench.out / "large-target.img"
    disk.unlink(missing_ok=True)
    with open(disk, "wb") as file:
        file.truncate(LARGE)
    done = run(bench.program.write(source, disk, digest), limit=2 * LIMIT)
    wrong = None if done.failed else difference(disk, bench.images.raw, range(MIB, SIZE - MIB, MIB))
    done.correct, done.note = wrong is None, wrong or ""
    disk.unlink()
    bench.say(f"{group}: 64 GiB {name} {done.seconds:.2f} s, {done.rss_mib:.0f} MiB, {done.note or done.status}")
    bench.results.add(group, f"64 GiB {name}, 2 cores", done)


def reinstall(bench, group):
    """The same packed image again, and a second version with 5 % of its chunks changed: what the server had to send for it."""
    lacking = bench.program.lacks("image", "pack")
    if lacking:
        bench.results.unavailable(group, ours.NAME, lacking)
        return
    _, first = bench.program.packed(bench.images.folder, bench.images.raw, "packed")
    folder, second = bench.program.packed(bench.images.folder, bench.images.version_2, "packed-2")
    with bench.target() as target, Server(bench.images.folder, bench.out / "nginx") as server:
        for _ in range(bench.runs):
            target.garbage()
            for name, source, digest, raw in (
                ("first install", "packed", first, bench.images.raw),
                ("same image", "packed", first, bench.images.raw),
                ("version 2", "packed-2", second, bench.images.version_2),
            ):
                target.drop_caches()
                server.forget()
                done = run(bench.program.write(server.url(f"{source}/manifest.json"), target.device, digest), limit=LIMIT, finish=target.settle)
                sent, answers = server.sent()
                wrong = None if done.failed else target.difference(raw)
                done.correct, done.note = wrong is None, wrong or ""
                bench.results.add(group, name, {**done.as_dict(), "fetched": sent})
                bench.say(f"{group}: {name} {done.seconds:.2f} s, {sent / MIB:.2f} MiB in {answers} answers, {done.note or done.status}")
            bench.results.limit(group, "reading the data", target.read(bench.images.windows()))
            bench.results.limit(group, "stored bytes of version 2", (folder / "chunks").stat().st_size)


ALL = {
    "packed": packed,
    "raw": form,
    "raw.gz": form,
    "multi.raw.xz": form,
    "single.raw.xz": form,
    "raw.zst": form,
    "plain.qcow2": form,
    "zlib.qcow2": form,
    "zstd.qcow2": form,
    "wire": wire,
    "slow disk": slow_disk,
    "memory": memory,
    "re-install": reinstall,
    "failures": failures,
    "choices": choices,
}
