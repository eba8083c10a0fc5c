"""What was measured, the bars that it is held against, and the tables that people read.

Results are kept as JSON in target/bench-image, so that a bar can be measured again by itself and the tables printed without measuring anything.
"""

import json
from dataclasses import dataclass

from measure import median


@dataclass
class Verdict:
    """One bar and how it came out."""

    bar: str
    text: str
    figure: str
    passed: bool | None

    def line(self):
        word = {True: "PASS", False: "MISS", None: "not measured"}[self.passed]
        return f"  {self.bar:3} {self.text:112} {self.figure:>24}  {word}"


class Results:
    """Runs by group and contender, limits by group."""

    def __init__(self, path, keep):
        self.path = path
        self.data = json.loads(path.read_text()) if keep and path.exists() else {"about": {}, "groups": {}}

    def begin(self, group):
        self.data["groups"][group] = {"limits": {}, "runs": {}, "unavailable": {}}

    def limit(self, group, name, value):
        self.data["groups"][group]["limits"].setdefault(name, []).append(value)

    def add(self, group, contender, run):
        self.data["groups"][group]["runs"].setdefault(contender, []).append(run.as_dict() if hasattr(run, "as_dict") else run)

    def outcome(self, group, contender, fault, outcome):
        self.data["groups"][group].setdefault("outcomes", {}).setdefault(contender, {})[fault] = outcome

    def unavailable(self, group, contender, reason):
        self.data["groups"][group]["unavailable"][contender] = reason

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1))

    def groups(self):
        return self.data["groups"]

    def limit_of(self, group, name):
        return median(self.data["groups"].get(group, {}).get("limits", {}).get(name, []))

    def runs(self, group, contender):
        return self.data["groups"].get(group, {}).get("runs", {}).get(contender, [])

    def figure(self, group, contender, name="seconds"):
        """The median over the runs that succeeded; nothing if any failed: a contender that fails at times has no speed."""
        runs = self.runs(group, contender)
        if not runs or any(run.get("timed_out") or run.get("status") for run in runs):
            return None
        return median([run[name] for run in runs if run.get(name) is not None])

    def sound(self, group, contender):
        """Whether every run of ours succeeded and left the right bytes. A fast wrong disk passes no bar."""
        runs = self.runs(group, contender)
        return bool(runs) and all(not run.get("timed_out") and run.get("status") == 0 and run.get("correct") is not False for run in runs)


def _row(name, runs, yardstick):
    failed = [run for run in runs if run.get("timed_out") or run.get("status")]
    if failed:
        why = "did not end in time" if failed[0].get("timed_out") else f"exit status {failed[0]['status']}: {failed[0]['output'].strip().splitlines()[-1:] or ['']}"
        return f"  {name:26} {len(runs):2}  failed: {why}"[:200]
    seconds = [run["seconds"] for run in runs]
    wrong = next((run["note"] for run in runs if run.get("correct") is False), "")
    state = wrong or ("correct" if all(run.get("correct") for run in runs) else "not compared")
    if hung := sum(run.get("hung", 0) for run in runs):
        state += f"; hung {hung} times besides"
    ratio = f"{median(seconds) / yardstick:6.2f}" if yardstick else " " * 6
    return (
        f"  {name:26} {len(runs):2} {median(seconds):8.2f} {min(seconds):8.2f} {max(seconds):8.2f} {ratio} {median([run['cpu'] for run in runs]):8.2f} "
        f"{max(run['rss_mib'] for run in runs):8.0f}  {state}"
    )


def _outcomes(content):
    """A table of faults by contenders."""
    outcomes = content["outcomes"]
    faults = list(next(iter(outcomes.values())))
    lines = [f"  {index}: {fault}" for index, fault in enumerate(faults, 1)]
    lines.append(f"  {'contender':32} " + " ".join(f"{index:<20}" for index in range(1, len(faults) + 1)))
    lines += [f"  {name:32} " + " ".join(f"{cells.get(fault, ''):20}" for fault in faults) for name, cells in outcomes.items()]
    return lines


def tables(results, ours):
    """All groups, one table each."""
    lines = [f"{key}: {value}" for key, value in results.data["about"].items()]
    for group, content in results.groups().items():
        lines += ["", group]
        if content["limits"]:
            shown = ", ".join(f"{name} {median(values):.2f} s" for name, values in content["limits"].items())
            lines.append(f"  limits, each alone: {shown}")
        if content.get("outcomes"):
            lines += _outcomes(content)
            lines += [f"  {name:32} not had: {reason}" for name, reason in content["unavailable"].items()]
            continue
        lines.append(f"  {'contender':26} {'n':>2} {'median':>8} {'min':>8} {'max':>8} {'x ours':>6} {'CPU s':>8} {'RSS MiB':>8}  disk")
        yardstick = results.figure(group, ours)
        rows = sorted(content["runs"].items(), key=lambda item: median([run["seconds"] for run in item[1]]))
        lines += [_row(name, runs, yardstick) for name, runs in rows]
        lines += [f"  {name:26}  -  not had: {reason}" for name, reason in content["unavailable"].items()]
    return "\n".join(lines)
