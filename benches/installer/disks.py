"""Two disks held against each other: block by block, and file by file of their ext4 root, read with debugfs, which needs neither root nor a loop device.

Owners are compared only where the rig runs as root, because nobody else may give files away; device files and sockets are not looked at. Times of modification are counted
apart: everything else of two files may be the same.
"""

import collections
import hashlib
import itertools
import os
import shutil
import stat
import struct
import subprocess
from dataclasses import dataclass

from machine import Failed

BLOCK = 4096
STEP = 256 * BLOCK
# Characters of a differing line that an example shows.
EXCERPT = 90


@dataclass(frozen=True)
class Entry:
    """What a name in a file system is."""

    kind: str
    mode: int
    owner: tuple
    content: str
    modified: int


def blocks(one, other):
    """How many blocks of 4 KiB hold anything on either disk, and how many of those differ. Both as files."""
    used = differing = 0
    zeros = bytes(STEP)
    with open(one, "rb") as first, open(other, "rb") as second:
        while a := first.read(STEP):
            b = second.read(STEP)
            if len(a) != len(b):
                raise Failed(f"{one} and {other} are of different sizes")
            if a == b == zeros[: len(a)]:
                continue
            for at in range(0, len(a), BLOCK):
                x, y = a[at : at + BLOCK], b[at : at + BLOCK]
                used += x != zeros[: len(x)] or y != zeros[: len(y)]
                differing += x != y
    return used, differing


def root_partition(disk):
    """Offset in bytes of the largest partition of a GPT (UEFI specification, 5.3), which must hold an ext4."""
    with open(disk, "rb") as file:
        file.seek(512)
        header = file.read(512)
        if header[:8] != b"EFI PART":
            raise Failed(f"{disk} has no GPT")
        array, count, each = struct.unpack_from("<QII", header, 72)
        file.seek(array * 512)
        entries = file.read(count * each)
        found = [struct.unpack_from("<QQ", entries, at + 32) for at in range(0, count * each, each) if any(entries[at : at + 16])]
        first, _ = max(found, key=lambda part: part[1] - part[0])
        file.seek(first * 512 + 1024 + 56)
        if file.read(2) != b"\x53\xef":
            raise Failed(f"the largest partition of {disk} holds no ext4")
        return first * 512


def extract(disk, folder):
    """All files of a disk's root into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    debugfs = shutil.which("debugfs", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    command = [debugfs, "-R", f"rdump / {folder}", f"{disk}?offset={root_partition(disk)}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
    entries = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(parent, name)
            entries["/" + os.path.relpath(path, folder)] = _entry(path)
    if not entries:
        raise Failed(f"debugfs found nothing on {disk}: {done.stdout.strip()[-500:]}")
    return entries


def _entry(path):
    found = os.lstat(path)
    content = ""
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(found.st_mode):
        content = os.readlink(path)
    owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else ()
    return Entry(stat.filemode(found.st_mode)[0], stat.S_IMODE(found.st_mode), owner, content, int(found.st_mtime))


def compare(one, other):
    """Names by how they came out; folders are not counted, what is in them is."""
    found = collections.defaultdict(list)
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if (a or b).kind == "d":
            continue
        if a is None or b is None:
            found["only in one"].append(name)
        elif (a.kind, a.mode, a.owner, a.content) != (b.kind, b.mode, b.owner, b.content):
            found["different"].append(name)
        else:
            found["equal"].append(name)
            # debugfs gives links no time.
            if a.kind == "-" and a.modified != b.modified:
                found["equal, but for the time"].append(name)
    return found


def example(name, one, other):
    """How a file differs: the first line that does, or how much of it."""
    paths = [folder / name.lstrip("/") for folder in (one, other)]
    if any(path.is_symlink() or not path.is_file() for path in paths):
        return "not two files"
    a, b = (path.read_bytes() for path in paths)
    if a == b:
        return "mode or owner"
    if b"\0" in a + b:
        starts = range(0, max(len(a), len(b)), BLOCK)
        count = sum(a[at : at + BLOCK] != b[at : at + BLOCK] for at in starts)
        return f"binary, {len(a)} and {len(b)} bytes, {count} of {len(starts)} blocks of 4 KiB differ"
    lines = itertools.zip_longest(*(text.decode(errors="replace").splitlines() for text in (a, b)), fillvalue="")
    left, right = next((pair for pair in lines if pair[0] != pair[1]), ("", ""))
    return f"{left.strip()[:EXCERPT]!r} and {right.strip()[:EXCERPT]!r}"
