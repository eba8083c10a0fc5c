"""The bars, computed from what was measured. Every one is a ratio of two figures of the same run, so that a slow day of the machine cancels out."""

from results import Verdict

OURS = "kube-baremetal"


def _ratio(results, group, bar, text, other, self, ours_limit, at_least):
    """`at_least`: other / ours must reach the limit; else ours / other must stay within it."""
    if self is None or other is None:
        return Verdict(bar, text, "", None)
    value = other / self if at_least else self / other
    within = value >= ours_limit if at_least else value <= ours_limit
    return Verdict(bar, text, f"{value:.2f}", within and results.sound(group, OURS))


def speed(results):
    """I1."""
    found = []

    def faster(group, other, factor):
        text = f"{group}: at least {factor} times as fast as {other}" if factor != 1 else f"{group}: ahead of {other}"
        found.append(_ratio(results, group, "I1", text, results.figure(group, other), results.figure(group, OURS), factor, True))

    def within(group, other, factor):
        text = f"{group}: at most {factor} times the time of {other}" if factor != 1 else f"{group}: not behind {other}"
        found.append(_ratio(results, group, "I1", text, results.figure(group, other), results.figure(group, OURS), factor, False))

    limits = [results.limit_of("packed", name) for name in ("network", "decompression", "write and read back")]
    greatest = max(limits) if all(limits) else None
    text = "packed: at most 1.2 times max(network, decompressing on all cores, writing plus reading back)"
    found.append(_ratio(results, "packed", "I1", text, greatest, results.figure("packed", OURS), 1.2, False))
    faster("packed", "qemu-img convert -W, zstd qcow2", 1)
    faster("raw.zst", "curl, zstd -d, dd", 2.2)
    faster("raw.zst", "bmaptool", 1)
    faster("raw.gz", "coreos-installer", 2)
    faster("raw.gz", "bmaptool", 1)
    faster("multi.raw.xz", "curl, xz -d, dd", 1.8)
    faster("raw", "curl, dd", 2.5)
    within("plain.qcow2", "qemu-img convert -W", 1.5)
    within("zlib.qcow2", "qemu-img convert -m 1", 1)
    within("zstd.qcow2", "qemu-img convert -W", 1)
    return found


def wire(results):
    """I2, the network's half."""
    text = "400 Mbit/s: bytes a second, of what curl to /dev/null gets, at least 98 %"
    found = []
    for form in ("packed", "raw.zst"):
        name = f"{OURS}, {form}"
        ours, curl = results.figure("wire", name, "rate"), results.figure("wire", f"curl, {form}", "rate")
        if ours and curl:
            found.append(Verdict("I2", f"{form}: {text}", f"{100 * ours / curl:.1f} %", ours >= 0.98 * curl and results.sound("wire", name)))
        else:
            found.append(Verdict("I2", f"{form}: {text}", "", None))
    return found


def slow_disk(results):
    """I2, the disk's half."""
    text = "disk of 100 MB/s: at most 1.05 times (bytes written / rate + bytes read back / rate)"
    found = []
    for form in ("packed", "raw.zst"):
        name = f"{OURS}, {form}"
        ours, least = results.figure("slow disk", name), results.figure("slow disk", name, "least_seconds")
        if ours and least:
            found.append(Verdict("I2", f"{form}: {text}", f"{ours / least:.3f}", ours <= 1.05 * least and results.sound("slow disk", name)))
        else:
            found.append(Verdict("I2", f"{form}: {text}", "", None))
    return found


def memory(results):
    """I3."""
    content = results.groups().get("memory", {"runs": {}})
    found = []
    for name, runs in content["runs"].items():
        peak = max(run["rss_mib"] for run in runs)
        sound = all(run["status"] == 0 and run["correct"] is not False for run in runs)
        found.append(Verdict("I3", f"{name}: peak RSS at most 128 MiB", f"{peak:.0f} MiB", sound and peak <= 128))
    return found or [Verdict("I3", "peak RSS at most 128 MiB for every format", "", None)]


def reinstall(results):
    """I5."""
    same, changed = results.figure("re-install", "same image", "fetched"), results.figure("re-install", "version 2", "fetched")
    stored = results.limit_of("re-install", "stored bytes of version 2")
    seconds, read = results.figure("re-install", "same image"), results.limit_of("re-install", "reading the data")
    texts = ["same image again: at most 1 MiB fetched", "same image again: at most 1.25 times reading its data from the disk", "5 % changed: at most 6 % fetched"]
    if None in (same, changed, stored, seconds, read):
        return [Verdict("I5", text, "", None) for text in texts]
    return [
        Verdict("I5", texts[0], f"{same / 2**20:.2f} MiB", same <= 2**20),
        Verdict("I5", texts[1], f"{seconds / read:.2f}", seconds <= 1.25 * read),
        Verdict("I5", texts[2], f"{100 * changed / stored:.2f} %", changed <= 0.06 * stored),
    ]


def all_bars(results):
    return [verdict for part in (speed, wire, slow_disk, memory, reinstall) for verdict in part(results)]
