"""The card of a machine that is off: it listens for Wake-on-LAN frames on the LAN, and switches the machine on."""

import subprocess
import sys
import threading

# Run inside the LAN: prints the type of each frame with a magic packet, and what it is for.
LISTENER = r"""
import socket, sys
port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
port.bind((sys.argv[1], 0))
magic = b"\xff" * 6 + bytes.fromhex(sys.argv[2].replace(":", "")) * 16
print("listening", flush=True)
while True:
    frame = port.recv(2048)
    if magic in frame[14:]:
        print(frame[12:14].hex(), frame[:6].hex(), flush=True)
"""


class Card:
    """Use it as a context. It hears what the switch brings to its far end: the port of a machine that is off has no carrier here."""

    def __init__(self, lan, guest):
        self.lan, self.guest, self.process = lan, guest, None

    def __enter__(self):
        command = (sys.executable, "-c", LISTENER, "eth0", self.guest.mac)
        self.process = subprocess.Popen(self.lan.inside(command, self.lan.router), stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "listening\n":
            raise SystemExit("nothing listens for wake-up frames")
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def spec(self):
        return {"wakeOnLan": {}}

    def _listen(self):
        for line in self.process.stdout:
            self.guest.told.append(f"wake {line.strip()}")
            self.guest.on()
