"""`kube-baremetal up` on the LAN."""

import re
import subprocess
import time

from kubernetes_api import KubernetesApi
from network import BRIDGE


class Server:
    """Use it as a context: it serves inside."""

    def __init__(self, lan, arguments, name, further, dhcp=BRIDGE):
        self.lan, self.data, self.image = lan, lan.folder / f"{name}.data", arguments.image
        self.log = lan.folder / f"{name}.server"
        loaders = ",".join(str(arguments.loaders / folder) for folder in ("ipxe", "shim", "grub"))
        command = [
            *(arguments.program, "--log", "info", "up", "--data-dir", self.data, "--media-dir", arguments.media, "--dhcp", dhcp),
            *("--advertise", lan.at.server, "--loaders", loaders, *further),
            *("--image-dir", arguments.image.parent),
        ]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(lan.inside(command), stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self):
        started = time.monotonic()
        while "boot URL" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() - started > 60:
                raise SystemExit(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def said(self):
        # Without colours.
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())

    def answers(self, mac):
        """What this machine was told to boot, in its order."""
        return [line for line in self.said().splitlines() if f" boot mac={mac}" in line]

    def discovery(self):
        """The one machine that registered, as the Kubernetes API shows it."""
        (discovery,) = self.call("GET", "baremetaldiscoveries")["items"]
        return discovery

    def call(self, method, path, body=None, refused=False):
        """One request to the Kubernetes API, as administrator. A path that does not begin with a slash is one of our group. `refused`: the answer may be an error."""
        _, answer = KubernetesApi(self.data / "kubeconfig", self.lan.inside).call(method, path, body)
        if answer.get("kind") == "Status" and not refused:
            raise SystemExit(f"{method} {path}: {answer['message']}")
        return answer
