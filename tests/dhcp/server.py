"""The boot server and a second replica of it, and its Kubernetes API by curl."""

import json
import re
import time

from kubernetes_api import KubernetesApi

NETBOOT = "/api/v1/namespaces/kube-baremetal-netboot/configmaps"


class Server:
    def __init__(self, program, network, folder, loaders, address="10.78.0.2", log="info,netboot=debug"):
        self.program, self.network, self.folder, self.loaders = program, network, folder, loaders
        self.own, self.verbosity = address, log
        self.process = self.second = None
        (folder / "media/amd64").mkdir(parents=True)
        for name in ("vmlinuz", "initramfs.zst"):
            (folder / "media/amd64" / name).write_bytes(bytes(1000))

    def start(self, dhcp):
        """Until everything is there; `dhcp` is the flag's value."""
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.unlink(missing_ok=True)
        command = [self.program, "--log", self.verbosity, "up", "--data-dir", self.folder / "data", "--kubeconfig", kubeconfig]
        command += ["--api-listen", f"{self.own}:6443", "--media-dir", self.folder / "media", "--advertise", self.own]
        self.log = self.folder / f"up-{int(time.monotonic() * 1000)}.log"
        self.process = self.network.start("server", self.log, *command, "--loaders", self.loaders, "--dhcp", dhcp, cwd=self.folder)
        deadline = time.monotonic() + 60
        while not kubeconfig.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{self.said()[-3000:]}")
            time.sleep(0.1)
        self.api = KubernetesApi(kubeconfig, lambda command: self.network.inside("server", *command))

    def stop(self):
        if self.process:
            self.network.stop(self.process)
            self.process = None

    def start_second(self, address):
        """A replica on another host."""
        command = [self.program, "--log", self.verbosity, "netboot", "--kubeconfig", self.folder / "kubeconfig", "--replica", "second"]
        command += ["--media-dir", self.folder / "media", "--advertise", address, "--server", f"https://{self.own}:8443", "--loaders", self.loaders]
        self.second = self.network.start("second", self.folder / "second.log", *command, "--allow-asserted-identity", "--dhcp", "lan0=full")

    def stop_second(self):
        self.network.stop(self.second)

    def said(self):
        # Without colours.
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())

    def get(self, plural, name):
        return self.api.call("GET", f"{plural}/{name}")[1]

    def post(self, plural, kind, name, spec, **further):
        return self.api.call("POST", plural, {"kind": kind, "metadata": {"name": name}, "spec": spec, **further})

    def create(self, plural, kind, name, spec, **further):
        code, told = self.post(plural, kind, name, spec, **further)
        if code != 201:
            raise SystemExit(f"{kind} {name} was not created: {told}")

    def refuses(self, plural, kind, name, spec):
        return self.post(plural, kind, name, spec)[0] == 422

    def patch(self, plural, name, patch):
        code, told = self.api.call("PATCH", f"{plural}/{name}", patch)
        if code != 200:
            raise SystemExit(f"{name} was not changed: {told}")
        time.sleep(1)

    def maps(self):
        return self.api.call("GET", NETBOOT)[1]["items"]

    def lease(self, address):
        """What stands in the ConfigMaps about an address."""
        for one in self.maps():
            # Keys have no colons.
            line = (one.get("data") or {}).get((address or "").replace(":", "-"))
            if line:
                return json.loads(line)
        return {}

    def replicas(self):
        """Replicas that say that they are there, with a network."""
        return sum(one["metadata"]["name"].startswith("dhcp-replica.") and bool(one["data"]["networks"]) for one in self.maps())
