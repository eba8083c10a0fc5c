"""What the engine's choices rest on: decoders, hashes, queue depth and threads, each beside what else could have been chosen.

Decoders and hashes are compared by processor seconds, which do not depend on how many cores there are; the disk and the threads by seconds. Nothing here is held
against a bar: docs/benchmarks.md says what was chosen and why.
"""

import json
import re
import shutil
import subprocess

from images import MIB
from measure import run
from server import Server

# What decodes each form; the name says which library it is.
TOOLS = {
    "raw.gz": {"gzip (own)": "gzip -dc", "pigz (zlib)": "pigz -p1 -dc", "libdeflate": "libdeflate-gunzip -c", "igzip (ISA-L)": "igzip -dc"},
    "multi.raw.xz": {"xz (liblzma)": "xz -T1 -dc"},
    "raw.zst": {"zstd (libzstd)": "zstd -q -dc"},
}
HASHES = {"SHA-256, OpenSSL": "openssl dgst -sha256", "SHA-512, OpenSSL": "openssl dgst -sha512", "BLAKE2b, coreutils": "b2sum", "XXH3, xxhsum": "xxhsum -H3"}
LINE = re.compile(r"^(\S+) +(.+?) +([0-9.]+) s +([0-9.]+) s CPU +(\d+) MiB/s")
DEPTHS = (1, 2, 4, 8, 16)
THREADS = (1, 2, 4, 8, 16)


def choices(bench, group):
    """All of them."""
    _decoders(bench, group)
    _disk(bench, group)
    _threads(bench, group)


def _decoders(bench, group):
    example = bench.program.path.with_name("examples") / "decode_speed"
    for form in ("raw.gz", "multi.raw.xz", "raw.zst", "raw"):
        path = bench.images.form(form)
        _warm(path)
        said = run([example, path], limit=600)
        if said.failed:
            raise SystemExit(f"bench-image: {example} failed: {said.output[-500:]}")
        for line in said.output.splitlines():
            found = LINE.match(line)
            if found:
                _row(bench, group, f"{form}: ours, {found[2]}", seconds=float(found[3]), cpu=float(found[4]))
        for name, command in {**TOOLS.get(form, {}), **(HASHES if form == "raw" else {})}.items():
            if not shutil.which(command.split()[0]):
                bench.results.unavailable(group, f"{form}: {name}", f"{command.split()[0]} is not installed")
                continue
            # libdeflate wants a file that it can map, so no pipe.
            done = run(f"{command} {path} > /dev/null")
            _row(bench, group, f"{form}: {name}", seconds=done.seconds, cpu=done.cpu)


def _disk(bench, group):
    """The disk by fio: threads that write, and io_uring, at as many writes in flight."""
    if not shutil.which("fio"):
        bench.results.unavailable(group, "disk", "fio is not installed")
        return
    with bench.target() as target:
        for kind in ("write", "read"):
            for depth in DEPTHS:
                for engine, how in (("psync", [f"--numjobs={depth}", "--iodepth=1"]), ("io_uring", ["--numjobs=1", f"--iodepth={depth}"])):
                    jobs = depth if engine == "psync" else 1
                    for _ in range(bench.runs):
                        command = [
                            *("fio", "--name=x", f"--filename={target.device}", f"--rw={kind}", "--bs=1M", "--direct=1", f"--ioengine={engine}", "--thread"),
                            *(*how, f"--size={1024 // jobs}M", "--offset_increment=" + f"{1024 // jobs}M", "--group_reporting", "--end_fsync=1", "--output-format=json"),
                        ]
                        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                        job = json.loads(said.stdout[said.stdout.index("{") :])["jobs"][0]
                        # In a group the run time is the sum over all jobs, and the shares of processor time are of that.
                        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
                        name = f"disk: {kind} 1 GiB, {engine}, {depth} in flight"
                        _row(bench, group, name, seconds=1024 * MIB / job[kind]["bw_bytes"], cpu=cpu)


def _threads(bench, group):
    """Our writer with so many threads."""
    with bench.target() as target, Server(bench.images.folder, bench.out / "nginx") as server:
        _, digest = bench.program.packed(bench.images.folder, bench.images.raw, "packed")
        zst = bench.images.form("raw.zst")
        sources = [("packed", server.url("packed/manifest.json"), digest), ("raw.zst", server.url(zst.name), bench.digest("raw.zst"))]
        for path in (bench.images.folder / "packed" / "chunks", zst):
            server.warm(path)
        for _ in range(bench.runs):
            for name, source, digest in sources:
                for threads in THREADS:
                    target.garbage()
                    done = run([*bench.program.write(source, target.device, digest), "--threads", threads], finish=target.settle)
                    done.correct = None if done.failed else target.difference(bench.images.raw) is None
                    bench.results.add(group, f"threads: {name}, {threads}", done)


def _row(bench, group, name, seconds, cpu):
    bench.results.add(group, name, {"seconds": seconds, "cpu": cpu, "rss_mib": 0, "status": 0, "correct": None, "note": ""})
    bench.say(f"{group}: {name} {seconds:.2f} s, {cpu:.2f} s CPU")


def _warm(path):
    with open(path, "rb") as file:
        while file.read(4 * MIB):
            pass
