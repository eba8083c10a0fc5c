"""Slow wires and slow disks, by the kernel: a veth pair with a token bucket, and the block layer's throttle by control group.

Both are removed again when their context ends. They need root.
"""

import os
import subprocess
from pathlib import Path


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Wire:
    """A network namespace whose only link to the server runs at `rate` (as tc writes rates)."""

    SERVER = "198.18.7.1"

    def __init__(self, rate):
        self.rate = rate
        self.name = f"kbm-bench-{os.getpid()}"
        # Interface names have 15 characters.
        self.near, self.far = f"kbmb{os.getpid()}a", f"kbmb{os.getpid()}b"

    def __enter__(self):
        _ip("netns", "add", self.name)
        _ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        _ip("address", "add", f"{self.SERVER}/30", "dev", self.near)
        _ip("link", "set", self.near, "up")
        _ip("-netns", self.name, "address", "add", "198.18.7.2/30", "dev", self.far)
        _ip("-netns", self.name, "link", "set", self.far, "up")
        _ip("-netns", self.name, "link", "set", "lo", "up")
        # What the server sends leaves by the near end. The burst is what the bucket needs at this rate and the kernel's tick.
        subprocess.run(
            ["tc", "qdisc", "add", "dev", self.near, "root", "tbf", "rate", self.rate, "burst", "256kb", "latency", "50ms"], check=True
        )
        return self

    def __exit__(self, *_):
        _ip("link", "delete", self.near)
        _ip("netns", "delete", self.name)

    def inside(self, command):
        return ["ip", "netns", "exec", self.name, *command]


class SlowDisk:
    """A control group in which a block device reads and writes at so many bytes a second."""

    def __init__(self, number, rate):
        self.number, self.rate = number, rate

    def __enter__(self):
        name = f"kbm-bench-{os.getpid()}"
        version_1, version_2 = Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")
        if (version_1 / "blkio.throttle.write_bps_device").exists():
            self.group = version_1 / name
            self.group.mkdir()
            for what in ("read", "write"):
                (self.group / f"blkio.throttle.{what}_bps_device").write_text(f"{self.number} {self.rate}")
            self.means = "control group version 1, blkio.throttle"
        elif "io" in (version_2 / "cgroup.controllers").read_text().split():
            (version_2 / "cgroup.subtree_control").write_text("+io")
            self.group = version_2 / name
            self.group.mkdir()
            (self.group / "io.max").write_text(f"{self.number} rbps={self.rate} wbps={self.rate}")
            self.means = "control group version 2, io.max"
        else:
            raise RuntimeError("this kernel has no block I/O throttle: neither blkio.throttle nor io.max")
        return self

    def __exit__(self, *_):
        self.group.rmdir()
