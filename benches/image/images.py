"""The image that everything is measured with, in every form that something can read.

It is the project's Debian image (`make image`), grown to 4 GiB, with a second partition of more data, so that about 1 GiB of it is not zeros: nobody's real image is as
small as ours. What is added is the Debian system's own data again under another substitution of its bytes (which compresses as well as the system does, and occurs
nowhere twice), mixed with noise as packages and photos are, in runs of 64 KiB to 8 MiB with holes between. Everything is computed from fixed seeds: the same Debian
image gives the same bytes.

All is made once and kept in a folder whose name is the digest of its ingredients. It knows nothing of what is measured.
"""

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
SIZE = 4 * GIB
DATA = 1 * GIB
# Of what is added, this part is noise.
NOISE = 0.3
GRANULE = 64 * 1024
# The part of the windows with data that version 2 changes.
CHANGED = 0.05
# The disk of the memory bar: a large one with the same data.
LARGE = 64 * GIB

# How the forms of the large image are continued.
JOINED = {"raw.gz": "gzip -c", "multi.raw.xz": "xz -T2 -1 -c", "raw.zst": "zstd -q -3 -c"}

# Written to a partial name first. `IN` is the raw image, `OUT` the form. The settings are the tools' own defaults, which is what images are published with.
FORMS = {
    "raw.gz": "gzip -c IN > OUT",
    "multi.raw.xz": "xz -T2 -6 -c IN > OUT",
    "single.raw.xz": "xz -T1 -6 -c IN > OUT",
    "raw.zst": "zstd -q -3 -T2 -c IN > OUT",
    "plain.qcow2": "qemu-img convert -f raw -O qcow2 IN OUT",
    "zlib.qcow2": "qemu-img convert -f raw -O qcow2 -c -o compression_type=zlib IN OUT",
    "zstd.qcow2": "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd IN OUT",
    "bmap": "bmaptool create -o OUT IN",
}


def extents(path):
    """Where a sparse file has data, as (offset, length)."""
    found = []
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at - start))
    return found


def data_windows(path, window=MIB):
    """Offsets of the windows that hold anything but zeros: what a packed image with chunks of this size stores."""
    zeros = bytes(window)
    found = []
    last = -1
    with open(path, "rb") as file:
        for start, length in extents(path):
            for index in range(start // window, (start + length - 1) // window + 1):
                if index > last:
                    last = index
                    file.seek(index * window)
                    block = file.read(window)
                    if block != zeros[: len(block)]:
                        found.append(index * window)
    return found


def sha256(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _copy_sparse(source, destination):
    zeros = bytes(GRANULE)
    with open(source, "rb") as reader, open(destination, "wb") as writer:
        while block := reader.read(GRANULE):
            if block == zeros[: len(block)]:
                writer.seek(len(block), os.SEEK_CUR)
            else:
                writer.write(block)
        writer.truncate()


def _substitution(seed):
    table = list(range(256))
    random.Random(seed).shuffle(table)
    return bytes(table)


def _add_data(path, source, wanted, first, end):
    """Writes `wanted` bytes into [first, end), with data of `source` and noise in turn."""
    plan = random.Random("layout")
    windows = data_windows(source, GRANULE)
    gaps = (end - first - wanted) / wanted
    at, left, turn, taken = first, wanted, 0, 0
    with open(source, "rb") as reader, open(path, "r+b") as writer:
        while left > 0:
            run = min(plan.choice([1, 1, 2, 4, 8, 16, 32, 64, 128]) * GRANULE, left)
            writer.seek(at)
            if plan.random() < NOISE:
                writer.write(random.Random(f"noise {turn}").randbytes(run))
            else:
                table = _substitution(f"table {taken // len(windows)} {turn % 7}")
                for _ in range(run // GRANULE):
                    reader.seek(windows[taken % len(windows)])
                    writer.write(reader.read(GRANULE).translate(table))
                    taken += 1
            turn += 1
            left -= run
            at += run + int(run * gaps * plan.uniform(0.5, 1.4)) // GRANULE * GRANULE
            at = min(at, end - left)


def _make_raw(debian, raw):
    small = raw.with_name("debian.raw")
    subprocess.run(["zstd", "-q", "-d", "-f", str(debian), "-o", str(small)], check=True)
    _copy_sparse(small, raw)
    present = len(data_windows(small, GRANULE)) * GRANULE
    first = (small.stat().st_size + MIB - 1) // MIB * MIB
    os.truncate(raw, SIZE)
    sgdisk = shutil.which("sgdisk", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    guid = "--partition-guid=2:6B626D00-0000-4000-8000-000000000012"
    subprocess.run(
        [sgdisk, "--move-second-header", f"--new=2:{first // 512}:{SIZE // 512 - 2048}", guid, str(raw)], check=True, stdout=subprocess.DEVNULL
    )
    _add_data(raw, small, DATA - present, first, SIZE - 2 * MIB)
    small.unlink()


def _make_version_2(raw, changed):
    """A copy in which one window of 1 MiB in twenty holds other data, as after an update of some packages."""
    _copy_sparse(raw, changed)
    # Evenly spread, so that the changed windows compress as all of them do on the average; not the first, whose table names the disk.
    table = _substitution("version 2")
    step = round(1 / CHANGED)
    with open(changed, "r+b") as file:
        for offset in data_windows(raw)[step // 2 :: step]:
            file.seek(offset)
            block = file.read(MIB).translate(table)
            file.seek(offset)
            file.write(block)


def _join_large(head, out, tool):
    """An image file of the same system on a disk of 64 GiB without compressing 60 GiB of zeros: members, streams or frames one behind the other."""
    zeros = out.with_name("zeros")
    with open(zeros, "wb") as file:
        file.truncate(GIB)
    tail = subprocess.run([*tool.split(), str(zeros)], check=True, stdout=subprocess.PIPE).stdout
    zeros.unlink()
    with open(head, "rb") as reader, open(out, "wb") as writer:
        shutil.copyfileobj(reader, writer)
        for _ in range((LARGE - SIZE) // GIB):
            writer.write(tail)


class Images:
    """The folder of all forms."""

    def __init__(self, cache, debian, say):
        ingredients = hashlib.sha256(Path(__file__).read_bytes())
        with open(debian, "rb") as file:
            ingredients.update(hashlib.file_digest(file, "sha256").digest())
        self.folder = Path(cache) / f"bench-image-{ingredients.hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._debian = debian
        self._say = say

    def _kept(self, name, make):
        """Makes a file once; what was interrupted is made again."""
        path = self.folder / name
        if not path.exists():
            self._say(f"making {name} (kept in {self.folder})")
            partial = self.folder / f"partial.{name}"
            make(partial)
            partial.rename(path)
        return path

    @property
    def raw(self):
        return self._kept("image.raw", lambda out: _make_raw(self._debian, out))

    @property
    def version_2(self):
        return self._kept("version-2.raw", lambda out: _make_version_2(self.raw, out))

    def large(self, name):
        """The large image as `raw` or in one of the forms that can be made of it."""
        if name in JOINED:
            return self._kept(f"large.{name}", lambda out: _join_large(self.form(name), out, JOINED[name]))
        if name == "raw":

            def grow(out):
                _copy_sparse(self.raw, out)
                os.truncate(out, LARGE)

            return self._kept("large.raw", grow)
        return self._convert(f"large.{name}", name, self.large("raw"))

    def form(self, name):
        """The image as `raw` or as one of FORMS."""
        return self.raw if name == "raw" else self._convert(f"image.{name}", name, self.raw)

    def _convert(self, kept, name, raw):
        def make(out):
            command = FORMS[name].replace("IN", f"'{raw}'").replace("OUT", f"'{out}'")
            subprocess.run(["bash", "-ec", command], check=True, stdout=subprocess.DEVNULL)

        return self._kept(kept, make)

    def part(self, folder, size):
        """An image of `size` bytes out of windows with data, with one partition, as image.raw in another folder."""
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / "image.raw"
        sectors = size // 512
        partition = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", 2048, sectors - 2048)
        with open(self.raw, "rb") as source, open(out, "wb") as writer:
            writer.write((bytes(446) + partition).ljust(510, b"\0") + b"\x55\xaa")
            writer.seek(MIB)
            for offset in self.windows()[1 : size // MIB]:
                source.seek(offset)
                writer.write(source.read(MIB))
        return out

    def digest(self, path):
        """The digest of a stored file, computed once."""
        kept = self._kept(path.name + ".sha256", lambda out: out.write_text(sha256(path)))
        return kept.read_text()

    def windows(self):
        kept = self._kept("windows.json", lambda out: out.write_text(json.dumps(data_windows(self.raw))))
        return json.loads(kept.read_text())
