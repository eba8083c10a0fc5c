"""The others: what people write disk images with today, each called as its documentation says for the best it can do.

A peer that cannot be had here is a peer all the same: `unavailable` says why, and the table shows it.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent


@dataclass
class Contender:
    """One way to write one form of the image."""

    name: str
    form: str
    # (URL, device, folder of forms) to what `measure.run` takes.
    command: Callable
    env: Callable = lambda _url, _device: {}
    unavailable: str = ""
    # It writes mapped blocks alone by design: what is between them keeps old data.
    partial: bool = False
    # It is known to hang at times and never to end: such a run is ended early and done once more, and the table says how often.
    hangs: bool = False


def _pipe(tool):
    middle = f"| {tool} " if tool else ""
    return lambda url, device, _: f"curl -sf {url} {middle}| dd of={device} bs=1M iflag=fullblock oflag=direct conv=fsync status=none"


def _qemu(*options):
    return lambda url, device, _: ["qemu-img", "convert", "-n", *options, "-t", "none", "-f", "qcow2", "-O", "raw", url, device]


def _missing(*programs):
    absent = [program for program in programs if not shutil.which(program)]
    return f"{', '.join(absent)} not installed" if absent else ""


def cached(name):
    """A peer that is built once, and why not if it cannot be."""
    out = REPOSITORY / "target" / "bench-image" / "peers" / name
    script = HERE / "peers" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        [REPOSITORY / "scripts" / "cached", name, out, script, "--", script, "OUT"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return out, "" if built.returncode == 0 else f"cannot be built: {built.stdout.strip().splitlines()[-1]}"


def _with_udev():
    """coreos-installer and Ironic's agent insist on udev, to wait until it has seen the new partitions. Where there is none, as in containers, they get one that has nothing to do."""
    if Path("/run/udev/control").exists():
        return []
    stub = REPOSITORY / "target" / "bench-image" / "udev" / "udevadm"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text("#!/bin/sh\n")
    stub.chmod(0o755)
    prepare = 'mount -t tmpfs none /run; mkdir /run/udev; : > /run/udev/control; PATH=$0:$PATH exec "$@"'
    return ["unshare", "--mount", "bash", "-ec", prepare, stub.parent]


def image2disk():
    """Tinkerbell's action is a program in a container image; it is taken from wherever it was put."""
    program = os.environ.get("KBM_IMAGE2DISK") or shutil.which("image2disk")
    return program, "" if program else "not in PATH, and KBM_IMAGE2DISK does not name it"


def all_peers(digests):
    """Every peer for every form. `digests(form)` gives the digest of a stored form."""
    curl = _missing("curl")
    found = [
        Contender("curl, dd", "raw", _pipe(""), unavailable=curl),
        Contender("curl, gzip -d, dd", "raw.gz", _pipe("gzip -dc"), unavailable=curl),
        Contender("curl, xz -d, dd", "multi.raw.xz", _pipe("xz -dc"), unavailable=curl),
        Contender("curl, xz -d -T0, dd", "multi.raw.xz", _pipe("xz -T0 -dc"), unavailable=curl),
        Contender("curl, xz -d, dd", "single.raw.xz", _pipe("xz -dc"), unavailable=curl),
        Contender("curl, zstd -d, dd", "raw.zst", _pipe("zstd -dc"), unavailable=curl),
    ]
    bmaptool = _missing("bmaptool")
    for form in ("raw.gz", "multi.raw.xz", "raw.zst"):

        def copy(url, device, folder):
            return ["bmaptool", "copy", "--bmap", folder / "image.bmap", url, device]

        found.append(Contender("bmaptool", form, copy, unavailable=bmaptool, partial=True))
    qemu = _missing("qemu-img")
    found += [
        Contender("qemu-img convert -W", "plain.qcow2", _qemu("-W"), unavailable=qemu, hangs=True),
        # With more than one request at a time it hung always on compressed zlib clusters from http (7.2).
        Contender("qemu-img convert -m 1", "zlib.qcow2", _qemu("-m", "1", "-W"), unavailable=qemu, hangs=True),
        Contender("qemu-img convert -W", "zstd.qcow2", _qemu("-W"), unavailable=qemu, hangs=True),
    ]
    coreos, reason = cached("coreos-installer")
    before = _with_udev()
    for form in ("raw", "raw.gz", "multi.raw.xz", "raw.zst"):

        def install(url, device, _):
            # --insecure: no signature is published beside the image; the others do not look for one.
            return [*before, coreos, "install", "--insecure", "--image-url", url, device]

        found.append(Contender("coreos-installer", form, install, unavailable=reason))
    program, reason = image2disk()
    for form in ("raw", "raw.gz", "multi.raw.xz", "raw.zst"):

        def told(url, device, form=form):
            return {"IMG_URL": url, "DEST_DISK": device, "COMPRESSED": str(form != "raw").lower()}

        found.append(Contender("image2disk", form, lambda *_: [program], env=told, unavailable=reason))
    ironic, reason = cached("ironic-python-agent")
    for form in ("raw", "plain.qcow2", "zlib.qcow2", "zstd.qcow2"):

        def prepare(url, device, _, form=form):
            kind = "raw" if form == "raw" else "qcow2"
            return [*before, ironic / "bin" / "python", HERE / "peers" / "ironic_write.py", url, device, kind, digests(form).removeprefix("sha256:")]

        found.append(Contender("Ironic agent", form, prepare, unavailable=reason))
    return found


def versions():
    """What is compared with, as each names itself."""
    asked = {
        "curl": ["curl", "--version"],
        "zstd": ["zstd", "--version"],
        "xz": ["xz", "--version"],
        "gzip": ["gzip", "--version"],
        "bmaptool": ["bmaptool", "--version"],
        "qemu-img": ["qemu-img", "--version"],
    }
    said = {}
    for name, command in asked.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            said[name] = done.stdout.splitlines()[0]
    nginx, reason = cached("nginx")
    said["nginx"] = reason or subprocess.run([nginx, "-v"], stderr=subprocess.PIPE, text=True).stderr.strip()
    return said
