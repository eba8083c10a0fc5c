"""`ipmi_sim` of OpenIPMI as the BMC of a QEMU machine: what it is told about its chassis it has done here.

QEMU's own end of it is `ipmi-bmc-extern`: the system that runs on the machine finds the same BMC at its KCS interface.
"""

import socket
import subprocess
import threading
import time

USER, PASSWORD = "kube-baremetal", "Sw1tch-it-0n"

# What `chassis_control` of ipmi_lan(5) runs: it hands its words on and prints the answer.
CHASSIS = """#!/usr/bin/env python3
import socket, sys
with socket.socket(socket.AF_UNIX) as chassis:
    chassis.connect({path!r})
    chassis.sendall(" ".join(sys.argv[2:]).encode())
    chassis.shutdown(socket.SHUT_WR)
    answer = chassis.makefile().read()
print(answer, end="")
"""


class IpmiSim:
    """Use it as a context, with a machine that it switches: it answers IPMI over LAN at `host` and `port` inside the LAN."""

    def __init__(self, lan, port=623, system=9002):
        self.lan, self.host, self.port, self.system = lan, lan.at.server, port, system
        self.folder = lan.folder / f"ipmi-{port}"
        self.guest = self.process = self.server = None
        self.boot = "none"

    def devices(self):
        """What the machine has, so that its system finds the BMC."""
        return (
            *("-chardev", f"socket,id=bmc,host=127.0.0.1,port={self.system},reconnect=1"),
            *("-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0"),
        )

    def switches(self, guest):
        self.guest = guest
        return self

    def __enter__(self):
        self.folder.mkdir()
        (self.folder / "state").mkdir()
        path = self.folder / "chassis.socket"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        chassis = self.folder / "chassis"
        chassis.write_text(CHASSIS.format(path=str(path)))
        chassis.chmod(0o755)
        allowed = "".join(f"    allowed_auths_{level} none md2 md5 straight\n" for level in ("callback", "user", "operator", "admin"))
        (self.folder / "lan.conf").write_text(
            f'name "machine"\nset_working_mc 0x20\n  startlan 1\n    addr {self.host} {self.port}\n    priv_limit admin\n{allowed}    guid a123456789abcdefa123456789abcdef\n  endlan\n'
            f'  chassis_control "{chassis} 0x20"\n  serial 15 127.0.0.1 {self.system} codec VM\n  user 2 true "{USER}" "{PASSWORD}" operator 10\n'
        )
        (self.folder / "emu").write_text("mc_setbmc 0x20\nmc_add 0x20 0 has-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n")
        log = open(self.folder / "log", "w")
        command = ("ipmi_sim", "-n", "-c", self.folder / "lan.conf", "-f", self.folder / "emu", "-s", self.folder / "state")
        self.process = subprocess.Popen(self.lan.inside(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started = time.monotonic()
        while self.ipmitool("chassis", "power", "status").returncode != 0:
            if time.monotonic() - started > 30 or self.process.poll() is not None:
                raise SystemExit(f"ipmi_sim does not answer: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.server.close()

    def ipmitool(self, *words):
        """The same by somebody else's tool."""
        command = ("ipmitool", "-I", "lanplus", "-C", "3", "-H", self.host, "-p", self.port, "-U", USER, "-P", PASSWORD, "-L", "OPERATOR", "-N", "1", "-R", "1", *words)
        return subprocess.run(self.lan.inside(command), capture_output=True, text=True)

    def spec(self):
        """As `spec.power` has it."""
        return {"ipmi": {"host": self.host, "port": self.port, "cipherSuite": "Suite3", "credentials": {"name": "bmc"}}}

    def _serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                words = connection.makefile().read().split()
                connection.sendall(self._do(words).encode())

    def _do(self, words):
        verb, *rest = words
        if verb == "get":
            known = {"power": int(self.guest.is_on()), "boot": self.boot}
            return "".join(f"{name}:{known.get(name, 0)}\n" for name in rest)
        for name, value in zip(rest[::2], rest[1::2]):
            self.guest.told.append(f"{name} {value}")
            if name == "boot":
                self.boot = value
                if value == "pxe":
                    self.guest.boot_once_from_network()
            elif name == "power":
                self.guest.on() if value == "1" else self.guest.off()
            elif name == "reset":
                self.guest.off()
                self.guest.on()
            elif name == "shutdown":
                self.guest.shut_down()
        return ""
