"""What the peers, and we, make of a server of bad manners: the faults that crates/image's tests try, against whole programs.

Each cell is one run onto a disk full of garbage: whether success was claimed, and what was on the disk then. Our own outcomes are tested in crates/image; this is here so
that what is said of others can be seen again.
"""

import os
import subprocess

import peers
from images import FORMS, MIB, sha256
from measure import run
from target import Target

SIZE = 64 * MIB
# By their names in crates/image/tests/support/faults.rs.
FAULTS = (
    "good manners",
    "cut short once",
    "cut short without Content-Length",
    "one bit flipped",
    "silent for ever",
    "redirects in a circle",
    "changed in between, and nothing says so",
)
TRIED = ("raw", "raw.gz", "raw.zst", "plain.qcow2")
# Ours notices a silence after 30 s and tries again, several times. Who has said nothing by then hangs.
LIMIT = 75


def _small_forms(bench):
    """A small image with every byte of it used, since a fault may hit any."""
    folder = bench.out / "failures"
    raw = bench.images.part(folder, SIZE)
    forms = {"raw": raw}
    for name in (*TRIED[1:], "bmap"):
        forms[name] = folder / f"image.{name}"
        command = FORMS[name].replace("IN", str(raw)).replace("OUT", str(forms[name]))
        subprocess.run(["bash", "-ec", command], check=True, stdout=subprocess.DEVNULL)
    return folder, forms


class BadServer:
    """The example of crates/image that serves one file with one fault. Use it as a context; gives the URL."""

    def __init__(self, program, path, fault):
        self.arguments = [program, path, fault]

    def __enter__(self):
        self.child = subprocess.Popen(self.arguments, stdout=subprocess.PIPE, text=True)
        # The secret in the query is for messages; some programs take it for a part of the file's name.
        return self.child.stdout.readline().strip().split("?")[0]

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def failures(bench, group):
    """A table of faults by contenders."""
    program = peers.REPOSITORY / "target/debug/examples/bad_server"
    if not program.exists():
        bench.results.unavailable(group, "everybody", f"{program} is missing; `cargo build -p image --example bad_server` builds it")
        return
    folder, forms = _small_forms(bench)

    def digests(form):
        return sha256(forms[form]) if form in forms else ""

    everyone = [contender for contender in bench.program.contenders(digests) + peers.all_peers(digests) if contender.form in TRIED]
    with Target(bench.out / "target.img", SIZE) as target:
        for contender in everyone:
            name = f"{contender.name}, {contender.form}"
            if contender.unavailable:
                bench.results.unavailable(group, name, contender.unavailable)
            elif bench.wanted(name):
                for fault in FAULTS:
                    outcome = _outcome(program, forms[contender.form], fault, contender, target, folder, forms["raw"])
                    bench.results.outcome(group, name, fault, outcome)
                    bench.say(f"{group}: {name}, {fault}: {outcome}")


def _outcome(program, path, fault, contender, target, folder, raw):
    target.garbage()
    with BadServer(program, path, fault) as url:
        done = run(contender.command(url, target.device, folder), env=contender.env(url, target.device), limit=LIMIT, finish=target.settle)
    if done.timed_out:
        return "tries again" if "trying again" in done.output or "resuming" in done.output else "hangs"
    right = target.difference(raw) is None
    if done.status == 0:
        return "right disk" if right else "FALSE SUCCESS"
    # What firmware looks for in a first sector.
    with open(target.device, "rb") as device:
        bootable = os.pread(device.fileno(), 512, 0)[510:] == b"\x55\xaa"
    return "error, but bootable" if bootable else "error"
