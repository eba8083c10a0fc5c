"""Runs the named cells of a suite one after the other, each in the suite's folder, and says how each ended."""

import subprocess
import tempfile
import time
from pathlib import Path


def play_all(suite, names, cell, keep):
    """`cell` plays one by its folder and name, and gives what was seen; it ends with SystemExit where that is wrong. The exit status of the whole. Logs stay where anything failed, or with `keep`."""
    # The path of a socket in it has room for a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix=f"kbm-{suite}-"))
    failed = 0
    for name in names:
        started = time.monotonic()
        try:
            seen = cell(folder, name)
            print(f"{suite}: {name}: {seen} ({time.monotonic() - started:.0f} s)", flush=True)
        except SystemExit as error:
            failed += 1
            print(f"{suite}: {name}: FAILED: {error}", flush=True)
    if failed == 0 and not keep:
        subprocess.run(["rm", "-rf", folder], check=True)
    else:
        print(f"{suite}: logs and consoles are in {folder}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0
