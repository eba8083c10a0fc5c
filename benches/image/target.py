"""The disk that is written to: a preallocated file behind a loop device with direct I/O, so that neither the device's nor the file's pages pretend to be a disk.

Before each run it is filled with garbage (which also gives the file all of its blocks back, whatever a writer discarded) and its pages are dropped; after each run it is
compared with the image, byte by byte, as read with direct I/O.
"""

import fcntl
import mmap
import os
import random
import struct
import subprocess
import threading
import time

MIB = 1 << 20
BLKFLSBUF = 0x1261
BLKZEROOUT = 0x127F


def each_block(threads, offsets, block, action):
    """Calls `action(offset, buffer)` for all offsets from several threads, each with an aligned buffer of its own. Returns the seconds."""
    lock = threading.Lock()
    todo = iter(offsets)
    failures = []

    def work():
        buffer = mmap.mmap(-1, block)
        buffer.write(random.Random("garbage").randbytes(block))
        while not failures:
            with lock:
                offset = next(todo, None)
            if offset is None:
                return
            try:
                action(offset, buffer)
            except OSError as error:
                failures.append(error)

    started = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return time.monotonic() - started


def difference(device, image, offsets):
    """What is wrong in those MiB of a device or file, read with direct I/O, or nothing."""
    wrong = []
    disk, source = os.open(device, os.O_RDONLY | os.O_DIRECT), os.open(image, os.O_RDONLY)

    def compare(offset, buffer):
        expected = os.pread(source, MIB, offset)
        os.preadv(disk, [buffer], offset)
        if buffer[: len(expected)] != expected:
            wrong.append(offset)

    try:
        each_block(2, offsets, MIB, compare)
    finally:
        os.close(disk)
        os.close(source)
    if not wrong:
        return None
    return f"wrong data in {len(wrong)} of {len(offsets)} MiB, first in that at {min(wrong) // MIB} MiB"


class Target:
    """A loop device. Use it as a context."""

    def __init__(self, path, size):
        self.path, self.size = path, size

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        with open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.size)
        command = ["losetup", "--direct-io=on", "--partscan", "--find", "--show", str(self.path)]
        self.device = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        name = self.device.removeprefix("/dev/")
        with open(f"/sys/block/{name}/loop/dio") as file:
            if file.read().strip() != "1":
                raise RuntimeError(f"{self.device} has no direct I/O: the file system of {self.path} cannot do it")
        self.number = "{}:{}".format(os.major(os.stat(self.device).st_rdev), os.minor(os.stat(self.device).st_rdev))
        return self

    def __exit__(self, *_):
        subprocess.run(["losetup", "--detach", self.device], check=True)
        self.path.unlink()

    def open(self, flags=os.O_RDWR):
        return os.open(self.device, flags | os.O_DIRECT)

    def garbage(self):
        """As a disk that somebody used: no byte of it may still be there where the image has its own, or zeros."""
        device = self.open()
        try:
            each_block(2, range(0, self.size, MIB), MIB, lambda offset, buffer: os.pwrite(device, buffer, offset))
            os.fsync(device)
        finally:
            os.close(device)
        self.drop_caches()

    def drop_caches(self):
        with open(self.device, "rb") as device:
            fcntl.ioctl(device, BLKFLSBUF)
        with open(self.path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def settle(self):
        """Makes durable what a writer left in caches."""
        with open(self.device, "rb") as device:
            os.fsync(device.fileno())

    def difference(self, image):
        """What is wrong with the disk, or nothing. Bytes behind the image do not count."""
        return difference(self.device, image, range(0, os.stat(image).st_size, MIB))

    def write_and_read(self, offsets):
        """Seconds to write 1 MiB at each offset with direct I/O and make it durable, and to read it back: the disk's own limits."""
        device = self.open()
        try:
            started = time.monotonic()
            each_block(2, offsets, MIB, lambda offset, buffer: os.pwrite(device, buffer, offset))
            os.fdatasync(device)
            written = time.monotonic() - started
        finally:
            os.close(device)
        return written, self.read(offsets)

    def read(self, offsets):
        """Seconds to read 1 MiB at each offset with direct I/O."""
        device = self.open(os.O_RDONLY)
        try:
            return each_block(2, offsets, MIB, lambda offset, buffer: os.preadv(device, [buffer], offset))
        finally:
            os.close(device)

    def zero(self):
        """Seconds until all of it reads as zeros by the device's own command."""
        started = time.monotonic()
        device = self.open()
        try:
            for offset in range(0, self.size, 1 << 30):
                fcntl.ioctl(device, BLKZEROOUT, struct.pack("QQ", offset, min(1 << 30, self.size - offset)))
            os.fdatasync(device)
        finally:
            os.close(device)
        return time.monotonic() - started
