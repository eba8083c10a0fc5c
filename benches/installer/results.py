"""What was measured, kept as JSON in target/bench-installer, and the tables and the verdict that people read."""

import json
import statistics

OURS, INSTALLER = "kube-baremetal", "debian-installer"
# The bar: so many times faster (issue 5, I10).
FACTOR = 5
# Examples of each sort that a table shows.
EXAMPLES = 12


class Results:
    """Facts of the run, logins by way, comparisons by way."""

    def __init__(self, path, keep):
        self.path = path
        empty = {"about": {}, "logins": {}, "comparisons": {}}
        self.data = json.loads(path.read_text()) if keep and path.exists() else empty

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1))

    def _values(self, way, name):
        return [login[name] for login in self.data["logins"].get(way, [])]

    def ratio(self, name):
        """The best installation by the median of ours, or None where one is missing: an installation that found the mirror cold does not help us."""
        ours, theirs = self._values(OURS, name), self._values(INSTALLER, name)
        return min(theirs) / statistics.median(ours) if ours and theirs else None

    def verdicts(self):
        """Each bar as (text, figure, passed); None where something was not measured."""
        ratio = self.ratio("seconds")
        figure = f"{ratio:.1f} times; {self.ratio('cpu'):.1f} by QEMU's processor time" if ratio else ""
        found = [(f"power-on to SSH at least {FACTOR} times as fast as {INSTALLER}", figure, ratio >= FACTOR if ratio else None)]
        ours = self.data["comparisons"].get(OURS)
        figure, same = "", None
        if ours:
            differing = ours["files"]["different"] + ours["files"]["only in one"]
            figure, same = f"{differing} files, {ours['blocks']['differing']} blocks differ", differing == 0 and ours["ranges"]["held"]
        found.append(("two disks from the image differ in no file, and nowhere outside of the listed ranges", figure, same))
        return found


def _logins(data):
    lines = [f"  {'way':18} {'run':>3} {'power-on to SSH':>16} {'of it until the disk was done':>30} {'CPU of QEMU':>12}  system"]
    for way, logins in data["logins"].items():
        for number, login in enumerate(logins, 1):
            facts = f"Debian {login['said'][0]}, Linux {login['said'][1]}, {login['said'][2]}; {login['packages']} packages, {login['used_mib']} MiB used; load {' to '.join(login['load'])}"
            lines.append(f"  {way:18} {number:3} {login['seconds']:14.1f} s {login['installed']:28.1f} s {login['cpu']:10.1f} s  {facts}")
            if "fetched" in login:
                fetched = login["fetched"]
                lines.append(f"  {'':22} the mirror fetched {fetched['files']} files while it ran ({fetched['bytes'] >> 20} MiB, {fetched['seconds']:.1f} s)")
            if "steps" in login:
                lines.append(f"  {'':22} steps: " + ", ".join(f"{step} {at:.0f} s" for step, at in login["steps"]))
    return lines


def _comparisons(data):
    lines = [f"  {'two disks by':18} {'files equal':>12} {'different':>10} {'only in one':>12} {'equal, other time':>18} {'4 KiB blocks used':>18} {'of them different':>18}"]
    for way, found in data["comparisons"].items():
        files, blocks = found["files"], found["blocks"]
        cells = f"{files['equal']:12} {files['different']:10} {files['only in one']:12} {files['equal, but for the time']:18} {blocks['used']:18} {blocks['differing']:18}"
        lines.append(f"  {way:18} {cells}")
    for way, found in data["comparisons"].items():
        if found.get("ranges"):
            lines.append(f"  {way}: tests/immutability/compare.py: {found['ranges']['said']}")
        lines += [f"  {way}: differs: {name}: {how}" for name, how in found["examples"][:EXAMPLES]]
        lines += [f"  {way}: only in one: {name}" for name in found["only in one"][:EXAMPLES]]
    return lines


def tables(results):
    data = results.data
    lines = [f"{key}: {value}" for key, value in data["about"].items()]
    lines += ["", "From power-on to a command run over SSH", *_logins(data), "", "Two disks before their first boot", *_comparisons(data), "", "Bars"]
    for text, figure, passed in results.verdicts():
        word = {True: "PASS", False: "MISS", None: "not measured"}[passed]
        lines.append(f"  I10 {text:86} {figure:>46}  {word}")
    return "\n".join(lines)
