"""A machine gets its system as a person would give it one: accepted by a policy, claimed by an instance, its disk written from an image. The system says a line on the console at each boot."""

import base64
import hashlib
import json
import re

from network import IPV4

# How a system tells that it runs: the boot, the host name that its instance gave it, the label of its root, and whether the kernel finds Secure Boot on (1, 0 or nothing).
LINE = re.compile(r"kbm-test: boot ([0-9a-f-]{36}) of (\S+) from (\S+), Secure Boot (\d?)\.")
NAME, ROOT = "own-system", "kbm-root"
# Early in each boot, and not at its end: nothing more is to be learned from the rest.
USER_DATA = r"""#!/bin/sh
cat >/usr/local/sbin/kbm-test <<'SCRIPT'
#!/bin/sh
secure=$(od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-* 2>/dev/null | tr -d ' ')
echo "kbm-test: boot $(cat /proc/sys/kernel/random/boot_id) of $(cat /etc/hostname) from $(findmnt -no LABEL /), Secure Boot $secure." >/dev/ttyS0
SCRIPT
chmod 755 /usr/local/sbin/kbm-test
cat >/etc/systemd/system/kbm-test.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/kbm-test
[Install]
WantedBy=sysinit.target
UNIT
systemctl enable kbm-test.service
# The line is what the reset button is pressed for: what it is about is on the disk before.
sync
systemctl start kbm-test.service
"""


def ask_for_a_system(server):
    """Writes down what is wanted; what follows is the machine's and ours."""
    prepare(server)
    claim(server)


def prepare(server):
    """A network, an image, and a policy that accepts every machine."""
    digest = hashlib.sha256(server.image.read_bytes()).hexdigest()
    host = re.search(r"boot URL +http://([^/]+)/", server.said())[1]
    plan = {"prefix": IPV4.prefix, "ranges": [{"first": "10.77.0.210", "last": "10.77.0.219"}], "gateway": IPV4.router}
    policy = {"when": "inventory.memory.bytes > 0", "networkRef": {"name": "lan"}}
    for kind, path, name, spec in (
        ("BareMetalNetwork", "baremetalnetworks", "lan", {"ipv4": plan}),
        ("BareMetalImage", "baremetalimages", "debian", {"url": f"http://{host}/images/{server.image.name}", "digest": f"sha256:{digest}", "format": "Zstd"}),
        ("BareMetalDiscoveryPolicy", "baremetaldiscoverypolicies", "all", policy),
    ):
        server.call("POST", path, {"kind": kind, "metadata": {"name": name}, "spec": spec})


def claim(server):
    """An instance of the image, as a tenant asks for it."""
    system = {"image": "debian", "requests": {"cpu": "1", "memory": "256Mi"}, "userData": {"name": NAME, "key": "userData"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "data": {"userData": base64.b64encode(USER_DATA.encode()).decode()}}
    server.call("POST", "/api/v1/namespaces/default/secrets", secret)
    server.call("POST", "namespaces/default/baremetalinstances", {"kind": "BareMetalInstance", "metadata": {"name": NAME}, "spec": system})


def runs(server):
    """Whether the instance runs by the word of its own system; a failure ends the wait."""
    status = server.call("GET", f"namespaces/default/baremetalinstances/{NAME}").get("status", {})
    if status.get("phase") == "Failed":
        raise SystemExit(f"the instance failed: {json.dumps(status)}")
    return status.get("phase") == "Running" and status.get("evidence") == "GuestReported"


def boots(machine):
    """What its own system said, a boot at a time: (boot, host name, root, Secure Boot)."""
    return LINE.findall(machine.said())
