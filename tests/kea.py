"""Kea's DHCPv4 server out of Debian's packages, without installing them: the package would start a server.

    python3 tests/kea.py FOLDER     unpacks it, for tests that will be in namespaces where no mirror is reached
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGES = ("kea-admin", "kea-dhcp4-server", "kea-common", "liblog4cplus-2.0.5", "libmariadb3", "libpq5")


def unpacked(folder):
    """Its programs and libraries, in a tree below the folder."""
    tree = folder / "kea"
    if not (tree / "usr/sbin/perfdhcp").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    return tree


def server(tree, folder, interface, plan, persist=True):
    """Command and environment of a server. `plan` has prefix, first, last and gateway; `persist` says whether leases go to a file in the folder."""
    # Its clean-up is a program of its own at the place where the package installs it.
    leases = {"type": "memfile", "persist": persist, "name": str(folder / "leases.csv"), "lfc-interval": 0}
    subnet = {"id": 1, "subnet": plan["prefix"], "pools": [{"pool": f"{plan['first']} - {plan['last']}"}], "option-data": [{"name": "routers", "data": plan["gateway"]}]}
    logger = {"name": "kea-dhcp4", "output_options": [{"output": str(folder / "kea.log")}], "severity": "ERROR"}
    interfaces = {"interfaces": [interface], "dhcp-socket-type": "raw" if plan.get("raw") else "udp"}
    shared = {"valid-lifetime": 3600, "multi-threading": {"enable-multi-threading": True}}
    settings = {"Dhcp4": shared | {"interfaces-config": interfaces, "lease-database": leases, "subnet4": [subnet], "loggers": [logger]}}
    (folder / "kea.json").write_text(json.dumps(settings))
    places = {"KEA_PIDFILE_DIR": str(folder), "KEA_LOCKFILE_DIR": str(folder), "LD_LIBRARY_PATH": str(tree / f"usr/lib/{os.uname().machine}-linux-gnu")}
    return [tree / "usr/sbin/kea-dhcp4", "-c", folder / "kea.json"], os.environ | places


if __name__ == "__main__":
    print(unpacked(Path(sys.argv[1]).resolve()))
