"""A machine under a real libvirtd, and the Redfish service of sushy-tools that switches it.

libvirtd is the test's own: scripts/namespaces gave it an empty /run, and here it gets folders of its own in the places of the system's.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

from machine import Machine

USER, PASSWORD = "kube-baremetal", "Sw1tch-it-0n"
PORT = 8000
SYSTEM = "6b626d00-0000-4000-8000-000000000001"
# What libvirtd keeps where; the test's own folders stand in these places for as long as it runs, for this test alone.
PLACES = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt"}
# Its libvirt driver writes a medium into libvirt's storage pool of this name.
POOL = "default"

DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>1024</memory><vcpu>1</vcpu>
  <os>{firmware}<type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/><serial>DISK0</serial></disk>
    <interface type='ethernet'><mac address='{mac}'/><target dev='{tap}' managed='no'/><model type='virtio'/>{rom}</interface>
    <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""
BOOT_DISK_FIRST = "<boot dev='hd'/><boot dev='network'/>"

CONFIGURATION = """
SUSHY_EMULATOR_LIBVIRT_URI = "qemu:///system"
SUSHY_EMULATOR_IGNORE_BOOT_DEVICE = False
SUSHY_EMULATOR_AUTH_FILE = {users!r}
SUSHY_EMULATOR_STATE_DIR = {state!r}
SUSHY_EMULATOR_BOOT_LOADER_MAP = {{
    "UEFI": {{"x86_64": "/usr/share/OVMF/OVMF_CODE_4M.fd"}},
    "Legacy": {{"x86_64": None}},
}}
SUSHY_EMULATOR_SECURE_BOOT_DISABLED_NVRAM = "/usr/share/OVMF/OVMF_VARS_4M.fd"
"""


class Libvirt:
    """Use it as a context: libvirtd inside the LAN."""

    def __init__(self, lan):
        self.lan, self.folder, self.process = lan, lan.folder / "libvirt", None

    def __enter__(self):
        for name in ("etc", "lib", "cache", "log"):
            (self.folder / name).mkdir(parents=True)
        for own, place in PLACES.items():
            Path(place).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", self.folder / own, place], check=True)
        # libvirtd wants the user and group that Debian's package for a system-wide one would make, whoever its guests run as.
        for file, line in (("passwd", "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin"), ("group", "libvirt-qemu:x:64055:")):
            own = self.folder / file
            own.write_text(f"{Path('/etc', file).read_text()}{line}\n")
            subprocess.run(["mount", "--bind", own, f"/etc/{file}"], check=True)
        Path("/etc/libvirt/qemu.conf").write_text(
            'security_driver = "none"\nuser = "root"\ngroup = "root"\ncgroup_controllers = []\nnamespaces = []\nstdio_handler = "file"\nremember_owner = 0\n'
        )
        Path("/etc/libvirt/libvirtd.conf").write_text('auth_unix_rw = "none"\nunix_sock_dir = "/run/libvirt"\n')
        log = open(self.folder / "libvirtd.log", "w")
        self.process = subprocess.Popen(self.lan.inside(("libvirtd",)), stdout=log, stderr=log)
        started = time.monotonic()
        while self.virsh("list").returncode != 0:
            if self.process.poll() is not None or time.monotonic() - started > 60:
                raise SystemExit(f"libvirtd does not answer: {(self.folder / 'libvirtd.log').read_text()[-800:]}")
            time.sleep(0.2)
        pool = self.folder / "pool"
        pool.mkdir()
        for words in (("pool-define-as", POOL, "dir", "--target", pool), ("pool-start", POOL)):
            self.must(*words)
        return self

    def __exit__(self, *_):
        for name in self.virsh("list", "--name").stdout.split():
            self.virsh("destroy", name)
        self.process.terminate()
        self.process.wait()
        for place in (*PLACES.values(), "/etc/passwd", "/etc/group"):
            subprocess.run(["umount", place], check=True)

    def virsh(self, *words):
        return subprocess.run(self.lan.inside(("virsh", "--connect", "qemu:///system", *words)), capture_output=True, text=True)

    def must(self, *words):
        done = self.virsh(*words)
        if done.returncode != 0:
            raise SystemExit(f"virsh {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout


class Domain(Machine):
    """A machine of it, off at first. Use it as a context."""

    def __init__(self, lan, libvirt, name, firmware, disk, ovmf, boot=BOOT_DISK_FIRST):
        super().__init__(lan, name, firmware, disk, ovmf, reboots=True)
        self.libvirt, self.boot, self.tap = libvirt, boot, lan.tap()
        # `until` looks whether it ended: it is libvirtd that must not.
        self.process = libvirt.process

    def __enter__(self):
        firmware = ""
        if self.firmware != "bios":
            code, variables = self._flash(False)
            own = self.lan.folder / f"{self.name}.vars"
            shutil.copy(variables, own)
            firmware = f"<loader readonly='yes' type='pflash'>{code}</loader><nvram>{own}</nvram>"
        definition = self.lan.folder / f"{self.name}.xml"
        words = {"name": self.name, "uuid": SYSTEM, "firmware": firmware, "boot": self.boot, "disk": self.disk, "mac": self.mac, "tap": self.tap, "console": self.console}
        # OVMF has its own PXE, not that of iPXE in the card's ROM.
        definition.write_text(DOMAIN.format(rom="" if self.firmware == "bios" else "<rom enabled='no'/>", **words))
        self.libvirt.must("define", definition)
        return self

    def __exit__(self, *_):
        self.libvirt.virsh("destroy", self.name)
        self.libvirt.virsh("undefine", self.name, "--nvram", "--keep-nvram")

    def is_on(self):
        return "running" in self.libvirt.must("domstate", self.name)

    def on(self):
        self.libvirt.must("start", self.name)

    def has_medium(self):
        """Whether something lies in its drive, as of its next start."""
        return "cdrom" in self.libvirt.must("domblklist", self.name, "--inactive", "--details")


class Emulator:
    """sushy-emulator inside the LAN. Use it as a context."""

    def __init__(self, lan, peers):
        self.lan, self.peers, self.process = lan, peers, None
        self.log = lan.folder / "sushy.log"

    def __enter__(self):
        hashed = subprocess.run(
            [self.peers / "bin/python", "-c", "import bcrypt, sys; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())", PASSWORD],
            capture_output=True,
            text=True,
            check=True,
        )
        users, state = self.lan.folder / "users", self.lan.folder / "sushy-state"
        users.write_text(f"{USER}:{hashed.stdout.strip()}\n")
        state.mkdir()
        configuration = self.lan.folder / "sushy.conf"
        configuration.write_text(CONFIGURATION.format(users=str(users), state=str(state)))
        # Debian's binding to libvirt, and nothing else of Debian's Python packages.
        packages = self.lan.folder / "packages"
        packages.mkdir()
        for path in Path("/usr/lib/python3/dist-packages").glob("libvirt*"):
            (packages / path.name).symlink_to(path)
        log = open(self.log, "w")
        self.process = subprocess.Popen(self.lan.inside(("env", f"PYTHONPATH={packages}", self.peers / "bin/sushy-emulator", "--interface", self.lan.at.server, "--port", PORT, "--feature-set", "full", "--config", configuration)), stdout=log, stderr=log)
        started = time.monotonic()
        while subprocess.run(self.lan.inside(("curl", "-sf", f"http://{self.lan.at.server}:{PORT}/redfish/v1/")), stdout=subprocess.DEVNULL).returncode != 0:
            if self.process.poll() is not None or time.monotonic() - started > 60:
                raise SystemExit(f"sushy-emulator does not answer: {self.log.read_text()[-800:]}")
            time.sleep(0.3)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def spec(self):
        return {"redfish": {"address": f"http://{self.lan.at.server}:{PORT}", "insecure": True, "system": SYSTEM, "credentials": {"name": "bmc"}}}

    def told(self):
        """The changes it was asked for."""
        return re.findall(r"(?:POST|PATCH) (\S+) HTTP", self.log.read_text())
