"""Runs one command and says what it took: seconds, CPU of it and everything it started, the largest resident set among them.

A command that outlives its limit is killed with its whole process group, and that is its result.
"""

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass


@dataclass
class Run:
    """What one run took."""

    seconds: float
    cpu: float
    rss_mib: float
    status: int
    output: str
    timed_out: bool = False
    # Whether the disk then held the image; nobody looked: None.
    correct: bool | None = None
    note: str = ""
    # How often it had to be started again because it hung.
    hung: int = 0

    def as_dict(self):
        return {**asdict(self), "output": self.output[-2000:]}

    @property
    def failed(self):
        return self.timed_out or self.status != 0


def run(command, *, env=None, cpus=None, cgroup=None, limit=600.0, finish=None):
    """Runs a list of arguments, or a text for bash with pipefail. `finish` is called after it and counts into its time: what makes its writes durable."""
    arguments = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else [str(part) for part in command]

    def before():
        os.setsid()
        if cpus:
            os.sched_setaffinity(0, cpus)
        if cgroup:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        child = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env={**os.environ, **(env or {})}, preexec_fn=before
        )
        late = threading.Event()

        def stop():
            late.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            # Who interrupts the rig must not leave a child that keeps the loop device.
            stop()
            raise
        finally:
            timer.cancel()
        # Popen must not wait for it again.
        child.returncode = os.waitstatus_to_exitcode(status)
        if finish:
            finish()
        seconds = time.monotonic() - started
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, child.returncode, "".join(texts) if child.returncode else texts[0] or texts[1], late.is_set())


def median(values):
    return statistics.median(values) if values else None
