"""`kube-baremetal up` on the LAN."""

import base64
import json
import re
import subprocess
import time

from network import BRIDGE, SERVER

# Group and version of our kinds.
GROUP = "kube-baremetal.io/v1alpha1"


class Server:
    """Use it as a context: it serves inside."""

    def __init__(self, lan, arguments, name, further):
        self.lan, self.data, self.image = lan, lan.folder / f"{name}.data", arguments.image
        self.log = lan.folder / f"{name}.server"
        loaders = ",".join(str(arguments.loaders / folder) for folder in ("ipxe", "shim", "grub"))
        command = [
            *(arguments.program, "--log", "info", "up", "--data-dir", self.data, "--media-dir", arguments.media, "--dhcp", BRIDGE),
            *("--advertise", SERVER, "--loaders", loaders, *further),
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
        text = (self.data / "kubeconfig").read_text()
        words = []
        for option, field in (("--cacert", "certificate-authority-data"), ("--cert", "client-certificate-data"), ("--key", "client-key-data")):
            file = self.data / field
            file.write_bytes(base64.b64decode(re.search(rf"{field}: (\S+)", text)[1]))
            words += [option, file]
        ours = not path.startswith("/")
        if body is not None:
            words += ["--header", "Content-Type: application/json", "--data", json.dumps({"apiVersion": GROUP, **body} if ours else body)]
        url = re.search(r'server: "(\S+)"', text)[1] + (f"/apis/{GROUP}/{path}" if ours else path)
        asked = subprocess.run(self.lan.inside(["curl", "--silent", "--show-error", "--request", method, *words, url]), capture_output=True, text=True)
        if asked.returncode != 0:
            raise SystemExit(f"{method} {path}: {asked.stderr}")
        answer = json.loads(asked.stdout)
        if answer.get("kind") == "Status" and not refused:
            raise SystemExit(f"{method} {path}: {answer['message']}")
        return answer
