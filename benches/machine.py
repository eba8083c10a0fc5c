"""What /proc says about processors."""

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def busy_share(seconds):
    """Share of all processors that is in use over some time in which we do nothing."""

    def sample():
        numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        # Idle and waiting for disks; what a hypervisor took is in use.
        return sum(numbers), numbers[3] + numbers[4]

    all_before, idle_before = sample()
    time.sleep(seconds)
    all_after, idle_after = sample()
    return 1 - (idle_after - idle_before) / max(all_after - all_before, 1)


def processor_seconds(pid):
    """Of a process, its threads and the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(int(n) for n in fields[11:15]) / TICKS
