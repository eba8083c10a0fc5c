"""One QEMU machine, made as the lab makes its own: q35, SeaBIOS, iPXE in the network card's ROM, one virtio disk, QEMU's user networking, network first in the boot order.

Whatever is compared gets this machine and no other; only the boot URL differs. It is switched on once. QEMU ends where the guest first reboots, which is where an
installation is finished, and goes on at once with an overlay over the disk: so the disk stays as it was before its own system first ran, and can be looked at later.
The clock runs through all of it.
"""

import hashlib
import os
import select
import shutil
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field

# The guest that DHCP serves has this address in QEMU's user networking, and this host's loopback is the other.
GUEST = "10.0.2.15"
HOST = "10.0.2.2"
# How long KVM has to prove itself.
PROOF_SECONDS = 10


class Failed(Exception):
    """What was measured did not come to its end."""


@dataclass
class Shape:
    """What every machine of a run is made of."""

    memory_mib: int
    cpus: int
    disk_gib: int
    accelerator: str

    def text(self):
        firmware = "SeaBIOS, iPXE, q35, virtio disk and network card"
        return f"{self.cpus} vCPU, {self.memory_mib} MiB, disk of {self.disk_gib} GiB, {firmware}, -accel {self.accelerator}"


@dataclass
class Login:
    """One way from power-on to a login."""

    seconds: float
    # When the installed system was first started, by the same clock.
    installed: float
    # Processor time that QEMU took for all of it: what is left of a figure when the host has other work, too.
    cpu: float
    said: list = field(default_factory=list)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def accelerator():
    """KVM where a guest proves that it works: iPXE must speak in protected mode. In restricted hosts /dev/kvm opens, and guests hang."""
    emulation = "tcg,thread=multi"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulation
    command = ["qemu-system-x86_64", "-accel", "kvm", "-machine", "q35,graphics=off", "-cpu", "max", "-m", "128", "-display", "none", "-nodefaults", "-no-reboot"]
    command += ["-serial", "stdio", "-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,bootindex=1"]
    guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said, deadline = b"", time.monotonic() + PROOF_SECONDS
    try:
        while b"Features:" not in said and (left := deadline - time.monotonic()) > 0:
            if select.select([guest.stdout], [], [], left)[0]:
                piece = os.read(guest.stdout.fileno(), 4096)
                if not piece:
                    break
                said += piece
    finally:
        guest.kill()
        guest.wait()
    return "kvm" if b"Features:" in said else emulation


class Key:
    """A key pair for this run, by which all machines are logged in to."""

    def __init__(self, folder):
        self.private = folder / "id_ed25519"
        self.private.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench-installer", "-f", self.private], check=True)
        self.public = self.private.with_suffix(".pub").read_text().strip()


class Machine:
    """A machine and its folder, which is emptied first. Use it as a context: it is off at the end."""

    def __init__(self, folder, shape, boot_url):
        self.folder, self.shape, self.boot_url = folder, shape, boot_url
        self.name = folder.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.disk = folder / "disk.raw"
        with open(self.disk, "wb") as file:
            file.truncate(shape.disk_gib << 30)
        self._overlay = folder / "running.qcow2"
        # The same folder is the same machine in every run of the rig, and no two folders are.
        digest = hashlib.sha256(str(folder).encode()).digest()
        self._mac = "52:54:" + ":".join(f"{byte:02x}" for byte in digest[:4])
        self._uuid = uuid.UUID(bytes=digest[4:20], version=4)
        self._port = free_port()
        self._child, self._stopped = None, False
        # Of the processes before the present one, and of it when it was last looked at, in seconds.
        self._cpu_before = self._cpu_now = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self._overlay.unlink(missing_ok=True)

    def stop(self):
        """Pulls the plug, from whatever thread; it stays off."""
        self._stopped = True
        if self._child and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _arguments(self, disk, form, once):
        shape = self.shape
        arguments = ["-name", self.name, "-machine", "q35", "-accel", shape.accelerator, "-cpu", "max", "-m", str(shape.memory_mib), "-smp", str(shape.cpus)]
        arguments += ["-uuid", str(self._uuid), "-display", "none", "-nodefaults", "-vga", "std"]
        arguments += ["-chardev", f"file,id=con,path={self.folder / 'console.log'},append=on", "-serial", "chardev:con"]
        arguments += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
        arguments += ["-netdev", f"user,id=n0,ipv6=off,bootfile={self.boot_url},hostfwd=tcp:127.0.0.1:{self._port}-{GUEST}:22"]
        arguments += ["-device", f"virtio-net-pci,netdev=n0,mac={self._mac},bootindex=1"]
        arguments += ["-drive", f"if=none,id=d0,file={disk},format={form},cache=writeback,discard=unmap"]
        arguments += ["-device", "virtio-blk-pci,drive=d0,serial=BENCH0,bootindex=2"]
        return arguments + (["-no-reboot"] if once else [])

    def _look_at_cpu(self):
        """User and system time of QEMU, after proc(5). A process that has ended has none: so it is looked at while it runs."""
        try:
            with open(f"/proc/{self._child.pid}/stat", encoding="utf-8") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return
        self._cpu_now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _start(self, disk, form, once):
        self._cpu_before, self._cpu_now = self._cpu_before + self._cpu_now, 0.0
        if self._stopped:
            raise Failed(f"{self.name}: it was switched off")
        with open(self.folder / "qemu.log", "ab") as log:
            command = ["qemu-system-x86_64", *self._arguments(disk, form, once)]
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def until_login(self, key, limit, on_installed):
        """Switches it on; returns once a command has run over SSH on the system that is on its disk. Raises Failed after `limit` seconds.

        `on_installed` is called when the disk is done, before the system on it starts.
        """
        started = time.monotonic()
        self._start(self.disk, "raw", once=True)
        self._wait_for_reboot(started + limit)
        installed = time.monotonic() - started
        on_installed(installed)
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.disk, self._overlay]
        subprocess.run(overlay, check=True)
        self._start(self._overlay, "qcow2", once=False)
        while True:
            said, problem = self._run(key, "cat /etc/debian_version && uname -r && findmnt -no SOURCE,FSTYPE /")
            if said is not None:
                seconds = time.monotonic() - started
                self._look_at_cpu()
                return Login(seconds, installed, self._cpu_before + self._cpu_now, said.splitlines())
            if self._child.poll() is not None:
                raise Failed(f"{self.name}: QEMU ended with {self._child.returncode}; see {self.folder}/qemu.log")
            if time.monotonic() - started > limit:
                raise Failed(f"{self.name}: no login within {limit} s ({problem}); see {self.folder}/console.log")
            time.sleep(0.5)

    def _wait_for_reboot(self, deadline):
        while (status := self._child.poll()) is None:
            self._look_at_cpu()
            if time.monotonic() > deadline:
                raise Failed(f"{self.name}: its disk was not written in time; see {self.folder}/console.log")
            time.sleep(0.05)
        if status != 0:
            raise Failed(f"{self.name}: QEMU ended with {status}; see {self.folder}/qemu.log")

    def ask(self, key, command):
        """What a command says on the running system."""
        said, problem = self._run(key, command)
        if said is None:
            raise Failed(f"{self.name}: `{command}`: {problem}")
        return said

    def _run(self, key, command):
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=20", "IdentitiesOnly=yes"]
        ssh = ["ssh", *(part for option in options for part in ("-o", option)), "-i", key.private, "-p", str(self._port), "debian@127.0.0.1", command]
        try:
            done = subprocess.run(ssh, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return None, "ssh gave no answer within 60 s"
        return (done.stdout, "") if done.returncode == 0 else (None, done.stderr.strip())
